"""WSGI without a framework: `/`, `/wait` and `/cpu`."""

import time

from work import WAIT_S, body, burn


def app(environ, start_response):
    """Answer with the worker's pid."""
    if environ["PATH_INFO"] == "/wait":
        time.sleep(WAIT_S)
    elif environ["PATH_INFO"] == "/cpu":
        burn()
    content = body()
    start_response(
        "200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(content)))]
    )
    return [content]

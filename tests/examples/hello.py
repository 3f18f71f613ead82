"""One process that says hello: python hello.py, and curl http://127.0.0.1:8080/."""

import os
from wsgiref.simple_server import make_server


def app(environ, start_response):
    """Answer any request."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"Hello from process {os.getpid()}\n".encode()]


if __name__ == "__main__":
    make_server("127.0.0.1", 8080, app).serve_forever()

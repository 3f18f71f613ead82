"""One process that works for each answer: ab -c 8 -n 200 http://127.0.0.1:8080/ tells how fast."""

import os
from wsgiref.simple_server import make_server


def app(environ, start_response):
    """Answer when the CPU has done what it can."""
    for _ in range(200_000):
        pass
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"Handled by process {os.getpid()}\n".encode()]


if __name__ == "__main__":
    make_server("127.0.0.1", 8080, app).serve_forever()

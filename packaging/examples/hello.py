"""The smallest app that shows who answers."""

import os

VERSION = 1


async def app(scope, receive, send):  # noqa: ARG001  # The ASGI signature.
    """Answer with the worker's number and process id."""
    if scope["type"] != "http":
        raise NotImplementedError(scope["type"])
    worker = os.environ["SDCLUSTER_SLOT"]
    body = f"hello from worker {worker}, pid {os.getpid()}, version {VERSION}\n".encode()
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [
                (b"content-type", b"text/plain"),
                (b"content-length", str(len(body)).encode()),
            ],
        }
    )
    await send({"type": "http.response.body", "body": body})

"""ASGI without a framework: `/`, `/wait`, `/cpu` and `/death`."""

import asyncio
import os

from work import WAIT_S, body, burn


async def app(scope, receive, send):  # noqa: ARG001  # ASGI's signature.
    """Answer with the worker's pid."""
    if scope["type"] != "http":
        raise NotImplementedError(scope["type"])
    if scope["path"] == "/wait":
        await asyncio.sleep(WAIT_S)
    elif scope["path"] == "/cpu":
        burn()
    elif scope["path"] == "/death":
        os._exit(1)
    content = body()
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(content))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": content})

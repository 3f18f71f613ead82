"""ASGI without a framework: one worker's answers take longer than those of the others."""

import asyncio
import os

from work import body

SLOW_S = 0.050


async def app(scope, receive, send):  # noqa: ARG001  # ASGI's signature.
    """Answer with the worker's pid."""
    if scope["type"] != "http":
        raise NotImplementedError(scope["type"])
    if os.environ["SDCLUSTER_SLOT"] == "0":
        await asyncio.sleep(SLOW_S)
    content = body()
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(content))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": content})

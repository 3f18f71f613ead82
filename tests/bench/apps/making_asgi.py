"""ASGI: `/value` asks the shared cache for a value that is made anew when it has ended.

When it was made is written down in the file `made` at home: when that began, and when it ended.
"""

import asyncio
import os
import time
from pathlib import Path

import hello_asgi

from sdcluster import cache

TTL_S = float(os.environ["VALUE_TTL_S"])
MAKING_S = 0.05


async def make():
    """Take a while, as what is worth caching does."""
    began = time.monotonic()
    await asyncio.sleep(MAKING_S)
    with (Path(os.environ["HOME"]) / "made").open("a") as file:
        file.write(f"{began} {time.monotonic()}\n")
    return os.getpid()


async def app(scope, receive, send):
    """Answer like `hello_asgi`, after the value is there."""
    if scope["type"] == "http" and scope["path"] == "/value":
        await cache.aget_or_set("value", make, ttl=TTL_S)
    await hello_asgi.app(scope, receive, send)

"""Apps that send nonsense to one client: it is the only one that notices."""

import re
from contextlib import ExitStack
from pathlib import Path
from socket import socket

import pytest
from conftest import Start
from instance import wait_until
from web import dial, fetch

CONFIG = 'app = "app:app"\nworkers = 1\n'
OTHERS = 3

APP = """
import asyncio

NONSENSE = {
    "/str": "text",
    "/list": [1, 2, 3, 4],
    "/tuple": ("a", "b", "c", "d"),
    "/dict": dict.fromkeys("abcd"),
}
tick = asyncio.Event()

async def stream(send):
    global tick
    await send({"type": "http.response.start", "status": 200, "headers": []})
    while True:
        await send({"type": "http.response.body", "body": b"tick\\n", "more_body": True})
        await tick.wait()

def go_on():
    global tick
    tick.set()
    tick = asyncio.Event()

async def app(scope, receive, send):
    assert scope["type"] == "http"
    path = scope["path"]
    if path == "/stream":
        await stream(send)
    go_on()  # The streams write in this same turn of the loop.
    headers = [(b"content-length", b"4")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    try:
        await send({"type": "http.response.body", "body": NONSENSE.get(path, b"fine")})
    except Exception as error:
        with open("told", "w") as file:
            file.write(repr(error))
        raise
"""
"""Writes streams to some clients, always at the same time, and nonsense to others."""


def tick(client: socket) -> None:
    """Wait for the next word of a stream, and no more than that."""
    assert re.search(rb"tick\n\r\n$", client.recv(65536))


@pytest.mark.parametrize("path", ["/str", "/list", "/tuple", "/dict"])
def test_nonsense_for_one_client_is_kept_from_no_other(
    start: Start, tmp_path: Path, engine: str, path: str
) -> None:
    """It is closed, the app is told, and those go on that were written to in the same turn."""
    instance = start(APP, config=CONFIG)
    with ExitStack() as stack:
        others = [stack.enter_context(dial(instance.address)) for _ in range(OTHERS)]
        for other in others:
            other.sendall(b"GET /stream HTTP/1.1\r\nHost: test\r\n\r\n")
            tick(other)
        with dial(instance.address) as client:
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
            received = b""
            while more := client.recv(65536):
                received += more
        assert received.partition(b"\r\n\r\n")[2] == b"", engine
        for other in others:
            tick(other)
        assert fetch(instance.address).text == "fine"
        for other in others:
            tick(other)
    wait_until((tmp_path / "told").exists, "the app is told")
    assert "Error" in (tmp_path / "told").read_text()

"""A response arrives whole, though its client still sends when the connection is closed."""

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import Start
from instance import Instance
from web import dial, fetch

CONFIG = 'app = "app:app"\nworkers = 2\nsticky = "cookie"\nreplay_max_kb = 16\n'
APP = """
async def app(scope, receive, send):
    assert scope["type"] == "http"
    headers = [(b"content-length", b"500000")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"x" * 500_000})
"""
"""Answers with much, and never reads what is sent to it."""

ANSWERED = rb"HTTP/1.1 200 OK\r\n(?:[^\r]+\r\n)+\r\nx{500000}"
REST = bytes(2_000_000)


@pytest.fixture(params=["TCP", "Unix"])
def instance(request: pytest.FixtureRequest, start: Start, tmp_path: Path, engine: str) -> Instance:
    """A cluster on an address of each kind, with each engine."""
    print(engine)
    address = "127.0.0.1:0" if request.param == "TCP" else str(tmp_path / "listener")
    return start(APP, config=CONFIG, listen=address)


@contextmanager
def sending(instance: Instance, data: bytes) -> Iterator[socket.socket]:
    """Send all of it."""
    with dial(instance.address) as client:
        errors: list[OSError] = []

        def send() -> None:
            try:
                client.sendall(data)
            except OSError as error:
                errors.append(error)

        thread = threading.Thread(target=send)
        thread.start()
        yield client
        thread.join()
    assert not errors


def is_answered(received: bytes, behind: bytes = b"") -> bool:
    """Tell whether there is the whole response, and what is to be behind it."""
    return bool(re.fullmatch(ANSWERED + behind, received, re.S))


def read_all(client: socket.socket) -> bytes:
    """Read to the end."""
    received = b""
    while part := client.recv(65536):
        received += part
    return received


def head(line: str, *headers: str) -> bytes:
    """Return the head of a request."""
    return "\r\n".join((f"{line} HTTP/1.1", "Host: test", *headers, "", "")).encode()


def test_response_to_who_is_still_sending_arrives_whole(instance: Instance) -> None:
    """The last one of its connection, from an app that does not want what is sent."""
    post = head("POST /", "Connection: close", f"Content-Length: {len(REST)}") + REST
    with sending(instance, post) as client:
        assert is_answered(read_all(client))


def test_refusal_takes_nothing_from_the_response_before(instance: Instance, engine: str) -> None:
    """What is refused is another worker's, and it is not certain where it begins."""
    last = ("Connection: close", f"Content-Length: {len(REST)}")
    refused = 0
    for cookie in (one for one in cookies(instance) for _ in range(4)):
        data = head("GET /", "Upgrade: h2c") + head("POST /", f"Cookie: {cookie}", *last) + REST
        with sending(instance, data) as client:
            received = read_all(client)
        assert is_answered(received, rb"HTTP/1.1 (200|503) .*")
        refused += b"HTTP/1.1 503 " in received
    assert refused or "h11" in engine  # It knows where.


def cookies(instance: Instance) -> set[str]:
    """Return what tells of each worker that a request is for it."""
    found: set[str] = set()
    while len(found) < 2:
        answer = fetch(instance.address)
        found.add(answer.headers["set-cookie"].partition(";")[0])
    return found


def test_who_sends_no_request_is_told(instance: Instance) -> None:
    """However much of it there is."""
    with sending(instance, b"this is no request" + REST) as client:
        assert read_all(client).startswith(b"HTTP/1.1 400 ")

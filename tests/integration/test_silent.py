"""Connections that ask nothing: they hold up neither a stop nor a reload."""

import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import socket

import pytest
from conftest import HELLO, Start
from instance import Instance, wait_until
from web import dial

from sdcluster.worker.http.silence import SILENCE_S

CONFIG = 'app = "app:app"\nworkers = 1\nreload_probation_s = 0\n'
IN_TIME_S = 4.0
"""Much more than it takes, also where much else runs; and less than any time-out there is."""

WSGI = """
import os

def app(environ, start_response):
    body = f"{os.environ['SDCLUSTER_SLOT']} {os.getpid()}\\n".encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""

GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"
UNFINISHED = b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 9\r\n\r\nx"
"""The app answers it without its body."""
SENT = {
    "nothing": (b"", b""),
    "half a head": (b"", GET[:20]),
    "a request": (GET, b""),
    "a request and half a head": (GET, GET[:20]),
    "a request but for its body": (UNFINISHED, b""),
}
"""What silent clients have sent: what is answered, and what came after that."""


def answer(client: socket) -> str:
    """Return the next answer's body."""
    received = b""
    while not (match := re.search(rb"\r\n\r\n(.*)\n", received, re.DOTALL)):
        more = client.recv(65536)
        assert more, received
        received += more
    return match[1].decode()


@contextmanager
def silent(instance: Instance) -> Iterator[dict[str, socket]]:
    """Have a client of each kind, by what it has sent."""
    clients = {what: dial(instance.address) for what in SENT}
    for what, (asked, begun) in SENT.items():
        if asked:
            clients[what].sendall(asked)
            answer(clients[what])
        clients[what].sendall(begun)
    instance.wait_status(
        lambda status: sum(int(one["connections"]) for one in status["workers"]) == len(clients)
    )
    try:
        yield clients
    finally:
        for client in clients.values():
            client.close()


@pytest.fixture(params=["asgi", "wsgi"])
def source(request: pytest.FixtureRequest) -> str:
    """An app of each kind."""
    return HELLO if request.param == "asgi" else WSGI


@pytest.fixture(params=["TCP", "Unix"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An address of each kind."""
    return "127.0.0.1:0" if request.param == "TCP" else str(tmp_path / "listener")


def test_silent_connections_hold_up_no_stop(
    start: Start, source: str, engine: str, address: str
) -> None:
    """They are closed, whatever came of a request before, and the workers end."""
    instance = start(source, config=CONFIG, listen=address)
    with silent(instance) as clients:
        began = time.monotonic()
        assert instance.stop() == 0, engine
        took_s = time.monotonic() - began
        for client in clients.values():
            assert client.recv(100) == b""
    print(f"it took {took_s:.2f} s")
    assert took_s < IN_TIME_S


def test_silent_connections_hold_up_no_reload(
    start: Start, source: str, engine: str, address: str
) -> None:
    """They go to the next worker, which answers them; but one whose body would come there."""
    instance = start(source, config=CONFIG, listen=address)
    (old,) = instance.worker_pids()
    with silent(instance) as clients:
        instance.signal(signal.SIGHUP)  # A command would take longer to start than all of it.
        instance.wait_log("is retired: reload")
        began = time.monotonic()
        wait_until(lambda: old not in instance.processes(), "the old worker is gone", 60)
        took_s = time.monotonic() - began
        for what, client in clients.items():
            if what == "a request but for its body":
                assert client.recv(100) == b""
                continue
            client.sendall(GET[len(SENT[what][1]) :])
            assert int(answer(client).split()[1]) in instance.worker_pids(), engine
    print(f"it took {took_s:.2f} s")
    assert took_s < IN_TIME_S


def test_client_that_sends_on_is_no_silent_one(start: Start, engine: str) -> None:
    """The body of a request that is answered may come, however long the reload waits for it."""
    instance = start(HELLO, config=CONFIG)
    left = 10_000
    with dial(instance.address) as client:
        client.sendall(UNFINISHED[:-1].replace(b"9", str(left).encode()))
        answer(client)
        command = instance.begin_reload()
        late = time.monotonic() + 60
        while time.monotonic() < late:
            client.sendall(b"x")
            left -= 1
            if late > time.monotonic() + 1 and "is retired: reload" in instance.log():
                late = time.monotonic() + 3 * SILENCE_S
            time.sleep(0.02)  # As a client on a slow line does.
        assert command.poll() is None
        client.sendall(b"x" * left)
        assert command.wait(20) == 0, engine
        client.sendall(GET)
        assert int(answer(client).split()[1]) in instance.worker_pids()

"""A stop that another start follows: what the master leaves to the next one, and how soon it ends.

Sockets and store are the test's, as if it were systemd: those on a booted machine are in
tests/machine.
"""

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import HELLO, SCHEDULINGS, Start
from instance import wait_until
from web import connection, dial, fetch, is_read

READS = """
import os

async def app(scope, receive, send):
    assert scope["type"] == "http"
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
"""
"""An app that answers with the body of the request."""

GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\n"
SOON_S = 2.5
"""How long a stop may take on a busy machine; a drain would take 30 s."""


class Manager:
    """Takes notifications, and has a store of descriptors."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._stored: list[int] = []
        self.name = ""
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def environment(self) -> dict[str, str]:
        """Return what a service is told of it."""
        return {"NOTIFY_SOCKET": str(self.path), "FDSTORE": "100"}

    def _run(self) -> None:
        while True:
            data, fds, _, _ = socket.recv_fds(self._socket, 65536, 253)
            lines = data.decode().split("\n")
            if "FDSTORE=1" in lines:
                self.name = lines[-1].removeprefix("FDNAME=")
                self._stored += fds
                continue
            if "FDSTOREREMOVE=1" in lines:
                fds += self._stored
                self._stored = []
            for fd in fds:
                os.close(fd)
            if data == b"end":
                return

    @property
    def stored(self) -> list[socket.socket]:
        """Copies of what is stored, as something that has a descriptor."""
        return [socket.socket(fileno=os.dup(fd)) for fd in self._stored if _is_socket(fd)]

    def passed(self) -> list["Held"]:
        """Return what the next service is passed."""
        return [Held(fd) for fd in self._stored]

    def close(self) -> None:
        """End it, and close what is stored."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"end", str(self.path))
        self._thread.join()
        self._socket.close()
        for fd in self._stored:
            os.close(fd)


class Held:
    """Something with a descriptor."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        """Return it."""
        return self._fd


def _is_socket(fd: int) -> bool:
    return os.readlink(f"/proc/self/fd/{fd}").startswith("socket:")


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    """Make one."""
    made = Manager(tmp_path / "notify")
    yield made
    made.close()


@pytest.mark.parametrize("scheduling", SCHEDULINGS)
def test_the_next_master_goes_on_with_those_that_have_asked_nothing_whole(
    start: Start, manager: Manager, scheduling: str
) -> None:
    """Who was silent, had sent half a head, or was kept alive sees nothing of it."""
    options = ("--workers", "2", "--scheduling", scheduling)
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        dial(f"127.0.0.1:{listener.getsockname()[1]}") as silent,
        dial(f"127.0.0.1:{listener.getsockname()[1]}") as head,
    ):
        old = start(HELLO, *options, sockets=[listener], env=manager.environment())
        with connection(old.address) as kept:
            first = kept.fetch().text.split()[1]
            head.sendall(GET[:20])
            wait_until(is_read(head), "half a head that was read")
            since = time.monotonic()
            assert old.stop() == 0
            assert time.monotonic() - since < SOON_S
            assert "3 connections are left to the next start" in old.log()
            stored = manager.passed()
            names = ":".join(["web", *[manager.name] * len(stored)])
            new = start(
                HELLO,
                *options,
                sockets=[listener, *stored],
                names=names,
                env=manager.environment(),
            )
            assert new.addresses == [old.address]
            assert kept.fetch().text.split()[1] != first
            head.sendall(GET[20:])
            assert head.recv(4096).startswith(b"HTTP/1.1 200 OK")
            silent.sendall(GET)
            assert silent.recv(4096).startswith(b"HTTP/1.1 200 OK")
            assert fetch(new.address).status == 200
            wait_until(lambda: not manager.passed(), "an empty store")


def test_a_start_that_fails_leaves_them_to_the_next(start: Start, manager: Manager) -> None:
    """They are in the store until a worker can have them."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        old = start(HELLO, sockets=[listener], env=manager.environment())
        with connection(old.address) as kept:
            kept.fetch()
            assert old.stop() == 0
            for source, is_ready in (("raise ValueError", False), (HELLO, True)):
                stored = manager.passed()
                assert len(stored) == 2
                names = ":".join(["web", *[manager.name] * len(stored)])
                new = start(
                    source,
                    sockets=[listener, *stored],
                    names=names,
                    env=manager.environment(),
                    wait=is_ready,
                )
                if not is_ready:
                    assert new.wait() != 0
            assert kept.fetch().status == 200


@pytest.mark.parametrize("scheduling", SCHEDULINGS)
@pytest.mark.parametrize("has_store", [True, False])
def test_a_request_whose_body_does_not_come_holds_up_no_stop_that_others_wait_for(
    start: Start, manager: Manager, scheduling: str, has_store: bool
) -> None:
    """It is answered 408, and not waited for until the drain time-out."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        instance = start(
            READS,
            *("--workers", "2", "--scheduling", scheduling),
            sockets=[listener],
            env=manager.environment() if has_store else {},
        )
        with dial(instance.address) as body, dial(instance.address):
            body.sendall(POST + b"01234")
            wait_until(is_read(body), "half a body that was read")
            since = time.monotonic()
            assert instance.stop() == 0
            assert time.monotonic() - since < SOON_S
            assert body.recv(4096).startswith(b"HTTP/1.1 408 ")


def test_a_request_whose_body_comes_slowly_is_answered_in_a_stop(start: Start) -> None:
    """A byte now and then is enough."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        instance = start(READS, sockets=[listener])
        with dial(instance.address) as body:
            body.sendall(POST + b"0")
            wait_until(is_read(body), "a part of a body that was read")
            instance.process.terminate()
            for digit in b"123456789":
                time.sleep(0.15)  # It is what is tested.
                body.sendall(bytes([digit]))
            answer = b""
            while more := body.recv(4096):
                answer += more
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert b"0123456789" in answer
        assert instance.wait() == 0


def test_a_stop_that_nobody_waits_for_leaves_a_body_its_time(start: Start) -> None:
    """With listeners of the master's own, which end with it."""
    instance = start(READS)
    with dial(instance.address) as body:
        body.sendall(POST + b"01234")
        wait_until(is_read(body), "half a body that was read")
        instance.process.terminate()
        time.sleep(1.0)  # Twice as long as others are waited for.
        body.sendall(b"56789")
        assert body.recv(4096).startswith(b"HTTP/1.1 200 ")
    assert instance.wait() == 0

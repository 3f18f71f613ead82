"""Whose clients the control socket has room for."""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import cast

import pytest

from sdcluster.master.host.loop import Loop
from sdcluster.master.service import control
from sdcluster.master.service.control import MAX_CLIENTS, Client, ControlServer
from sdcluster.wire import varlink
from unit.descriptors import none_leaked
from unit.master.connections.test_dispatch import FakeLoop


class FakeEvents(FakeLoop):
    """As there, with what is waited for."""

    def add(self, fd: int, callback: object, _events: int = 0) -> None:
        """Watch."""
        super().add(fd, callback)  # type: ignore[arg-type]


class Server:
    """A control socket, whose clients are whose the test says."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.loop = FakeEvents()
        self._listener = control.listen(folder)
        self.server = ControlServer(cast(Loop, self.loop), self._listener)
        self.server.answer(self._answer)
        self.uid = os.geteuid()
        self._path = str(folder / "control")
        self._stack = ExitStack()
        monkeypatch.setattr(control, "peer_uid", lambda _connection: self.uid)

    def _answer(self, client: Client, call: varlink.Call) -> None:
        if call.method == "a.Status":
            client.send(varlink.Reply({"well": True}))

    def ask(self, method: str, uid: int, turns: int = 2) -> socket.socket:
        """Have a user ask, and see to it for so long; what is not `a.Status` gets no answer."""
        self.uid = uid
        client = self._stack.enter_context(socket.socket(socket.AF_UNIX))
        client.connect(self._path)
        client.settimeout(5)
        client.sendall(varlink.encode(varlink.Call(method)))
        for _ in range(turns):
            self.loop.turn()
        return client

    def be_another(self) -> None:
        """Have another server in the place of this one."""
        left = self.server.leave()
        self.server = ControlServer(cast(Loop, self.loop), self._listener, left)
        self.server.answer(self._answer)

    def close(self) -> None:
        """Close everything."""
        self.server.close()
        self._listener.close()
        self._stack.close()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Listen."""
    with none_leaked():
        made = Server(tmp_path, monkeypatch)
        yield made
        made.close()


@pytest.mark.parametrize("uid", [0, os.geteuid()])
def test_clients_that_wait_keep_nobody_from_being_answered(server: Server, uid: int) -> None:
    """Neither root nor those of the same user: they are counted apart."""
    for _ in range(40):
        server.ask("a.Wait", os.geteuid())
    assert server.ask("a.Status", uid).recv(100)


def test_silent_clients_of_one_user_are_not_dropped_for_another(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each user has room of its own; in it the oldest is dropped."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    root = server.ask("a.Status", 0)
    others = [server.ask("a.Status", 1000) for _ in range(MAX_CLIENTS + 1)]
    assert root.recv(100)
    root.sendall(varlink.encode(varlink.Call("a.Status")))
    server.loop.turn()
    assert root.recv(100)
    assert others[0].recv(100) and others[0].recv(100) == b""


@pytest.mark.parametrize("turns", [0, 1, 2])
def test_who_asks_when_one_server_follows_another_is_answered(server: Server, turns: int) -> None:
    """Whether the call was not accepted yet, not read, or answered, and is followed by another."""
    client = server.ask("a.Status", os.geteuid(), turns)
    server.be_another()
    if turns == 2:
        assert client.recv(100)
        client.sendall(varlink.encode(varlink.Call("a.Status")))
    server.loop.turn()
    server.loop.turn()
    assert client.recv(100)


def test_who_waits_for_a_server_that_is_over_is_told_by_the_end(server: Server) -> None:
    """Nobody else knows of it."""
    client = server.ask("a.Wait", os.geteuid())
    server.be_another()
    assert client.recv(100) == b""

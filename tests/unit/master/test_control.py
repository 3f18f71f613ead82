"""Whose clients the control socket has room for."""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import cast

import pytest

from sdcluster.master import control
from sdcluster.master.control import MAX_CLIENTS, Client, ControlServer
from sdcluster.master.loop import Loop
from sdcluster.wire import varlink
from unit.descriptors import none_leaked
from unit.master.test_dispatch import FakeLoop


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

    def ask(self, method: str, uid: int) -> socket.socket:
        """Have a user ask; what is not `a.Status` gets no answer."""
        self.uid = uid
        client = self._stack.enter_context(socket.socket(socket.AF_UNIX))
        client.connect(self._path)
        client.settimeout(5)
        client.sendall(varlink.encode(varlink.Call(method)))
        self.loop.turn()
        self.loop.turn()
        return client

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

"""Connections on their way to the quarantine, and back from it, as their worker sees them."""

import asyncio
import mmap
import os
import socket
from collections.abc import Callable, Coroutine
from typing import Any

from sdcluster.wire.channel import (
    ANY,
    MAX_HANDOFF_BYTES,
    NEW,
    QUARANTINE,
    Handoff,
    decode_handoff,
)
from sdcluster.wire.scoreboard import SIGNATURES_AT, SIZE_BYTES, Field, Scoreboard
from sdcluster.worker.moving.exit import Exit
from sdcluster.worker.moving.movable import Moves
from sdcluster.worker.moving.movable_unix import MovableUnixConnection
from sdcluster.worker.moving.signatures import Signatures
from unit.ledgers import new_ledger
from unit.worker.moving.test_movable import Engine, Transport

SCOPE = {"type": "http", "method": "GET", "path": "/", "headers": []}
FIRST = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"
SECOND = b"GET /next HTTP/1.1\r\nHost: test\r\n\r\n"


class Busy(Engine):
    """An engine that is at work on a request."""

    def is_waiting(self) -> bool:
        """Have something to do."""
        return False


class Scene:
    """A worker with one connection, from which FIRST and SECOND have come at once."""

    def __init__(self, *, is_quarantine: bool) -> None:
        self.board = Scoreboard(mmap.mmap(-1, SIZE_BYTES))
        self.control, self.master = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.server, self.client = socket.socketpair()
        for one in (self.control, self.master, self.client):
            one.setblocking(False)
        self.moves = Moves(
            new_ledger(4096),
            Exit(self.control),
            replay="idempotent",
            proxies=None,
            is_routed=False,
            signatures=Signatures(self.board, replay="idempotent"),
            is_quarantine=is_quarantine,
            handoff_timeout_s=60,
            on_closed=lambda: None,
            on_refused=lambda _: None,
        )
        self.served: list[Any] = []
        self._engine = Busy()
        self._engine.app = self._app
        self.connection = MovableUnixConnection(
            self._engine, self.server.fileno(), NEW, self.moves, self.server
        )
        self.connection.connection_made(Transport())
        self.connection.get_buffer(-1)[: len(FIRST + SECOND)] = FIRST + SECOND
        self.connection.buffer_updated(len(FIRST + SECOND))

    async def _app(self, scope: Any, _receive: Any, _send: Any) -> None:
        self.served.append(scope["path"])

    def ask(self, path: str, method: str = "GET") -> asyncio.Task[None]:
        """Give the app a request, as the engine does."""
        scope = {**SCOPE, "path": path, "method": method}
        return asyncio.ensure_future(self._engine.app(scope, None, None))

    def list_all(self) -> None:
        """Have SCOPE, and each that looks like it, served in the quarantine."""
        words = self.board.words
        sign = Signatures(self.board, replay="idempotent").of_scope
        words[SIGNATURES_AT] = sign(SCOPE)
        words[SIGNATURES_AT + 1] = sign({**SCOPE, "method": "HEAD"})
        words[Field.SIGNATURES] = 2
        words[Field.QUARANTINE] += 1

    def fill(self) -> None:
        """Leave no room in the channel to the master."""
        try:
            while True:
                self.control.send(b"x" * 1000)
        except BlockingIOError:
            pass

    def empty(self) -> None:
        """Take what was put there."""
        try:
            while True:
                self.master.recv(1000)
        except BlockingIOError:
            pass

    def handed(self) -> Handoff:
        """Return what the master gets next."""
        data, fds, _, _ = socket.recv_fds(self.master, MAX_HANDOFF_BYTES, 1)
        for fd in fds:
            os.close(fd)
        return decode_handoff(data, len(fds))

    def close(self) -> None:
        """Close all."""
        for one in (self.control, self.master, self.server, self.client):
            one.close()


def run(body: Callable[[Scene], Coroutine[Any, Any, None]], *, is_quarantine: bool) -> None:
    """Run a coroutine with a scene, in good time."""

    async def main() -> None:
        scene = Scene(is_quarantine=is_quarantine)
        try:
            await asyncio.wait_for(body(scene), 10)
        finally:
            scene.close()

    asyncio.run(main())


async def answer_first(scene: Scene) -> None:
    """Have the first request served and answered."""
    await scene.ask("/")
    scene.connection.write(b"HTTP/1.1 204 No Content\r\n\r\n")
    scene.connection.answered(len(SECOND))


def test_second_request_of_a_connection_is_not_served_in_the_quarantine() -> None:
    """Only the first is suspected: the other goes back with its connection."""

    async def body(scene: Scene) -> None:
        await answer_first(scene)
        await scene.ask("/next")
        handoff = scene.handed()
        assert (handoff.slot, handoff.unanswered) == (ANY, SECOND)
        assert scene.served == ["/"]

    run(body, is_quarantine=True)


def test_second_request_is_served_in_the_quarantine_when_there_is_no_other_place() -> None:
    """As when the cluster stops."""

    async def body(scene: Scene) -> None:
        await answer_first(scene)
        scene.moves.exit.shut()
        await scene.ask("/next")
        assert scene.served == ["/", "/next"]

    run(body, is_quarantine=True)


def test_second_request_is_served_where_others_are() -> None:
    """Nobody sends it away from a worker that is no quarantine."""

    async def body(scene: Scene) -> None:
        await answer_first(scene)
        await scene.ask("/next")
        assert scene.served == ["/", "/next"]

    run(body, is_quarantine=False)


def test_request_for_the_quarantine_waits_for_room() -> None:
    """A channel that is full for a moment is no reason to refuse it."""

    async def body(scene: Scene) -> None:
        scene.list_all()
        scene.fill()
        task = scene.ask("/")
        await asyncio.sleep(0)
        assert not task.done()
        scene.empty()
        await task
        assert scene.handed().slot == QUARANTINE
        assert scene.served == []

    run(body, is_quarantine=False)


def test_request_that_the_quarantine_has_no_room_for_is_refused() -> None:
    """After the time that is set; with a whole response, and its connection is closed."""

    async def body(scene: Scene) -> None:
        scene.moves.handoff_timeout_s = 0.01
        scene.list_all()
        scene.fill()
        await scene.ask("/")
        response = scene.client.recv(1000)
        assert response.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1" in response and b"connection: close" in response
        assert scene.connection.is_closing() and scene.served == []

    run(body, is_quarantine=False)


def test_response_to_head_that_is_refused_has_no_body() -> None:
    """Also when what was read of the request is not kept: its method is known."""

    async def body(scene: Scene) -> None:
        scene.list_all()
        scene.connection.pin()
        await scene.ask("/", method="HEAD")
        assert scene.client.recv(1000).endswith(b"\r\n\r\n")

    run(body, is_quarantine=False)

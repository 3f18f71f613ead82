"""A worker that dies between any two things that it does: nothing is answered twice, or lost.

The connection is a real one. Each time that a word of its ledger is written, before and after that,
and around each write(2), it is judged as if the worker had died just there.
"""

import asyncio
import fcntl
import itertools
import os
import socket
import struct
import termios
from collections.abc import Callable
from typing import Any

import pytest
from waiting import TIMEOUT_S

from sdcluster.core.verdict import Finding, Known, Verdict, judge
from sdcluster.master.connections.counts import counts
from sdcluster.wire.channel import Handoff
from sdcluster.wire.ledger import ENTRY_BYTES, State, decode_entry
from sdcluster.worker.moving import unix_counts
from sdcluster.worker.moving.exit import Exit
from sdcluster.worker.moving.movable import MovableConnection, Moves
from sdcluster.worker.moving.movable_unix import MovableUnixConnection
from unit.ledgers import new_ledger, none_listed

LIMIT = 8192
REQUEST = b"".join(b"%07d\n" % number for number in range(125))
RESPONSE = b"r" * 3000
LARGE = b"r" * 700_000
"""More than a socket has room for."""
STATED = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"r" * 100_000
"""More than is held back, and its head tells how much."""
LONG = REQUEST * 20
"""More than is kept of a request."""

Answer = Callable[["Engine"], None]


def unread(connection: socket.socket) -> int:
    """Return how much has come that nobody has read."""
    answer = fcntl.ioctl(connection, termios.FIONREAD, b"\0" * 4)
    return int(struct.unpack("i", answer)[0])


class Watched:
    """The words of a ledger; `look` is called before and after each is written."""

    def __init__(self, words: memoryview, look: Callable[[], None]) -> None:
        self._words = words
        self._look = look

    def __getitem__(self, index: int) -> int:
        return int(self._words[index])

    def __setitem__(self, index: int, value: int) -> None:
        self._look()
        self._words[index] = value
        self._look()


class Engine:
    """As much of an engine as a connection needs: it answers each request."""

    def __init__(
        self, answer: Answer, look: Callable[[], None], request: bytes, response: bytes
    ) -> None:
        self.response = response
        self._request = request
        self._answer = answer
        self._look = look
        self._data = b""
        self.has_ended = True
        """Whether it is known that the last response is complete."""
        self._is_whole = False
        self._is_owed = False
        """Whether that was before its request was there whole."""
        self.app: Any = None
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._look()
        self._data += data
        size = len(self._request)
        self._is_whole = len(self._data) >= size
        if self._is_whole:
            self._data = self._data[size:]
        if self._is_owed:
            if self._is_whole:
                self._is_owed = False
                self.transport.settled(0)
        elif self._is_whole or self._answer in EARLY:
            self.has_ended = False
            self._answer(self)

    def is_more_to_come(self) -> bool:
        return not self._is_whole or bool(self._data)

    def is_to_close(self) -> bool:
        return False

    def end(self) -> None:
        """Say that the response is complete."""
        if self._is_whole:
            self.transport.answered(len(self._data))
        else:
            self._is_owed = True
            self.transport.owe()
        self.has_ended = True

    def connection_lost(self, _error: Exception | None) -> None:
        pass

    def pause_writing(self) -> None:
        pass

    def resume_writing(self) -> None:
        pass


def at_once(engine: Engine) -> None:
    """Answer with one write."""
    engine.transport.write(engine.response)
    engine.end()


def in_pieces(engine: Engine) -> None:
    """Answer with several writes, in one turn of the loop."""
    step = len(engine.response) // 3 + 1
    for begin in range(0, len(engine.response), step):
        engine.transport.write(engine.response[begin : begin + step])
    engine.end()


def in_turns(engine: Engine) -> None:
    """Answer with several writes, each in a turn of the loop of its own."""
    loop, step = asyncio.get_running_loop(), len(engine.response) // 3 + 1

    def go_on(begin: int) -> None:
        engine.transport.write(engine.response[begin : begin + step])
        if begin + step < len(engine.response):
            loop.call_later(0.001, go_on, begin + step)
        else:
            engine.end()

    go_on(0)


def and_later(engine: Engine) -> None:
    """Answer, and find only in a later turn that this was all."""
    engine.transport.write(engine.response)
    asyncio.get_running_loop().call_later(0.001, engine.end)


def early(engine: Engine) -> None:
    """Answer as soon as anything has come, with two writes."""
    engine.transport.write(engine.response[:1000])
    engine.transport.write(engine.response[1000:])
    engine.end()


def early_and_written(engine: Engine) -> None:
    """Answer as soon as anything has come, and have written all when that is complete."""
    engine.transport.write(engine.response)
    engine.transport.flush()
    engine.end()


EARLY = early, early_and_written


class Connection:
    """A connection with its client, judged again and again."""

    def __init__(
        self,
        server: socket.socket,
        client: socket.socket,
        answer: Answer,
        request: bytes,
        response: bytes,
    ) -> None:
        self.client = client
        self._request, self._response = request, response
        self._is_known = response is STATED and answer not in EARLY
        """Whether it is known where the response ends before all of it is written."""
        self._is_known |= response is RESPONSE and answer in (at_once, in_pieces)
        self.client.setblocking(False)
        self.findings: list[Finding] = []
        self.has_ended = False
        self._server, self._accepted = server.dup(), server
        self._is_unix = server.family == socket.AF_UNIX
        self._number = server.fileno()
        self._sent = self._received = 0
        self._ledger = new_ledger(LIMIT)
        self._ledger.enter(self._number, Handoff())
        self._ledger.words = Watched(self._ledger.words, self.look)  # type: ignore[assignment]
        self._control, other = socket.socketpair()
        self._other = other
        self._moves = Moves(
            self._ledger,
            Exit(self._control),
            replay="idempotent",
            proxies=None,
            is_routed=False,
            signatures=none_listed(),
            on_closed=lambda: None,
            on_refused=lambda _: None,
        )
        self._engine = Engine(answer, self.look, request, response)

    def make(self) -> MovableConnection:
        """Make what is to be the loop's protocol."""
        common = self._engine, self._number, Handoff(), self._moves
        if self._is_unix:
            return MovableUnixConnection(*common, self._accepted)
        return MovableConnection(*common)

    def _read(self) -> int:
        counted = counts(self._server)  # What was sent may be on its way.
        return counted.read if counted else self._sent - unread(self._server)

    def _totals(self) -> tuple[int, int]:
        """Return what was read and written, in truth."""
        return self._read(), self._received + unread(self.client)

    def look(self) -> None:
        """Judge the connection, and see that this is right."""
        if self.has_ended:
            return
        layout = self._ledger.layout
        at = layout.entry_at(self._number)
        entry = decode_entry(bytes(self._ledger.bytes[at : at + ENTRY_BYTES]))
        length, out_done = unix_counts.totals(self._ledger, self._number)
        known = Known(
            in_base=entry.in_base,
            length=length,
            out_base=entry.out_base,
            out_done=out_done,
            out_end=entry.out_end,
            in_done=entry.in_done,
            in_end=entry.in_end,
            is_pinned=entry.state not in (State.OPEN, State.OWED, State.ANSWERING),
            is_owed=entry.state is State.OWED,
            is_answering=entry.state is State.ANSWERING,
        )
        counted = counts(self._server)
        assert (counted is None) is self._is_unix
        totals = (counted.read, counted.written) if counted else None
        found = judge(known, totals, last_serial=0, limit=LIMIT)
        self.findings.append(found)
        read, written = totals or self._totals()
        answers, part = divmod(written, len(self._response))
        unanswered = read - answers * len(self._request)
        # The rest of a request may be read, and that not be known.
        is_owed = unanswered < 0 or (not unanswered and found.verdict is Verdict.REST)
        if is_owed:
            unanswered += len(self._request)
        if found.verdict is Verdict.CLOSED:
            # Right when a response has begun, all of it is written that is known of, or more of a
            # request has come than is kept.
            is_open = part or max(unanswered, self._is_unix and length) > LIMIT
            if not self._is_known:
                is_open |= (not unanswered or is_owed) and not self._engine.has_ended
            assert is_open, (known, read, written)
            return
        assert not part, (known, read, written)
        assert found.unanswered == unanswered, (known, read, written)
        expected = Verdict.REST if is_owed else Verdict.AGAIN if unanswered else Verdict.IDLE
        assert found.verdict is expected
        assert self._is_unix or (found.consumed, found.written) == (read, written)
        data_at = layout.data_at(self._number) + found.base - entry.in_base
        data = bytes(self._ledger.bytes[data_at : data_at + unanswered])
        assert data == self._request[:unanswered]

    async def send(self, data: bytes) -> None:
        """Have the client send something."""
        self._sent += len(data)
        await asyncio.get_running_loop().sock_sendall(self.client, data)
        while self._read() < self._sent:
            await asyncio.sleep(0)

    async def receive(self) -> None:
        """Have the client receive a response, and nothing more."""
        left = len(self._response)
        while (ready := unread(self.client)) < left:
            if ready:
                left -= self._take(ready)
            await asyncio.sleep(0.001)
        for _ in range(5):
            await asyncio.sleep(0.001)  # Until the worker has noted that it is complete.
        self.look()
        assert self._take(left + 1) == left

    def _take(self, size: int) -> int:
        taken = len(self.client.recv(size))
        self._received += taken
        self.look()
        return taken

    def close(self) -> None:
        """Close everything."""
        for sock in (self._server, self.client, self._control, self._other):
            sock.close()
        os.close(self._ledger.fd)


def pair(kind: str) -> tuple[socket.socket, socket.socket]:
    """Return the server and the client of a new connection."""
    if kind == "unix":
        return socket.socketpair()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    return server, client


CASES = {
    "short": (REQUEST, RESPONSE),
    "large": (REQUEST, LARGE),
    "stated": (REQUEST, STATED),
    "long": (LONG, RESPONSE),
    "long, stated": (LONG, STATED),
}
"""Requests, and the responses to them."""


ANSWERS = at_once, in_pieces, in_turns, and_later


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest.mark.parametrize(
    ("case", "answer"),
    [
        *itertools.product(CASES, ANSWERS),
        *itertools.product(("short", "large", "stated"), EARLY),
    ],
)
def test_worker_may_die_at_any_time(
    kind: str, answer: Answer, case: str, loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is unanswered is known whenever it can be, and nothing else is ever taken for it."""
    failures: list[object] = []
    request, response = CASES[case]

    async def live() -> None:
        running = asyncio.get_running_loop()
        running.set_exception_handler(lambda _loop, context: failures.append(context["exception"]))
        server, client = pair(kind)
        connection = Connection(server, client, answer, request, response)

        def watch(name: str) -> None:
            call = getattr(os, name)

            def watched(*arguments: object) -> object:
                connection.look()
                try:
                    return call(*arguments)
                finally:
                    connection.look()

            monkeypatch.setattr(os, name, watched)

        for name in ("write", "splice", "read"):
            watch(name)
        transport, _ = await running.connect_accepted_socket(connection.make, server)
        quiet = []
        for begin in (0, 100, 999):
            await connection.send(request[:begin])
            connection.look()
            quiet.append(connection.findings[-1].verdict)
            await connection.send(request[begin:])
            await connection.receive()
            quiet.append(connection.findings[-1].verdict)
        if case == "long" and answer in (at_once, in_pieces):
            await connection.send(request + request[:500])
            await connection.receive()
            assert connection.findings[-1].unanswered == 500
            await connection.send(request[500:])
            await connection.receive()
            assert connection.findings[-1].verdict is Verdict.IDLE
        idle = Verdict.IDLE
        known = Verdict.REST if answer in EARLY else Verdict.AGAIN
        found = {one.verdict for one in connection.findings}
        if answer in EARLY and response is not RESPONSE:  # A part of it may be written, or all.
            quiet = [known if one is Verdict.CLOSED else one for one in quiet]
            found.add(known)
        assert quiet == [idle, idle, known, idle, known, idle]
        assert {Verdict.IDLE, Verdict.AGAIN, known} <= found
        assert len(connection.findings) > 20
        monkeypatch.undo()
        connection.has_ended = True
        transport.abort()
        await asyncio.sleep(0)
        connection.close()

    async def live_for_a_while() -> None:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await live()
        finally:
            assert not failures  # Those in callbacks, which end nothing.

    factory = pytest.importorskip("uvloop").new_event_loop if loop == "uvloop" else None
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(live_for_a_while())

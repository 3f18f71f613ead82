"""Sends what is planned over raw sockets, and has judged what comes back."""

import asyncio
import contextlib
import socket
import time
from collections.abc import Iterator
from dataclasses import replace

from fuzz.answers import Answer, AnswerError, AnswerReader
from fuzz.crowd import Crowd, Talk
from fuzz.exchange import Request
from fuzz.expected import told_by
from fuzz.pending import Pending
from fuzz.plan import Connection, Step
from fuzz.verdict import End

PATIENCE_S = 15.0
"""How long a client waits for something to come."""
CONTINUE_S = 1.0
"""How long for 100 Continue; then it goes on without: RFC 9110, 10.1.1."""
CLOSE_S = 5.0
"""How long for the end of a connection that the server is to close."""
READ_BYTES = 64 * 1024


async def run(crowd: Crowd, plan: Iterator[Connection]) -> None:
    """Be one client, until the time is over."""
    while not crowd.is_over:
        await _Caller(crowd, next(plan)).run()


class _Caller:
    """One connection of a client."""

    def __init__(self, crowd: Crowd, plan: Connection) -> None:
        self._crowd = crowd
        self._plan = plan
        self._loop = asyncio.get_running_loop()
        self._sock: socket.socket | None = None
        self._rest = b""
        """What has come behind the last answer."""
        self._talk = Talk()
        self._idle_since_s = time.monotonic()
        self._previous: Request | None = None
        self._previous_s = 0.0

    async def run(self) -> None:
        """Do all of the plan that can be done."""
        try:
            for step in self._plan.steps:
                if self._crowd.is_over or not await self._take(step):
                    return
        finally:
            if self._sock is not None:
                self._sock.close()

    async def _take(self, step: Step) -> bool:
        """Send a step and read its answers; False when the connection is over."""
        await asyncio.sleep(step.pause_ms / 1000)
        pending = Pending(self._crowd, self._plan, step, idle_since_s=self._idle_since_s)
        try:
            if self._sock is None:
                async with asyncio.timeout(PATIENCE_S):
                    self._sock = await self._connect()
                await self._send(self._sock, self._plan.preface)
        except (OSError, TimeoutError) as error:
            self._ended(pending, 0, End.REFUSED, repr(error))
            return False
        sending = self._loop.create_task(self._send_step(self._sock, pending))
        goes_on = False
        try:
            goes_on = await self._read_answers(self._sock, pending)
        finally:
            # An answer may come before all of the request is sent: that has to go on.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(sending, PATIENCE_S if goes_on else 0.001)
        self._idle_since_s = time.monotonic()
        return goes_on

    async def _connect(self) -> socket.socket:
        address = self._crowd.address
        family = socket.AF_UNIX if address.startswith("/") else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            if family == socket.AF_UNIX:
                await self._connect_unix(sock)
            else:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.bind((self._plan.source, 0))
                host, _, port = address.rpartition(":")
                await self._loop.sock_connect(sock, (host, int(port)))
        except BaseException:
            sock.close()
            raise
        return sock

    async def _connect_unix(self, sock: socket.socket) -> None:
        while True:
            try:
                await self._loop.sock_connect(sock, self._crowd.address)
            except BlockingIOError:  # The backlog is full, which TCP would wait for: connect(2).
                await asyncio.sleep(0.01)
            else:
                return

    async def _send(self, sock: socket.socket, data: bytes) -> None:
        self._talk.sent += data
        await self._loop.sock_sendall(sock, data)

    async def _send_step(self, sock: socket.socket, pending: Pending) -> None:
        """Send a step in pieces. Its end, if it has one, is what the reader finds."""
        with contextlib.suppress(OSError):
            for data, pause_s in pending.pieces():
                await self._send(sock, data)
                await asyncio.sleep(pause_s)
            if pending.waiting_body:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(pending.may_go_on.wait(), CONTINUE_S)
                await self._send(sock, pending.waiting_body)

    async def _read_answers(self, sock: socket.socket, pending: Pending) -> bool:
        """Read the answers of a step; False when the connection is over."""
        for number, request in enumerate(pending.step.requests):
            reader = AnswerReader(request.method, is_old=request.version == "1.0")
            end, detail = await self._read(sock, reader, pending)
            pending.may_go_on.set()
            if end is not None:
                self._ended(pending, number, end, detail, reader)
                return False
            answer = reader.answer()
            attempt = pending.answered(number, answer, reader.received)
            self._crowd.note(attempt, self._talk)
            self._previous, self._previous_s = request, attempt.ended_s
            if answer.is_last:
                await self._read_end(sock, pending, number, answer)
                return False
        if self._rest:
            detail = f"{self._rest[:80]!r} after the last answer"
            self._ended(pending, len(pending.step.requests) - 1, End.NONSENSE, detail)
        return not self._rest

    async def _read(
        self, sock: socket.socket, reader: AnswerReader, pending: Pending
    ) -> tuple[End | None, str]:
        """Read one answer; return how it has ended when it is not whole."""
        data, self._rest = self._rest, b""
        while True:
            try:
                rest = reader.feed(data)
            except AnswerError as error:
                return End.NONSENSE, str(error)
            if rest is not None:
                self._rest = rest
                return None, ""
            if reader.continued:
                pending.may_go_on.set()
            if pending.step.leaves_after and reader.size >= pending.step.leaves_after:
                return End.LEFT, ""
            try:
                async with asyncio.timeout(PATIENCE_S):
                    data = await self._loop.sock_recv(sock, READ_BYTES)
            except TimeoutError:
                return End.LATE, ""
            except ConnectionResetError:
                return End.RESET, ""
            self._talk.received += data
            if not data:
                return (None, "") if reader.end() else (End.CLOSED, "")

    async def _read_end(
        self, sock: socket.socket, pending: Pending, number: int, answer: Answer
    ) -> None:
        """Find that nothing comes after an answer that was to be the last."""
        if number + 1 < len(pending.step.requests):
            # What the server has answered itself may have to be the last; an app's may not.
            is_behind = not told_by(answer)
            detail = "after an answer that was the last"
            self._ended(pending, number + 1, End.CLOSED, detail, is_behind=is_behind)
            return
        data, detail = self._rest, ""
        try:
            async with asyncio.timeout(CLOSE_S):
                data = data or await self._loop.sock_recv(sock, READ_BYTES)
        except TimeoutError:
            detail = "the connection was not closed after the last answer"
        except OSError:
            pass  # Reset, as we have not read all: it is closed.
        if data:
            detail = f"{data[:80]!r} after the last answer"
        if detail:
            self._ended(pending, number, End.NONSENSE, detail)

    def _ended(
        self,
        pending: Pending,
        number: int,
        end: End,
        detail: str,
        reader: AnswerReader | None = None,
        *,
        is_behind: bool = False,
    ) -> None:
        for attempt in pending.ended(number, end, detail, reader):
            after = replace(
                attempt,
                is_behind=attempt.is_behind or is_behind,
                previous=self._previous,
                previous_s=self._previous_s,
            )
            self._crowd.note(after, self._talk)

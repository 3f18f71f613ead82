"""A worker as the master reaches it: its control channel and its scoreboard.

The master keeps a duplicate of the worker's end of the channel. When the worker is dead, what it
has not taken is still in there (`Untaken`): no connection is lost between two processes.
"""

import array
import contextlib
import fcntl
import mmap
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from sdcluster.core.handing import Given, Said, miscount, offence
from sdcluster.errors import ProtocolError
from sdcluster.master.connections.counts import counts
from sdcluster.master.host import closing
from sdcluster.system import descriptors
from sdcluster.wire import channel, latency, notify
from sdcluster.wire.channel import Handoff
from sdcluster.wire.scoreboard import MAX_SIGNATURES, SIGNATURES_AT, SIZE_BYTES, Field, Scoreboard

T = TypeVar("T")

_ANCILLARY_BYTES = descriptors.space(channel.MAX_CONNECTIONS_PER_FRAME)
MAX_CONNECTIONS = 1 << 31
"""More than there can be descriptors for."""
_TIMES = (
    *(Field.HEARTBEAT_NS, Field.OLDEST_REQUEST_NS),
    *(Field.LATENCY_AT_NS, Field.UNANSWERED_NS, Field.STARVED_NS),
)
_SKEW_NS = 1_000_000_000
SENSELESS = 1 << 32
"""More than any worker is given: it gets nothing more."""

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


@dataclass(frozen=True, slots=True)
class Passage:
    """A connection on its way to a worker: its descriptor, and what it had elsewhere."""

    fd: int
    handoff: Handoff | None = None
    """None for one that no worker had."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What the keeper of a dead worker has sent."""

    numbers: tuple[int, ...] = ()
    """Those of connections."""
    fds: tuple[int, ...] = ()
    """The connections, or the ledger when there are no numbers."""

    @property
    def is_all(self) -> bool:
        """Whether it has said that there is nothing more."""
        return not self.fds


Frame = notify.Notification | Passage | Kept
"""What comes from a worker."""


class WorkerChannel:
    """The master's end of a worker's control channel, and the worker's scoreboard."""

    def __init__(self, *, frame_limit: int = channel.MAX_CONNECTIONS_PER_FRAME) -> None:
        """Create both. Raises OSError when the process is out of descriptors or memory.

        `frame_limit` is how many connections may be given at a time.
        """
        self.frame_limit = frame_limit
        self._board_fd = os.memfd_create("scoreboard", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self._board_fd, SIZE_BYTES)
            # Sealed, as the master reads it: a page cut off by a worker would mean SIGBUS here.
            fcntl.fcntl(self._board_fd, fcntl.F_ADD_SEALS, _SEALS)
            self._page = mmap.mmap(self._board_fd, SIZE_BYTES)
            self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError:
            os.close(self._board_fd)
            raise
        self._ours.setblocking(False)
        self.board = Scoreboard(self._page)
        self._sent = 0
        self._orders = 0
        """To move connections, ever."""
        self._is_retired = False
        self.known = Given()
        """What the worker was given and has said, by which what it says is judged."""

    def fileno(self) -> int:
        """Return the descriptor to watch for notifications."""
        return self._ours.fileno()

    def descriptors(self) -> list[int]:
        """Return what the worker gets: its end of the channel, and the scoreboard."""
        return [self._theirs.fileno(), self._board_fd]

    def given(self) -> None:
        """The worker has its descriptors: close what the master has no use for."""
        if self._board_fd >= 0:
            os.close(self._board_fd)
            self._board_fd = -1

    def outstanding(self) -> int:
        """Return how many connections were given and not taken; `SENSELESS` if that cannot be."""
        taken = self.board.words[Field.TAKEN]
        return self._sent - taken if taken <= self._sent else SENSELESS

    def connections(self) -> int:
        """Return how many connections the worker has open, as it says."""
        return self.board.words[Field.CONNECTIONS]

    def nonsense(self) -> str:
        """Say what the worker's counters say that cannot be; empty when they make sense."""
        words = self.board.words
        if words[Field.TAKEN] > self._sent:
            return "it took more than it was given"
        if words[Field.MOVES] > self._orders:
            return "it carried out more orders than it was given"
        if words[Field.CONNECTIONS] > MAX_CONNECTIONS:
            return f"it has {words[Field.CONNECTIONS]} connections"
        now_ns = time.monotonic_ns()
        if max(words[one] for one in _TIMES) > now_ns + _SKEW_NS:
            return "something has happened in time to come"
        return ""

    def starved_ns(self) -> int:
        """Return since when it has no descriptors for connections, CLOCK_MONOTONIC; 0 if it has."""
        return self.board.words[Field.STARVED_NS]

    def take_back(self) -> Iterator[Passage]:
        """Take back the connections that the worker, which lives, was given and has not taken.

        Those behind an order stay until it has taken that; and all of a retired one, to which an
        order that was taken as well could not be sent again. Raises OSError when there are too few
        descriptors for what is left then.
        """
        if self._is_retired:
            return
        given = Untaken(self._theirs)
        while given.peek().startswith((channel.CONNECTION, channel.HANDOFF)):
            data, passages = given.take_one()
            if not passages and data:
                with contextlib.suppress(OSError):
                    self._ours.send(data)  # The worker was faster, and this is its next order.
            self._sent -= len(passages)
            yield from passages

    def wrong(self) -> int:
        """Return how many requests the worker has served that were for another slot's."""
        return self.board.words[Field.WRONG]

    def latency_ns(self) -> int:
        """Return how long an answer of the worker is expected to take; 0 when nothing is known."""
        words = self.board.words
        return latency.expected(
            words[Field.LATENCY_NS],
            words[Field.LATENCY_AT_NS],
            oldest_ns=words[Field.UNANSWERED_NS],
            now_ns=time.monotonic_ns(),
        )

    def measured_ns(self) -> int:
        """Return how long it was when it was last measured; 0 if it never was."""
        return min(self.board.words[Field.LATENCY_NS], latency.MAX_NS)

    def answers(self) -> tuple[int, int]:
        """Return how many answers have begun, and how long that took, all together."""
        return self.board.words[Field.ANSWERS], self.board.words[Field.ANSWERS_NS]

    def move(self, count: int, slot: int) -> None:
        """Have the worker hand idle connections to that of a slot. Harmless if it has no time."""
        try:
            self._ours.send(channel.encode_move(count, slot))
        except OSError:
            return  # Its channel is full, or closed.
        self._orders += 1
        # The slot may be one that a reload has added: all are told of it when that has succeeded.
        self.known.slots = max(self.known.slots, slot + 1)

    @property
    def is_moving(self) -> bool:
        """Whether it has orders to move connections that it has not carried out."""
        return self.board.words[Field.MOVES] != self._orders

    def tell_slots(self, slots: int) -> None:
        """Have the worker know how many slots there are."""
        self.board[Field.SLOTS] = slots
        self.known.slots = max(self.known.slots, slots)  # It may not have seen that there are less.

    def tell_signatures(self, signatures: Sequence[int]) -> None:
        """Have the worker know whose requests are served in the quarantine."""
        words, some = self.board.words, signatures[:MAX_SIGNATURES]
        if not some and not words[Field.QUARANTINE]:
            return  # Nothing was ever listed: a worker that sees so looks for no signature.
        words[SIGNATURES_AT : SIGNATURES_AT + len(some)] = memoryview(array.array("Q", some))
        words[Field.SIGNATURES] = len(some)
        words[Field.QUARANTINE] += 1  # Last: what the worker reads after that is all there.

    def has_begun(self) -> bool:
        """Tell whether the worker's app was ever given a request."""
        return self.board.words[Field.BEGUN] != 0

    def give(self, connections: Sequence[int]) -> None:
        """Pass connections to the worker, which owns them from then on; the caller closes its own.

        Raises OSError when the channel is full or closed; none were passed then.
        """
        self._ours.sendmsg(
            [channel.CONNECTION * len(connections)],
            [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", connections))],
        )
        self._sent += len(connections)

    def hand_over(self, passage: Passage) -> None:
        """Pass a connection to the worker, as `give` does, with what it had elsewhere.

        Raises OSError when the channel is full or closed; it was not passed then.
        """
        if passage.handoff is None:
            self.give([passage.fd])
            return
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [passage.fd]))]
        handoff = passage.handoff
        self._ours.sendmsg([channel.encode_handoff(handoff)], rights)
        self.known.note(hops=handoff.hops, crashes=handoff.crashes, deaths=handoff.deaths)
        self._sent += 1

    def ask_for_room(self, wanted: bool) -> None:
        """Have the worker say X_TAKEN=1 when it next takes connections, or no longer."""
        self.board[Field.WAITING] = int(wanted)

    def admit(self) -> None:
        """Let the worker accept from the listeners it holds."""
        try:
            self._ours.send(channel.ADMIT)
        except OSError:
            pass  # It has closed its end: its exit will be seen.

    def finish(self) -> None:
        """Say that the cluster stops: nobody will accept what the worker leaves."""
        try:
            self._ours.send(channel.FINISH)
        except OSError:
            pass  # It is retired already, or dead.

    def hurry(self) -> None:
        """Say that new clients wait for the worker's end: it is not to wait for silent ones."""
        with contextlib.suppress(OSError):  # As above.
            self._ours.send(channel.HURRY)

    def retire(self) -> None:
        """Say that no more connections will come: an end of file after the last one."""
        self._is_retired = True
        try:
            self._ours.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # Closed already.

    def read(self) -> Frame | None:
        """Return what the worker has sent next, None when there is nothing.

        Raises `ProtocolError`, again and again for a frame with too many descriptors; and OSError
        when there are too few for what comes, which stays where it is.
        """
        try:
            frame = descriptors.look(
                self._ours, channel.MAX_HANDOFF_BYTES, most=channel.MAX_CONNECTIONS_PER_FRAME
            )
            self._ours.recv(1)  # The whole frame: what does not fit is dropped.
        except (BlockingIOError, ConnectionResetError):
            return None
        data, fds = frame.data, frame.fds
        if not frame.is_cut:
            if data.startswith(channel.HANDOFF):
                return self._passage(data, fds)
            if data.startswith((channel.LEDGER, channel.KEPT, channel.KEPT_ALL)):
                return _kept(data, fds)
        closing.close(fds)
        if frame.is_cut or len(data) > notify.MAX_DATAGRAM_BYTES:
            raise ProtocolError(f"notification of more than {notify.MAX_DATAGRAM_BYTES} bytes")
        if not data:
            # No end of file: the master holds a duplicate of the other end.
            raise ProtocolError("it has shut its channel down, or sent an empty frame")
        return notify.decode(data)

    def _passage(self, data: bytes, fds: list[int]) -> Passage:
        try:
            handoff = channel.decode_handoff(data, len(fds))
        except ProtocolError:
            closing.close(fds)
            raise
        reason = "what is no connection"
        if descriptors.is_connection(fds[0]):
            said = _said(handoff)
            reason = offence(said, self.known) or _miscount(said, fds[0])
            if handoff.refusal or handoff.terms is not channel.Terms.PASS_ON:
                reason = "a connection to be refused, which is for us to decide"
        if reason:
            closing.close(fds)
            raise ProtocolError(f"it hands over {reason}")
        self.known.serial = handoff.serial
        return Passage(fds[0], replace(handoff, serial=0))

    def untaken(self) -> "Untaken":
        """Return what the worker, dead by now, has not taken; it outlives the channel."""
        return Untaken(socket.socket(fileno=self._theirs.detach()))

    def close(self) -> None:
        """Release everything."""
        self.given()
        self.board.release()
        self._page.close()
        for end in (self._ours, self._theirs):
            closing.close_socket(end)  # With what nobody has read.


def _said(handoff: Handoff) -> Said:
    return Said(
        slot=handoff.slot,
        hops=handoff.hops,
        crashes=handoff.crashes,
        deaths=handoff.deaths,
        serial=handoff.serial,
        consumed=handoff.consumed,
        written=handoff.written,
    )


def _miscount(said: Said, fd: int) -> str:
    with descriptors.Borrowed(fd) as connection:
        counted = counts(connection)
    # When it has ended on one side, the end may be counted as well.
    if counted is None or not counted.is_open:
        return ""
    return miscount(said, (counted.read, counted.written))


def _kept(data: bytes, fds: list[int]) -> Kept:
    if (data, len(fds)) in ((channel.LEDGER, 1), (channel.KEPT_ALL, 0)):
        return Kept(fds=tuple(fds))
    try:
        return Kept(channel.decode_kept(data, len(fds)), tuple(fds))
    except ProtocolError:
        closing.close(fds)
        raise


class Untaken:
    """The connections that a dead worker has left in its channel, still in there.

    They are taken out only when there are descriptors for them: the kernel drops those that do not
    fit (MSG_CTRUNC, recvmsg(2)).
    """

    def __init__(self, end: socket.socket) -> None:
        """`end` is the worker's end of the channel."""
        self._end = end

    def peek(self) -> bytes:
        """Return how the next frame begins; nothing when there is none."""
        flags = socket.MSG_PEEK | socket.MSG_DONTWAIT
        try:
            return self._past_reset(
                lambda: self._end.recv(channel.MAX_CONNECTIONS_PER_FRAME, flags)
            )
        except BlockingIOError:
            return b""

    def next_count(self) -> int:
        """Return how many connections `take` would return; 0 when there are no more."""
        while True:
            order = self.peek()
            if order.startswith(channel.HANDOFF):
                return 1
            if not order or order.startswith(channel.CONNECTION):
                return len(order)
            self._receive()

    def take(self) -> list[Passage]:
        """Return the next connections, none when there are no more.

        Raises OSError when there are too few descriptors for them; they stay where they are.
        """
        count = self.next_count()
        return self.take_one(at_most=count)[1] if count else []

    def take_one(
        self, *, at_most: int = channel.MAX_CONNECTIONS_PER_FRAME
    ) -> tuple[bytes, list[Passage]]:
        """Return the next frame, and its connections: no more than `at_most`.

        Raises OSError as `take` does, and when there is none.
        """
        descriptors.require(at_most, like=self._end.fileno())
        data, fds = self._receive()
        if data.startswith(channel.HANDOFF):
            return data, [Passage(fds[0], channel.decode_handoff(data, len(fds)))]
        return data, [Passage(fd) for fd in fds]

    def _receive(self) -> tuple[bytes, list[int]]:
        # Not socket.recv_fds, which ignores the flag.
        flags = socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT
        data, ancillary, _, _ = self._past_reset(
            lambda: self._end.recvmsg(channel.MAX_HANDOFF_BYTES, _ANCILLARY_BYTES, flags)
        )
        return data, descriptors.attached(ancillary)

    @staticmethod
    def _past_reset(receive: Callable[[], T]) -> T:
        """Receive, and again after the kernel has told that the other end is closed.

        It tells that once, if something was unread there, at any time: a thread closes that end.
        """
        try:
            return receive()
        except ConnectionResetError:
            return receive()

    def close(self) -> None:
        """Close it, and with it the connections that are still in there."""
        closing.close_socket(self._end)

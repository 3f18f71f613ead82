"""The connections of a worker that has died, from its keeper to other workers.

The keeper sends the ledger and then each connection; what becomes of one is judged by `core`.
"""

import contextlib
import fcntl
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace

from sdcluster.core.verdict import Known, Verdict, judge
from sdcluster.errors import ProtocolError
from sdcluster.master.connections.channels import Kept, Passage, WorkerChannel
from sdcluster.master.connections.counts import counts
from sdcluster.master.host import closing
from sdcluster.system import descriptors
from sdcluster.system.event_loop import EventLoop, Timer
from sdcluster.wire import channel, signature
from sdcluster.wire.channel import Handoff
from sdcluster.wire.ledger import (
    ENTRY_BYTES,
    MAX_CAPACITY,
    PAGE_BYTES,
    Entry,
    Layout,
    State,
    decode_entry,
    decode_head,
)

TIMEOUT_S = 2.0
"""How long a keeper may take, the time aside in which there are no descriptors for what it has."""
REFUSED = 502
"""The status that a request is refused with which has killed a worker that had nothing else."""
FRAMES_PER_TURN = 16
MAX_LAST_FRAMES = 2048
"""More than a channel holds."""
_DISCARDED_BYTES = 64 * 1024
_MAX_DISCARDS = 64


@dataclass(slots=True)
class Summary:
    """How many connections a dead worker had, by what became of them."""

    idle: int = 0
    again: int = 0
    closed: int = 0
    lost: int = 0
    """Those that ended with the worker: its keeper has not given them away."""

    def __bool__(self) -> bool:
        return bool(self.idle or self.again or self.closed or self.lost)


class Recovery:
    """Reads the channel of a dead worker, which it owns from `begin` on, to the end."""

    def __init__(
        self,
        loop: EventLoop,
        worker: WorkerChannel,
        *,
        is_quarantine: bool = False,
        is_ours: Callable[[socket.socket], bool],
        on_passage: Callable[[Passage], None],
        on_blame: Callable[[int], None],
        on_late: Callable[[], None],
        on_end: Callable[[Summary], None],
    ) -> None:
        """`is_ours` tells whether a connection came to a listener of the cluster.

        `is_quarantine` says that the worker had one connection at a time: its request is guilty,
        and is refused. `on_blame` is told the signature of a request of another worker's that is
        not to be made again: it cannot be found out whether that was guilty.
        `on_passage` owns a connection that lives on. `on_late` is called when it takes too long,
        `on_end` once, when there is nothing more to come.
        """
        self._loop = loop
        self._worker = worker
        self._is_ours = is_ours
        self._on_passage = on_passage
        self._is_quarantine = is_quarantine
        self._on_blame = on_blame
        self._on_late = on_late
        self._on_end = on_end
        self._summary = Summary()
        self._ledger: _Ledger | None = None
        self._has_all = False
        """Whether there is nothing more to come, as the keeper has said."""
        self._is_last = False
        """Whether nobody sends any more."""
        self._is_waiting = False
        """Whether there are too few descriptors for what is there."""
        self._has_waited = False
        """Whether there were, since it was last asked if the keeper is late."""
        self._is_over = False
        self._numbers: set[int] = set()
        self._inodes: set[int] = set()
        """Of the connections that have come: the sockets themselves, whatever number they have."""
        self._timer: Timer | None = None

    def begin(self) -> None:
        """Read as it comes, until all has come or the time is up."""
        if self._has_all:
            self._end()
        else:
            self._timer = self._loop.call_later(TIMEOUT_S, self._give_up)
            self._loop.add(self._worker.fileno(), self._read)
            if self._is_last:
                self.keeper_is_gone()

    def keeper_is_gone(self) -> None:
        """Take what is there, and nothing after that."""
        self._is_last = True
        if self._timer is None or self._is_waiting:
            return  # Not begun, or to be gone on with in a moment.
        for _ in range(MAX_LAST_FRAMES):
            if not self._read_one():
                break
        if not self._is_waiting:
            self._end()

    def _give_up(self) -> None:
        if self._has_waited:
            self._has_waited = self._is_waiting
            self._timer = self._loop.call_later(TIMEOUT_S, self._give_up)
            return
        self._on_late()
        self.keeper_is_gone()
        self._end()

    def _read(self) -> None:
        for _ in range(FRAMES_PER_TURN):
            if not self._read_one():
                return

    def _read_one(self) -> bool:
        """Take what has come next; False when there is nothing now, or never again."""
        if self._is_over:
            return False
        try:
            said = self._worker.read()
        except ProtocolError:
            self._end()  # The end of file, say.
            return False
        except OSError:
            self._loop.remove(self._worker.fileno())
            self._is_waiting = self._has_waited = True
            self._loop.call_later(descriptors.EXHAUSTED_RETRY_S, self._resume)
            return False
        if isinstance(said, Passage):
            if is_ours(said, self._is_ours):
                self._on_passage(said)
            else:
                closing.close([said.fd])
        elif isinstance(said, Kept):
            self.take(said)
            if self._has_all:
                self._end()
        return said is not None

    def _resume(self) -> None:
        if not self._is_over and self._is_waiting:
            self._is_waiting = False
            self._loop.add(self._worker.fileno(), self._read)
            if self._is_last:
                self.keeper_is_gone()

    def _end(self) -> None:
        if not self._is_over:
            if not self._has_all:
                self._count_lost()
            self.close()
            self._on_end(self._summary)

    def _count_lost(self) -> None:
        told = self._summary.idle + self._summary.again + self._summary.closed
        self._summary.lost = max(0, min(self._worker.connections(), MAX_CAPACITY) - told)

    def close(self) -> None:
        """Let go of everything."""
        self._is_over = True
        if self._timer is not None:
            self._timer.cancel()
        if self._ledger is not None:
            self._ledger.close()
        self._loop.remove(self._worker.fileno())
        self._worker.close()

    def take(self, kept: Kept) -> None:
        """Take a frame of the keeper's."""
        if kept.is_all:
            self._has_all = True
        elif kept.numbers:
            for number, fd in zip(kept.numbers, kept.fds, strict=True):
                self._take_connection(number, fd)
        elif self._ledger is None:
            with contextlib.suppress(ProtocolError, OSError):
                self._ledger = _Ledger(kept.fds[0])
        else:
            closing.close(list(kept.fds))

    def _take_connection(self, number: int, fd: int) -> None:
        if not descriptors.is_connection(fd):
            closing.close([fd])
            return
        inode = os.fstat(fd).st_ino
        if number in self._numbers or inode in self._inodes:
            closing.close([fd])  # It has come already.
            return
        self._numbers.add(number)
        self._inodes.add(inode)
        connection = socket.socket(fileno=fd)
        verdict, handoff = Verdict.CLOSED, Handoff()
        if self._ledger is not None:
            with contextlib.suppress(ProtocolError, OSError):
                verdict, handoff = self._judge(number, connection, self._ledger)
        if verdict is Verdict.ELSEWHERE:
            closing.close_socket(connection)
        elif verdict is Verdict.CLOSED:
            self._summary.closed += 1
            _close(connection)
        else:
            if verdict is Verdict.AGAIN:
                self._summary.again += 1
            else:
                self._summary.idle += 1
            self._on_passage(Passage(connection.detach(), handoff))

    def _judge(
        self, number: int, connection: socket.socket, ledger: "_Ledger"
    ) -> tuple[Verdict, Handoff]:
        """Return what becomes of a connection, and what another worker needs to know of it.

        Raises `ProtocolError`, and OSError.
        """
        entry = ledger.entry(number)
        came_with: Handoff | None = None
        if not self._is_ours(connection) or (entry.state is State.NONE and not ledger.is_taking):
            return Verdict.ELSEWHERE, Handoff()  # The app's own, and maybe its children's.
        if entry.state is State.NONE:
            came_with = ledger.arrival()
            entry = _entered(came_with)
        hops = came_with.hops if came_with is not None else 0
        known_to_us = self._worker.known
        if not known_to_us.covers(hops=hops, crashes=entry.crashes, deaths=entry.deaths):
            raise ProtocolError("a ledger says of a connection what its worker was not given")
        counted = counts(connection)
        can_go_on = counted.is_open if counted is not None else connection.family == socket.AF_UNIX
        can_go_on = can_go_on and descriptors.has_peer(connection.fileno())
        known = Known(
            in_base=entry.in_base,
            length=entry.length,
            out_base=entry.out_base,
            out_done=entry.out_done,
            out_end=entry.out_end,
            in_done=entry.in_done,
            in_end=entry.in_end,
            out_interim=entry.out_interim,
            is_pinned=entry.state not in (State.OPEN, State.OWED, State.ANSWERING),
            is_owed=entry.state is State.OWED,
            is_answering=entry.state is State.ANSWERING,
            handing=entry.handing,
        )
        finding = judge(
            known,
            (counted.read, counted.written) if counted is not None else None,
            last_serial=self._worker.known.serial,
            limit=ledger.layout.limit if came_with is None else channel.MAX_UNANSWERED_BYTES,
        )
        was_at_work = entry.is_begun and finding.verdict is not Verdict.ELSEWHERE
        is_again, is_owed = finding.verdict is Verdict.AGAIN, finding.verdict is Verdict.REST
        is_next = is_again and finding.base != entry.base
        if finding.verdict is Verdict.IDLE or is_owed or is_next:
            was_at_work = False  # It was answered, even if its client has gone since.
        is_tried = is_again and can_go_on and signature.is_repeatable(entry.signature)
        is_known = entry.signature != signature.NONE
        if was_at_work and is_known and not self._is_quarantine and not is_tried:
            self._on_blame(entry.signature)
        if finding.verdict is Verdict.ELSEWHERE:
            return finding.verdict, Handoff()
        if finding.verdict is Verdict.CLOSED or not can_go_on:
            return Verdict.CLOSED, Handoff()
        if came_with is not None:
            same = finding.unanswered == len(came_with.unanswered)
            return finding.verdict if same else Verdict.CLOSED, replace(came_with, slot=channel.ANY)
        crashes, deaths = (0, 0) if is_next else (entry.crashes, entry.deaths)
        handoff = Handoff(
            unanswered=ledger.data(number, finding.base - entry.in_base, finding.unanswered),
            terms=channel.Terms.ANSWERED if is_owed else channel.Terms.PASS_ON,
            crashes=min(crashes, 254) + was_at_work if is_again else 0,
            deaths=min(deaths, 254) + 1 if is_again else 0,
            consumed=finding.consumed,
            written=finding.written,
            proxied=entry.proxied,
            signature=entry.signature if was_at_work else signature.NONE,
            refusal=REFUSED if was_at_work and self._is_quarantine else 0,
        )
        channel.check(handoff)
        return finding.verdict, handoff


def is_ours(passage: Passage, connection_is_ours: Callable[[socket.socket], bool]) -> bool:
    """Tell whether the connection of a passage has come to a listener of the cluster."""
    with descriptors.Borrowed(passage.fd) as connection:
        return connection_is_ours(connection)


def _entered(handoff: Handoff) -> Entry:
    """Return the entry of a connection as it is when it has just been taken."""
    is_owed = handoff.terms is channel.Terms.ANSWERED
    return Entry(
        state=State.OWED if is_owed else State.OPEN,
        in_base=handoff.consumed - len(handoff.unanswered),
        length=len(handoff.unanswered),
        out_base=handoff.written,
        out_done=handoff.written,
        out_end=handoff.written if is_owed else 0,
        crashes=handoff.crashes,
        deaths=handoff.deaths,
        begun=0,
        handing=0,
        signature=signature.NONE,
        proxied=handoff.proxied,
    )


def _close(connection: socket.socket) -> None:
    """Close a connection so that the client gets what was sent to it before: no reset."""
    with contextlib.suppress(OSError):
        connection.setblocking(False)
        connection.shutdown(socket.SHUT_WR)
        for _ in range(_MAX_DISCARDS):
            if not connection.recv(_DISCARDED_BYTES):
                break
    closing.close_socket(connection)


class _Ledger:
    """The ledger of a dead worker, read from its file: a mapping might be cut off, SIGBUS."""

    def __init__(self, fd: int) -> None:
        """Raises `ProtocolError`, and OSError; the descriptor is closed then."""
        self._fd = fd
        try:
            fcntl.fcntl(fd, fcntl.F_GET_SEALS)  # Only memory has seals: to read it takes no time.
            self.layout: Layout
            self.layout, self.is_taking = decode_head(self._read(PAGE_BYTES, 0))
        except (ProtocolError, OSError):
            closing.close([fd])
            raise

    def _read(self, length: int, at: int) -> bytes:
        data = os.pread(self._fd, length, at)
        if len(data) != length:
            raise ProtocolError("a ledger is cut off")
        return data

    def entry(self, number: int) -> Entry:
        """Return an entry. Raises `ProtocolError`."""
        if number >= self.layout.capacity:
            raise ProtocolError("a connection that the ledger has no entry for")
        return decode_entry(self._read(ENTRY_BYTES, self.layout.entry_at(number)))

    def data(self, number: int, begin: int, length: int) -> bytes:
        """Return what was read of a request, from a byte on. Raises `ProtocolError`."""
        return self._read(length, self.layout.data_at(number) + begin) if length else b""

    def arrival(self) -> Handoff:
        """Return what came with the connection that was being taken. Raises `ProtocolError`."""
        data = self._read(channel.MAX_HANDOFF_BYTES, self.layout.arrival_at)
        if not data.startswith(channel.HANDOFF):
            return Handoff()  # It is new.
        return channel.decode_arrival(data)[0]

    def close(self) -> None:
        """Let go of it."""
        closing.close([self._fd])

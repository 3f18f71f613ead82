"""A connection that can go to another worker: between the event loop's transport and the engine.

To the loop it is the protocol, to the engine the transport. It sees to it that at any time all is
known that another worker would need to take the connection over: what has been read of a request
(right into the ledger) and whether the response has begun. So what is written is held back until
the response is complete, or the turn of the loop is over, and then written at once: a short
response is in the kernel whole or not at all.
"""

import array
import asyncio
import contextlib
import functools
import logging
import os
from collections.abc import Callable
from typing import Any

from sdcluster.wire import proxy_protocol
from sdcluster.wire.channel import ANY, QUARANTINE, Handoff, Terms
from sdcluster.wire.ledger import ENTRY_BYTES, NOT_KNOWN, PAGE_BYTES, State, Word
from sdcluster.wire.proxy_protocol import HeaderError, Need, Trust
from sdcluster.wire.scoreboard import Field
from sdcluster.wire.signature import NONE
from sdcluster.worker.moving import framing
from sdcluster.worker.moving.exit import Exit, Sent
from sdcluster.worker.moving.ledger import Ledger
from sdcluster.worker.moving.lingering import Lingering
from sdcluster.worker.moving.refusals import Refusal, beginning
from sdcluster.worker.moving.replay import Fate, Policy, fate, fitting, request_line
from sdcluster.worker.moving.signatures import Signatures
from sdcluster.worker.moving.unix_counts import Pipe

MAX_HELD_BYTES = 64 * 1024
"""What is held back of a response."""

_STATE, _IN_BASE, _LENGTH = int(Word.STATE), int(Word.IN_BASE), int(Word.LENGTH)
_OUT_BASE, _OUT_END = int(Word.OUT_BASE), int(Word.OUT_END)
_BEGUN, _HANDING = int(Word.BEGUN), int(Word.HANDING)
_IN_DONE, _IN_END, _OUT_INTERIM = int(Word.IN_DONE), int(Word.IN_END), int(Word.OUT_INTERIM)
_HAS_BEGUN, _CHANGES = int(Field.BEGUN), int(Field.QUARANTINE)
_HEADROOM_BYTES = 16
"""Of what can be handed over, for what is read although it is full: a byte a hand-over at most."""
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_LONG_BYTES = 16 * 1024
"""A request that takes so much memory that it is given back when it is answered."""
_EACH = -1
"""As the length of a request that leaves something to be put right: each does."""
LEAVE_RETRY_S = 0.05
"""How long to wait for a master that takes no connection at the moment."""
SENDING_POLL_S = 0.01
"""How often to look whether the client has taken the response before."""
_BUSY = 503
_NO_BODY = [(b"content-length", b"0")]

logger = logging.getLogger("sdcluster")


class Moves:
    """What the connections of a worker have in common."""

    def __init__(
        self,
        ledger: Ledger,
        exit: Exit,  # noqa: A002  # That is what it is.
        *,
        replay: Policy,
        proxies: Trust | None,
        is_routed: bool,
        signatures: Signatures,
        is_quarantine: bool = False,
        begins_late: bool = False,
        handoff_timeout_s: float = 1.0,
        on_closed: Callable[[], None],
        on_refused: Callable[[Refusal], None],
    ) -> None:
        """`on_closed` is called when a connection is gone; `replay` is for what a dead one had.

        `on_refused` is told of a request that the master has sent here to be refused. One that is
        to be served apart waits for `handoff_timeout_s` at most for room in the way out.

        With `is_quarantine` each comes for one request, and goes when that is answered.
        With `begins_late` a request is begun when it is told to `work`, and not when it is given.
        `proxies` are the peers that are to say who the client is; None when nobody is. With
        `is_routed` no more is read of a request than can be handed over, before it is to `stay`.
        """
        self.ledger = ledger
        self.exit = exit
        self.replay: Policy = replay
        self.proxies = proxies
        self.is_routed = is_routed
        self.handoff_timeout_s = handoff_timeout_s
        self.on_closed = on_closed
        self.on_refused = on_refused
        self.signatures = signatures
        self.begins_late = begins_late
        self.is_quarantine = is_quarantine
        self.is_draining = is_quarantine
        """Whether all are to go to other workers, as soon as they are free."""
        self.serial = 0
        self.holding: list[MovableConnection] = []
        """Those with something held back, which is written when the turn is over."""
        self.lingering: set[Lingering] = set()
        """Those that are over, but for a client that may still send."""
        self._pipe: Pipe | None = None

    @property
    def pipe(self) -> Pipe | None:
        """The way of what is written to Unix sockets; None while no descriptors are left for it."""
        if self._pipe is None:
            with contextlib.suppress(OSError):
                self._pipe = Pipe(self.ledger)
        return self._pipe

    @property
    def is_awaited(self) -> bool:
        """Whether a connection that is over has not got all yet that was written to it."""
        return any(one.is_awaited for one in self.lingering)

    @property
    def is_shut(self) -> bool:
        """Whether there is nobody to go to."""
        return self.exit.is_shut

    def flush(self) -> None:
        """Write what is held back; the turn is over."""
        holding, self.holding = self.holding, []
        for connection in holding:
            try:
                connection.flush_part()
            except Exception:  # Else the others were not written to, now or ever again.
                logger.exception("a connection cannot be written to, and is closed")
                connection.abort()


class _ProxiedSocket:
    """The socket of a connection, but for whom it says that the peer is."""

    def __init__(self, sock: Any, client: tuple[str, int]) -> None:
        self._sock = sock
        self._client = client

    def getpeername(self) -> tuple[str, int]:
        return self._client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


class _ClosedTransport(asyncio.Transport):
    """What is left of a transport."""

    def is_closing(self) -> bool:
        return True

    def close(self) -> None:
        pass

    def abort(self) -> None:
        pass

    def write(self, data: Any) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def is_reading(self) -> bool:
        return False

    def can_write_eof(self) -> bool:
        return False

    def write_eof(self) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return 0, 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass


_CLOSED = _ClosedTransport()


class _Dropped(list[bytes]):
    """What is held back of a response that is not to be written."""

    def append(self, _data: bytes) -> None:
        pass


class MovableConnection(asyncio.BufferedProtocol, asyncio.Transport):
    """One connection. `engine` is the engine's protocol, told by it of requests: see `engine`."""

    __slots__ = (
        "_app",
        "_at",
        "_begun_at",
        "_behind",
        "_board",
        "_client",
        "_data_at",
        "_done",
        "_engine",
        "_fd",
        "_feed",
        "_full_at",
        "_has_next",
        "_header",
        "_held",
        "_held_bytes",
        "_is_behind",
        "_is_full",
        "_is_gone",
        "_is_held",
        "_is_paused",
        "_is_pinned",
        "_is_served",
        "_is_upgraded",
        "_ledger",
        "_length",
        "_limit",
        "_long",
        "_loop",
        "_map",
        "_moves",
        "_origin",
        "_out_base",
        "_read",
        "_refusal",
        "_region",
        "_scratched",
        "_staying_at",
        "_terms",
        "_transport",
        "_used",
        "_words",
        "_written",
        "crashes",
        "deaths",
        "hops",
        "is_stand_in",
        "proxied",
        "reading_at",
    )

    is_unix = False
    """Whether its bytes are not counted by the kernel: see `movable_unix`."""

    def __init__(self, engine: Any, number: int, handoff: Handoff, moves: Moves) -> None:
        """`number` is the descriptor's; the ledger has it already."""
        self._engine = engine
        self._app, engine.app = engine.app, self.begin
        self._feed: Any = engine.data_received
        self._fd = number
        self._moves = moves
        self._loop = asyncio.get_running_loop()
        self._ledger = ledger = moves.ledger
        if ledger.has(number):
            self._words, self._at = ledger.words, ledger.index(number)
            self._limit, self._data_at = ledger.layout.limit, ledger.data_at(number)
            self._used = ledger.used(number)
        else:
            self._words, self._at = memoryview(array.array("Q", bytes(ENTRY_BYTES))), 0
            self._limit, self._data_at = 0, 0
            self._used = 0
        self._begun_at = self._at + _BEGUN
        self._board = moves.signatures.words
        self._refusal = handoff.refusal
        self._map = ledger.map
        self._full_at = max(0, self._limit - (_HEADROOM_BYTES if moves.is_routed else 0))
        """How much may be read of a request before it is to `stay`."""
        self._region = ledger.bytes[self._data_at : self._data_at + self._full_at]
        self._origin: bytes | None = handoff.unanswered
        self._length = len(handoff.unanswered)
        self._read = handoff.consumed - self._length
        """Bytes read before what is kept in the ledger."""
        self._done = 0
        """Bytes of that which are answered: what is unanswered came behind them."""
        self._written = self._out_base = handoff.written
        """Bytes written, and those of them that were written before the response to it."""
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._is_held = False
        self._is_pinned = not self._limit
        if self._words[self._at] == State.PINNED:  # It has come with more than is kept here.
            self._is_pinned, self._limit = True, PAGE_BYTES
        if handoff.terms is Terms.ANSWERED:
            self._is_pinned, engine.app = True, self._begin_answered
        self._long = _EACH if self._is_pinned or handoff.hops or handoff.deaths else _LONG_BYTES
        """How long a request is that leaves something to be put right when it is answered."""
        self._is_behind = False
        """Whether the transport still had something to write when it was last looked at."""
        self._is_gone = False
        self._is_full = False
        """Whether no more is read, as the request could not be handed over then."""
        self._is_paused = False
        """Whether no more is read, as the engine has said so."""
        self._staying_at = -1
        """Where the request begins that is served here for certain, in bytes read."""
        self._has_next = False
        """Whether the next one has begun, which may be for another worker."""
        self._behind: bytearray | None = None
        """What came behind a request of which more has come than is kept, if that is routed."""
        self._is_served = False
        """Whether a request was answered here after which it is to go."""
        self._is_upgraded = False
        """Whether it is no longer HTTP. Its head is answered once, and that is never complete."""
        self._transport: Any = None
        self._scratched = 0
        """Bytes that are being read and not kept: they are in the scratch."""
        self.hops = handoff.hops
        """How often the request was handed over."""
        self._terms = handoff.terms
        self.is_stand_in = handoff.terms is Terms.STAND_IN
        """Whether the request, handed over before, is served here: its slot has no worker."""
        self.reading_at = self._read
        """Where that begins that was read last, in bytes ever."""
        self.crashes = handoff.crashes
        """How many workers have died when their app was at work on the request."""
        self.deaths = handoff.deaths
        """How many have died with it, at work on it or not."""
        self.proxied = handoff.proxied
        """Who the client is when a proxy has said so, see `proxy_protocol.encode`."""
        self._client: tuple[str, int] | None = None
        self._header = b""
        """What has come of a proxy's header that is not there whole."""

    # What the loop calls.

    def connection_made(self, transport: Any) -> None:
        """Begin, with what the connection was handed over with."""
        self._transport = transport
        try:
            self._begin_with(transport)
        except Exception:  # The loop would leave it open, and nobody would serve it.
            logger.exception("a connection cannot be served, and is closed")
            self.abort()

    def _begin_with(self, transport: Any) -> None:
        self._engine.connection_made(self)
        if self._terms is Terms.REFUSE:
            self._moves.on_refused(Refusal.BUSY)
            self.refuse(Refusal.BUSY)
            return
        proxies = self._moves.proxies
        if proxies is not None:
            if self.proxied:
                self._be_from(proxy_protocol.decode(self.proxied))
            elif not self._read and proxies.trusts(
                transport.get_extra_info("peername"), is_unix=self.is_unix
            ):
                self._feed = self._take_header
                if unanswered := self._origin:  # A part of the header, or more; no app has seen it.
                    self._origin = None
                    self._feed(unanswered)
                return
        unanswered, self._origin = self._origin, None
        if self._refusal:
            self._refuse(unanswered or b"")
        elif unanswered:
            if self._terms is Terms.ANSWERED:
                self._feed(unanswered)
            else:
                self._go_on(unanswered)
            self._limit_reading()
            if self._is_full or self._is_paused:
                # Loops begin to read after this, whatever was said in it.
                self._loop.call_soon(self._pause_again)
        elif self._read:
            self._engine.wait_for_request()

    def _go_on(self, unanswered: bytes) -> None:
        """Serve what another worker has read, if that may be after what befell it."""
        policy = self._moves.replay
        match fate(unanswered, crashes=self.crashes, deaths=self.deaths, policy=policy):
            case Fate.SERVED:
                self._feed(unanswered)
            case Fate.REFUSED:
                self._refuse(unanswered)
            case Fate.CLOSED:
                logger.warning(
                    "a worker has died with the request %r, which may not be sent to an app twice: "
                    "its connection is closed",
                    request_line(unanswered),
                )
                self.close()

    def _refuse(self, unanswered: bytes) -> None:
        """Answer a request that no app is to see."""
        if self._refusal == _BUSY:
            line = request_line(unanswered)
            logger.warning("too many requests as %r wait in the quarantine: answered 503", line)
            self.refuse(Refusal.BUSY, unanswered)
        else:
            logger.error(
                "%d workers have died with the request %r: it is answered 502",
                self.deaths,
                request_line(unanswered),
            )
            self.refuse(Refusal.DEADLY, unanswered)

    def connection_lost(self, error: Exception | None) -> None:
        """End."""
        try:
            if not self._is_gone:
                self._is_gone = True
                self._words[self._at] = State.LEFT
                self._engine.connection_lost(error)
        finally:
            self._end()

    def _end(self) -> None:
        if self._limit:
            self._ledger.leave(self._fd)
        self._moves.on_closed()
        # Apart, so that each is freed at once, and no garbage collector has to find them.
        if not self._is_upgraded:
            self._engine.app = self._app
        self._engine = self._feed = None
        self._transport = _CLOSED

    def get_buffer(self, _sizehint: int) -> memoryview:
        """Return where to read to."""
        length = self._length
        if not length and not self._is_pinned:
            return self._region
        if length >= self._limit:
            if not self._done:
                return self._ledger.scratch
            self._move_up()
            length = self._length
        if length < self._full_at:
            return self._region[length:]
        end = length + 1 if self._is_full else self._limit
        return self._ledger.bytes[self._data_at + length : self._data_at + end]

    def buffer_updated(self, nbytes: int) -> None:
        """Take what was read."""
        begin = self._length
        self.reading_at = self._read + begin
        if begin < self._limit:
            at = self._data_at + begin
            data = self._map[at : at + nbytes]
        else:
            data = bytes(self._ledger.scratch[:nbytes])
            self._scratched = nbytes
            if self._behind is not None:
                self._behind += data
                if len(self._behind) > self._limit:
                    self._behind = None  # It can no longer be handed over.
        self._length = begin + nbytes
        if begin + nbytes > self._used:
            self._use_more(begin)
        self._feed(data)
        self._scratched = 0
        if self._length >= self._full_at:
            self._limit_reading()

    def _use_more(self, begin: int) -> None:
        """Have memory for what was read, from `begin` on; or keep no more of the request."""
        ledger, length, limit = self._ledger, self._length, self._limit
        if begin >= limit:
            if self._used > _LONG_BYTES:  # What is kept is of use no more, but for the head.
                self._free(limit, _LONG_BYTES)
        elif ledger.use(self._fd, length):
            self._used = ledger.used(self._fd)
            if ledger.is_half_full:
                self._long = min(self._long, PAGE_BYTES)
        else:
            self.pin()
            self._free(length, PAGE_BYTES)
            self._limit = PAGE_BYTES

    def _free(self, length: int, rest: int) -> None:
        self._ledger.free(self._fd, length, rest)
        self._used = self._ledger.used(self._fd)

    def _limit_reading(self) -> None:
        """Read no more than can be handed over, if there is a request that may have to be."""
        if (
            self._length < self._full_at
            or not self._moves.is_routed
            or (self._staying_at == self.base and not self._has_next)
            or self._is_pinned
            or self._is_upgraded
            or self.is_closing()
            or self._engine.is_waiting()
        ):
            return
        if self._done:
            self._move_up()
        if self._length >= self._full_at:
            self._is_full, self._long = True, _EACH
            self._transport.pause_reading()

    def _read_on(self) -> None:
        """Read again what could not have been handed over."""
        if self._is_full:
            self._is_full = False
            if not self._is_paused and not self.is_closing():
                self._transport.resume_reading()

    def _pause_again(self) -> None:
        if (self._is_full or self._is_paused) and not self.is_closing():
            self._transport.resume_reading()
            self._transport.pause_reading()

    def stay(self) -> None:
        """Read on: the request that the app is about to see is served here."""
        self._staying_at = self.base
        if not self._has_next:
            self._read_on()

    def begin_next(self, start: int) -> None:
        """The next request has begun: no more of it is read than can be handed over.

        `start` is how many bytes were ever read before it; -1 when that is not known.
        """
        if not self._moves.is_routed:
            return
        self._has_next = True
        is_kept = self._length <= self._limit or self._behind is not None
        if start >= self.reading_at and self._scratched and not is_kept:
            begin = start - self.reading_at
            self._behind = bytearray(self._ledger.scratch[begin : self._scratched])
        self._limit_reading()

    def _take_header(self, data: bytes) -> None:
        """Take what a proxy says of the client, which comes before all that the client says."""
        data = self._header + data
        try:
            header = proxy_protocol.parse(data)
        except HeaderError as error:
            logger.warning(
                "a connection of %s is closed, as it has no header of the PROXY protocol: %s",
                "a Unix socket" if self.is_unix else self.get_extra_info("peername"),
                error,
            )
            self.abort()
            return
        if header is Need.MORE:
            self._header = data
            return
        self._header = b""
        self._feed = self._engine.data_received
        self.proxied = proxy_protocol.encode(header.client)
        self._strip(data[header.length :])
        self._be_from(header.client)
        if self._length:
            self._feed(data[header.length :])

    def _strip(self, rest: bytes) -> None:
        """Go on as if the connection had begun with `rest`, and be of whom the proxy says."""
        words, at = self._words, self._at
        state, words[at] = words[at], State.PINNED  # Until it is all true again.
        self._keep_only(rest)
        self._ledger.set_proxied(self._fd, self.proxied)
        words[at] = state

    def _keep_only(self, rest: bytes) -> None:
        """Keep nothing but the end of what was read, and that from the beginning of the memory.

        What is written down is not true meanwhile.
        """
        words, at = self._words, self._at
        self._read += self._length - len(rest)
        self._length, self._done = len(rest), 0
        if self._limit:
            self._map[self._data_at : self._data_at + len(rest)] = rest
        words[at + _IN_BASE] = self._read
        words[at + _IN_END] = 0

    def _move_up(self) -> None:
        """Make room behind what is unanswered, for more of it."""
        words, at = self._words, self._at
        state, words[at] = words[at], State.PINNED
        self._keep_only(self._map[self._data_at + self._done : self._data_at + self._length])
        words[at] = state

    def _be_from(self, client: tuple[str, int] | None) -> None:
        if client is not None:
            self._client = self._engine.client = client

    def eof_received(self) -> bool | None:
        """Pass on that the client sends no more."""
        result: bool | None = self._engine.eof_received()
        return result

    def pause_writing(self) -> None:
        """Pass on that the client is slow to read."""
        self._engine.pause_writing()

    def resume_writing(self) -> None:
        """Pass on that it has caught up."""
        self._engine.resume_writing()

    # What the engine calls, as of a transport.

    def write(self, data: bytes) -> None:  # type: ignore[override]
        """Write, as soon as there is something whole to write.

        Raises TypeError for what is no bytes, while it is known who has sent it.
        """
        if data.__class__ is not bytes:
            data = _as_bytes(data)
        if held := self._held:
            held.append(data)
            self._held_bytes += len(data)
            if self._held_bytes > MAX_HELD_BYTES:
                self.flush_part()
            return
        if data == _CONTINUE and not self._is_answering():
            self._write_interim(data)
            return
        held.append(data)
        self._held_bytes = size = len(data)
        if size > MAX_HELD_BYTES:
            self.flush_part()
        elif not self._is_held:
            self._is_held = True
            holding = self._moves.holding
            if not holding:
                self._loop.call_soon(self._moves.flush)
            holding.append(self)

    def _is_answering(self) -> bool:
        """Tell whether a response is begun, or something else was written of which none knows."""
        return bool(self._held) or self._written != self._out_base or self._is_upgraded

    def _write_interim(self, data: bytes) -> None:
        """Write an interim response at once: the client may wait for it, and none is begun by it.

        A worker that makes the request again writes it again, RFC 9110, 15.2.
        """
        end = self._words[self._at + _OUT_INTERIM] = self._written + len(data)
        self._held.append(data)
        self._send(end)  # As if it was written already: it is the same whether it is.
        self._words[self._at + _OUT_BASE] = self._out_base = self._written

    def writelines(self, list_of_data: Any) -> None:
        """Write each."""
        for data in list_of_data:
            self.write(data)

    def flush(self) -> None:
        """Write what is held back."""
        self._is_held = False
        if self._held:
            self._send()

    def flush_part(self) -> None:
        """Write what is held back of a response that is not complete, as far as is known."""
        if self._held and self._written == self._out_base:
            self._foresee_end()
        self.flush()

    def _foresee_end(self) -> None:
        """Note where the response ends, if its head tells: all of it may be written before that.

        Nothing is noted if more is to come of the request, or behind it.
        """
        is_open = not (self._is_pinned or self._done or self._is_upgraded or self._is_gone)
        if not is_open or self._engine.is_more_to_come() or self._engine.is_to_close():
            return
        size = framing.response_size(self._held[0], self._map[self._data_at : self._data_at + 8])
        if size is not None:
            words, at = self._words, self._at
            self._long = _EACH
            words[at + _IN_END] = self.consumed
            words[at + _OUT_END] = self._written + size

    def _send(self, meanwhile: int = NOT_KNOWN) -> None:
        """Write what is held back; `meanwhile` is what counts as written while that is done."""
        held, transport = self._held, self._transport
        data = held[0] if len(held) == 1 else b"".join(held)
        held.clear()
        self._held_bytes = 0
        if transport.is_closing():
            return  # Its descriptor may be another's by now.
        size = len(data)
        self._written += size
        if self._is_behind:
            if transport.get_write_buffer_size():
                self._write_later(data)
                return
            self._is_behind = False
        if self.is_unix:
            sent = self._write_counted(data, meanwhile)
        else:
            try:  # On the hot path.
                sent = os.write(self._fd, data)
            except OSError:
                sent = 0  # Full; or broken, which the transport will find.
        if sent < size:
            self._write_later(data[sent:])

    def _write_counted(self, data: bytes, meanwhile: int) -> int:
        """Write as much as there is room for, and have it known how much; return that."""
        raise NotImplementedError

    def _write_later(self, rest: bytes) -> None:
        """Have the transport write as soon as there is room."""
        self._is_behind = True
        self._transport.write(rest)

    def close(self) -> None:
        """Close it when all is written."""
        if not self._is_gone:
            try:
                self.flush()
            finally:
                self._words[self._at] = State.LEFT
                if self._is_upgraded or not self._engine.is_more_to_come():
                    self._transport.close()
                else:
                    self._is_gone = True
                    self._loop.call_soon(self._engine.connection_lost, None)
                    self._linger()

    def _linger(self) -> None:
        """Close it when the client has what was written, though it may still send."""
        transport, self._transport = self._transport, _CLOSED
        if not transport.is_closing():
            scratch, among = self._ledger.scratch, self._moves.lingering
            Lingering(transport, self._fd, self, scratch=scratch, among=among)

    def abort(self) -> None:
        """Close it at once."""
        if not self._is_gone:
            self._held.clear()
            self._words[self._at] = State.LEFT
            self._transport.abort()

    def is_closing(self) -> bool:
        """Tell whether it is closed, or gone to another worker."""
        return self._is_gone or self._transport.is_closing()

    def pause_reading(self) -> None:
        """Read no more."""
        self._is_paused = True
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        self._is_paused = False
        if not self._is_gone and not self._is_full:
            self._transport.resume_reading()

    def is_reading(self) -> bool:
        """Tell whether it is read from."""
        return bool(self._transport.is_reading())

    def set_protocol(self, protocol: Any) -> None:
        """Hand it to another protocol: it is upgraded, and stays once that is answered."""
        self._is_upgraded = True
        self._engine.app = self._app
        self._words[self._begun_at] = self.base + 1
        self._engine, self._feed = protocol, protocol.data_received

    def get_protocol(self) -> Any:
        """Return the engine's protocol."""
        return self._engine

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return what the transport says, or the proxy.

        The engine's protocols of WebSockets find out by it who the client is.
        """
        found = self._transport.get_extra_info(name, default)
        if self._client is None:
            return found
        if name == "socket":
            return _ProxiedSocket(found, self._client)
        return self._client if name == "peername" else found

    def can_write_eof(self) -> bool:
        """Tell whether `write_eof` works."""
        return bool(self._transport.can_write_eof())

    def write_eof(self) -> None:
        """Say that no more is written."""
        self.pin()
        self.flush()
        self._transport.write_eof()

    def get_write_buffer_size(self) -> int:
        """Return how many bytes are not written yet."""
        return self._held_bytes + int(self._transport.get_write_buffer_size())

    def get_write_buffer_limits(self) -> Any:
        """Return the transport's."""
        return self._transport.get_write_buffer_limits()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set the transport's."""
        self._transport.set_write_buffer_limits(high, low)

    # What the engine's protocol tells.

    def begin(self, scope: Any, receive: Any, send: Any) -> Any:
        """Be the app, which is at work on the request from now on, or have it served elsewhere."""
        if not self._is_gone:  # Else the entry may be another's.
            if self._is_served:
                return self._go_back(scope, receive, send)
            board, moves = self._board, self._moves
            board[_HAS_BEGUN] = 1
            if board[_CHANGES] and (signature := self._listed_signature(scope)):
                return self._set_apart(signature, scope)
            if self._is_pinned:  # Else the keeper finds it. First, as it is of what begins.
                self._words[self._at + Word.SIGNATURE] = moves.signatures.of_scope(scope)
            if not moves.begins_late:
                self._words[self._begun_at] = self._read + self._done + 1
                if not moves.is_quarantine:
                    self._engine.app = self._begin_another
        return self._app(scope, receive, send)

    def _begin_another(self, scope: Any, receive: Any, send: Any) -> Any:
        """Do what `begin` does, with less to look at: on the hot path."""
        if self._is_gone or self._is_pinned or self._board[_CHANGES]:
            return self.begin(scope, receive, send)
        self._words[self._begun_at] = self._read + self._done + 1
        return self._app(scope, receive, send)

    def _begin_answered(self, scope: Any, receive: Any, send: Any) -> Any:
        """Be the app, when the first request was answered by a worker that is dead."""
        if self._terms is not Terms.ANSWERED:
            return self.begin(scope, receive, send)
        self._terms = Terms.PASS_ON
        self._engine.app = self.begin
        return self._answer_nothing(send)

    async def _answer_nothing(self, send: Any) -> None:
        """Have the engine go on as if it had answered the request, and write nothing."""
        if self._is_gone:
            return
        self._engine.has_answered(send)
        self._held = _Dropped()
        try:
            await send({"type": "http.response.start", "status": 200, "headers": _NO_BODY})
            self._held_bytes = 0
            await send({"type": "http.response.body", "body": b""})
        finally:
            self._held, self._held_bytes = [], 0

    def work(self) -> None:
        """Note that the app is at work on the request, where that is later than `begin`."""
        if not self._is_gone:
            self._words[self._begun_at] = self.base + 1

    def _listed_signature(self, scope: Any) -> int:
        """Return the signature of a request that is to be served in the quarantine; else `NONE`."""
        signatures = self._moves.signatures
        listed = signatures.listed()
        if not listed or self._moves.is_quarantine:
            return NONE
        head = self.unanswered()
        signature = signatures.of_head(head) if head else signatures.of_scope(scope)
        return signature if signature in listed else NONE

    async def _set_apart(self, signature: int, scope: Any) -> None:
        """Have a request served in the quarantine; one that cannot go there is refused."""
        sent = await self.hand_over_in_turn(
            QUARANTINE, signature=signature, timeout_s=self._moves.handoff_timeout_s
        )
        if sent is not Sent.YES:
            self.refuse(Refusal.BUSY, beginning(scope))

    async def _go_back(self, scope: Any, receive: Any, send: Any) -> None:
        """Have a request served elsewhere that came behind that for which the connection came."""
        sent = await self.hand_over_in_turn(timeout_s=self._moves.handoff_timeout_s)
        if sent is not Sent.YES and not self.is_closing():
            self._is_served = False  # There is no other place for it.
            await self.begin(scope, receive, send)

    @property
    def base(self) -> int:
        """How many bytes were read before those that are unanswered."""
        return self._read + self._done

    @property
    def consumed(self) -> int:
        """How many bytes were read, ever."""
        return self._read + self._length

    def unanswered(self) -> bytes:
        """Return what is kept of the request that is unanswered; nothing if that is unknown."""
        if self._is_pinned:
            return b""
        end = min(self._length, self._limit)
        return self._map[self._data_at + self._done : self._data_at + end]

    def request_end(self, start: int) -> int:
        """Return where a request ends of which it is known where it begins; -1 if that is not.

        Both are bytes read before it, and before what follows, ever.
        """
        kept, begin = min(self._length, self._limit), start - self._read
        if not 0 <= begin < kept:
            return -1
        end = framing.request_end(self._map, self._data_at + begin, self._data_at + kept)
        return -1 if end is None else self._read + end - self._data_at

    def answered(self, rest: int = 0) -> None:
        """A response is complete. The last `rest` bytes that were read are the next request's."""
        if rest or self._done:
            if self._is_pinned or self._length > self._limit:
                self.settled(rest)
                return
            if rest:
                self._answered_before(rest)
                return
            self._words[self._at + _IN_END] = self._done = 0  # Nothing is behind any more.
        words, at = self._words, self._at
        self._is_held = self._has_next = False
        if self._held:
            words[at + _OUT_END] = self._written + self._held_bytes
            self._send()
        else:
            words[at + _OUT_END] = self._written
        written, length = self._written, self._length
        self._read += length
        if self.is_unix:
            words[at + _IN_END] = 0  # Or it would not be true of what is read, until `LENGTH` is.
            words[at + _IN_BASE] = self._read
            words[at + _LENGTH] = 0
        else:
            words[at + _IN_BASE] = self._read
        words[at + _OUT_BASE] = self._out_base = written
        self._length = 0
        if length > self._long:
            self._be_as_new(length)
        if self._moves.is_draining:
            self._be_served()

    def _answered_before(self, rest: int) -> None:
        """Go on with what came behind the request that is answered now, where it is kept.

        At any time it can be told from what is written down, and counted, which of them is next.
        """
        words, at = self._words, self._at
        end = self.consumed - rest
        words[at + _IN_END] = end
        words[at + _OUT_END] = self._written + self._held_bytes
        self.flush()
        words[at + _IN_DONE] = end
        words[at + _OUT_BASE] = self._out_base = self._written
        self._done = self._length - rest
        self._has_next = False
        if self.hops or self.deaths:
            self._forget_deaths()
        self._read_on()
        self._limit_reading()
        if self._moves.is_draining:
            self._be_served()

    def owe(self) -> None:
        """A response is complete, and not all of its request has come: it stays until it has.

        With what is kept of it another worker can wait for the rest, see `Terms.ANSWERED`.
        """
        words, at = self._words, self._at
        if words[at] == State.OWED:
            return  # It came so.
        if self._is_pinned or self._length > self._limit:
            self.pin()
            return
        self._is_pinned = True
        words[at + _IN_END] = 0
        end = self._written + self._held_bytes
        # While nothing of the response is written, the request is to be made again; when all of it
        # is, that must not be.
        if self._written == self._out_base:
            words[at + _OUT_END], words[at] = end, State.OWED
        else:
            words[at], words[at + _OUT_END] = State.OWED, end
        self.flush()

    def settled(self, rest: int) -> None:
        """All before the last `rest` bytes that were read is answered, which was not known before.

        These are in what is being read, or are kept; else it stays pinned.
        """
        if self._words[self._at] == State.OWED and self._length <= self._limit:
            self._is_pinned = False
            self._answered_before(rest)
            self._words[self._at] = State.OPEN
            return
        self.pin()  # Until it is all true again.
        kept = self._kept_behind(rest)
        self._has_next = False
        self._read_on()
        if kept is None or (rest > PAGE_BYTES and not self._ledger.use(self._fd, rest)):
            self.flush()
            return
        length, words, at = self._length, self._words, self._at
        self._keep_only(kept)
        words[at + _OUT_BASE] = words[at + _OUT_END] = self._written + self._held_bytes
        words[at] = State.ANSWERING
        self.flush()
        self._out_base = self._written
        self._be_as_new(length, rest)
        self._limit_reading()
        if self._moves.is_draining:
            self._be_served()

    def _kept_behind(self, rest: int) -> bytes | None:
        """Return the last `rest` bytes that were read; None if they are not kept."""
        behind, self._behind = self._behind, None
        length, limit = self._length, self._limit
        if length <= limit:
            return self._map[self._data_at + length - rest : self._data_at + length]
        if rest <= min(limit, self._scratched):
            return bytes(self._ledger.scratch[self._scratched - rest : self._scratched])
        if behind is not None and rest == len(behind) <= limit:
            return bytes(behind)
        return None

    def _be_served(self) -> None:
        """Go, now that a request is answered: with the next one, if that has come already."""
        self._is_served = self._moves.is_quarantine
        self._loop.call_soon(self._leave)

    def _be_as_new(self, length: int, rest: int = 0) -> None:
        """Forget a request that was out of the ordinary, but for the `rest` of what was read."""
        self._read_on()
        self._forget_deaths()
        self._behind = None
        if self._limit:
            self._is_pinned = False
            self._words[self._at + _IN_END] = 0
            self._words[self._at + Word.SIGNATURE] = 0
            self._words[self._at] = State.OPEN
            self._limit = self._ledger.layout.limit
            self._long = _LONG_BYTES
            self._free(length, rest)

    def _forget_deaths(self) -> None:
        self.hops = self.crashes = self.deaths = 0
        self.is_stand_in = False
        self._words[self._at + Word.CRASHES] = self._words[self._at + Word.DEATHS] = 0

    def pin(self) -> None:
        """Stay here until a response is complete and nothing is begun: see `answered`."""
        if not self._is_gone and (not self._is_pinned or self._words[self._at] == State.OWED):
            self._is_pinned, self._long = True, _EACH
            self._words[self._at] = State.PINNED
            self._read_on()  # What stays is not limited by what could be handed over.

    # To another worker.

    @property
    def way_out(self) -> Exit:
        """What it goes by."""
        return self._moves.exit

    @property
    def is_stuck(self) -> bool:
        """Whether it can never go elsewhere."""
        return not self._limit

    @property
    def is_overlong(self) -> bool:
        """Whether more has come of a request's head than can be handed over."""
        return self._length > self._limit and not self._is_pinned

    @property
    def is_whole(self) -> bool:
        """Whether it can go elsewhere as soon as what was written before is sent.

        Nothing is written in answer to what was read, and all of that is kept.
        """
        return not (
            self._is_pinned
            or self._length > self._limit
            or self._written != self._out_base
            or self._held
            or self.is_closing()
        )

    @property
    def is_movable(self) -> bool:
        """Whether it can go elsewhere now."""
        return self.is_whole and not self._transport.get_write_buffer_size()

    @property
    def is_free(self) -> bool:
        """Whether it can go elsewhere, and the app is not at work on it."""
        return self.is_movable and not self._is_upgraded and bool(self._engine.is_waiting())

    def _leave(self) -> None:
        if self.is_free and self.hand_over() is not Sent.YES and not self._moves.is_shut:
            self._loop.call_later(LEAVE_RETRY_S, self._leave)

    async def hand_over_in_turn(
        self, slot: int = ANY, *, signature: int = 0, timeout_s: float
    ) -> Sent:
        """Let the worker of another slot have it, as soon as that can be; wait so long for room.

        A client that is slow to take the response before is waited for, however long that takes.
        """
        while self.is_whole and not self.is_movable:
            await asyncio.sleep(SENDING_POLL_S)
        attempt = functools.partial(self.hand_over, slot, signature=signature)
        return await self.way_out.send_in_turn(attempt, timeout_s)

    def hand_over(self, slot: int = ANY, *, signature: int = 0) -> Sent:
        """Let the worker of another slot have it, with what is unanswered, if that can be now.

        Whoever is at work on the request finds the client gone then.
        """
        if not self.is_movable:
            return Sent.NEVER
        moves, words, at = self._moves, self._words, self._at
        moves.serial += 1
        unanswered = self._map[self._data_at + self._done : self._data_at + self._length]
        handoff = Handoff(
            unanswered=unanswered,
            slot=slot,
            hops=self.hops + 1 if unanswered else 0,
            crashes=self.crashes,
            deaths=self.deaths,
            serial=moves.serial,
            consumed=self.consumed,
            written=self._written,
            proxied=self.proxied,
            signature=signature,
        )
        words[at + _HANDING] = moves.serial
        sent = moves.exit.send(self._fd, handoff)
        if sent is not Sent.YES:
            words[at + _HANDING] = 0
            return sent
        try:
            self._forsake()
        finally:
            self._transport.abort()  # Closed without a shutdown(2): the client sees nothing.
        return sent

    def refuse(self, refusal: Refusal, unanswered: bytes | None = None) -> None:
        """Answer a request that the app has not seen, or will not, and close.

        `unanswered` is how it begins, if that may not be kept. Whoever is at work on it finds the
        client gone.
        """
        if self.is_closing():
            return
        if unanswered is None:
            unanswered = self.unanswered()
        self.write(fitting(refusal.response, unanswered))
        try:
            self.flush()
            self._forsake()
        finally:
            self._linger()

    def _forsake(self) -> None:
        """Have the engine believe that the client is gone."""
        self._words[self._at] = State.LEFT
        self._is_gone = True
        self._engine.connection_lost(None)


def _as_bytes(data: Any) -> bytes:
    """Return what an app sends as bytes of its own. Raises TypeError."""
    if isinstance(data, (bytes, bytearray, memoryview)):
        copy = bytes(data)
        if len(copy) == len(data):  # Not so for a view of larger items: the engine has counted.
            return copy
    raise TypeError(f"a response is of bytes, and not {type(data).__name__}")

"""The control channel: orders to a worker and what it sends, in `AF_UNIX SOCK_SEQPACKET` frames.

Master to worker:

    b"c" * n    n connections, attached as n file descriptors (SCM_RIGHTS, unix(7))
    b"a"        admitted: accept from the listeners you hold; an agent: the one before is dead
    b"f"        finish: the cluster stops, and nobody takes connections over
    b"h"        hurry: new clients wait until all workers have ended
    HANDOFF     a connection that another worker had; see `Handoff`
    MOVE        hand idle connections to the worker of a slot: how many, and which slot
    end of file no more connections will come: answer what you have, then exit

The end of file is one rule for three cases: the master retires the worker (it shuts down its
sending side after the last connection), the cluster stops, or the master died.

Worker to master:

    KEY=VALUE   a notification, see `notify`
    HANDOFF     a connection for another worker; one descriptor
    LEDGER      from the keeper of a dead worker: the ledger, one descriptor
    KEPT        from it: connections, each with its number in the ledger; as many descriptors
    KEPT_ALL    from it: there are no more
"""

import re
import struct
from dataclasses import dataclass
from enum import IntEnum

from sdcluster.errors import ProtocolError

CONNECTION = b"c"
ADMIT = b"a"
FINISH = b"f"
HURRY = b"h"
HANDOFF = b"\x01"
LEDGER = b"\x02"
KEPT = b"\x03"
KEPT_ALL = b"\x04"
MOVE = b"m"

MAX_CONNECTIONS_PER_FRAME = 16
"""Connections a frame may carry; far below the kernel's limit of 253 (SCM_MAX_FD)."""
MAX_UNANSWERED_BYTES = 128 * 1024
"""The most that a connection is handed over with; a channel takes about 200 KiB at a time."""
MAX_MOVES = 256
"""Connections that are moved at one order."""
MAX_PROXIED_BYTES = 107
"""Whatever the address."""
MAX_TOTAL_BYTES = 2**63 - 1
"""No connection has read or written more."""
ANY = -1
"""As a slot: whichever worker."""
QUARANTINE = -2
"""As a slot: a worker that has nothing else; each that has this number or a lower one is such."""

_HEADER = struct.Struct("<cBBBBBiIIHQQQ")
"""Type, hops, crashes, deaths, bytes proxied, terms, slot, serial, bytes unanswered, refusal,
signature, bytes read, written."""

_PROXIED = re.compile(rb"(PROXY UNKNOWN|PROXY [!-~]+ [0-9]{1,5})?")
"""What workers put there: nothing, that the proxy does not know, or address and port."""

_MOVE = struct.Struct("<cHI")
"""Type, connections, slot."""

MAX_HANDOFF_BYTES = _HEADER.size + MAX_PROXIED_BYTES + MAX_UNANSWERED_BYTES


class Terms(IntEnum):
    """What the worker that gets a request does with it when it is for another one, or answered."""

    PASS_ON = 0
    """It hands it over."""
    STAND_IN = 1
    """It serves it: the slot that it is for has no worker."""
    REFUSE = 2
    """It answers that it cannot be served: the worker of that slot has no room for it."""
    ANSWERED = 3
    """It has no app see it: a worker that is dead has answered it, and not all of it has come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Handoff:
    """A connection on its way from one worker to another, but for its descriptor."""

    unanswered: bytes = b""
    """What was read from it and not answered: the beginning of a request, or a whole one."""
    slot: int = ANY
    """Whose it is to be."""
    terms: Terms = Terms.PASS_ON
    """Set by the master: when that slot did not get it, or when it comes from a dead worker."""
    hops: int = 0
    """How often it was handed over with what is unanswered, by workers that live."""
    crashes: int = 0
    """How many workers have died when their app was at work on what is unanswered."""
    deaths: int = 0
    """How many workers have died with what is unanswered, whether their app had seen it or not."""
    serial: int = 0
    """Its number among those that a worker hands over, from 1; 0 from the master."""
    consumed: int = 0
    """Bytes read from it, ever, with those that are unanswered."""
    written: int = 0
    """Bytes written to it, ever."""
    signature: int = 0
    """What requests as the one that is unanswered have in common, see `wire.signature`."""
    refusal: int = 0
    """The status that the request is refused with, and no app sees it; 0 when it is served."""
    proxied: bytes = b""
    """Who the client is when a proxy has said so, as workers put it among themselves."""


NEW = Handoff()
"""What comes with a connection that no worker has had."""


def encode_handoff(handoff: Handoff) -> bytes:
    """Return the frame. Raises `ProtocolError` when it is too large."""
    if len(handoff.unanswered) > MAX_UNANSWERED_BYTES or len(handoff.proxied) > MAX_PROXIED_BYTES:
        raise ProtocolError(f"a connection with {len(handoff.unanswered)} bytes unanswered")
    header = _HEADER.pack(
        HANDOFF,
        min(handoff.hops, 255),
        min(handoff.crashes, 255),
        min(handoff.deaths, 255),
        len(handoff.proxied),
        handoff.terms,
        handoff.slot,
        handoff.serial,
        len(handoff.unanswered),
        handoff.refusal,
        handoff.signature,
        handoff.consumed,
        handoff.written,
    )
    return header + handoff.proxied + handoff.unanswered


def decode_handoff(data: bytes, attached: int) -> Handoff:
    """Read such a frame. Raises `ProtocolError`."""
    if attached != 1:
        raise ProtocolError(f"a hand-off with {attached} descriptors")
    handoff, end = decode_arrival(data)
    if end != len(data):
        raise ProtocolError(f"a hand-off of {len(data)} bytes, and {end} are what it says")
    return handoff


def decode_arrival(data: bytes) -> tuple[Handoff, int]:
    """Read such a frame at the beginning of `data`; return also where it ends.

    Raises `ProtocolError`.
    """
    if len(data) < _HEADER.size:
        raise ProtocolError(f"a hand-off of {len(data)} bytes")
    header = _HEADER.unpack_from(data)
    kind, hops, crashes, deaths, proxied, terms, slot, serial, unanswered, *rest = header
    refusal, signature, consumed, written = rest
    begin = _HEADER.size + proxied
    end = begin + unanswered
    if (
        kind != HANDOFF
        or proxied > MAX_PROXIED_BYTES
        or unanswered > MAX_UNANSWERED_BYTES
        or end > len(data)
        or slot < QUARANTINE
        or terms > max(Terms)
    ):
        raise ProtocolError("a hand-off that makes no sense")
    handoff = Handoff(
        unanswered=data[begin:end],
        slot=slot,
        terms=Terms(terms),
        hops=hops,
        crashes=crashes,
        deaths=deaths,
        serial=serial,
        consumed=consumed,
        written=written,
        signature=signature,
        refusal=refusal,
        proxied=data[_HEADER.size : begin],
    )
    check(handoff)
    return handoff, end


def check(handoff: Handoff) -> None:
    """Raise `ProtocolError` when there can be no such connection."""
    if (
        len(handoff.unanswered) > handoff.consumed
        or max(handoff.consumed, handoff.written) > MAX_TOTAL_BYTES
        or handoff.crashes > handoff.deaths
        or not _PROXIED.fullmatch(handoff.proxied)
    ):
        raise ProtocolError("a hand-off of a connection that cannot be")


def encode_kept(numbers: list[int]) -> bytes:
    """Return the frame that says which numbers the connections attached to it have."""
    return KEPT + struct.pack(f"<{len(numbers)}I", *numbers)


def decode_kept(data: bytes, attached: int) -> tuple[int, ...]:
    """Return which numbers the connections of such a frame have. Raises `ProtocolError`."""
    if not 0 < attached <= MAX_CONNECTIONS_PER_FRAME or len(data) != 1 + 4 * attached:
        raise ProtocolError(f"{len(data)} bytes about {attached} connections of a dead worker")
    return struct.unpack_from(f"<{attached}I", data, 1)


def encode_move(count: int, slot: int) -> bytes:
    """Return the frame that says how many connections are to go to a slot, up to `MAX_MOVES`."""
    return _MOVE.pack(MOVE, min(count, MAX_MOVES), slot)


def decode_move(data: bytes, attached: int) -> tuple[int, int]:
    """Return how many connections are to go, and to which slot. Raises `ProtocolError`."""
    if len(data) == _MOVE.size and not attached:
        kind, count, slot = _MOVE.unpack(data)
        if kind == MOVE and 0 < count <= MAX_MOVES:
            return count, slot
    raise ProtocolError(f"an order to move that makes no sense, with {attached} descriptors")


def decode_order(data: bytes, attached: int) -> int:
    """Return how many connections a frame brings; 0 means the worker is admitted.

    Raises `ProtocolError` when the frame and its `attached` descriptors do not fit together.
    """
    if data == ADMIT and attached == 0:
        return 0
    if data and data == CONNECTION * len(data) and attached == len(data):
        return attached
    raise ProtocolError(f"order {data[:20]!r} with {attached} descriptors")

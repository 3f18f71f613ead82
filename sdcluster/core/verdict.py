"""What becomes of a connection whose worker has died. Pure.

The worker has written down what it knew, a word at a time, and may have died between any two of
them. So what it was about to write down is told from what the kernel has counted.
"""

from dataclasses import dataclass
from enum import Enum

MAX_TOTAL_BYTES = 2**63 - 1
"""No connection has more. `wire.ledger.NOT_KNOWN` is greater, and so is never a total."""


class Verdict(Enum):
    """What becomes of it."""

    IDLE = "idle"
    """Another worker gets it, as it is."""
    AGAIN = "again"
    """Another worker gets it, with what was read and not answered."""
    REST = "rest"
    """Another worker gets it, with what was read of a request that is answered: more is to come."""
    ELSEWHERE = "elsewhere"
    """It is another worker's already."""
    CLOSED = "closed"
    """It ends: part of a response is written, say, or it is not known what is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What a worker has written down of a connection; `wire.ledger` says what each number is."""

    in_base: int
    length: int
    out_base: int
    out_done: int
    out_end: int
    in_done: int = 0
    in_end: int = 0
    out_interim: int = 0
    is_pinned: bool = False
    is_owed: bool = False
    is_answering: bool = False
    handing: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The verdict, and with it the totals of the connection."""

    verdict: Verdict
    base: int = 0
    """Bytes read before what is not answered, or not complete."""
    unanswered: int = 0
    """Bytes that were read since then."""
    consumed: int = 0
    """Bytes read, ever."""
    written: int = 0
    """Bytes written, ever."""


_CLOSED = Finding(verdict=Verdict.CLOSED)


def judge(
    known: Known, counted: tuple[int, int] | None, *, last_serial: int, limit: int
) -> Finding:
    """Return what becomes of a connection.

    `counted` are the bytes that were read and written, by the kernel's count; None when it has
    none. `last_serial` is that of the last connection that the worker has handed over, `limit` what
    the ledger keeps of a request.
    """
    if known.handing and known.handing <= last_serial:
        return Finding(verdict=Verdict.ELSEWHERE)
    if known.is_pinned:
        return _CLOSED
    consumed, written = counted or (known.in_base + known.length, known.out_done)
    if consumed > MAX_TOTAL_BYTES or written > MAX_TOTAL_BYTES:
        return _CLOSED  # The worker was reading or writing, or what it has noted makes no sense.
    if known.is_answering and written != known.out_end:
        return _CLOSED
    base = max(known.in_base, known.in_done)
    is_owed = False
    if written == known.out_end and (known.is_owed or known.out_base < written):
        # The response is complete, and the worker died before it had noted that.
        is_owed = known.is_owed and not known.in_end
        if not is_owed:
            base = known.in_end or consumed
    elif written != known.out_base and not known.out_base < written == known.out_interim:
        return _CLOSED
    unanswered = consumed - base
    if unanswered and not known.in_base <= base < consumed <= known.in_base + limit:
        return _CLOSED
    return Finding(
        verdict=_verdict(bool(unanswered), is_owed),
        base=base,
        unanswered=unanswered,
        consumed=consumed,
        written=written,
    )


def _verdict(has_request: bool, is_owed: bool) -> Verdict:
    if not has_request:
        return Verdict.IDLE
    return Verdict.REST if is_owed else Verdict.AGAIN

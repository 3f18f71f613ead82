"""What becomes of a connection whose worker has died."""

from dataclasses import replace

import pytest

from sdcluster.core.verdict import MAX_TOTAL_BYTES, Finding, Known, Verdict, judge

LIMIT = 1000
IN, OUT = 300, 5000
"""What was read and written before the request that is looked at."""

IDLE = Known(in_base=IN, length=0, out_base=OUT, out_done=OUT, out_end=OUT)
ANSWERING = replace(IDLE, out_end=OUT + 40)
"""It writes a response of 40 bytes, or has just written it."""

CLOSED = Finding(verdict=Verdict.CLOSED)


def idle(consumed: int, written: int) -> Finding:
    """Return the verdict on a connection with nothing unanswered."""
    return Finding(verdict=Verdict.IDLE, base=consumed, consumed=consumed, written=written)


def again(unanswered: int, *, answered: int = 0, written: int = 0) -> Finding:
    """Return the verdict on one with a request whose answer was not begun."""
    return Finding(
        verdict=Verdict.AGAIN,
        base=IN + answered,
        unanswered=unanswered,
        consumed=IN + answered + unanswered,
        written=OUT + written,
    )


@pytest.mark.parametrize(
    ("known", "read", "written", "expected"),
    [
        (IDLE, 0, 0, idle(IN, OUT)),
        (IDLE, 20, 0, again(20)),
        (IDLE, LIMIT, 0, again(LIMIT)),
        (IDLE, LIMIT + 1, 0, CLOSED),
        (IDLE, -1, 0, CLOSED),
        (IDLE, 20, 1, CLOSED),
        (IDLE, 0, -1, CLOSED),
        (replace(IDLE, out_end=0), 20, 0, again(20)),
        (ANSWERING, 20, 0, again(20)),
        (ANSWERING, 20, 39, CLOSED),
        (ANSWERING, 20, 40, idle(IN + 20, OUT + 40)),
        (ANSWERING, 20, 41, CLOSED),
        (replace(ANSWERING, in_base=IN + 20), 20, 40, idle(IN + 20, OUT + 40)),
        (replace(IDLE, length=7, out_done=9), 20, 0, again(20)),
    ],
)
def test_verdict_is_by_what_the_kernel_has_counted(
    known: Known, read: int, written: int, expected: Finding
) -> None:
    """Whatever of it the worker came to write down."""
    counted = (IN + read, OUT + written)
    assert judge(known, counted, last_serial=0, limit=LIMIT) == expected


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        (IDLE, idle(IN, OUT)),
        (replace(IDLE, length=20), again(20)),
        (replace(ANSWERING, length=20), again(20)),
        (replace(IDLE, length=2**64 - 1), CLOSED),
        (replace(ANSWERING, length=20, out_done=2**64 - 1), CLOSED),
        (replace(ANSWERING, length=20, out_done=OUT + 40), idle(IN + 20, OUT + 40)),
        (replace(IDLE, length=20, out_done=OUT + 1), CLOSED),
        (Known(in_base=MAX_TOTAL_BYTES, length=1, out_base=0, out_done=0, out_end=0), CLOSED),
    ],
)
def test_verdict_is_by_what_is_written_down_where_nothing_is_counted(
    known: Known, expected: Finding
) -> None:
    """It is closed where that is not known, or makes no sense."""
    assert judge(known, None, last_serial=0, limit=LIMIT) == expected


@pytest.mark.parametrize("known", [IDLE, replace(ANSWERING, length=20)])
def test_connection_that_cannot_move_is_closed(known: Known) -> None:
    """Whatever was read and written."""
    pinned = replace(known, is_pinned=True)
    assert judge(pinned, (IN, OUT), last_serial=0, limit=LIMIT) == CLOSED
    assert judge(pinned, None, last_serial=0, limit=LIMIT) == CLOSED


@pytest.mark.parametrize(
    ("handing", "last_serial", "expected"),
    [
        (0, 0, Verdict.AGAIN),
        (0, 8, Verdict.AGAIN),
        (7, 6, Verdict.AGAIN),
        (7, 7, Verdict.ELSEWHERE),
        (7, 8, Verdict.ELSEWHERE),
    ],
)
def test_connection_that_was_handed_over_is_not_there_twice(
    handing: int, last_serial: int, expected: Verdict
) -> None:
    """If the master has received it from its worker; else it has been about to be sent."""
    known = replace(IDLE, handing=handing)
    finding = judge(known, (IN + 5, OUT), last_serial=last_serial, limit=LIMIT)
    assert finding.verdict is expected


def test_connection_is_elsewhere_even_when_it_is_pinned() -> None:
    """What another worker has is not closed here."""
    known = replace(IDLE, handing=1, is_pinned=True)
    assert judge(known, (IN, OUT), last_serial=1, limit=LIMIT).verdict is Verdict.ELSEWHERE


OWED = replace(IDLE, is_owed=True, out_end=OUT + 40)
"""A response of 40 bytes is complete, and its request is not there whole."""
SETTLED = replace(OWED, in_end=IN + 20)
"""It is now, and the next one may be as well."""


def rest(unread: int, *, answered: int = 0, written: int = 0) -> Finding:
    """Return the verdict on one of whose last request not all has come."""
    found = again(unread, answered=answered, written=written)
    return replace(found, verdict=Verdict.REST)


@pytest.mark.parametrize("is_counted", [True, False])
@pytest.mark.parametrize(
    ("known", "read", "written", "expected"),
    [
        # As a worker writes it down, word by word, when nothing of the response is written yet...
        (replace(IDLE, out_end=OUT + 40), 20, 0, again(20)),
        (OWED, 20, 0, again(20)),
        (OWED, 20, 39, CLOSED),
        (OWED, 20, 40, rest(20, written=40)),
        (OWED, LIMIT, 40, rest(LIMIT, written=40)),
        (OWED, LIMIT + 1, 40, CLOSED),
        # ... and when some is, or all.
        (replace(OWED, out_end=OUT), 20, 1, CLOSED),
        (replace(OWED, out_end=OUT), 20, 40, CLOSED),
        # The rest has come, and more.
        (SETTLED, 20, 40, idle(IN + 20, OUT + 40)),
        (SETTLED, 25, 40, again(5, answered=20, written=40)),
        (replace(SETTLED, in_done=IN + 20), 25, 40, again(5, answered=20, written=40)),
        (
            replace(SETTLED, in_done=IN + 20, out_base=OUT + 40, is_owed=False),
            *(25, 40, again(5, answered=20, written=40)),
        ),
        # It has come from a worker that was dead, which had written the response.
        (replace(OWED, out_end=OUT), 20, 0, rest(20)),
        (replace(OWED, out_end=OUT, in_base=IN + 20), 20, 0, idle(IN + 20, OUT)),
    ],
)
def test_answered_request_is_not_made_again_whose_rest_is_to_come(
    known: Known, read: int, written: int, expected: Finding, is_counted: bool
) -> None:
    """Another worker reads that, and then the next one."""
    counted = (IN + read, OUT + written)
    length = IN + read - known.in_base
    known = replace(known, length=length, out_done=OUT + written)
    assert judge(known, counted if is_counted else None, last_serial=0, limit=LIMIT) == expected


FIRST = replace(IDLE, length=50)
"""Two requests came at once, of 20 and 30 bytes; neither is answered."""
WRITING_FIRST = replace(FIRST, in_end=IN + 20, out_end=OUT + 40)
SECOND = replace(WRITING_FIRST, in_done=IN + 20, out_base=OUT + 40)
WRITING_SECOND = replace(SECOND, in_end=0, out_end=OUT + 60)


@pytest.mark.parametrize("is_counted", [True, False])
@pytest.mark.parametrize(
    ("known", "written", "expected"),
    [
        # As a worker writes it down, word by word.
        (FIRST, 0, again(50)),
        (replace(FIRST, in_end=IN + 20), 0, again(50)),
        (WRITING_FIRST, 0, again(50)),
        (WRITING_FIRST, 39, CLOSED),
        (WRITING_FIRST, 40, again(30, answered=20, written=40)),
        (replace(WRITING_FIRST, in_done=IN + 20), 40, again(30, answered=20, written=40)),
        (SECOND, 40, again(30, answered=20, written=40)),
        (replace(SECOND, in_end=0), 40, again(30, answered=20, written=40)),
        (WRITING_SECOND, 40, again(30, answered=20, written=40)),
        (WRITING_SECOND, 41, CLOSED),
        (WRITING_SECOND, 60, idle(IN + 50, OUT + 60)),
        # What follows begins where the memory does.
        (replace(WRITING_SECOND, in_base=IN + 50, length=0), 60, idle(IN + 50, OUT + 60)),
        (
            replace(WRITING_SECOND, in_base=IN + 50, length=0, out_base=OUT + 60),
            60,
            idle(IN + 50, OUT + 60),
        ),
        # What makes no sense.
        (replace(WRITING_FIRST, in_end=IN - 1), 40, CLOSED),
        (replace(WRITING_FIRST, in_end=IN + 51), 40, CLOSED),
        (replace(FIRST, in_done=IN + 51), 0, CLOSED),
    ],
)
def test_request_behind_another_is_next_when_that_is_answered(
    known: Known, written: int, expected: Finding, is_counted: bool
) -> None:
    """Whatever of it the worker came to write down, and whether the kernel has counted."""
    counted = (known.in_base + known.length, OUT + written) if is_counted else None
    noted = replace(known, out_done=OUT + written)
    assert judge(noted, counted, last_serial=0, limit=LIMIT) == expected


def test_request_is_not_given_on_whose_memory_was_used_up() -> None:
    """What is behind others has the room that they leave."""
    known = replace(IDLE, in_done=IN + 20, out_end=0)
    assert judge(known, (IN + LIMIT, OUT), last_serial=0, limit=LIMIT).unanswered == LIMIT - 20
    assert judge(known, (IN + LIMIT + 1, OUT), last_serial=0, limit=LIMIT) == CLOSED


@pytest.mark.parametrize(
    ("known", "written", "expected"),
    [
        (replace(IDLE, length=20, out_interim=OUT + 25), 0, again(20)),
        (replace(IDLE, length=20, out_interim=OUT + 25), 24, CLOSED),
        (replace(IDLE, length=20, out_interim=OUT + 25), 25, again(20, written=25)),
        (replace(IDLE, length=20, out_interim=OUT - 25), -25, CLOSED),
    ],
)
def test_interim_response_begins_no_answer(known: Known, written: int, expected: Finding) -> None:
    """The request is made again; but not when an earlier answer has not been written yet."""
    counted = (IN + 20, OUT + written)
    assert judge(known, counted, last_serial=0, limit=LIMIT) == expected

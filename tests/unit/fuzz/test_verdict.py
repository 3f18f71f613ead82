"""What may be lost, and what must not."""

import json
from dataclasses import replace

import pytest
from fuzz import expected
from fuzz.answers import Answer
from fuzz.configurations import Configuration, Routing
from fuzz.exchange import Kind, Request, Shape
from fuzz.history import Absence, History, Kill, Scaled
from fuzz.plan import KEPT_BYTES
from fuzz.verdict import Attempt, End, Outcome, judge

GET, POST = Request(id="g"), Request(id="p", method="POST")
KEYED = replace(POST, has_idempotency_key=True)
LONG = replace(GET, shape=Shape(kind=Kind.CHUNKED, size=100_000, count=5))
ANYBODYS = Configuration()
SHARDED = Configuration(routing=Routing.BY_PATH)
STICKY = Configuration(routing=Routing.COOKIE)
SIGNATURE = "a" * 32
LATER = {"retry-after": "1"}


def history(*pids: int, killed: tuple[int, ...] = (), at_s: float = 1.5, slots: int = 3) -> History:
    """Return one where these pids have executed a request, and some were killed at a time."""
    return History(
        kills=[Kill(pid, at_s, at_s + 0.01) for pid in killed],
        scaled=[Scaled(slots, 0.0, 0.0)],
        executions={name: [*pids] for name in ("g", "p")},
    )


def lost(request: Request, end: End = End.CLOSED, *, sent: int = 0, received: int = 0) -> Attempt:
    """Return an attempt of the seconds 1 to 2 that got no answer."""
    return Attempt(
        request=request,
        client="",
        began_s=1.0,
        ended_s=2.0,
        end=end,
        sent=sent,
        received=received,
    )


def answered(
    request: Request,
    *,
    slot: int = 0,
    pid: int = 7,
    config: Configuration = ANYBODYS,
    sticky: str | None = None,
    set_cookie: str = "",
) -> Attempt:
    """Return an attempt that got the right answer, of some worker."""
    told = {**expected.echo(request, config, ""), "slot": slot, "pid": pid}
    headers = {"x-echo": json.dumps(told)}
    if set_cookie:
        headers["set-cookie"] = f"sdcluster={set_cookie}; Path=/"
    answer = Answer(request.shape.status, headers, expected.body(request), is_last=False)
    return replace(lost(request), end=None, answer=answer, sticky=sticky)


def server_says(request: Request, status: int) -> Attempt:
    """Return an attempt that the server has answered itself."""
    answer = Answer(status, {}, b"Bad", is_last=True)
    return replace(lost(request), end=None, answer=answer)


@pytest.mark.parametrize("request_", [GET, POST])
def test_right_answer_of_who_has_executed_it_is_one(request_: Request) -> None:
    """Once."""
    assert judge(answered(request_), ANYBODYS, history(7)).outcome is Outcome.ANSWERED


def test_answer_of_somebody_else_is_wrong() -> None:
    """Of a worker that has not executed it."""
    verdict = judge(answered(GET), ANYBODYS, history(8))
    assert verdict.outcome is Outcome.MISMATCH


def test_wrong_answer_is_a_mismatch() -> None:
    """What differs is told."""
    attempt = answered(GET)
    verdict = judge(replace(attempt, client="1.2.3.4"), ANYBODYS, history(7))
    assert verdict.outcome is Outcome.MISMATCH
    assert verdict.text == "client: '', not '1.2.3.4'"


@pytest.mark.parametrize("end", [End.CLOSED, End.RESET, End.REFUSED])
@pytest.mark.parametrize("request_", [GET, POST, KEYED])
def test_nothing_is_lost_while_nobody_dies(end: End, request_: Request) -> None:
    """However it ends; a worker that has died before or after is no excuse."""
    for story in (history(7), history(), history(7, killed=(7,), at_s=0.9)):
        assert judge(lost(request_, end), ANYBODYS, story).outcome is Outcome.LOST
    late = history(7, killed=(7,), at_s=2.1)
    assert judge(lost(request_, end), ANYBODYS, late).outcome is Outcome.LOST


def test_post_may_be_lost_with_its_worker() -> None:
    """With no other."""
    story = history(7, killed=(7,))
    assert judge(lost(POST), ANYBODYS, story).outcome is Outcome.NOT_REPEATED
    story = history(7, killed=(8,))
    assert judge(lost(POST), ANYBODYS, story).outcome is Outcome.LOST


def test_post_may_be_lost_before_it_is_executed() -> None:
    """A worker that has died may have been about to."""
    story = history(killed=(7,))
    assert judge(lost(POST), ANYBODYS, story).outcome is Outcome.NEVER_BEGUN


@pytest.mark.parametrize("request_", [GET, KEYED, replace(GET, method="PUT")])
def test_what_may_be_repeated_is_never_lost(request_: Request) -> None:
    """Whoever was killed; but for what is too long to be kept."""
    for story in (history(7, killed=(7,)), history(killed=(7,))):
        attempt = lost(request_, sent=KEPT_BYTES)
        assert judge(attempt, ANYBODYS, story).outcome is Outcome.LOST
        attempt = lost(request_, sent=KEPT_BYTES + 1)
        assert judge(attempt, ANYBODYS, story).outcome is Outcome.TOO_LONG


def test_request_behind_a_long_one_of_a_wsgi_app_may_be_lost_with_its_worker() -> None:
    """The client has the answer before the worker knows that it has ended."""
    wsgi, story = Configuration(interface="wsgi"), history(7, killed=(7,))
    long = Request(id="before", method="PUT", size=KEPT_BYTES + 1)
    attempt = replace(lost(GET), previous=long)
    assert judge(attempt, wsgi, story).outcome is Outcome.TOO_LONG
    assert judge(attempt, ANYBODYS, story).outcome is Outcome.LOST
    short = replace(long, size=KEPT_BYTES)
    assert judge(replace(attempt, previous=short), wsgi, story).outcome is Outcome.LOST


def test_long_answer_may_be_cut_by_a_kill() -> None:
    """A short one may not, nor may a long one without."""
    story = history(7, killed=(7,))
    assert judge(lost(LONG, received=9), ANYBODYS, story).outcome is Outcome.CUT
    assert judge(lost(GET, received=9), ANYBODYS, story).outcome is Outcome.LOST
    assert judge(lost(LONG, received=9), ANYBODYS, history(7)).outcome is Outcome.LOST
    wsgi = Configuration(interface="wsgi")
    assert judge(lost(GET, received=9), wsgi, story).outcome is Outcome.CUT


@pytest.mark.parametrize(
    ("attempt", "outcome"),
    [
        (replace(lost(GET), is_behind=True), Outcome.BEHIND),
        (lost(GET, End.LEFT), Outcome.LEFT),
        (lost(GET, End.LATE), Outcome.LATE),
        (lost(GET, End.NONSENSE), Outcome.MISMATCH),
        (replace(lost(GET), idle_s=6.0), Outcome.IDLE),
    ],
)
def test_other_ends_have_names_of_their_own(attempt: Attempt, outcome: Outcome) -> None:
    """Whatever was killed."""
    assert judge(attempt, ANYBODYS, history()).outcome is outcome


def test_post_is_never_executed_twice() -> None:
    """Whoever was killed, and whatever has been answered."""
    for attempt in (answered(POST), lost(POST), server_says(POST, 502)):
        verdict = judge(attempt, ANYBODYS, history(7, 8, killed=(7, 8)))
        assert verdict.outcome is Outcome.TWICE


def test_get_is_executed_again_only_when_its_worker_was_killed() -> None:
    """Each but the last."""
    attempt = answered(GET, pid=8)
    assert judge(attempt, ANYBODYS, history(7, 8)).outcome is Outcome.TWICE
    assert judge(attempt, ANYBODYS, history(7, 8, killed=(7,))).outcome is Outcome.ANSWERED
    story = history(7, 9, 8, killed=(7,))
    assert judge(attempt, ANYBODYS, story).outcome is Outcome.TWICE


def test_request_that_was_killed_with_two_workers_may_be_refused() -> None:
    """With one it may not, and nothing else may be said by the server."""
    attempt = server_says(GET, 502)
    assert judge(attempt, ANYBODYS, history(7, 8, killed=(7, 8))).outcome is Outcome.REFUSED
    assert judge(attempt, ANYBODYS, history(killed=(7, 8))).outcome is Outcome.REFUSED
    assert judge(attempt, ANYBODYS, history(7, killed=(7,))).outcome is Outcome.LOST
    assert judge(attempt, ANYBODYS, history(7, 9, killed=(7, 8))).outcome is Outcome.LOST
    assert judge(server_says(GET, 503), ANYBODYS, history()).outcome is Outcome.LOST
    assert judge(server_says(GET, 400), ANYBODYS, history()).outcome is Outcome.MISMATCH


def test_request_may_be_deferred_after_a_kill() -> None:
    """Only one that no app has seen, and the server says so."""
    attempt = replace(server_says(POST, 503), answer=Answer(503, LATER, b"", is_last=True))
    assert judge(attempt, ANYBODYS, history(killed=(7,))).outcome is Outcome.DEFERRED
    assert judge(attempt, ANYBODYS, history(7, killed=(7,))).outcome is Outcome.LOST
    assert judge(attempt, ANYBODYS, history()).outcome is Outcome.LOST
    assert judge(server_says(POST, 503), ANYBODYS, history(killed=(7,))).outcome is Outcome.LOST


def test_request_that_cannot_go_where_it_belongs_may_be_deferred() -> None:
    """Only where it belongs to somebody."""
    attempt = replace(server_says(POST, 503), answer=Answer(503, LATER, b"", is_last=True))
    assert judge(attempt, SHARDED, history()).outcome is Outcome.DEFERRED
    assert judge(attempt, SHARDED, history(7)).outcome is Outcome.LOST


def test_another_worker_may_answer_while_a_slot_has_none() -> None:
    """At that time, and for that slot."""
    owner = expected.owner("k1", 3)
    attempt = answered(replace(GET, segments=("k1",)), slot=(owner + 1) % 3)
    story = history(7)
    for absence, outcome in (
        (Absence(owner, 1.5), Outcome.DISPLACED),
        (Absence(owner, 0.5, 0.9), Outcome.WRONG_WORKER),
        (Absence(owner, 2.5), Outcome.WRONG_WORKER),
        (Absence((owner + 1) % 3, 1.5), Outcome.WRONG_WORKER),
    ):
        story.absences = [absence]
        assert judge(attempt, SHARDED, story).outcome is outcome


def test_quarantine_serves_what_is_anybodys() -> None:
    """It is there after a kill."""
    attempt = answered(replace(GET, segments=("k1",)), slot=-1)
    assert judge(attempt, SHARDED, history(7, killed=(8,))).outcome is Outcome.APART
    assert judge(attempt, SHARDED, history(7)).outcome is Outcome.WRONG_WORKER


def test_request_may_be_lost_behind_an_answer_that_its_worker_did_not_know_to_be_whole() -> None:
    """A WSGI app says last that there is no more; who dies long after it has said so knew."""
    wsgi = Configuration(interface="wsgi")
    story = history(killed=(7,), at_s=0.92)
    story.executions["before"] = [7]
    attempt = replace(lost(POST), previous=Request(id="before"), previous_s=0.9)
    assert judge(attempt, wsgi, story).outcome is Outcome.UNENDED
    assert judge(attempt, ANYBODYS, story).outcome is Outcome.LOST
    assert judge(replace(attempt, previous_s=0.8), wsgi, story).outcome is Outcome.LOST
    assert judge(replace(attempt, previous=None), wsgi, story).outcome is Outcome.LOST
    head = Request(id="before", method="HEAD", shape=Shape(count=3, pause_ms=40))
    attempt = replace(attempt, previous=head)
    assert judge(attempt, ANYBODYS, story).outcome is Outcome.UNENDED
    assert judge(replace(attempt, previous_s=0.71), ANYBODYS, story).outcome is Outcome.UNENDED
    assert judge(replace(attempt, previous_s=0.69), ANYBODYS, story).outcome is Outcome.LOST


def test_answer_whose_end_is_that_of_the_connection_may_be_cut_by_a_kill() -> None:
    """Nobody can tell; when nobody was killed it has to be all."""
    attempt = answered(LONG)
    assert attempt.answer is not None
    whole = replace(attempt.answer, is_delimited=False)
    part = replace(attempt, answer=replace(whole, body=whole.body[:9]))
    assert judge(part, ANYBODYS, history(7, killed=(7,))).outcome is Outcome.CUT
    assert judge(part, ANYBODYS, history(7)).outcome is Outcome.MISMATCH
    whole_attempt = replace(attempt, answer=whole)
    assert judge(whole_attempt, ANYBODYS, history(7, killed=(7,))).outcome is Outcome.ANSWERED


def test_request_belongs_to_the_owner_of_its_key() -> None:
    """Of as many slots as there were while it was under way."""
    request = replace(GET, segments=("k1",))
    before, after = expected.owner("k1", 3), expected.owner("k1", 9)
    assert before != after
    attempt = answered(request, slot=before)
    assert judge(attempt, SHARDED, history(7)).outcome is Outcome.ANSWERED
    assert judge(attempt, SHARDED, history(7, slots=9)).outcome is Outcome.WRONG_WORKER
    story = history(7)
    story.scaled.append(Scaled(9, 1.5))
    assert judge(attempt, SHARDED, story).outcome is Outcome.ANSWERED
    assert judge(answered(request, slot=after), SHARDED, story).outcome is Outcome.ANSWERED
    story.scaled[-1] = Scaled(9, 0.5, 0.9)
    assert judge(attempt, SHARDED, story).outcome is Outcome.WRONG_WORKER
    story.scaled[-1] = Scaled(9, 2.5, 2.9)
    assert judge(attempt, SHARDED, story).outcome is Outcome.ANSWERED


@pytest.mark.parametrize(
    ("sticky", "set_cookie", "outcome"),
    [
        (None, f"1.{SIGNATURE}", Outcome.ANSWERED),
        (None, f"2.{SIGNATURE}", Outcome.WRONG_WORKER),
        (None, "", Outcome.WRONG_WORKER),
        (f"1.{SIGNATURE}", "", Outcome.ANSWERED),
        (f"2.{SIGNATURE}", "", Outcome.WRONG_WORKER),
        (f"1.{SIGNATURE}", f"1.{SIGNATURE}", Outcome.WRONG_WORKER),
        (f"3.{SIGNATURE}", f"1.{SIGNATURE}", Outcome.ANSWERED),
    ],
)
def test_sticky_cookie_is_put_in_once_and_kept_to(
    sticky: str | None, set_cookie: str, outcome: Outcome
) -> None:
    """By the worker that answers first, here that of slot 1; a slot that is gone has none."""
    attempt = answered(GET, slot=1, sticky=sticky, set_cookie=set_cookie)
    assert judge(attempt, STICKY, history(7)).outcome is outcome


def test_nobody_else_puts_cookies_in() -> None:
    """A shard needs none."""
    attempt = answered(GET, set_cookie=f"0.{SIGNATURE}")
    assert judge(attempt, SHARDED, history(7)).outcome is Outcome.WRONG_WORKER


def test_history_reads_what_the_app_has_written_however_it_comes() -> None:
    """Lines in pieces."""
    story = History()
    for text in ("1-0.0 2 1", "23\n1-0.1 0 7\n1-0.0 ", "1 9\n"):
        story.feed(text)
    assert story.executions == {"1-0.0": [123, 9], "1-0.1": [7]}
    assert story.pids("2") == []

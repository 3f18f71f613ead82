"""Judges what has become of a request: right, wrong, or lost as it may be. Pure."""

from dataclasses import dataclass
from enum import StrEnum

from fuzz import expected
from fuzz.answers import Answer
from fuzz.configurations import Configuration, Routing
from fuzz.exchange import Kind, Request
from fuzz.history import History
from fuzz.plan import KEPT_BYTES

NEARLY_S = 0.1
"""From the last byte of an answer until the worker knows that it was the last, if that is later."""
ANYBODY = -1
IDLE_S = 4.0
"""An idle connection may be closed by the server after 5 seconds; the machine may be slow."""


class Outcome(StrEnum):
    """What becomes of a request. The first five must not be."""

    MISMATCH = "mismatched answers"
    WRONG_WORKER = "served by the wrong worker"
    TWICE = "executed twice"
    LOST = "lost"
    LATE = "no answer in time"
    ANSWERED = "answered"
    LEFT = "left by the client"
    CUT = "answer cut by a kill"
    NOT_REPEATED = "not to be repeated, its worker was killed"
    NEVER_BEGUN = "not to be repeated, read by a worker that was killed"
    TOO_LONG = "longer than what is kept, its worker was killed"
    BEHIND = "behind one that was lost so"
    REFUSED = "killed with two workers, answered 502"
    DEFERRED = "to come again, answered 503"
    DISPLACED = "answered by another, its slot had no worker"
    UNENDED = "the answer before had not ended, to a worker that was killed"
    APART = "answered in the quarantine"
    IDLE = "after the keep-alive time"


VIOLATIONS = (
    Outcome.MISMATCH,
    Outcome.WRONG_WORKER,
    Outcome.TWICE,
    Outcome.LOST,
    Outcome.LATE,
)


class End(StrEnum):
    """How a request ended that has no answer."""

    CLOSED = "the connection was closed"
    RESET = "the connection was reset"
    REFUSED = "no connection"
    LATE = "nothing more came"
    NONSENSE = "what came is no answer"
    LEFT = "the client has left"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One request, once: sent, and answered or not. Times in seconds, of one clock."""

    request: Request
    client: str
    """Who has sent it, as the server knows."""
    sticky: str | None = None
    """The sticky cookie that was sent with it."""
    began_s: float
    ended_s: float
    answer: Answer | None = None
    """All of it, or what has come when the client left, if that has all of the head."""
    end: End | None = None
    detail: str = ""
    received: int = 0
    """Bytes that have come of the answer."""
    sent: int = 0
    """Bytes of the request, and of the others that were sent in one go with it."""
    is_behind: bool = False
    """Whether one before it on the connection has ended it."""
    idle_s: float = 0.0
    """How long the connection has been idle before."""
    previous: Request | None = None
    """The one that was answered before on the connection."""
    previous_s: float = 0.0
    """When that was."""
    together: int = 1
    """How many requests were sent in one go."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What has become of a request, and what is to be said of it."""

    outcome: Outcome
    text: str = ""


def judge(attempt: Attempt, config: Configuration, history: History) -> Verdict:
    """Return what has become of a request."""
    repeated = executed_again(attempt.request.id, attempt.request.may_be_repeated, history)
    if repeated:
        return Verdict(Outcome.TWICE, f"{attempt.request.method}: {repeated}")
    if attempt.answer is None:
        return _unanswered(attempt, config, history)
    return _answered(attempt, attempt.answer, config, history)


def executed_again(identity: str, may_be_repeated: bool, history: History) -> str:
    """Return how a request was executed more often than it may be; empty when it was not."""
    pids = history.pids(identity)
    if len(pids) < 2:
        return ""
    if not may_be_repeated:
        return f"executed by {pids}"
    alive = [pid for pid in pids[:-1] if not history.is_killed(pid)]
    return f"executed by {pids}, though {alive} were not killed" if alive else ""


def _answered(attempt: Attempt, answer: Answer, config: Configuration, history: History) -> Verdict:
    request = attempt.request
    told = expected.told_by(answer)
    if not told:
        return _answered_by_server(attempt, answer, config, history)
    is_whole = attempt.end is None
    if not answer.is_delimited and history.is_killed(told["pid"]):
        # Where the connection ends the answer does, whatever the reason: RFC 9112, 6.3.
        is_whole = answer.body == expected.body(request)
    wrong = expected.differences(request, answer, config, attempt.client, is_whole=is_whole)
    pids = history.pids(request.id)
    if told["pid"] not in pids:
        wrong.append(f"pid: {told['pid']}, but it was executed by {pids}")
    if wrong:
        return Verdict(Outcome.MISMATCH, "; ".join(wrong))
    if told["slot"] < 0 and history.kills:
        return Verdict(Outcome.APART if is_whole else Outcome.LEFT)
    owners = _owners(attempt, config, history)
    if stray := _stray(attempt, answer, told["slot"], owners, config):
        times = attempt.began_s, attempt.ended_s
        is_displaced = any(history.is_absent(one, *times) for one in owners)
        return Verdict(Outcome.DISPLACED if is_displaced else Outcome.WRONG_WORKER, stray)
    if is_whole:
        return Verdict(Outcome.ANSWERED)
    return Verdict(Outcome.LEFT if attempt.end is End.LEFT else Outcome.CUT)


def _owners(attempt: Attempt, config: Configuration, history: History) -> set[int]:
    """Return whose the request was while it was under way; `ANYBODY` when it is nobody's."""
    owners = {
        expected.slot(attempt.request, config, attempt.client, attempt.sticky, slots)
        for slots in history.slots(attempt.began_s, attempt.ended_s)
    }
    return {ANYBODY if one is None else one for one in owners}


def _stray(
    attempt: Attempt, answer: Answer, slot: int, owners: set[int], config: Configuration
) -> str:
    """Return what is wrong with who has answered."""
    sticky = answer.headers.get("set-cookie", "").partition(";")[0].partition("=")[2]
    if ANYBODY not in owners and slot not in owners:
        return f"slot {slot}, not {' or '.join(map(str, sorted(owners)))}"
    if config.routing is not Routing.COOKIE:
        return f"a cookie {sticky!r} that nobody wants" if sticky else ""
    if sticky and ANYBODY not in owners:
        return f"the cookie {sticky!r} in place of {attempt.sticky!r}"
    if owners == {ANYBODY} and expected.slot_of_cookie(sticky) != slot:
        return f"slot {slot} has put in the cookie {sticky!r}"
    return ""


def _answered_by_server(
    attempt: Attempt, answer: Answer, config: Configuration, history: History
) -> Verdict:
    """Judge an answer that is not the app's."""
    pids = history.pids(attempt.request.id)
    text = f"the server has answered {answer.status} {answer.body[:60]!r}; executed by {pids}"
    deaths = history.deaths(attempt.began_s, attempt.ended_s)
    if answer.status == 502 and deaths >= 2 and all(map(history.is_killed, pids)):
        # Also with no execution written down: what calls the app may be at work on it.
        return Verdict(Outcome.REFUSED, text)
    may_defer = config.is_routed or bool(history.kills)
    if answer.status == 503 and "retry-after" in answer.headers and may_defer and not pids:
        return Verdict(Outcome.DEFERRED, text)
    return Verdict(Outcome.LOST if answer.status in (502, 503) else Outcome.MISMATCH, text)


def _unanswered(attempt: Attempt, config: Configuration, history: History) -> Verdict:
    request = attempt.request
    pids = history.pids(request.id)
    text = (
        f"{attempt.end} {attempt.detail} after {attempt.ended_s - attempt.began_s:.3f} s, "
        f"{attempt.sent} bytes sent, {attempt.received} received; executed by {pids}"
    )
    if attempt.end is End.LEFT:
        return Verdict(Outcome.LEFT)
    if attempt.end is End.NONSENSE:
        return Verdict(Outcome.MISMATCH, text)
    if attempt.end is End.LATE:
        return Verdict(Outcome.LATE, text)
    if attempt.is_behind:
        return Verdict(Outcome.BEHIND)
    if attempt.idle_s > IDLE_S and not pids:
        return Verdict(Outcome.IDLE)
    return Verdict(_excuse(attempt, config, history), text)


def _excuse(attempt: Attempt, config: Configuration, history: History) -> Outcome:
    """Return why a connection may have ended before the answer did."""
    request = attempt.request
    pids = history.pids(request.id)
    if not pids and not attempt.received and _is_unended(attempt, config, history):
        return Outcome.UNENDED
    deaths = history.deaths(attempt.began_s, attempt.ended_s)
    if not deaths or not all(map(history.is_killed, pids)):
        return Outcome.LOST
    if attempt.received:
        # A short answer is sent whole, or not at all; that of a WSGI app is its head, and then it.
        is_cut = config.interface == "wsgi" or not request.shape.is_short
        return Outcome.CUT if is_cut else Outcome.LOST
    if not request.may_be_repeated:
        return Outcome.NOT_REPEATED if pids else Outcome.NEVER_BEGUN
    if attempt.sent > KEPT_BYTES or _is_behind_long(attempt, config):
        return Outcome.TOO_LONG
    return Outcome.LOST


def _is_behind_long(attempt: Attempt, config: Configuration) -> bool:
    """Tell whether the worker may have read the request behind one that it did not keep.

    That is so when the client had all of the answer before the worker knew it to be all.
    """
    previous = attempt.previous
    return config.interface == "wsgi" and previous is not None and previous.size > KEPT_BYTES


def _is_unended(attempt: Attempt, config: Configuration, history: History) -> bool:
    """Tell whether the worker may not have known that the answer before was all there.

    The client knows by its length. The worker does when the app says that there is no more: that a
    WSGI app says last of all, and any app after the body of an answer to HEAD, which is not sent.
    """
    previous = attempt.previous
    if previous is None:
        return False
    shape, until_s = previous.shape, attempt.previous_s + NEARLY_S
    if previous.method == "HEAD":
        until_s += shape.count * shape.pause_ms / 1000
    elif config.interface != "wsgi" or shape.kind is Kind.CHUNKED:
        return False
    pids = history.pids(previous.id)
    return any(kill.pid in pids and kill.began_s <= until_s for kill in history.kills)

"""A server that is broken is noticed: each kind of violation, once brought about, is found."""

import itertools
import os
from collections.abc import Iterator
from random import Random

import pytest

from fuzz import clients
from fuzz.configurations import APP, Configuration, Faults, Routing
from fuzz.exchange import Kind, Request
from fuzz.plan import connections
from fuzz.rounds import Result, Setup, play
from fuzz.verdict import VIOLATIONS, Outcome

SEED = "broken"
CLIENTS = 32
MAX_ROUNDS = 6
"""How often it is tried to hit a request with a kill."""

WRAPPED = (
    APP.read_text()
    + """
good = app

async def app(scope, receive, send):
    is_odd = dict(scope["headers"])[b"x-id"] == b"ODD"
    await (broken if is_odd else good)(scope, receive, send)
"""
)
"""The app, but for one request."""

WRONG_BYTE = """
async def broken(scope, receive, send):
    async def sending(message):
        if body := message.get("body"):
            message = {**message, "body": body[:-1] + bytes([body[-1] ^ 1])}
        await send(message)

    await good(scope, receive, sending)
"""
ANSWER_TO_ANOTHER = """
async def broken(scope, receive, send):
    headers = [(n, b"another" if n == b"x-id" else value) for n, value in scope["headers"]]
    await good({**scope, "headers": headers}, receive, send)
"""
TWICE = """
async def broken(scope, receive, send):
    note("ODD")
    await good(scope, receive, send)
"""
NO_ANSWER = """
async def broken(scope, receive, send):
    await asyncio.sleep(60)
"""
CUT = """
async def broken(scope, receive, send):
    start = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]}
    await send(start)
    await send({"type": "http.response.body", "body": b"half", "more_body": True})
    raise ConnectionError("as planned")
"""


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the environment as it was."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", os.environ.get("XDG_RUNTIME_DIR", ""))


def requests() -> Iterator[Request]:
    """Yield the first requests of the clients."""
    for client in range(CLIENTS):
        plan = connections(Configuration(), Random(f"{SEED} 0 client {client}"), prefix=f"{client}")
        for connection in itertools.islice(plan, 2):
            for step in connection.steps:
                yield from step.requests


def odd() -> Request:
    """Return a POST among them that has an answer of some bytes."""
    return next(
        one
        for one in itertools.islice(requests(), 5, None)
        if one.method == "POST" and one.shape.kind is Kind.LENGTH and one.shape.size > 9
    )


def violations(result: Result) -> dict[Outcome, int]:
    """Return what was found, and show all of it when the test fails."""
    print(result.outcomes, *result.troubles, *(text for _, text in result.shown), result.log)
    return {one: result.outcomes[one] for one in VIOLATIONS if result.outcomes[one]}


@pytest.mark.parametrize(
    ("how", "outcome"),
    [
        (WRONG_BYTE, Outcome.MISMATCH),
        (ANSWER_TO_ANOTHER, Outcome.MISMATCH),
        (TWICE, Outcome.TWICE),
        (NO_ANSWER, Outcome.LATE),
        (CUT, Outcome.LOST),
    ],
    ids=["wrong byte", "answer to another", "executed twice", "no answer", "cut"],
)
def test_app_that_is_wrong_once_is_found(
    monkeypatch: pytest.MonkeyPatch, how: str, outcome: Outcome
) -> None:
    """The one request of hundreds, and no other; it is told which one."""
    monkeypatch.setattr(clients, "PATIENCE_S", 5.0)
    identity = odd().id
    source = (WRAPPED + how).replace("ODD", identity)
    plain = Configuration()
    result = play(Setup(seed=SEED, number=0, clients=CLIENTS, seconds=3.0, judge=plain, app=source))
    assert violations(result) == {outcome: 1}
    assert result.outcomes[Outcome.ANSWERED] > 100
    ((found, text),) = result.shown
    assert found is outcome and f"{outcome}: {identity} " in text


def test_server_that_does_not_shard_is_found() -> None:
    """One that is to."""
    sharded = Configuration(routing=Routing.BY_PATH)
    plain = Configuration()
    setup = Setup(seed=SEED, number=0, clients=8, seconds=1.0, judge=sharded, serve=plain)
    found = violations(play(setup))
    assert found[Outcome.WRONG_WORKER] > 10


@pytest.mark.parametrize(
    ("extra", "outcome"),
    [('replay = "all"\n', Outcome.TWICE), ("crash_recovery = false\n", Outcome.LOST)],
    ids=["all is repeated", "nothing is recovered"],
)
def test_server_that_recovers_wrongly_is_found(extra: str, outcome: Outcome) -> None:
    """As soon as a kill hits the right request."""
    config = Configuration(faults=Faults.KILLS)
    for number in range(MAX_ROUNDS):
        setup = Setup(
            seed=SEED, number=number, clients=CLIENTS, seconds=3.0, judge=config, extra=extra
        )
        if violations(play(setup)).get(outcome):
            return
    pytest.fail(f"no {outcome} in {MAX_ROUNDS} rounds")

"""Sharding: each key's requests are answered by the worker that owns it."""

import signal
from collections import defaultdict
from pathlib import Path

import pytest
from conftest import SCHEDULINGS, Start
from instance import wait_until
from routed import APP, CONFIG, replace_one, slot_of
from web import connection, fetch

from sdcluster.wire.rendezvous import owner


@pytest.mark.parametrize(
    ("shard", "target", "headers"),
    [
        ('{ by = "header:X-Tenant" }', "/", {"X-Tenant": "tom"}),
        ('{ by = "path:1" }', "/tom/5", {}),
        ('{ by = "query:user" }', "/?user=tom", {}),
        ('{ by = "cookie:user" }', "/", {"Cookie": "a=b; user=tom"}),
    ],
)
def test_key_is_answered_by_its_owner(
    start: Start, shard: str, target: str, headers: dict[str, str]
) -> None:
    """And the app knows who that is."""
    instance = start(APP, config=CONFIG.format("round-robin") + f"shard = {shard}\n")
    answers = [fetch(instance.address, target, headers=headers) for _ in range(12)]
    assert {slot_of(one) for one in answers} == {owner("tom", 4)}
    assert {one.text.split()[3] for one in answers} == {str(owner("tom", 4))}


@pytest.mark.parametrize("preload", ["true", "false"])
@pytest.mark.parametrize("scheduling", SCHEDULINGS)
def test_key_may_come_from_a_function_of_the_app(
    start: Start, engine: str, scheduling: str, preload: str
) -> None:
    """Where it fails, the request is served where it is, and the log says why, once a worker."""
    config = CONFIG.format(scheduling) + f'shard = "app:key"\npreload = {preload}\n'
    instance = start(APP, config=config)
    with connection(instance.address) as client:
        for number in range(64):
            assert slot_of(client.fetch(f"/{number}")) == owner(f"/{number}", 4), engine
    for _ in range(20):
        fetch(instance.address, "/fails")
    assert 1 <= instance.log().count("RuntimeError: no key for this") <= 4


def test_function_that_is_not_there_is_told_before_anything_changes(start: Start) -> None:
    """A reload fails, and the old workers serve on."""
    instance = start(APP, config=CONFIG.format("round-robin"))
    path = Path(f"/proc/{instance.pid}/cwd/{instance.name}.toml")
    path.write_text(CONFIG.format("round-robin") + 'shard = "app:keys"\n')
    result = instance.reload()
    assert result.returncode != 0
    assert "'app' has no attribute 'keys'; there is key" in result.stdout + result.stderr
    fetch(instance.address)


def test_app_knows_what_is_its_own(start: Start) -> None:
    """Each key belongs to one worker; with one worker more, few keys change hands."""

    def owned(count: int) -> dict[str, int]:
        found: dict[int, str] = {}

        def ask() -> bool:
            answer = fetch(instance.address)
            found[slot_of(answer)] = answer.text.split(" ")[4]
            return len(found) == count

        wait_until(ask, "an answer of each worker")
        keys: defaultdict[str, list[int]] = defaultdict(list)
        for slot, text in found.items():
            for key in text.split(","):
                keys[key].append(slot)
        assert all(len(owners) == 1 for owners in keys.values())
        assert len(keys) == 64
        return {key: owners[0] for key, owners in keys.items()}

    instance = start(APP, config=CONFIG.format("round-robin"))
    before = owned(4)
    instance.signal(signal.SIGTTIN)
    instance.wait_status(lambda status: status["ready"] == 5)
    after = owned(5)
    moved = [key for key in before if before[key] != after[key]]
    assert {after[key] for key in moved} == {4}
    assert 4 <= len(moved) <= 24


DISAGREE = """
import os

from sdcluster import cluster

def key(scope):
    # One that this worker does not own, whichever it is.
    return next(f"{n}" for n in range(99) if not cluster.owns(f"{n}"))

async def app(scope, receive, send):
    assert scope["type"] == "http"
    body = os.environ["SDCLUSTER_SLOT"].encode()
    await send({"type": "http.response.start", "status": 200,
                "headers": [(b"content-length", b"1")]})
    await send({"type": "http.response.body", "body": body})
"""
"""An app each of whose workers thinks that another has to answer."""


def test_request_that_everybody_hands_on_is_answered(start: Start) -> None:
    """After some hops, where it is; and so is the next one on the connection."""
    instance = start(DISAGREE, config=CONFIG.format("round-robin") + 'shard = "app:key"\n')
    with instance.under_load(close=False, clients=16) as load:
        instance.wait_answered(500)
    assert load.lost == 0, load.errors
    assert load.connections == 16


@pytest.mark.parametrize("scheduling", SCHEDULINGS)
def test_workers_die_while_requests_are_handed_over(start: Start, scheduling: str) -> None:
    """Between the two workers, too, nothing is lost."""
    config = CONFIG.format(scheduling) + 'shard = { by = "path:1" }\n'
    instance = start(APP, config=config)
    with instance.under_load(close=False, clients=32, path="tom") as load:
        for _ in range(5):
            replace_one(instance)
            instance.wait_answered(100)
    assert load.lost == 0, load.errors
    assert load.connections == 32

"""Which worker gets a connection, and which go to another: the spread, as clients see it."""

import os
import signal
from collections import Counter
from contextlib import ExitStack

import pytest
from conftest import HELLO, SCHEDULED, Start
from instance import Instance, wait_until
from processes import stop
from web import Connection, connection

CLIENTS = 64

UNLIKE = """
import asyncio
import os

async def app(scope, receive, send):
    assert scope["type"] == "http"
    slot = os.environ["SDCLUSTER_SLOT"]
    await asyncio.sleep(0.08 if slot == "0" else 0.004)
    body = slot.encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""
"""An app that answers with its slot; that of slot 0 is twenty times as slow."""


def slot_of(client: Connection) -> int:
    """Return who answers a client."""
    return int(client.fetch().text.split()[0])


def spread(instance: Instance) -> list[int]:
    """Return how many connections each worker has, by slot."""
    found = {one["slot"]: int(one["connections"]) for one in instance.status()["workers"]}
    return [found[slot] for slot in sorted(found)]


def open_many(stack: ExitStack, instance: Instance, count: int) -> list[Connection]:
    """Open kept-alive connections, one after the other."""
    clients = []
    for _ in range(count):
        clients.append(stack.enter_context(connection(instance.address)))
        slot_of(clients[-1])
    return clients


@pytest.mark.parametrize("policy", ["round-robin", "least-connections"])
def test_workers_get_connections_by_their_weight(start: Start, policy: str) -> None:
    """Three times the weight is three times the connections."""
    instance = start(HELLO, config=SCHEDULED.format(policy) + "weights = [3, 1]\n")
    with ExitStack() as stack:
        open_many(stack, instance, 40)
        assert spread(instance) == [30, 10]


def test_worker_with_the_fewest_connections_gets_the_next(start: Start) -> None:
    """One that others have left is filled up first."""
    instance = start(HELLO, config=SCHEDULED.format("least-connections"))
    with ExitStack() as stack:
        clients = open_many(stack, instance, 20)
        assert spread(instance) == [10, 10]
        for client in clients:
            if slot_of(client) == 0:
                client.close()
        wait_until(lambda: spread(instance) == [0, 10], "they are closed")
        assert {slot_of(one) for one in open_many(stack, instance, 10)} == {0}
        assert spread(instance) == [10, 10]


def test_worker_that_is_slow_gets_less(start: Start) -> None:
    """And is not forgotten: it would not be seen that it is well again."""
    shares = {}
    for policy in ("round-robin", "least-latency"):
        instance = start(UNLIKE, config=SCHEDULED.format(policy))
        with instance.under_load(close=True, clients=16) as load:
            instance.wait_answered(600)
        assert load.lost == 0, load.errors
        shares[policy] = load.by_body["0"] / load.requests
    assert 0 < shares["least-latency"] < 0.15 < 0.3 < shares["round-robin"], shares


@pytest.mark.parametrize("scheduling", ["round-robin", "least-latency", "shared", "reuseport"])
def test_connections_of_a_small_cluster_are_shared_when_it_grows(
    start: Start, scheduling: str
) -> None:
    """All are at one worker; under load half of them go to the new one, and nothing is lost."""
    config = SCHEDULED.format(scheduling).replace("workers = 2", "workers = 1")
    instance = start(HELLO, config=config + "rebalance = true\n")
    with instance.under_load(close=False, clients=CLIENTS) as load:
        wait_until(lambda: spread(instance) == [CLIENTS], "all are there")
        instance.signal(signal.SIGTTIN)
        wait_until(lambda: is_even(spread(instance)), "they are shared")
    assert load.lost == 0, load.errors
    assert load.connections == CLIENTS


def is_even(counts: list[int]) -> bool:
    """Tell whether two workers have about as many connections, and all there are."""
    return len(counts) == 2 and sum(counts) == CLIENTS and max(counts) - min(counts) <= 6


def test_idle_connections_that_have_piled_up_are_shared(start: Start) -> None:
    """One worker was stopped when they came; each client goes on with the connection it has."""
    instance = start(HELLO, config=SCHEDULED.format("shared") + "rebalance = true\n")
    pids = {one["slot"]: one["pid"] for one in instance.status()["workers"]}
    with ExitStack() as stack:
        stop(pids[1])
        clients = [stack.enter_context(connection(instance.address)) for _ in range(CLIENTS)]
        assert {slot_of(client) for client in clients} == {0}
        assert spread(instance)[1] == 0
        os.kill(pids[1], signal.SIGCONT)
        sockets = [client.sock for client in clients]
        wait_until(lambda: is_even(spread(instance)), "they are shared")
        slots = Counter(slot_of(client) for client in clients)
        assert is_even([*slots.values()])
        assert [client.sock for client in clients] == sockets


def test_connections_come_to_rest(start: Start) -> None:
    """Once they are shared none moves any more."""
    config = SCHEDULED.format("shared").replace("workers = 2", "workers = 1")
    instance = start(HELLO, config=config + "rebalance = true\n")
    with ExitStack() as stack:
        clients = open_many(stack, instance, CLIENTS)
        instance.signal(signal.SIGTTIN)
        wait_until(lambda: is_even(spread(instance)), "they are shared")
        slots = [slot_of(client) for client in clients]
        for _ in range(10):
            assert [slot_of(client) for client in clients] == slots

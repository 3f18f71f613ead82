"""How even the workers' shares are: of connections kept alive, and beside a slow worker.

`spread` is the requests of the worker that gets most to those of the one that gets least, of 64
connections that take turns: as they come, and when idle ones have moved (`rebalance = true`).

`slow` has a connection a request, and a worker whose answers take 50 ms: what the 99th percentile
of all is, by how the master chooses. Few clients: what many wait for is the processor.
"""

import contextlib
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping

import wrk
from instances import ANSWER_TIMEOUT_S, Instance, ask_again, running
from measures import Sample
from options import Effort
from report import Table, number, ratio
from results import Results
from servers import sdcluster

SPREAD, SLOW = "spread", "slow"
ACCEPTING = ("shared", "reuseport")
POLICIES = ("round-robin", "least-connections", "least-latency")
WORKERS = 4
CONNECTIONS = 64
SETTLE_S = 5.0
"""More than rebalancing takes."""
SLOW_CLIENTS = 16
SLOW_APP = "slow_asgi:app"


def spread(effort: Effort) -> Mapping[str, Sample]:
    """Most to least requests of a worker, by who accepts; as connections come, and rebalanced."""
    found = {}
    for scheduling in ACCEPTING:
        figures = {}
        for name, config in (("as they come", ""), ("rebalanced", "rebalanced.toml")):
            with running(sdcluster(scheduling, config=config), workers=WORKERS) as instance:
                figures[name] = _most_to_least(instance, effort)
        found[scheduling] = Sample(figures)
    return found


def _most_to_least(instance: Instance, effort: Effort) -> float:
    """Return it for requests in turn on connections that stay open."""
    with contextlib.ExitStack() as stack:
        clients = []
        for _ in range(CONNECTIONS):
            address = ("127.0.0.1", instance.launch.port)
            client = stack.enter_context(socket.create_connection(address, ANSWER_TIMEOUT_S))
            ask_again(client)
            clients.append(client)
        _take_turns(clients, SETTLE_S)
        answers = _take_turns(clients, effort.load_s)
    least = min(answers.values()) if len(answers) == WORKERS else 0
    return max(answers.values()) / least if least else float("inf")


def _take_turns(clients: list[socket.socket], seconds: float) -> Counter[bytes]:
    """Return how many answers each worker has given."""
    answers: Counter[bytes] = Counter()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for client in clients:
            answers[ask_again(client)] += 1
    return answers


def slow(effort: Effort) -> Mapping[str, Sample]:
    """Requests a second and the 99th percentile, by policy."""
    found = {}
    for policy in POLICIES:
        with running(sdcluster(policy), workers=WORKERS, app=SLOW_APP) as instance:
            for seconds in (1, effort.load_s):
                rate = wrk.rate(
                    f"{instance.url}/", seconds=seconds, close=True, connections=SLOW_CLIENTS
                )
            found[policy] = Sample({"rate": rate.per_s, "p99": rate.p99_ms})
    return found


ROUNDS: Mapping[str, Callable[[Effort], Mapping[str, Sample]]] = {SPREAD: spread, SLOW: slow}


def spread_table(results: Results) -> Table:
    """Return the spread before and after."""
    figures = ("as they come", "rebalanced")
    rows = [
        [name, *(number(results.median(SPREAD, name, figure), ".2f") for figure in figures)]
        for name in results.servers(SPREAD)
    ]
    title = f"Requests of {CONNECTIONS} kept-alive connections, {WORKERS} workers, most to least"
    return Table(title, ["scheduling", *figures], rows)


def slow_table(results: Results) -> Table:
    """Return the rate and the percentile, and what that is to round-robin's."""
    rows = []
    for name in results.servers(SLOW):
        rows.append(
            [
                name,
                number(results.median(SLOW, name, "rate"), ",.0f"),
                number(results.median(SLOW, name, "p99"), ".1f"),
                ratio(results.ratio(SLOW, name, "p99", to=POLICIES[0])),
            ]
        )
    title = f"One of {WORKERS} workers is slow (50 ms), {SLOW_CLIENTS} clients, a connection each"
    return Table(title, ["scheduling", "req/s", "p99 ms", "to round-robin"], rows)


TABLES: Mapping[str, Callable[[Results], Table]] = {SPREAD: spread_table, SLOW: slow_table}

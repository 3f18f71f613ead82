"""What it costs that connections can move: the ledger, by request, and a hand-off.

The ledger is what a request costs a worker more than one of uvicorn's own, with the same loop and
parser: the gate is in it as well. Both run, and are loaded in turns. A hand-off is what a request
takes longer whose connection has to go to the other worker, on one connection whose requests go to
and fro.
"""

import socket
import statistics
import time
from collections.abc import Mapping, Sequence

import wrk
from instances import ANSWER_TIMEOUT_S, Instance, ServerFailed, ask_again, running
from measures import WORKERS, Sample
from options import Effort
from processes import cpu_ns
from report import Table
from results import Results
from servers import SERVERS, sdcluster

MEASURE = "moving"
OURS = "sdcluster shared"
PEER = "uvicorn"
KEYS = [f"key-{number}" for number in range(32)]
PAIRS = 5
"""Loads of a second for each of the two, in turns, for each second that a load is to take."""
SLICE = 50
"""Requests that follow each other and stay, or move."""


def moves(effort: Effort) -> Mapping[str, Sample]:
    """Microseconds of a request: of processor time, and of a client that waits for it."""
    ours, peer = (one for name in (OURS, PEER) for one in SERVERS if one.name == name)
    with running(ours, workers=WORKERS) as first, running(peer, workers=WORKERS) as second:
        costs = _cpu_us((first, second), effort)
    found = dict(zip((OURS, PEER), (Sample({"cpu us": one}) for one in costs), strict=True))
    with running(sdcluster("round-robin", config="sharded.toml"), workers=WORKERS) as instance:
        found[OURS].figures |= _hand_off(instance.launch.port, effort)
    return found


def _cpu_us(instances: Sequence[Instance], effort: Effort) -> list[float]:
    """Return the processor time of a kept-alive request, in all processes of each server."""
    times: list[list[float]] = [[] for _ in instances]
    for instance in instances:
        wrk.rate(f"{instance.url}/", seconds=1, close=False)
    for _ in range(PAIRS * effort.load_s):
        for instance, of_it in zip(instances, times, strict=True):
            before = _cpu_ns(instance)
            rate = wrk.rate(f"{instance.url}/", seconds=1, close=False)
            of_it.append((_cpu_ns(instance) - before) / rate.requests / 1e3)
    return [statistics.median(of_it) for of_it in times]


def _cpu_ns(instance: Instance) -> int:
    return sum(cpu_ns(pid) for pid in instance.tree())


def _hand_off(port: int, effort: Effort) -> dict[str, float]:
    """Return what requests take on one connection that stays, and on one that moves."""
    with socket.create_connection(("127.0.0.1", port), ANSWER_TIMEOUT_S) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        owners = {_ask(client, key): key for key in KEYS}
        if len(owners) != WORKERS:
            raise ServerFailed(f"{len(owners)} of {WORKERS} workers have a key")
        here, there = owners.values()
        times: dict[str, list[float]] = {"stays us": [], "moves us": []}
        until = time.monotonic() + effort.load_s
        while time.monotonic() < until:
            for name, keys in (("stays us", (here, here)), ("moves us", (here, there))):
                _ask(client, keys[1])
                for turn in range(SLICE):
                    began = time.perf_counter()
                    _ask(client, keys[turn % 2])
                    times[name].append((time.perf_counter() - began) * 1e6)
    return {name: statistics.median(values) for name, values in times.items()}


def _ask(client: socket.socket, key: str) -> bytes:
    return ask_again(client, f"X-Key: {key}")


def table(results: Results) -> Table:
    """Return the times, and what is more than without."""
    rows = []
    peer = results.median(MEASURE, PEER, "cpu us")
    ours = results.median(MEASURE, OURS, "cpu us")
    stays = results.median(MEASURE, OURS, "stays us")
    moves_us = results.median(MEASURE, OURS, "moves us")
    for what, less, more in (
        ("a request's processor time, uvicorn and ours: the ledger", peer, ours),
        ("a request that stays, and one that moves: a hand-off", stays, moves_us),
    ):
        if less is not None and more is not None:
            rows.append([what, f"{less:.1f}", f"{more:.1f}", f"{more - less:.1f}"])
    return Table("That connections can move, microseconds", ["", "without", "with", "cost"], rows)

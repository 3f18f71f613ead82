"""What it costs that connections can move: the ledger, by request, and a hand-off.

The ledger is what a request costs a worker more than one of uvicorn's own, with the same loop and
parser: the gate is in it as well. A hand-off is what a request takes longer whose connection has to
go to the other worker, on one connection whose requests go to and fro.
"""

import os
import socket
import statistics
import time
from collections.abc import Mapping

import wrk
from instances import ANSWER_TIMEOUT_S, Instance, ServerFailed, ask_again, running
from measures import WORKERS, Sample
from options import Effort
from report import Table
from results import Results
from servers import SERVERS, sdcluster

MEASURE = "moving"
OURS = "sdcluster shared"
PEER = "uvicorn"
KEYS = [f"key-{number}" for number in range(32)]
SLICE = 50
"""Requests that follow each other and stay, or move."""

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def moves(effort: Effort) -> Mapping[str, Sample]:
    """Microseconds of a request: of processor time, and of a client that waits for it."""
    found: dict[str, Sample] = {}
    for server in SERVERS:
        if server.name in (OURS, PEER):
            with running(server, workers=WORKERS) as instance:
                found[server.name] = Sample({"cpu us": _cpu_us(instance, effort)})
    with running(sdcluster("round-robin", config="sharded.toml"), workers=WORKERS) as instance:
        found[OURS].figures |= _hand_off(instance.launch.port, effort)
    return found


def _cpu_us(instance: Instance, effort: Effort) -> float:
    """Return the processor time of a kept-alive request, in all processes of a server."""
    wrk.rate(f"{instance.url}/", seconds=1, close=False)
    before = _cpu_s(instance)
    rate = wrk.rate(f"{instance.url}/", seconds=effort.load_s, close=False)
    return (_cpu_s(instance) - before) / (rate.per_s * effort.load_s) * 1e6


def _cpu_s(instance: Instance) -> float:
    total = 0
    for pid in instance.tree():
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / _TICKS_PER_S


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

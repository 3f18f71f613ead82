"""What is measured of a server, a function each: from a server to named figures.

A figure is a number; a sample that a server failed to give is told by `ServerFailed`.
"""

import itertools
import os
import signal
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import instances
import load
import processes
import wrk
from instances import Instance, ServerFailed, running
from options import Effort
from servers import FASTAPI, Kind, Server

WORKERS = 2
MEMORY_WORKERS = 4
RELOAD_CLIENTS = 32
KILL_CLIENTS = 64
RELOADS = 2
KILLS = 5
PAUSE_S = 0.7
RESPAWN_TIMEOUT_S = 15.0


@dataclass(slots=True)
class Sample:
    """The figures of one turn, and what went wrong in it, if anything did."""

    figures: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


Measure = Callable[[Server, Effort], Sample]


def throughput(server: Server, effort: Effort) -> Sample:
    """Requests a second: kept-alive, a connection each, and bound by the CPU."""
    sample = Sample()
    works = {"keep-alive": ("/", False), "close": ("/", True), "cpu": ("/cpu", False)}
    with running(server, workers=WORKERS) as instance:
        wrk.rate(f"{instance.url}/", seconds=1, close=False)
        # V8 compiles the accepting path late: Node's rate still doubles over these seconds.
        wrk.rate(f"{instance.url}/", seconds=3, close=True)
        for name, (path, close) in works.items():
            rate = wrk.rate(instance.url + path, seconds=effort.load_s, close=close)
            sample.figures[name] = rate.per_s
            sample.figures[f"{name} p99"] = rate.p99_ms
            sample.figures[f"{name} errors"] = rate.errors
    return sample


def reload(server: Server, effort: Effort) -> Sample:
    """Requests lost over two reloads, by clients of both kinds."""
    del effort
    return _losses(server, clients=RELOAD_CLIENTS, disturb=Instance.reload, times=RELOADS)


def kill(server: Server, effort: Effort) -> Sample:
    """Requests lost over five kills of a worker, by clients of both kinds."""
    del effort
    turn = itertools.count()

    def end_one(instance: Instance, workers: list[int]) -> list[int]:
        victim = workers[next(turn) % len(workers)]
        os.kill(victim, signal.SIGKILL)
        return instance.wait_for_workers(without=frozenset({victim}))

    return _losses(server, clients=KILL_CLIENTS, disturb=end_one, times=KILLS)


def _losses(
    server: Server,
    *,
    clients: int,
    disturb: Callable[[Instance, list[int]], list[int]],
    times: int,
) -> Sample:
    """Disturb a server under load; `disturb` is given the workers and returns those after it."""
    sample = Sample()
    for name, close in (("keep-alive", False), ("close", True)):
        with running(server, workers=WORKERS) as instance:
            workers = instance.wait_for_workers()
            with load.running(f"{instance.url}/wait", clients=clients, close=close) as losses:
                try:
                    for _ in range(times):
                        time.sleep(PAUSE_S)
                        began = time.monotonic()
                        workers = disturb(instance, workers)
                        sample.figures[f"{name} s"] = time.monotonic() - began
                    time.sleep(PAUSE_S)
                except (ServerFailed, ProcessLookupError) as failure:
                    sample.notes.append(f"{name}: {failure}")
            sample.figures[f"{name} requests"] = losses.requests
            sample.figures[f"{name} lost"] = losses.lost
    return sample


def respawn(server: Server, effort: Effort) -> Sample:
    """Milliseconds from SIGKILL to the first answer of a replacement.

    All workers are killed (one, where a server can have one), so that no other can answer. Each
    sample is of a fresh start: a second crash is made to wait by some, and ends others.
    """
    del effort
    with running(server, workers=server.fewest_workers, app=FASTAPI) as instance:
        victims = instance.wait_for_workers()
        began = time.monotonic()
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
        while instances.ask_pid(instance.launch.port) in (None, *victims):
            instance.check()
            if time.monotonic() - began > RESPAWN_TIMEOUT_S:
                raise ServerFailed(f"no worker after {RESPAWN_TIMEOUT_S:g} s")
            time.sleep(0.001)
        return Sample({"ms": (time.monotonic() - began) * 1000})


def memory(server: Server, effort: Effort) -> Sample:
    """MiB (PSS) of four workers that have imported a FastAPI app and answered requests."""
    del effort
    with running(server, workers=MEMORY_WORKERS, app=FASTAPI) as instance:
        wrk.rate(f"{instance.url}/items/7", seconds=2, close=True)
        workers = instance.wait_for_workers()
        if len(workers) != MEMORY_WORKERS:
            raise ServerFailed(f"{len(workers)} of {MEMORY_WORKERS} workers answer")
        sizes = [processes.pss_kib(pid) / 1024 for pid in workers]
        tree = sum(processes.pss_kib(pid) / 1024 for pid in instance.tree())
        figures = {"worker": statistics.median(sizes), "workers": sum(sizes), "tree": tree}
        return Sample(figures)


def idle(server: Server, effort: Effort) -> Sample:
    """Resident MiB and wake-ups a second of the first process, when nothing happens."""
    with running(server, workers=WORKERS) as instance:
        time.sleep(1.5)  # What the start has left to do is not what is measured.
        before, began = processes.wake_ups(instance.master), time.monotonic()
        time.sleep(effort.idle_s)
        woken, seconds = processes.wake_ups(instance.master) - before, time.monotonic() - began
        rss = processes.rss_kib(instance.master) / 1024
        return Sample({"rss": rss, "wake-ups": woken / seconds})


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A measure, of whom, and how often."""

    measure: Measure
    kinds: frozenset[Kind]
    rounds: Callable[[Effort], int]


ANY = frozenset(Kind) - {Kind.LIBRARY}
ONLY_ASGI = frozenset({Kind.ASGI})

PLANS: Mapping[str, Plan] = {
    "throughput": Plan(measure=throughput, kinds=ANY, rounds=lambda effort: effort.rounds),
    "reload": Plan(measure=reload, kinds=ANY, rounds=lambda _: 1),
    "kill": Plan(measure=kill, kinds=ANY, rounds=lambda _: 1),
    "respawn": Plan(measure=respawn, kinds=ONLY_ASGI, rounds=lambda effort: effort.respawns),
    "memory": Plan(measure=memory, kinds=ONLY_ASGI, rounds=lambda _: 1),
    "idle": Plan(measure=idle, kinds=ANY, rounds=lambda _: 1),
}

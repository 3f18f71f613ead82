"""Requests that kill their worker, at a rate, and what they cost those who ask for something else.

One client sends them, each on a connection of its own; beside it clients of both kinds, kept alive
and connecting anew, ask for 10 ms of waiting. What is lost of theirs is counted, their rate is held
against that of the same server before, and at the end it is waited for that all workers answer.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import load
from instances import ANSWER_TIMEOUT_S, Instance, ServerFailed, answering_pids, running, wait_until
from measures import Plan, Sample
from options import Effort
from report import FAILED, NOTHING, Table, number, ratio
from results import Results
from servers import Kind, Server

MEASURE = "deaths"
WORKERS = 4
CLIENTS = 32
"""Of each kind."""
ATTACKS = tuple((method, per_second) for per_second in (1, 10) for method in ("GET", "POST"))
WHOLE_TIMEOUT_S = 20.0


def deaths(server: Server, effort: Effort) -> Sample:
    """Attack a fresh start of a server for each kind of request and each rate."""
    sample = Sample()
    for method, per_second in ATTACKS:
        name = _name(method, per_second)
        try:
            with running(server, workers=WORKERS) as instance:
                sample.figures |= {
                    f"{name} {figure}": value
                    for figure, value in _attacked(instance, method, per_second, effort).items()
                }
        except (ServerFailed, OSError) as failure:
            sample.notes.append(f"{name}: {failure}")
    return sample


PLAN = Plan(measure=deaths, kinds=frozenset({Kind.ASGI, Kind.NODE}), rounds=lambda _: 1)


def _name(method: str, per_second: int) -> str:
    return f"{method} {per_second}/s"


def _attacked(instance: Instance, method: str, per_second: int, effort: Effort) -> dict[str, float]:
    """Return the figures of one attack."""
    with _innocent(instance) as before:
        time.sleep(effort.attack_s / 4)
    with _innocent(instance) as during:
        with _attack(instance, method, per_second):
            time.sleep(effort.attack_s)
        ended = time.monotonic()
        figures: dict[str, float] = {}
        pids: set[int] = set()
        with contextlib.suppress(ServerFailed):
            wait_until(lambda: _is_whole(instance, pids), WHOLE_TIMEOUT_S, "not all workers answer")
            figures["whole s"] = time.monotonic() - ended
    figures["lost"] = sum(one.lost for one in during)
    figures["requests"] = sum(one.requests for one in during)
    figures["kept"] = _rate(during) / _rate(before)
    return figures


@contextlib.contextmanager
def _innocent(instance: Instance) -> Iterator[list[load.Result]]:
    """Have both kinds of clients ask while the body runs."""
    url = f"{instance.url}/wait"
    with (
        load.running(url, clients=CLIENTS, close=False) as kept,
        load.running(url, clients=CLIENTS, close=True) as anew,
    ):
        yield [kept, anew]


def _rate(results: list[load.Result]) -> float:
    """Return how many answers a second came."""
    return sum((one.requests - one.lost) / one.seconds for one in results)


@contextlib.contextmanager
def _attack(instance: Instance, method: str, per_second: int) -> Iterator[None]:
    """Send requests of death while the body runs."""
    request = f"{method} /death HTTP/1.1\r\nHost: bench\r\nContent-Length: 0\r\n\r\n".encode()
    ended = threading.Event()

    def send() -> None:
        with contextlib.ExitStack() as stack:
            due = time.monotonic()
            while not ended.wait(max(0.0, due - time.monotonic())):
                due += 1 / per_second
                with contextlib.suppress(OSError):
                    address = ("127.0.0.1", instance.launch.port)
                    client = socket.create_connection(address, ANSWER_TIMEOUT_S)
                    stack.enter_context(client)
                    client.sendall(request)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _is_whole(instance: Instance, pids: set[int]) -> bool:
    """Tell whether all workers have answered; adds those that answer now to `pids`.

    Where they share a listening socket, a few of them may answer all that comes at once.
    """
    instance.check()
    pids |= answering_pids(instance.launch.port, requests=2 * WORKERS)
    return len(pids) >= WORKERS


def table(results: Results) -> Table:
    """Return what was lost of each attack, what was left of the rate, and how long it was felt."""
    rows = []
    for server in results.servers(MEASURE):
        row = [server]
        for method, per_second in ATTACKS:
            name = _name(method, per_second)
            lost = results.total(MEASURE, server, f"{name} lost")
            asked = results.total(MEASURE, server, f"{name} requests")
            cell = NOTHING if lost is None else f"{lost:,.0f} of {number(asked)}"
            row.append(cell + FAILED * results.has_failed(MEASURE, server, name))
        for rate in (1, 10):
            kept = [
                results.median(MEASURE, server, f"{_name(method, per_second)} kept")
                for method, per_second in ATTACKS
                if per_second == rate
            ]
            row.append(ratio(min((one for one in kept if one is not None), default=None)))
        names = [_name(*attack) for attack in ATTACKS]
        whole = [results.median(MEASURE, server, f"{name} whole s") for name in names]
        known = [one for one in whole if one is not None]
        row.append(number(max(known), ".1f") if len(known) == len(names) else "never")
        rows.append(row)
    columns = ["server", *(f"lost, {_name(*attack)}" for attack in ATTACKS)]
    columns += ["rate kept at 1/s", "at 10/s", f"all {WORKERS} answer after s"]
    return Table("Requests of death beside 64 other clients", columns, rows)

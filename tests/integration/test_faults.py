"""What can break while clients are served, under load: what they lose by it is counted."""

import random
import re
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from os import kill
from pathlib import Path

import pytest
from conftest import HELLO, SCHEDULED, SCHEDULINGS, Start
from instance import Instance, wait_until
from processes import descriptors, end, is_running, is_stopped, stop
from web import Connection, connection, dial, fetch

from sdcluster.core.states import is_quarantine

CLIENTS = 64
KILLS = 5

EXITS = (
    HELLO
    + """
import random
import threading

threading.Timer(random.uniform(0.5, 1.5), os._exit, (1,)).start()
"""
)
"""Each worker exits with 1 after a while, whatever it is at: the module is loaded in the worker."""

STREAMS = """
import asyncio
import os

async def app(scope, receive, send):
    assert scope["type"] == "http"
    body = str(os.getpid()).encode().ljust(1000)
    headers = [(b"content-length", b"2000")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": True})
    if scope["path"] == "/half":
        await asyncio.sleep(60)
    await send({"type": "http.response.body", "body": body})
"""
"""An app whose responses come in halves; the second of /half does not come in time."""


LIMIT = 64
LIMITED = (
    HELLO
    + f"""
import resource

_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, ({LIMIT}, hard))
"""
)
"""An app whose workers may have few descriptors."""


def workers(instance: Instance) -> dict[int, int]:
    """Return the pids of the workers that serve, by slot; not those of the quarantine."""
    return {
        one["slot"]: one["pid"]
        for one in instance.status()["workers"]
        if one["state"] == "serving" and not is_quarantine(one["slot"])
    }


def connections(instance: Instance) -> int:
    """Return how many connections all workers have open."""
    return sum(int(one["connections"]) for one in instance.status()["workers"])


def keepers(instance: Instance) -> dict[int, int]:
    """Return the pids of the keepers, by that of their worker."""
    found = {}
    for worker in workers(instance).values():
        for child in Path(f"/proc/{worker}/task/{worker}/children").read_text().split():
            if b"keeper" in Path(f"/proc/{child}/cmdline").read_bytes():
                found[worker] = int(child)
    return found


def keepers_of_running(instance: Instance) -> list[int]:
    """Return the pids of those whose worker is not stopped: one that is cannot do without."""
    return [keeper for pid, keeper in keepers(instance).items() if not is_stopped(pid)]


def replaced(instance: Instance, pid: int, count: int = 2) -> None:
    """Wait until a worker is gone and there are as many as before."""

    def is_so() -> bool:
        there = workers(instance).values()
        return pid not in there and len(there) == count

    wait_until(is_so, "another worker serves")


@contextmanager
def opened(instance: Instance, count: int) -> Iterator[list[Connection]]:
    """Have so many kept-alive connections, each with a request answered."""
    with ExitStack() as stack:
        clients = [stack.enter_context(connection(instance.address)) for _ in range(count)]
        for client in clients:
            client.fetch()
        yield clients


def settle(instance: Instance) -> list[tuple[str, int]]:
    """Wait until no process of before is left, and none opens or closes anything.

    Return how many descriptors each has. Each worker has served: libuv opens one more for the first
    connection.
    """
    with opened(instance, 4):
        pass
    readings: list[list[tuple[str, int]]] = []

    def is_so() -> bool:
        readings.append(all_descriptors(instance))
        is_steady = readings[-5:] == readings[-1:] * 5
        return is_steady and len(readings[-1]) == len(instance.processes()) == 6

    wait_until(is_so, "the old workers are gone")
    return readings[-1]


def all_descriptors(instance: Instance) -> list[tuple[str, int]]:
    """Return the title of each process, without the generation, and how many descriptors it has."""
    found = []
    for pid in instance.processes():
        try:
            title = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode()
            found.append((title.rpartition(" gen ")[0] or title, len(descriptors(pid))))
        except OSError:
            continue  # Gone since.
    return sorted(found)


@pytest.mark.parametrize("close", [True, False], ids=["close", "keep-alive"])
@pytest.mark.parametrize("scheduling", SCHEDULINGS)
def test_random_workers_are_killed(start: Start, scheduling: str, close: bool) -> None:
    """Five times, at 64 connections: no request fails."""
    instance = start(HELLO, config=SCHEDULED.format(scheduling))
    with instance.under_load(close=close, clients=CLIENTS) as load:
        for _ in range(KILLS):
            pid = random.choice([*workers(instance).values()])
            kill(pid, signal.SIGKILL)
            replaced(instance, pid)
            instance.wait_answered(100)
    assert load.lost == 0, load.errors
    if not close:
        assert load.connections == CLIENTS


@pytest.mark.parametrize("scheduling", ["round-robin", "shared"])
def test_random_workers_behind_a_unix_socket_are_killed(
    start: Start, tmp_path: Path, engine: str, scheduling: str
) -> None:
    """The kernel does not count what they have read and written; and no request fails."""
    socket_path = str(tmp_path / "sock")
    config = SCHEDULED.format(scheduling).replace("workers = 2", "workers = 4")
    instance = start(HELLO, "--listen", socket_path, config=config)
    with instance.under_load(close=False, clients=CLIENTS) as load:
        for _ in range(2 * KILLS):
            pid = random.choice([*workers(instance).values()])
            kill(pid, signal.SIGKILL)
            replaced(instance, pid, 4)
            instance.wait_answered(50)
    assert load.lost == 0, (load.errors, engine)
    assert load.connections == CLIENTS


@pytest.mark.parametrize("close", [True, False], ids=["close", "keep-alive"])
@pytest.mark.parametrize("scheduling", SCHEDULINGS)
def test_workers_exit_at_random(start: Start, scheduling: str, close: bool) -> None:
    """All of them, again and again, at any point of their work: no request fails."""
    instance = start(EXITS, config=SCHEDULED.format(scheduling) + "preload = false\n")
    with instance.under_load(close=close, clients=CLIENTS) as load:
        wait_until(lambda: instance.status()["restarts"] >= 2 * KILLS, "ten exits", 60)
    assert load.requests > 500
    assert load.lost == 0, load.errors
    if not close:
        assert load.connections == CLIENTS


@pytest.mark.parametrize("scheduling", SCHEDULINGS)
def test_workers_are_killed_while_the_cluster_reloads(start: Start, scheduling: str) -> None:
    """Old ones that leave, new ones that start: whichever it hits, no request fails."""
    instance = start(HELLO, config=SCHEDULED.format(scheduling))
    with instance.under_load(close=False, clients=CLIENTS) as load:
        for _ in range(KILLS):
            command = instance.begin_reload()
            wait_until(lambda: "reload" in instance.status()["status"], "it reloads")
            kill(random.choice([*workers(instance).values()]), signal.SIGKILL)
            command.wait(30)
            instance.wait_answered(100)
        wait_until(lambda: len(workers(instance)) == 2, "both serve")
    assert load.lost == 0, load.errors
    assert load.connections == CLIENTS


def test_keeper_is_killed(start: Start) -> None:
    """Its worker hands all over to one that has a keeper: no request fails."""
    instance = start(HELLO, config=SCHEDULED.format("round-robin"))
    with instance.under_load(close=False, clients=CLIENTS) as load:
        for _ in range(KILLS):
            pid, keeper = random.choice([*keepers(instance).items()])
            kill(keeper, signal.SIGKILL)
            replaced(instance, pid)
            wait_until(lambda: len(keepers(instance)) == 2, "both have a keeper")
            instance.wait_answered(100)
    assert load.lost == 0, load.errors
    assert load.connections == CLIENTS


def test_worker_and_keeper_are_killed_at_once(start: Start) -> None:
    """Their connections end. No other does, and who connects again is served."""
    instance = start(HELLO, config=SCHEDULED.format("round-robin"))
    lost = 0
    with instance.under_load(close=False, clients=CLIENTS) as load:
        for _ in range(KILLS):
            wait_until(lambda: len(keepers(instance)) == 2, "both have a keeper")
            wait_until(lambda: connections(instance) == CLIENTS, "no connection is on its way")
            worker, keeper = random.choice([*keepers(instance).items()])
            stop(worker)  # What it has does not change any more.
            lost += next(
                int(one["connections"])
                for one in instance.status()["workers"]
                if one["pid"] == worker
            )
            kill(keeper, signal.SIGKILL)
            kill(worker, signal.SIGKILL)
            replaced(instance, worker)
            instance.wait_answered(100)
    told = re.findall(r"; (\d+) have ended with it, not given away by its keeper", instance.log())
    assert sum(map(int, told)) == lost
    assert load.lost <= lost
    assert load.connections == CLIENTS + load.lost
    assert len(workers(instance)) == 2


def test_mold_is_killed(start: Start) -> None:
    """It is loaded again, and no request fails; nor when a worker is killed meanwhile."""
    instance = start(HELLO, config=SCHEDULED.format("round-robin"))
    with instance.under_load(close=False, clients=CLIENTS) as load:
        for _ in range(KILLS):
            (mold,) = instance.mold_pids()
            pid = random.choice([*workers(instance).values()])
            kill(mold, signal.SIGKILL)
            kill(pid, signal.SIGKILL)
            replaced(instance, pid)
            wait_until(lambda: len(instance.mold_pids()) == 1, "there is a mold again")
            instance.wait_answered(100)
    assert load.lost == 0, load.errors
    assert load.connections == CLIENTS


@pytest.mark.parametrize("scheduling", SCHEDULINGS)
def test_worker_is_stopped(start: Start, scheduling: str) -> None:
    """It is found and killed, and what it had is answered by others: no request fails."""
    instance = start(HELLO, config=SCHEDULED.format(scheduling) + "heartbeat_timeout_s = 1\n")
    with instance.under_load(close=False, clients=CLIENTS) as load:
        for _ in range(2):
            pid = random.choice([*workers(instance).values()])
            kill(pid, signal.SIGSTOP)
            replaced(instance, pid)
            instance.wait_answered(100)
    assert load.lost == 0, load.errors
    assert load.connections == CLIENTS


def test_master_is_killed(start: Start) -> None:
    """What was asked is answered, and then all processes end."""
    instance = start(HELLO, config=SCHEDULED.format("shared"))
    with opened(instance, 8) as clients:
        for client in clients:
            client.request("GET", "/")
        instance.signal(signal.SIGKILL)
        assert [client.getresponse().read().split()[0] for client in clients]
        instance.wait()
        wait_until(lambda: not instance.processes(), "all have ended")


def test_receiver_is_killed_before_it_takes_what_is_handed_over(start: Start) -> None:
    """The connections wait in its channel: they go to the next, and their clients see nothing."""
    instance = start(HELLO, config=SCHEDULED.format("round-robin"))
    with opened(instance, 40) as clients:
        sockets = [client.sock for client in clients]
        receiver = workers(instance)[0]
        stop(receiver)
        leaver = workers(instance)[1]
        instance.signal(signal.SIGTTOU)  # The last slot goes, and hands over what it has.
        wait_until(lambda: not is_running(leaver), "it has gone")
        kill(receiver, signal.SIGKILL)
        assert {int(client.fetch().text.split()[0]) for client in clients} == {0}
        assert [client.sock for client in clients] == sockets
    assert "broke the protocol" not in instance.log()


def test_giver_and_receiver_are_killed_at_once(start: Start) -> None:
    """Whether a connection has left or not yet come, it is somewhere, and only once."""
    instance = start(HELLO, config=SCHEDULED.format("round-robin"))
    with opened(instance, 40) as clients:
        sockets = [client.sock for client in clients]
        for _ in range(KILLS):
            old = [*workers(instance).values()]
            command = instance.begin_reload()
            wait_until(lambda: "reload" in instance.status()["status"], "it reloads")
            for pid in {*old, *workers(instance).values()}:
                if is_running(pid):
                    kill(pid, signal.SIGKILL)
            command.wait(30)
            wait_until(lambda: len(workers(instance)) == 2, "both serve")
            for client in clients:
                client.fetch()
        assert [client.sock for client in clients] == sockets
    assert "broke the protocol" not in instance.log()


def test_worker_is_killed_in_the_middle_of_a_response(start: Start) -> None:
    """That connection is closed, with what was written before; the others are served on."""
    instance = start(STREAMS, config=SCHEDULED.format("round-robin"))
    with instance.under_load(close=False, clients=8) as load, dial(instance.address) as client:
        client.sendall(b"GET /half HTTP/1.1\r\nHost: test\r\n\r\n")
        received = b""
        while len(received.partition(b"\r\n\r\n")[2]) < 1000:
            received += client.recv(4096)
        pid = int(received.partition(b"\r\n\r\n")[2])
        kill(pid, signal.SIGKILL)
        assert client.recv(4096) == b""  # The end, and no reset.
        replaced(instance, pid)
        answered = load_goes_on(instance)
    assert answered
    # Of those that the worker had, some were in the middle of a response as well.
    assert load.lost <= 8, load.errors
    assert set(load.errors) <= {"answer: IncompleteReadError"}


def load_goes_on(instance: Instance) -> bool:
    """Wait for more answers than there are now, whichever workers come and go."""
    first: dict[int, int] = {}

    def more() -> bool:
        counts = {one["worker"]: int(one["requests"]) for one in instance.status()["workers"]}
        return sum(count - first.setdefault(one, count) for one, count in counts.items()) > 50

    return wait_until(more, "more answers")


def test_ten_thousand_hand_offs_leave_nothing_behind(start: Start) -> None:
    """Each process has as many descriptors as before, and each connection is the same one."""
    instance = start(HELLO, config=SCHEDULED.format("round-robin"))
    fetch(instance.address)
    count, rounds = 400, 25
    assert instance.reload().returncode == 0  # What is there once is there now.
    before = settle(instance)
    with opened(instance, count) as clients:
        sockets = [client.sock for client in clients]
        for _ in range(rounds):
            assert instance.reload().returncode == 0
            settle(instance)
        for client in clients:
            client.fetch()
        assert [client.sock for client in clients] == sockets
    wait_until(lambda: connections(instance) == 0, "they are closed")
    assert instance.reload().returncode == 0
    assert settle(instance) == before


def test_clients_leave_while_their_connections_are_on_the_way(start: Start) -> None:
    """Nobody is served twice or waits for them, and nothing of them is left behind."""
    instance = start(HELLO, config=SCHEDULED.format("round-robin"))
    before = settle(instance)
    with instance.under_load(close=False, clients=8) as load:
        for _ in range(KILLS):
            with opened(instance, 50) as clients:
                receiver = workers(instance)[0]
                stop(receiver)
                leaver = workers(instance)[1]
                instance.signal(signal.SIGTTOU)
                wait_until(lambda: not is_running(leaver), "it has gone")
                for client in clients:
                    client.close()
            kill(receiver, signal.SIGCONT)
            wait_until(lambda: connections(instance) <= 8, "they are forgotten")
            instance.signal(signal.SIGTTIN)
            wait_until(lambda: len(workers(instance)) == 2, "both serve")
    assert load.lost == 0, load.errors
    assert load.connections == 8
    wait_until(lambda: connections(instance) == 0, "all are closed")
    assert settle(instance) == before
    assert "Traceback" not in instance.log()


def test_receiver_has_no_descriptors_left(start: Start) -> None:
    """What is handed over waits until it has, and is served then."""
    instance = start(LIMITED, config=SCHEDULED.format("round-robin"))
    with opened(instance, LIMIT - 20) as clients:
        sockets = [client.sock for client in clients]
        receiver, leaver = workers(instance)[0], workers(instance)[1]
        instance.signal(signal.SIGTTOU)
        wait_until(lambda: not is_running(leaver), "it has gone")
        instance.wait_log("descriptors are used up; connections wait")
        resource.prlimit(receiver, resource.RLIMIT_NOFILE, (4 * LIMIT, 4 * LIMIT))
        assert {int(client.fetch().text.split()[0]) for client in clients} == {0}
        assert [client.sock for client in clients] == sockets
    assert instance.log().count("descriptors are used up") == 1
    assert "lost" not in instance.log()


def test_receiver_without_descriptors_is_killed(start: Start) -> None:
    """Others take what waited for it, and what it had."""
    instance = start(LIMITED, config=SCHEDULED.format("round-robin"))
    with opened(instance, LIMIT - 20) as clients:
        sockets = [client.sock for client in clients]
        receiver, leaver = workers(instance)[0], workers(instance)[1]
        instance.signal(signal.SIGTTOU)
        wait_until(lambda: not is_running(leaver), "it has gone")
        instance.wait_log("descriptors are used up; connections wait")
        instance.signal(signal.SIGTTIN)
        wait_until(lambda: len(workers(instance)) == 2, "there is another")
        resource.prlimit(workers(instance)[1], resource.RLIMIT_NOFILE, (4 * LIMIT, 4 * LIMIT))
        kill(receiver, signal.SIGKILL)
        assert str(receiver) not in {client.fetch().text.split()[1] for client in clients}
        assert [client.sock for client in clients] == sockets
    assert "lost" not in instance.log()


@pytest.mark.parametrize("scheduling", SCHEDULINGS)
def test_worker_that_has_used_up_its_descriptors_is_killed(start: Start, scheduling: str) -> None:
    """Not one is left to look with at those that it has: they go on elsewhere all the same."""
    config = SCHEDULED.format(scheduling).replace("= 2", "= 1")
    instance = start(HELLO, config=config)
    (worker,) = workers(instance).values()
    with opened(instance, LIMIT - 30) as clients:
        sockets = [client.sock for client in clients]
        full = len(descriptors(worker))
        stop(worker)
        resource.prlimit(worker, resource.RLIMIT_NOFILE, (full, 4 * LIMIT))
        keeper = keepers(instance)[worker]
        resource.prlimit(keeper, resource.RLIMIT_NOFILE, (full, 4 * LIMIT))
        kill(worker, signal.SIGKILL)
        assert str(worker) not in {client.fetch().text.split()[1] for client in clients}
        assert [client.sock for client in clients] == sockets
    assert "cannot give" not in instance.log()


def test_everything_happens_at_once(start: Start) -> None:
    """Kills of workers, keepers and molds, stops and reloads, in any order: no request fails.

    A worker that is stopped while it drains and has no connection has until the drain deadline.
    """
    config = SCHEDULED.format("round-robin") + "heartbeat_timeout_s = 1\ndrain_timeout_s = 5\n"
    instance = start(HELLO, config=config)
    faults: dict[str, Callable[[], object]] = {
        "worker killed": lambda: kill(random.choice([*workers(instance).values()]), signal.SIGKILL),
        "worker ended": lambda: kill(random.choice([*workers(instance).values()]), signal.SIGTERM),
        "worker stopped": lambda: stop(random.choice([*workers(instance).values()])),
        "mold killed": lambda: kill(instance.mold_pids()[-1], signal.SIGKILL),
        "reload": lambda: instance.begin_reload(),
        # To the end: its worker could not do without when it were stopped next.
        "keeper killed": lambda: end(random.choice(keepers_of_running(instance))),
    }
    with instance.under_load(close=False, clients=32) as load:
        for name in random.sample([*faults], len(faults)):
            wait_until(lambda: len(keepers(instance)) == 2, "both serve")
            print(time.monotonic(), name, instance.status()["workers"], keepers(instance))
            faults[name]()
            time.sleep(0.1)  # So that some of them fall together, and some do not.
        wait_until(lambda: len(keepers(instance)) == 2, "both serve")
        assert load_goes_on(instance)
    assert load.lost == 0, load.errors
    assert load.connections == 32

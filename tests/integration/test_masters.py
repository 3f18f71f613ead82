"""Masters that die or stop: workers end by themselves, or do not notice."""

import contextlib
import signal
import time
from concurrent.futures import Future, ThreadPoolExecutor
from os import kill
from pathlib import Path

import pytest
from conftest import HELLO, SCHEDULINGS, Start
from instance import Instance, wait_until
from processes import cpu_s, memory_mb, stop, wakeups
from web import Answer, Connection, connection, fetch

SLOW = """
import asyncio
import os

async def app(scope, receive, send):
    if scope["path"] == "/slow":
        open(f"begun-{os.getpid()}", "w").close()
        while not os.path.exists("go"):
            await asyncio.sleep(0.01)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"answered"})
"""
"""An app whose answer to /slow waits for the file `go`."""


def slow_request(instance: Instance, folder: Path) -> "Future[Answer]":
    """Begin a request of /slow and wait until a worker has it."""
    pool = ThreadPoolExecutor(1)
    future = pool.submit(fetch, instance.address, "/slow")
    pool.shutdown(wait=False)
    wait_until(lambda: list(folder.glob("begun-*")), "the request has begun")
    return future


def is_last(kept: Connection) -> bool:
    """Ask once more, and tell whether the answer says that the connection ends."""
    answered = kept.fetch()
    assert answered.text == "answered"
    return answered.headers.get("connection") == "close"


@pytest.mark.parametrize("scheduling", SCHEDULINGS)
def test_workers_drain_and_exit_when_the_master_is_killed(
    start: Start, tmp_path: Path, scheduling: str
) -> None:
    """Without a master the request under way is answered, then every process is gone."""
    instance = start(SLOW, "--workers", "2", "--scheduling", scheduling)
    with connection(instance.address) as kept:
        assert kept.fetch().text == "answered"
        answer = slow_request(instance, tmp_path)
        kill(instance.pid, signal.SIGKILL)
        instance.wait()
        wait_until(lambda: is_last(kept), "the worker has found that it is alone")
    (tmp_path / "go").touch()
    assert answer.result().text == "answered"
    wait_until(lambda: not instance.processes(), "all processes are gone", 5)


def test_workers_of_a_dead_master_end_at_their_drain_deadline(start: Start, tmp_path: Path) -> None:
    """A request that never ends does not keep a worker without a master alive."""
    config = 'app = "app:app"\nworkers = 2\ndrain_timeout_s = 0.5\n'
    instance = start(SLOW, config=config)
    answer = slow_request(instance, tmp_path)
    kill(instance.pid, signal.SIGKILL)
    instance.wait()
    wait_until(lambda: not instance.processes(), "all processes are gone", 5)
    assert answer.result().status == 500


def test_a_mold_that_loads_ends_with_its_master(start: Start, tmp_path: Path) -> None:
    """A master that is killed while the app is imported leaves nothing behind."""
    (tmp_path / "hold").touch()
    source = "import os, time\nwhile os.path.exists('hold'): time.sleep(0.01)\n" + HELLO
    instance = start(source, wait=False)
    wait_until(lambda: len(instance.processes()) == 2, "the mold")
    kill(instance.pid, signal.SIGKILL)
    instance.wait()
    (tmp_path / "hold").unlink()
    wait_until(lambda: not instance.processes(), "all processes are gone", 5)


def test_a_stopped_master_that_goes_on_breaks_nothing(start: Start) -> None:
    """After SIGSTOP and SIGCONT nothing is lost, and no worker is taken for stuck or replaced."""
    instance = start(HELLO, config='app = "app:app"\nworkers = 2\nheartbeat_timeout_s = 0.5\n')
    before = instance.worker_pids()
    with instance.under_load(close=True) as load:
        stop(instance.pid)
        since = time.monotonic()
        wait_until(lambda: time.monotonic() > since + 1.5, "some time")
        kill(instance.pid, signal.SIGCONT)
        uptime = instance.status()["workers"][0]["uptime_s"]
        instance.wait_status(lambda status: status["workers"][0]["uptime_s"] > uptime + 1.2)
    assert load.lost == 0, load.errors
    assert instance.worker_pids() == before
    assert instance.status()["restarts"] == 0


def test_what_happened_while_the_master_was_stopped_is_made_up_for(start: Start) -> None:
    """Workers and mold die while the master is stopped: all are replaced when it goes on."""
    instance = start(HELLO, "--workers", "3")
    stop(instance.pid)
    children = Path(f"/proc/{instance.pid}/task/{instance.pid}/children").read_text().split()
    for pid in children:
        kill(int(pid), signal.SIGKILL)
    kill(instance.pid, signal.SIGCONT)
    instance.wait_log("reload done, generation 2 serves")
    instance.wait_status(lambda status: status["ready"] == 3)
    assert fetch(instance.address).status == 200


def test_an_idle_cluster_sleeps(start: Start) -> None:
    """The master wakes up twice a second at the most, uses next to no processor time and memory.

    A worker without requests wakes up some times a second, for its beat and the engine's clock.
    """
    instance = start(HELLO, "--workers", "1")
    fetch(instance.address)
    (worker,) = instance.worker_pids()
    # Some time without our own calls, which would wake it; the clock is the only condition here.
    since, used = time.monotonic(), cpu_s(instance.pid)
    before = wakeups(instance.pid), wakeups(worker)
    wait_until(lambda: time.monotonic() > since + 2.5, "some time")
    passed_s = time.monotonic() - since
    assert (wakeups(instance.pid) - before[0]) / passed_s <= 2
    assert (wakeups(worker) - before[1]) / passed_s <= 13
    assert cpu_s(instance.pid) - used <= 0.02
    assert memory_mb(instance.pid) <= 40


def test_a_stopping_master_is_not_ended_by_its_own_children(start: Start) -> None:
    """SIGTERM to every process at once, as a control group gets it, ends all with status 0."""
    instance = start(HELLO, "--workers", "3")
    with instance.under_load(close=False) as load:
        for pid in instance.processes():
            with contextlib.suppress(ProcessLookupError):  # Ended by the others' end.
                kill(pid, signal.SIGTERM)
        assert instance.wait() == 0
        wait_until(lambda: not instance.processes(), "all processes are gone", 5)
    assert not [error for error in load.errors if not error.startswith("connect")], load.errors
    assert "(crash)" not in instance.log()

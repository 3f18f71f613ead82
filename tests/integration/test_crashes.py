"""Workers that die: each is replaced, and clients lose what the dead one was answering at most."""

import contextlib
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import pairwise
from os import kill
from pathlib import Path

import pytest
from conftest import HELLO, SCHEDULINGS, Start
from instance import Instance, wait_until
from processes import stop
from web import fetch, fetch_many

MORTAL = """
import os
import signal

async def app(scope, receive, send):
    if scope["path"] == "/exit":
        os._exit(7)
    if scope["path"] == "/segv":
        os.kill(os.getpid(), signal.SIGSEGV)
    if scope["path"] == "/kill":
        os.kill(os.getpid(), signal.SIGKILL)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"alive\\n"})
"""
"""An app that dies in three ways when it is asked to."""

CRASHES_AT_START = (
    HELLO
    + """
if os.path.exists("crash") and "SDCLUSTER_SLOT" in os.environ:
    os._exit(9)
"""
)
"""An app that ends its worker at the import while the file `crash` is there."""


def new_pid(instance: Instance, slot: int, old: int) -> int:
    """Wait until another worker serves in the slot, and return its pid."""

    def found() -> int:
        for one in instance.status()["workers"]:
            if one["slot"] == slot and one["state"] == "serving" and one["pid"] != old:
                return int(one["pid"])
        return 0

    return wait_until(found, f"a new worker in slot {slot}")


def waits_s(log: str) -> list[float]:
    """Return the wait before the next worker that each unexpected exit in the log tells."""
    lost = re.findall(r"worker \d+ \(slot \d+\) is gone \((?:crash|boot-failed)\): (.*)", log)
    texts = [re.search(r"the next one starts in ([\d.]+) s", line) for line in lost]
    return [float(text[1]) if text else 0.0 for text in texts]


@pytest.mark.parametrize(
    ("path", "status"), [("/exit", "exit status 7"), ("/segv", "SIGSEGV"), ("/kill", "SIGKILL")]
)
def test_a_worker_that_dies_is_replaced_at_once(start: Start, path: str, status: str) -> None:
    """A new worker serves within a fraction of a second, and the exit is told in words."""
    instance = start(MORTAL, "--workers", "1")
    (old,) = instance.worker_pids()
    began = time.monotonic()
    with pytest.raises(OSError):  # noqa: PT011 - ended without an answer
        fetch(instance.address, path, method="POST")  # Which is not sent to another worker.
    assert fetch(instance.address).text == "alive"
    assert time.monotonic() - began < 2
    assert new_pid(instance, 0, old) != old
    assert instance.status()["restarts"] == 1
    (last,) = instance.status()["last_exits"]
    assert (last["reason"], last["status"]) == ("crash", status)
    assert f"is gone (crash): {status}\n" in instance.log()


def test_a_crash_prints_the_stack(start: Start) -> None:
    """A worker that gets SIGSEGV says where it was."""
    instance = start(MORTAL, "--workers", "1")
    with pytest.raises(OSError):  # noqa: PT011
        fetch(instance.address, "/segv", method="POST")
    instance.wait_log("Fatal Python error: Segmentation fault")
    assert re.search(r'File ".*app.py", line \d+ in app', instance.wait_log(" in app\n"))


def test_the_second_crash_of_a_slot_waits(start: Start) -> None:
    """The first crash is answered at once, each further one after twice the wait."""
    instance = start(HELLO, "--workers", "2")
    pid = instance.worker_pids()[0]
    for _ in range(4):
        kill(pid, signal.SIGKILL)
        pid = new_pid(instance, 0, pid)
    waits = waits_s(instance.log())
    assert waits[0] == 0
    for seconds, full in zip(waits[1:], (0.25, 0.5, 1.0), strict=True):
        assert 0.75 * full - 0.06 <= seconds <= full + 0.05  # Jitter, and a rounded text.
    kill(instance.worker_pids()[1], signal.SIGKILL)
    wait_until(lambda: len(waits_s(instance.log())) == 5, "the crash of slot 1")
    assert waits_s(instance.log())[-1] == 0  # Each slot is counted for itself.


@pytest.mark.parametrize("scheduling", SCHEDULINGS)
def test_a_crash_without_recovery_loses_what_was_in_flight_at_most(
    start: Start, scheduling: str
) -> None:
    """While a worker is killed again and again no connection is refused."""
    config = f'app = "app:app"\nworkers = 2\nscheduling = "{scheduling}"\ncrash_recovery = false\n'
    instance = start(HELLO, config=config)
    kills = 2
    with instance.under_load(close=True) as load:
        for _ in range(kills):
            pid = instance.worker_pids()[0]
            kill(pid, signal.SIGKILL)
            new_pid(instance, 0, pid)
            fetch_many(instance.address, 20)  # With the load's own, before the next crash.
    assert not [error for error in load.errors if error.startswith(("connect", "time-out"))]
    assert load.lost <= kills * 16, load.errors


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("scheduling", SCHEDULINGS)
def test_connections_that_a_dead_worker_had_not_taken_are_answered(
    start: Start, scheduling: str, workers: int
) -> None:
    """What was given to a stopped worker, or waited in its queue, is answered after its death."""
    instance = start(HELLO, "--workers", str(workers), "--scheduling", scheduling)
    old = instance.worker_pids()[0]
    stop(old)
    count = 24
    with ThreadPoolExecutor(count) as pool:
        answers = [pool.submit(fetch, instance.address) for _ in range(count)]
        if workers == 1:
            assert not wait(answers, 0.2).done
        else:
            wait_until(lambda: sum(one.done() for one in answers) >= 4, "some answers")
        kill(old, signal.SIGKILL)
        assert [one.result().status for one in answers] == [200] * count


@pytest.mark.parametrize("scheduling", SCHEDULINGS)
def test_the_backlog_holds_while_all_workers_are_dead(start: Start, scheduling: str) -> None:
    """All workers are killed at once under load, twice: no connection is refused or forgotten."""
    instance = start(HELLO, "--workers", "2", "--scheduling", scheduling)
    with instance.under_load(close=True) as load:
        for _ in range(2):
            old = instance.worker_pids()
            for pid in old:
                kill(pid, signal.SIGKILL)
            for slot, pid in enumerate(old):
                new_pid(instance, slot, pid)
            fetch_many(instance.address, 20)
    assert not [error for error in load.errors if error.startswith(("connect", "time-out"))]
    assert load.lost <= 2 * 16, load.errors


@pytest.mark.parametrize("close", [True, False], ids=["close", "keep-alive"])
@pytest.mark.parametrize("scheduling", SCHEDULINGS)
def test_a_worker_that_gets_sigterm_drains_and_loses_nothing(
    start: Start, scheduling: str, close: bool
) -> None:
    """SIGTERM to a worker, from whomever, lets it answer what it has; another takes its place."""
    instance = start(HELLO, "--workers", "2", "--scheduling", scheduling)
    with instance.under_load(close=close) as load:
        pid = instance.worker_pids()[1]
        kill(pid, signal.SIGTERM)
        with contextlib.suppress(ProcessLookupError):  # It may have drained already.
            kill(pid, signal.SIGTERM)
        new_pid(instance, 1, pid)
        instance.wait_log("worker 2 was told to stop: it is replaced")
        instance.wait_log("is gone (recycle)")
    assert load.lost == 0, load.errors


HELD = """
import asyncio, os

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        while os.path.exists("hold"):
            await asyncio.sleep(0.01)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    body = str(os.getpid()).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""
"""An app that does not start while there is the file `hold`."""


@pytest.mark.parametrize("scheduling", SCHEDULINGS)
def test_a_worker_that_gets_sigterm_serves_until_another_does(
    start: Start, tmp_path: Path, scheduling: str
) -> None:
    """The only worker is told to stop while no other can start: clients do not notice."""
    instance = start(HELD, "--workers", "1", "--scheduling", scheduling)
    (pid,) = instance.worker_pids()
    (tmp_path / "hold").touch()
    with instance.under_load(close=True) as load:
        kill(pid, signal.SIGTERM)
        instance.wait_status(lambda status: len(status["workers"]) == 2, "a successor")
        assert fetch(instance.address).text == str(pid)
        (tmp_path / "hold").unlink()
        new_pid(instance, 0, pid)
        instance.wait_log("is gone (recycle)")
    assert load.lost == 0, load.errors


def test_a_stop_after_sigterm_to_all_workers_loses_nothing(start: Start, tmp_path: Path) -> None:
    """A control group gets SIGTERM in any order: who has connected by the stop is answered."""
    instance = start(HELD, "--workers", "2")
    (tmp_path / "hold").touch()
    with instance.under_load(close=True) as load:
        for pid in instance.worker_pids():
            kill(pid, signal.SIGTERM)
        instance.wait_status(lambda status: len(status["workers"]) == 3, "a successor")
        assert instance.stop() == 0
    assert not [error for error in load.errors if not error.startswith("connect")], load.errors


def test_a_crash_loop_neither_ends_the_master_nor_spins(start: Start, tmp_path: Path) -> None:
    """A slot whose worker dies at each start is tried again after growing waits, until it works."""
    instance = start(CRASHES_AT_START, "--workers", "2", "--no-preload")
    (tmp_path / "crash").touch()
    pid = instance.worker_pids()[0]
    kill(pid, signal.SIGKILL)
    wait_until(lambda: len(waits_s(instance.log())) >= 4, "three attempts")
    waits = waits_s(instance.log())
    assert waits[0] == 0
    assert all(later > before for before, later in pairwise(waits))
    assert "is gone (boot-failed): exit status 9" in instance.log()
    assert instance.status()["ready"] == 1
    assert fetch(instance.address).status == 200
    (tmp_path / "crash").unlink()
    new_pid(instance, 0, pid)
    assert instance.status()["ready"] == 2


def test_a_crash_of_the_only_worker_delays_clients_but_refuses_none(start: Start) -> None:
    """What comes while the last worker is gone and its slot waits is answered by the next."""
    instance = start(HELLO, "--workers", "1")
    pid = instance.worker_pids()[0]
    for _ in range(2):
        kill(pid, signal.SIGKILL)
        pid = new_pid(instance, 0, pid)
    kill(pid, signal.SIGKILL)  # The third crash: half a second until the next worker.
    wait_until(lambda: len(waits_s(instance.log())) == 3, "the third crash")
    began = time.monotonic()
    assert fetch(instance.address).status == 200
    assert time.monotonic() - began < 5

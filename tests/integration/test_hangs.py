"""Workers that are stuck: found, made to log their stacks, ended and replaced; the others serve."""

import signal
import time
from concurrent.futures import Future, ThreadPoolExecutor
from os import kill
from pathlib import Path
from typing import Any

import pytest
from conftest import HELLO, Start
from instance import Instance, wait_until
from processes import stop
from web import Answer, fetch

BLOCKS = """
import asyncio
import os
import threading
import time

def wait_in_a_thread():
    while True:
        time.sleep(1000)

def block_the_loop():
    time.sleep(1000)

async def app(scope, receive, send):
    if scope["path"] == "/block":
        threading.Thread(target=wait_in_a_thread, daemon=True).start()
        block_the_loop()
    if scope["path"] == "/wait":
        await asyncio.sleep(1000)
    body = f"{os.environ['SDCLUSTER_SLOT']} {os.getpid()}\\n".encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
"""
"""An app whose event loop is blocked by /block, while /wait only never ends."""

WSGI = """
import os
import time

def block_this_thread():
    time.sleep(1000)

def app(environ, start_response):
    if environ["PATH_INFO"] == "/block":
        block_this_thread()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{os.environ['SDCLUSTER_SLOT']} {os.getpid()}\\n".encode()]
"""

BLOCKS_AT_FIRST = HELLO.replace(
    'assert scope["type"] == "http"',
    """if scope["type"] == "lifespan":
        import asyncio, time
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await asyncio.sleep(0)
        if not os.path.exists("healed"):
            time.sleep(1000)
        await receive()
        return""",
)
"""An app that blocks the event loop in the turn in which its worker becomes ready."""


HELD = HELLO.replace(
    "body =",
    """if scope["path"] == "/held":
        import asyncio
        open("begun", "w").close()
        while not os.path.exists("go"):
            await asyncio.sleep(0.01)
    body =""",
)
"""An app where /held is answered when it may go."""


def send(instance: Instance, path: str) -> "Future[Answer]":
    """Send a request that may never be answered, and goes to no other worker."""
    pool = ThreadPoolExecutor(1)
    future = pool.submit(fetch, instance.address, path, method="POST")
    pool.shutdown(wait=False)
    return future


def serving(instance: Instance) -> dict[int, int]:
    """Return the pid of the worker that serves in each slot."""
    workers = instance.status()["workers"]
    return {one["slot"]: one["pid"] for one in workers if one["state"] == "serving"}


def state(instance: Instance, pid: int) -> str | None:
    """Return the state of a worker."""
    return next((one["state"] for one in instance.status()["workers"] if one["pid"] == pid), None)


def hung(instance: Instance) -> dict[str, Any]:
    """Wait for a worker to be replaced because it hung, and return its exit."""

    def found() -> dict[str, Any] | None:
        exits = instance.status()["last_exits"]
        return next((one for one in exits if one["reason"] == "hung"), None)

    return wait_until(found, "a worker is gone because it hung")


def test_a_blocked_event_loop_is_found_and_ended(start: Start) -> None:
    """The stacks of all its threads are logged, it is replaced, and the other worker serves on."""
    config = 'app = "app:app"\nworkers = 2\nheartbeat_timeout_s = 1\n'
    instance = start(BLOCKS, config=config)
    before = serving(instance)
    with instance.under_load(close=True) as load:
        answer = send(instance, "/block")
        exit_ = hung(instance)
        wait_until(lambda: len(serving(instance)) == 2, "both slots serve")
    with pytest.raises(OSError):  # noqa: PT011
        answer.result()
    log = instance.log()
    slot = exit_["slot"]
    assert f"(pid {before[slot]}) gave no sign of life for " in log
    assert ": SIGABRT\n" in log
    assert ": SIGKILL\n" not in log
    assert "in block_the_loop\n" in log
    assert "in wait_in_a_thread\n" in log
    assert serving(instance)[1 - slot] == before[1 - slot]
    assert not [error for error in load.errors if error.startswith(("connect", "time-out"))]
    assert load.lost <= 16, load.errors
    assert load.requests > 500


@pytest.mark.parametrize("scheduling", ["round-robin", "reuseport"])
def test_a_stopped_worker_is_killed(start: Start, scheduling: str) -> None:
    """SIGABRT does nothing to it, SIGKILL does; it loses nothing that it had not taken."""
    config = (
        f'app = "app:app"\nworkers = 2\nheartbeat_timeout_s = 0.5\nscheduling = "{scheduling}"\n'
    )
    instance = start(HELLO, config=config)
    victim = serving(instance)[0]
    with instance.under_load(close=True) as load:
        stop(victim)
        exit_ = hung(instance)
    assert exit_["slot"] == 0
    log = instance.log()
    assert log.index(": SIGABRT\n") < log.index(": SIGKILL\n")
    assert not [error for error in load.errors if error.startswith(("connect", "time-out"))]
    assert load.lost <= 16, load.errors
    assert 0 in serving(instance)


def test_a_worker_that_is_stopped_while_it_drains_is_killed(start: Start, tmp_path: Path) -> None:
    """Long before the drain deadline: what it has not answered is answered by another."""
    config = 'app = "app:app"\nworkers = 1\nheartbeat_timeout_s = 0.5\n'
    instance = start(HELD, config=config)
    (pid,) = instance.worker_pids()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(fetch, instance.address, "/held", timeout_s=15)
        wait_until((tmp_path / "begun").exists, "it is at work")
        reload = instance.begin_reload()
        wait_until(lambda: state(instance, pid) == "draining", "it drains")
        kill(pid, signal.SIGSTOP)
        (tmp_path / "go").touch()
        assert int(answer.result().text.split()[1]) != pid
        assert reload.wait(10) == 0
    assert f"(pid {pid}) gave no sign of life for " in instance.log()
    assert instance.status()["restarts"] == 0


def test_a_request_that_takes_too_long_ends_its_worker(start: Start) -> None:
    """The loop turns, but a request is older than `request_timeout_s`."""
    config = 'app = "app:app"\nworkers = 2\nrequest_timeout_s = 0.5\n'
    instance = start(BLOCKS, config=config)
    answer = send(instance, "/wait")
    hung(instance)
    with pytest.raises(OSError):  # noqa: PT011
        answer.result()
    assert "has had a request for " in instance.log()
    assert "(request_timeout_s): SIGABRT\n" in instance.log()
    assert fetch(instance.address).status == 200


def test_a_stuck_wsgi_thread_is_found_by_its_request(start: Start) -> None:
    """The event loop of a WSGI worker turns while a thread of it is stuck; its stack is logged."""
    config = 'app = "app:app"\nworkers = 2\nrequest_timeout_s = 0.5\n'
    instance = start(WSGI, config=config)
    answer = send(instance, "/block")
    hung(instance)
    with pytest.raises(OSError):  # noqa: PT011
        answer.result()
    assert "in block_this_thread\n" in instance.log()
    assert fetch(instance.address).status == 200


def test_requests_in_time_never_end_a_worker(start: Start) -> None:
    """A busy worker whose requests are each in time is not taken for stuck."""
    config = 'app = "app:app"\nworkers = 1\nrequest_timeout_s = 0.5\n'
    instance = start(HELLO, config=config)
    (before,) = instance.worker_pids()
    with instance.under_load(close=False):
        instance.wait_status(lambda status: status["workers"][0]["uptime_s"] > 1.5)
    assert instance.worker_pids() == [before]
    assert instance.status()["restarts"] == 0


def test_a_worker_that_blocks_before_its_first_beat_is_found(start: Start, tmp_path: Path) -> None:
    """The event loop is blocked in the very turn in which the worker became ready."""
    config = 'app = "app:app"\nworkers = 1\nheartbeat_timeout_s = 0.5\n'
    instance = start(BLOCKS_AT_FIRST, config=config)
    (tmp_path / "healed").touch()
    hung(instance)
    assert fetch(instance.address).status == 200


def test_processes_that_were_all_frozen_are_not_taken_for_stuck(start: Start) -> None:
    """Master and workers stopped for longer than `heartbeat_timeout_s`: no worker is replaced."""
    config = 'app = "app:app"\nworkers = 2\nheartbeat_timeout_s = 0.5\n'
    instance = start(HELLO, config=config)
    before = instance.worker_pids()
    everyone = [instance.pid, *instance.mold_pids(), *before]
    with instance.under_load(close=True) as load:
        for pid in everyone:
            kill(pid, signal.SIGSTOP)
        stopped_at = time.monotonic()
        wait_until(lambda: time.monotonic() - stopped_at > 1.7, "some time")
        for pid in everyone:
            kill(pid, signal.SIGCONT)
        uptime = instance.status()["workers"][0]["uptime_s"]
        instance.wait_status(lambda status: status["workers"][0]["uptime_s"] > uptime + 1.5)
    assert instance.worker_pids() == before
    assert load.lost == 0, load.errors

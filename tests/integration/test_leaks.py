"""Workers whose app has used up their descriptors: nobody waits for them, and none outlives all."""

import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from os import kill
from pathlib import Path

import pytest
from conftest import HELLO, SCHEDULED, Start
from instance import Instance, wait_until
from web import Connection, backlog, connection, dial, fetch, fetch_many, is_read

from sdcluster.core.balance import MAX_OUTSTANDING

LEAKS = """
import os

leaked = []

async def app(scope, receive, send):
    while scope["path"] in ("/leak", "/nearly"):
        try:
            leaked.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            break
    if scope["path"] == "/nearly":
        for _ in range(20):
            os.close(leaked.pop())
    body = f"{os.environ['SDCLUSTER_SLOT']} {os.getpid()}".encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
"""
"""An app that uses up all descriptors of its worker when it is told to."""

STICKS = """
import time

async def app(scope, receive, send):
    if scope["type"] == "http":
        time.sleep(3600)
"""
"""An app that is stuck for ever."""

LOWERS = """
import os
import resource

resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit}))

async def app(scope, receive, send):
    await send({{"type": "http.response.start", "status": 200, "headers": []}})
    await send({{"type": "http.response.body", "body": b"new"}})
"""
"""An app that lowers the limit of descriptors when it is imported."""

LOWERS_WHEN_IT_STARTS = """
import resource

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
"""

LIMITED = ("prlimit", "--nofile=100:100")
DISPATCHED = ("round-robin", "least-connections", "least-latency")


def leaking(instance: Instance, stack: ExitStack) -> tuple[Connection, int]:
    """Have one worker leak all its descriptors; return a connection that it has, and its pid."""
    kept = stack.enter_context(connection(instance.address))
    return kept, int(kept.fetch("/leak").text.split()[1])


@pytest.mark.parametrize("scheduling", [*DISPATCHED, "shared", "reuseport"])
def test_a_worker_that_has_leaked_its_descriptors_is_replaced(
    start: Start, scheduling: str
) -> None:
    """All clients that come then are answered soon, by others; and so is the next of its own."""
    config = f'app = "app:app"\nworkers = 2\nscheduling = "{scheduling}"\n'
    instance = start(LEAKS, config=config, prefix=LIMITED)
    with ExitStack() as stack, ThreadPoolExecutor(20) as pool:
        kept, pid = leaking(instance, stack)
        answers = [pool.submit(fetch, instance.address, timeout_s=8.0) for _ in range(20)]
        assert [one.result().status for one in answers] == [200] * 20
        assert kept.fetch().status == 200
        wait_until(lambda: pid not in instance.worker_pids(), "another worker in its place")
    assert "connections lost" not in instance.log()
    assert "no descriptors for connections" in instance.log()
    instance.wait_status(lambda status: status["ready"] == 2)


@pytest.mark.parametrize("scheduling", DISPATCHED)
def test_what_a_worker_cannot_take_goes_to_others_at_once(start: Start, scheduling: str) -> None:
    """Nobody waits until the worker that has leaked its descriptors is replaced."""
    config = f'app = "app:app"\nworkers = 2\nscheduling = "{scheduling}"\n'
    instance = start(LEAKS, config=config, prefix=LIMITED)
    with ExitStack() as stack:
        _, pid = leaking(instance, stack)
        since = time.monotonic()
        answers = [fetch(instance.address, timeout_s=8.0).text for _ in range(20)]
        assert time.monotonic() - since < 2.0
    assert str(pid) not in " ".join(answers)


def test_workers_that_have_all_leaked_leave_clients_waiting_for_new_ones(start: Start) -> None:
    """With nobody who can take connections they wait until there is one that can."""
    instance = start(LEAKS, "--workers", "2", prefix=LIMITED)
    with ExitStack() as stack, ThreadPoolExecutor(40) as pool:
        pids = {leaking(instance, stack)[1]}
        while len(pids) < 2:
            pids.add(leaking(instance, stack)[1])
        answers = [pool.submit(fetch, instance.address, timeout_s=15.0) for _ in range(40)]
        assert [one.result().status for one in answers] == [200] * 40
    instance.wait_status(
        lambda status: status["ready"] == 2 and not pids & {*instance.worker_pids()}
    )


def test_a_worker_that_has_leaked_ends_when_the_master_is_killed(start: Start) -> None:
    """It sees that end behind the connections it cannot take, and so does its keeper."""
    config = 'app = "app:app"\nworkers = 1\ndrain_timeout_s = 1\n'
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        instance = start(LEAKS, config=config, prefix=LIMITED, sockets=[listener])
        stack.enter_context(connection(instance.address)).fetch("/nearly")
        _, pid = leaking(instance, stack)
        kill(pid, signal.SIGSTOP)
        for _ in range(MAX_OUTSTANDING):
            stack.enter_context(dial(instance.address))
        wait_until(lambda: backlog(listener)[0] == 0, "all connections given to the worker")
        kill(instance.pid, signal.SIGKILL)
        instance.process.wait()
        kill(pid, signal.SIGCONT)
        wait_until(lambda: instance.processes() == [], "the end of all")


def test_a_worker_that_is_stuck_ends_when_the_master_is_killed(start: Start) -> None:
    """Nobody is there to find out that it is stuck, but its keeper."""
    config = 'app = "app:app"\nworkers = 1\ndrain_timeout_s = 1\n'
    instance = start(STICKS, config=config)
    with connection(instance.address) as client:
        client.request("GET", "/stick")
        wait_until(lambda: is_read(client.sock), "a worker at work")
        kill(instance.pid, signal.SIGKILL)
        instance.process.wait()
        wait_until(lambda: instance.processes() == [], "the end of all")


@pytest.mark.parametrize("limit", [6, 10, 14, 18, 22, 26, 30, 34, 38, 42])
@pytest.mark.parametrize("scheduling", ["round-robin", "shared"])
def test_a_reload_to_too_few_descriptors_fails(
    start: Start, tmp_path: Path, scheduling: str, limit: int
) -> None:
    """It says that the limit is too low, and the old code serves on; or the new code serves all."""
    instance = start(HELLO, config=SCHEDULED.format(scheduling))
    (tmp_path / "app.py").write_text(LOWERS.format(limit=limit))
    reloaded = instance.reload()
    assert reloaded.returncode == 0 or "RLIMIT_NOFILE" in reloaded.stdout + reloaded.stderr
    answers = fetch_many(instance.address, 40, at_once=40)
    assert {one.text == "new" for one in answers} == {reloaded.returncode == 0}


def test_a_limit_that_is_too_low_for_a_worker_that_starts_is_told(
    start: Start, tmp_path: Path
) -> None:
    """What the app lowers when it starts, and not when it is imported, fails the reload too."""
    instance = start(HELLO, config=SCHEDULED.format("round-robin"))
    (tmp_path / "app.py").write_text(LOWERS_WHEN_IT_STARTS)
    reloaded = instance.reload()
    assert reloaded.returncode != 0
    assert "RLIMIT_NOFILE" in reloaded.stdout + reloaded.stderr
    assert fetch(instance.address).status == 200

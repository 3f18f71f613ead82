"""Limits of the system that are reached: the reason is told, nothing spins, and it gets better."""

import asyncio
import itertools
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from os import kill
from pathlib import Path

import pytest
from conftest import HELLO, Start
from control import Client
from instance import Instance, wait_until
from processes import cpu_s, descriptors, memory_mb
from web import backlog, connection, fetch, fetch_many

from sdcluster.core.balance import MAX_OUTSTANDING

HOARDS = """
import os
import resource

hoard = []

async def app(scope, receive, send):
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    while scope["path"] == "/hoard" and len(os.listdir("/proc/self/fd")) < limit - 8:
        hoard.append(os.open("/dev/null", os.O_RDONLY))
    if scope["path"] == "/release":
        while hoard:
            os.close(hoard.pop())
    body = os.environ["SDCLUSTER_SLOT"].encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
"""
"""An app that uses up nearly all descriptors of its worker, or gives them back."""

SLOW = """
import asyncio
import os

async def app(scope, receive, send):
    await asyncio.sleep(0.5)
    os.close(os.open("/dev/null", os.O_RDONLY))
    headers = [(b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok"})
"""
"""An app that takes a while, and a descriptor, for each request."""

OTHER_UID = 61_234
"""A user that nobody else is, so that its number of processes is known."""

_MAY = "+dac_read_search,+dac_override"  # The test's folder and the interpreter are root's own.

AS_OTHER_USER = (
    *("setpriv", f"--reuid={OTHER_UID}", f"--regid={OTHER_UID}", "--clear-groups"),
    *(f"--inh-caps={_MAY}", f"--ambient-caps={_MAY}"),
)
"""Runs a command as that user: the limit of processes does not hold for root."""


class Flood:
    """Clients that come at once, and each have a request, an answer and go."""

    def __init__(self, address: str, clients: int) -> None:
        self._host, self._port = address.split(":")
        self._clients = clients
        self.answered: list[int] = []
        self.lost: list[str] = []

    async def run(self) -> None:
        """Come, and wait for all answers."""
        await asyncio.gather(*(self._client(number) for number in range(self._clients)))

    async def _client(self, number: int) -> None:
        try:
            async with asyncio.timeout(30.0):
                reader, writer = await asyncio.open_connection(self._host, int(self._port))
                writer.write(b"GET / HTTP/1.1\r\nHost: flood\r\n\r\n")
                head = await reader.readuntil(b"\r\n\r\n")
                body = await reader.readexactly(2)
                writer.close()
        except (OSError, EOFError, TimeoutError) as error:
            self.lost.append(f"{number}: {error!r}")
            return
        if head.startswith(b"HTTP/1.1 200 ") and body == b"ok":
            self.answered.append(number)
        else:
            self.lost.append(f"{number}: {head!r}")


@contextmanager
def limited(pid: int, what: int, soft: int) -> Iterator[None]:
    """Lower a limit of a running process while the body runs."""
    before = resource.prlimit(pid, what)
    resource.prlimit(pid, what, (soft, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, what, before)


def lowest_limit(pid: int) -> int:
    """Return the limit of descriptors up to which a process has opened each one."""
    opened = {int(entry.name) for entry in os.scandir(f"/proc/{pid}/fd")}
    return next(fd for fd in itertools.count() if fd not in opened)


def serving(instance: Instance) -> dict[int, int]:
    """Return the pid of the worker that serves in each slot."""
    workers = instance.status()["workers"]
    return {one["slot"]: one["pid"] for one in workers if one["state"] == "serving"}


def test_a_master_out_of_descriptors_leaves_clients_waiting(start: Start) -> None:
    """It tells so once, does not spin, and answers all when there are descriptors again."""
    instance = start(HELLO, "--workers", "2")
    with ThreadPoolExecutor(12) as pool, ExitStack() as stack:
        with limited(instance.pid, resource.RLIMIT_NOFILE, 1):
            answers = [pool.submit(fetch, instance.address) for _ in range(12)]
            control = stack.enter_context(Client(instance))
            control.ask("Status")
            log = instance.wait_log("cannot accept: Too many open files; connections wait")
            used, since = cpu_s(instance.pid), time.monotonic()
            assert not wait(answers, 1.0).done
            assert cpu_s(instance.pid) - used < 0.25 * (time.monotonic() - since)
            assert log.count("cannot accept") == 1
        assert [one.result().status for one in answers] == [200] * 12
        assert control.answer()["parameters"]["ready"] == 2
    assert instance.log().count("cannot accept") == 1


def test_a_master_out_of_descriptors_retries_to_fill_a_slot(start: Start) -> None:
    """The worker that cannot be started is tried again, and the other one serves meanwhile."""
    instance = start(HELLO, "--workers", "2", "--scheduling", "shared")
    victim = serving(instance)[0]
    with limited(instance.pid, resource.RLIMIT_NOFILE, 1):
        kill(victim, signal.SIGKILL)
        log = instance.wait_log("(boot-failed): cannot start a process: ")
        assert "Too many open files" in log
        assert fetch(instance.address).text.startswith("1 ")
        wait_until(lambda: instance.log().count("(boot-failed)") >= 2, "two attempts")
    instance.wait_status(lambda status: status["ready"] == 2)


def test_a_master_out_of_descriptors_cannot_reload_and_says_so(start: Start) -> None:
    """The reload fails with the reason; the old workers serve on."""
    instance = start(HELLO, "--workers", "2", "--scheduling", "shared")
    before = serving(instance)
    with limited(instance.pid, resource.RLIMIT_NOFILE, 1):
        instance.signal(signal.SIGHUP)
        log = instance.wait_log("reload failed, the old code serves on: cannot start")
        assert "Too many open files" in log
        assert fetch(instance.address).status == 200
    assert serving(instance) == before
    assert instance.reload().returncode == 0


@pytest.mark.parametrize("room", [0, 1])
def test_a_master_out_of_descriptors_loses_nothing_of_a_dead_worker(
    start: Start, room: int
) -> None:
    """What a worker had not taken stays in its channel until there are descriptors for it."""
    with ThreadPoolExecutor(20) as pool, socket.create_server(("127.0.0.1", 0)) as listener:
        instance = start(HELLO, "--workers", "2", sockets=[listener])
        pids = serving(instance)
        for pid in (*pids.values(), instance.pid):
            kill(pid, signal.SIGSTOP)
        answers = [pool.submit(fetch, instance.address) for _ in range(20)]
        wait_until(lambda: backlog(listener)[0] == 20, "all clients")
        instance.signal(signal.SIGCONT)  # So each worker gets all that it gets at once.
        wait_until(lambda: backlog(listener)[0] == 20 - 2 * MAX_OUTSTANDING, "full workers")
        with limited(instance.pid, resource.RLIMIT_NOFILE, lowest_limit(instance.pid) + room):
            kill(pids[0], signal.SIGKILL)
            instance.wait_log("(slot 0) is gone (crash)")
            kill(pids[1], signal.SIGCONT)
            instance.wait_log("cannot accept: Too many open files; connections wait")
        assert [one.result().status for one in answers] == [200] * 20
    instance.wait_status(lambda status: status["ready"] == 2)


@pytest.mark.parametrize("scheduling", ["round-robin", "shared"])
def test_a_worker_short_of_descriptors_loses_nothing(start: Start, scheduling: str) -> None:
    """What it was given waits until it has descriptors again; it does not spin meanwhile."""
    prefix = ("prlimit", "--nofile=90:90")
    instance = start(HOARDS, "--workers", "2", "--scheduling", scheduling, prefix=prefix)
    pids = instance.worker_pids()
    # A connection that the worker has already, as it can take few new ones.
    with connection(instance.address) as kept, ThreadPoolExecutor(40) as pool:
        slot = int(kept.fetch("/hoard").text)
        assert slot == int(kept.fetch("/hoard").text)
        answers = [pool.submit(fetch, instance.address) for _ in range(40)]
        wait_until(lambda: sum(one.done() for one in answers) >= 10, "some answers")
        used, since = cpu_s(pids[slot]), time.monotonic()
        wait_until(lambda: time.monotonic() > since + 0.5, "half a second")
        assert cpu_s(pids[slot]) - used < 0.3
        kept.fetch("/release")
        assert [one.result().status for one in answers] == [200] * 40
    assert "connections lost" not in instance.log()


@pytest.mark.parametrize(
    "scheduling", ["round-robin", "least-connections", "least-latency", "shared", "reuseport"]
)
@pytest.mark.parametrize("victims", [1, 2])
def test_a_flood_loses_nothing_when_workers_die_whose_descriptors_are_used_up(
    start: Start, scheduling: str, victims: int
) -> None:
    """More clients than two workers have descriptors for, or a master of two that die: all wait."""
    config = f'app = "app:app"\nworkers = 2\nscheduling = "{scheduling}"\n'
    instance = start(SLOW, config=config, prefix=("prlimit", "--nofile=256:256"))
    flood = Flood(instance.address, 700)
    pids = serving(instance)

    async def attack() -> None:
        clients = asyncio.create_task(flood.run())
        while len(flood.answered) < 50 and not clients.done():
            await asyncio.sleep(0.01)
        for slot in range(victims):
            kill(pids[slot], signal.SIGKILL)
        await clients

    asyncio.run(attack())
    assert flood.lost == []
    assert len(flood.answered) == 700
    instance.wait_status(lambda status: status["ready"] == 2)


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs root")
@pytest.mark.parametrize("room", [0, 1], ids=["first-fork", "second-fork"])
def test_a_fork_that_fails_is_told_and_tried_again(
    start: Start, runtime_folder: Path, room: int
) -> None:
    """With no room for another process the slot waits and is tried again; the other serves on."""
    folder = runtime_folder / "sdcluster" / "test0"
    folder.mkdir(mode=0o755, parents=True)
    os.chown(folder, OTHER_UID, OTHER_UID)  # As systemd does it, or root believes nobody there.
    instance = start(HELLO, "--workers", "2", prefix=AS_OTHER_USER)
    (mold,) = instance.mold_pids()
    victim = serving(instance)[0]
    allow = [*AS_OTHER_USER, "prlimit", f"--pid={mold}"]
    subprocess.run([*allow, f"--nproc={3 + room}:"], check=True)  # Master, mold, other worker.
    try:
        kill(victim, signal.SIGKILL)
        reason = "cannot fork: Resource temporarily unavailable"
        instance.wait_log(f"(boot-failed): {reason}; the next one starts in ")
        wait_until(lambda: instance.log().count(reason) >= 2, "two attempts")
        assert fetch(instance.address).text.startswith("1 ")
        assert instance.mold_pids() == [mold]
    finally:
        subprocess.run([*allow, "--nproc=1000:"], check=True)
    instance.wait_status(lambda status: status["ready"] == 2)
    assert instance.status()["generation"] == 1


def test_reloads_and_crashes_leave_nothing_behind(start: Start) -> None:
    """After dozens of each the master has as many descriptors as before, and no more memory."""
    instance = start(HELLO, config='app = "app:app"\nworkers = 2\nreload_probation_s = 0\n')

    def turn() -> None:
        with Client(instance) as client:
            assert "error" not in client.call("Reload")
        pid = instance.worker_pids()[0]
        kill(pid, signal.SIGKILL)
        wait_until(lambda: pid not in instance.worker_pids(), "the worker is gone")
        instance.wait_status(lambda status: status["ready"] == len(status["workers"]) == 2)
        assert fetch_many(instance.address, 4, at_once=4)[0].status == 200

    def settled() -> list[str]:
        """Return what is open once the old molds are gone, without the numbers of sockets."""
        wait_until(lambda: len(instance.mold_pids()) == 1, "one mold")
        return [re.sub(r"\d+", "N", one) for one in descriptors(instance.pid)]

    for _ in range(5):
        turn()
    before, memory = settled(), memory_mb(instance.pid)
    for _ in range(20):
        turn()
    wait_until(lambda: settled() == before, "no descriptor more than before")
    assert memory_mb(instance.pid) - memory < 1.5
    children = Path(f"/proc/{instance.pid}/task/{instance.pid}/children").read_text().split()
    assert len(children) == 3

"""Apps that meddle with what is between master and worker: they harm themselves alone."""

import re
from pathlib import Path

import pytest
from conftest import HELLO, Start
from instance import Instance, wait_until
from processes import descriptors
from web import fetch, fetch_many

MEDDLES = """
import os
import socket
import stat

def channel():
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        try:
            found = socket.socket(fileno=os.dup(fd))
        except OSError:
            continue
        if found.family == socket.AF_UNIX and found.type == socket.SOCK_SEQPACKET:
            return found
    raise RuntimeError("no channel")

def boards():
    for name in os.listdir("/proc/self/fd"):
        if "scoreboard" in os.readlink(f"/proc/self/fd/{name}"):
            yield int(name)

def send(data, count=1, fds=()):
    found = channel()
    found.setblocking(False)
    for _ in range(count):
        try:
            socket.send_fds(found, [data], fds)
        except BlockingIOError:
            break
    found.close()

def junk(path):
    if path == "/bytes":
        send(b"\\xff\\xfe\\x00\\x01")
    if path == "/text":
        send(b"this is no notification")
    if path == "/large":
        send(b"A=" + b"x" * 100_000)
    if path == "/empty":
        send(b"")
    if path == "/flood":
        send(b"junk", 1000)
    if path == "/descriptors":
        send(b"junk", 3, [os.open("/dev/null", os.O_RDONLY) for _ in range(20)])
    if path == "/valid-with-descriptors":
        send(b"STATUS=hello", 50, [os.open("/dev/null", os.O_RDONLY) for _ in range(20)])
    if path == "/ready-again":
        send(b"READY=1", 50)
    if path == "/close":
        channel().shutdown(socket.SHUT_RDWR)
    if path == "/board":
        import mmap
        for line in open("/proc/self/maps"):
            if "scoreboard" in line:
                start, end = (int(one, 16) for one in line.split()[0].split("-"))
                import ctypes
                ctypes.memset(start, 0xff, end - start)

async def app(scope, receive, send):
    junk(scope["path"])
    body = os.environ["SDCLUSTER_SLOT"].encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
"""
"""An app that finds its worker's channel and scoreboard, and writes to them what it must not."""


def ids(instance: Instance) -> dict[int, int]:
    """Return the id of the worker that serves in each slot."""
    workers = instance.status()["workers"]
    return {one["slot"]: one["worker"] for one in workers if one["state"] == "serving"}


@pytest.mark.parametrize("path", ["/bytes", "/text", "/large", "/flood", "/descriptors"])
def test_a_worker_that_sends_junk_is_replaced(start: Start, path: str) -> None:
    """The log says who broke the protocol; that worker is recycled, and its sibling stays."""
    instance = start(MEDDLES, config='app = "app:app"\nworkers = 2\nreload_probation_s = 0\n')
    before, open_before = ids(instance), len(descriptors(instance.pid))
    with instance.under_load(close=True, clients=4) as load:
        slot = int(fetch(instance.address, path).text)
        wait_until(lambda: ids(instance).get(slot, 0) > 2, "the worker is replaced")
    assert ids(instance)[1 - slot] == before[1 - slot]
    assert (
        f"worker {before[slot]} " in re.findall(r"worker .* broke the protocol", instance.log())[0]
    )
    assert instance.log().count("broke the protocol") == 1
    assert load.lost == 0, load.errors
    instance.wait_status(lambda status: len(status["workers"]) == 2)
    wait_until(lambda: len(descriptors(instance.pid)) <= open_before, "nothing is left open")


@pytest.mark.parametrize("path", ["/valid-with-descriptors", "/ready-again", "/empty"])
def test_a_worker_that_says_too_much_is_harmless(start: Start, path: str) -> None:
    """Notifications that make sense are taken, descriptors with them are closed."""
    instance = start(MEDDLES, "--workers", "2")
    before, open_before = ids(instance), len(descriptors(instance.pid))
    assert fetch(instance.address, path).status == 200
    assert {one.status for one in fetch_many(instance.address, 20)} == {200}
    assert ids(instance) == before
    wait_until(lambda: len(descriptors(instance.pid)) <= open_before, "nothing is left open")


def test_a_worker_that_shuts_its_channel_down_is_replaced(start: Start) -> None:
    """A worker that can no longer be reached ends as if retired; the clients notice nothing."""
    instance = start(MEDDLES, "--workers", "2")
    with instance.under_load(close=True, clients=4) as load:
        slot = int(fetch(instance.address, "/close").text)
        wait_until(lambda: ids(instance).get(slot, 0) > 2, "the worker is replaced")
    assert load.lost == 0, load.errors
    assert {one.status for one in fetch_many(instance.address, 20)} == {200}


def test_a_worker_that_scribbles_on_its_scoreboard_is_replaced(start: Start) -> None:
    """It gets nothing more from the moment on that its counters make no sense."""
    instance = start(MEDDLES, "--workers", "2")
    before = ids(instance)
    slot = int(fetch(instance.address, "/board").text)
    assert {one.text for one in fetch_many(instance.address, 20)} == {str(1 - slot)}
    wait_until(lambda: ids(instance).get(slot, 0) > 2, "it is replaced")
    assert f"worker {before[slot]} " in instance.wait_log("took more than it was given")
    assert ids(instance)[1 - slot] == before[1 - slot]
    assert {one.status for one in fetch_many(instance.address, 20)} == {200}


LOADS_BADLY = f"{MEDDLES}\nsend(b'this makes no sense')\n"
"""An app that, when it is imported, writes to the channel of its mold, or else of its worker."""

LOADED_BY = [("true", "the mold "), ("false", "worker {} ")]


@pytest.mark.parametrize(("preload", "who"), LOADED_BY, ids=["mold", "worker"])
def test_a_cluster_that_sends_junk_before_it_is_ready_does_not_start(
    start: Start, preload: str, who: str
) -> None:
    """It counts as a failure to boot, for that reason."""
    config = f'app = "app:app"\nworkers = 1\npreload = {preload}\n'
    instance = start(LOADS_BADLY, config=config, wait=False)
    assert instance.wait() != 0
    assert f"cannot start: {who.format(1)}broke the protocol: " in instance.log()
    assert not instance.processes()


@pytest.mark.parametrize(("preload", "who"), LOADED_BY, ids=["mold", "worker"])
def test_a_reload_to_code_that_sends_junk_fails_with_the_reason(
    start: Start, tmp_path: Path, preload: str, who: str
) -> None:
    """The old workers serve on, and none of the new ones has served."""
    instance = start(MEDDLES, config=f'app = "app:app"\nworkers = 2\npreload = {preload}\n')
    before = ids(instance)
    (tmp_path / "app.py").write_text(LOADS_BADLY)
    reload = instance.reload()
    assert reload.returncode != 0
    assert f"{who.format(3)}broke the protocol: " in reload.stdout + reload.stderr
    assert ids(instance) == before
    assert fetch(instance.address).status == 200


LIES = """
import os
from dataclasses import replace
from sdcluster.worker.mold.orders import Orders

PID = {pid}
answer = Orders.answer

def lie(self, report):
    answer(self, replace(report, pid=PID))

Orders.answer = lie

async def app(scope, receive, send):
    raise RuntimeError("nobody serves it")
"""
"""An app that has its mold report the process `pid` as each worker."""


@pytest.mark.parametrize("pid", ["os.getpid()", "os.getppid()", "1", "0", "-1", "2**40", "2**80"])
def test_a_mold_that_reports_a_process_that_is_no_worker_is_not_believed(
    start: Start, pid: str
) -> None:
    """That process is not taken for a worker, nor ended like one."""
    instance = start(LIES.format(pid=pid), "--workers", "1", wait=False)
    assert instance.wait() != 0
    assert re.search(r"cannot start: .* pid -?\d+ is no new child of the master", instance.log())
    assert "SIGABRT" not in instance.log()


def test_a_mold_that_reports_another_mold_as_its_worker_is_not_believed(
    start: Start, tmp_path: Path
) -> None:
    """The reload fails, and the old mold lives."""
    instance = start(HELLO, "--workers", "2")
    (mold,) = instance.mold_pids()
    (tmp_path / "app.py").write_text(LIES.format(pid=mold))
    reload = instance.reload()
    assert reload.returncode != 0
    assert f"pid {mold} is no new child of the master" in reload.stdout + reload.stderr
    wait_until(lambda: instance.mold_pids() == [mold], "the new mold is gone, and no other")
    assert fetch(instance.address).status == 200

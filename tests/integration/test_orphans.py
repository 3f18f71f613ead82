"""Processes that an app leaves behind: adopted and collected by the master, taken for nobody."""

import os
import shutil
import signal
from os import kill
from pathlib import Path

import pytest
from conftest import Start
from instance import wait_until
from processes import is_running
from web import fetch

ORPHANS = """
import os
import subprocess
import time

def orphan(seconds):
    shell = f"sleep {seconds} >/dev/null 2>&1 & echo $!"
    return subprocess.run(["sh", "-c", shell], stdout=subprocess.PIPE, text=True).stdout.strip()

def many():
    shell = "for _ in 1 2 3 4 5 6 7 8; do sleep 0.01 >/dev/null 2>&1 & echo $!; done"
    return subprocess.run(["sh", "-c", shell], stdout=subprocess.PIPE, text=True).stdout.strip()

def next_pid(pid):
    with open("/proc/sys/kernel/ns_last_pid", "w") as file:
        file.write(str(pid - 1))

async def app(scope, receive, send):
    body = str(os.getpid())
    if scope["path"] == "/orphan":
        body = orphan(0.01)
    if scope["path"] == "/many":
        body = many()
    if scope["path"] == "/lasting":
        body = orphan(1000)
    if scope["path"] == "/reuse":
        pids = [int(pid) for pid in scope["query_string"].split(b",")]
        while any(os.path.exists(f"/proc/{pid}") for pid in pids):
            time.sleep(0.01)
        time.sleep(0.1)
        next_pid(pids[0])
        os._exit(3)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body.encode()})
"""
"""An app that starts processes and does not wait for them."""


def test_orphans_of_the_app_leave_no_zombie(start: Start) -> None:
    """What the app has started and left is collected by the master, with no worker harmed."""
    instance = start(ORPHANS, "--workers", "1")
    before = instance.worker_pids()
    pids = [int(fetch(instance.address, "/orphan").text) for _ in range(100)]
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "no zombie is left")
    assert instance.worker_pids() == before
    assert instance.status()["restarts"] == 0


def test_a_process_that_outlives_its_worker_holds_nothing_up(start: Start) -> None:
    """Reload and stop do not wait for what the app has started in the background."""
    instance = start(ORPHANS, "--workers", "1")
    pid = int(fetch(instance.address, "/lasting").text)
    try:
        assert instance.reload().returncode == 0
        assert instance.stop() == 0
        assert is_running(pid)
    finally:
        kill(pid, signal.SIGKILL)


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="needs root")
def test_a_worker_with_the_pid_of_an_old_orphan_is_no_dead_one(start: Start) -> None:
    """A pid may be used again: that an orphan had it, and died, says nothing of the new worker."""
    namespace = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
    # Without recovery hardly another process is started when the worker dies.
    config = 'app = "app:app"\nworkers = 1\ncrash_recovery = false\n'
    instance = start(ORPHANS, config=config, prefix=namespace)
    pids = fetch(instance.address, "/many").text.split()
    with pytest.raises(OSError):  # noqa: PT011
        fetch(instance.address, f"/reuse?{','.join(pids)}", method="POST")
    assert fetch(instance.address).text in pids
    assert instance.status()["restarts"] == 1
    instance.process.kill()  # It is unshare, which takes the namespace with it.

"""Starts that fail: no worker becomes ready, so the master ends and says why."""

import re
import signal
from collections.abc import Mapping
from os import kill
from pathlib import Path
from typing import Any

import pytest
from conftest import HELLO, Start
from instance import wait_until
from web import fetch

from sdcluster.errors import EX_SOFTWARE

RAISES = """
def connect():
    raise RuntimeError("no database at db.example")

connect()
"""

LIFESPAN = """
async def app(scope, receive, send):
    assert scope["type"] == "lifespan"
    await receive()
    {startup}
    await send({{"type": "lifespan.startup.complete"}})
    await receive()
"""

HANGS_IN_LIFESPAN = LIFESPAN.format(startup="import time; time.sleep(1000)")

SECOND_FAILS = (
    HELLO
    + """
if os.environ.get("SDCLUSTER_SLOT") == "1" and not os.path.exists("healed"):
    raise RuntimeError("slot 1 is ill")
"""
)
"""An app that does not load in slot 1 until the file `healed` is there."""


@pytest.mark.parametrize("preload", ["--preload", "--no-preload"])
def test_an_app_that_raises_ends_the_start(start: Start, preload: str) -> None:
    """The reason is one line, the app's own traceback is in the log, nothing is left running."""
    instance = start(RAISES, "--workers", "2", preload, wait=False)
    assert instance.wait() == EX_SOFTWARE
    log = instance.log()
    assert "cannot start: " in log
    assert "cannot import 'app': RuntimeError: no database at db.example" in log
    assert 'raise RuntimeError("no database at db.example")' in log
    assert "Traceback (most recent call last)" in log
    assert "importlib" not in log
    assert not instance.processes()


def test_a_lifespan_that_fails_ends_the_start(start: Start) -> None:
    """An app that says why it cannot start up is quoted in the log, and the master ends."""
    failed = 'await send({"type": "lifespan.startup.failed", "message": "no database"}); return'
    instance = start(LIFESPAN.format(startup=failed), "--workers", "2", wait=False)
    assert instance.wait() == EX_SOFTWARE
    assert "did not become ready: the app's lifespan startup failed" in instance.log()
    assert "no database" in instance.log()
    assert not instance.processes()


def test_a_worker_that_never_becomes_ready_ends_the_start(start: Start) -> None:
    """At `ready_timeout_s` the stacks of the stuck worker are logged, and the master ends."""
    config = 'app = "app:app"\nworkers = 2\nready_timeout_s = 2\n'
    instance = start(HANGS_IN_LIFESPAN, config=config, wait=False)
    assert instance.wait() == EX_SOFTWARE
    log = instance.log()
    assert "was not ready within 2 s" in log
    assert "Fatal Python error: Aborted" in log
    assert "in app\n" in log
    assert not instance.processes()


def test_stacks_of_several_workers_can_be_read(start: Start) -> None:
    """All are stuck and aborted at once: each one's stacks stand whole in the log.

    A line of the master's may come between the pieces that a line of theirs is written in.
    """
    config = 'app = "app:app"\nworkers = 6\nready_timeout_s = 2\n'
    instance = start(HANGS_IN_LIFESPAN, config=config, wait=False)
    assert instance.wait() == EX_SOFTWARE
    theirs = re.sub(r"sdcluster\[test0\]: .*\n", "", instance.log())
    assert len(re.findall(r'^  File ".*/app\.py", line \d+ in app$', theirs, re.M)) == 6


def test_an_import_that_hangs_ends_the_start(start: Start) -> None:
    """At `ready_timeout_s` the stack of the import is logged, and the master ends."""
    config = 'app = "app:app"\nworkers = 2\nready_timeout_s = 2\n'
    instance = start("import time\ntime.sleep(1000)\n", config=config, wait=False)
    assert instance.wait() == EX_SOFTWARE
    log = instance.log()
    assert "cannot start: the app did not load within 2 s" in log
    assert "Fatal Python error: Aborted" in log
    assert 'app.py", line 2 in <module>' in log
    assert not instance.processes()


def test_one_bad_worker_does_not_end_the_start(start: Start, tmp_path: Path) -> None:
    """While one slot fails and another serves, the failing one is tried again until it works."""
    config = 'app = "app:app"\nworkers = 2\npreload = false\n'
    instance = start(SECOND_FAILS, config=config, wait=False)
    instance.wait_log("the next one starts in")
    assert "\nready\n" not in instance.log()
    assert instance.status()["state"] == "starting"
    assert fetch(instance.address).text.startswith("0 ")
    (tmp_path / "healed").touch()
    instance.wait_ready()
    assert instance.status()["ready"] == 2


def test_ready_workers_of_all_are_enough_to_be_ready(start: Start, tmp_path: Path) -> None:
    """With `ready_workers = 1` the cluster is ready while another slot is still being tried."""
    config = 'app = "app:app"\nworkers = 2\nready_workers = 1\npreload = false\n'
    instance = start(SECOND_FAILS, config=config)
    assert instance.status()["state"] == "running"
    assert fetch(instance.address).text.startswith("0 ")
    (tmp_path / "healed").touch()
    wait_until(lambda: instance.status()["ready"] == 2, "both slots serve")


HELD_IN_LIFESPAN = LIFESPAN.format(
    startup="import asyncio, os\n    while os.path.exists('hold'): await asyncio.sleep(0.01)"
)


def test_worker_that_is_killed_while_it_starts_is_tried_again(start: Start, tmp_path: Path) -> None:
    """By the kernel, say, when memory is short: that does not end the start."""
    (tmp_path / "hold").touch()
    instance = start(HELD_IN_LIFESPAN, "--workers", "1", wait=False)
    (worker,) = instance.wait_status(_has_started)["workers"]
    kill(worker["pid"], signal.SIGKILL)
    instance.wait_status(lambda status: _has_started(status, but=worker["pid"]))
    (tmp_path / "hold").unlink()
    instance.wait_ready()


def _has_started(status: Mapping[str, Any], but: int = 0) -> bool:
    """Tell whether there is a process that starts, and is not that one."""
    return any(
        one["state"] == "starting" and one["pid"] not in (0, but) for one in status["workers"]
    )

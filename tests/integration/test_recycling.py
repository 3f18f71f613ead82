"""Workers that have served enough are replaced: one at a time, new first, and nothing is lost."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import HELLO, Start
from instance import Instance, wait_until
from web import fetch

HOGS = """
import os

hoard = []

async def app(scope, receive, send):
    if scope["path"] == "/hog":
        hoard.append(b"x" * 200_000_000)
    body = f"{os.environ['SDCLUSTER_SLOT']} {os.getpid()}\\n".encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
"""
"""An app that keeps 200 MB for each request of /hog."""

GATED_IMPORT = (
    HELLO
    + """
import time

while not os.path.exists("gate"):
    time.sleep(0.01)
"""
)
"""An app whose import waits for the file `gate`."""


@contextmanager
def watched(instance: Instance) -> Iterator[list[dict[str, Any]]]:
    """Collect the status again and again while the body runs."""
    seen: list[dict[str, Any]] = []
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            seen.append(dict(instance.status()))
            over.wait(0.002)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def ids(instance: Instance) -> set[int]:
    """Return the ids of the workers that serve."""
    workers = instance.status()["workers"]
    return {one["worker"] for one in workers if one["state"] == "serving"}


def in_transition(status: dict[str, Any]) -> set[int]:
    """Return the slots that have another worker which is about to serve; some more may drain."""
    return {one["slot"] for one in status["workers"] if one["state"] in ("starting", "proving")}


@pytest.mark.parametrize(
    ("scheduling", "close"),
    [("round-robin", True), ("round-robin", False), ("reuseport", True)],
)
def test_max_requests_recycles_one_at_a_time_and_loses_nothing(
    start: Start, scheduling: str, close: bool
) -> None:
    """There are never fewer workers than wanted, and never two slots in transition."""
    config = (
        f'app = "app:app"\nworkers = 2\nscheduling = "{scheduling}"\n'
        "max_requests = 30\nmax_requests_jitter = 10\nreload_probation_s = 0.1\n"
    )
    instance = start(HELLO, config=config)
    before = ids(instance)
    with instance.under_load(close=close) as load, watched(instance) as seen:
        wait_until(lambda: not before & ids(instance), "all workers are recycled")
    assert load.lost == 0, load.errors
    assert {status["ready"] for status in seen} == {2}
    assert max(len(in_transition(status)) for status in seen) == 1
    counts = re.findall(r"has answered (\d+) requests \(max_requests\)", instance.log())
    assert len(counts) >= 2
    assert all(int(count) >= 30 for count in counts)
    assert "(recycle)" in instance.log()
    assert instance.status()["restarts"] == 0


def test_max_lifetime_recycles_without_load(start: Start) -> None:
    """A worker that has served for `max_lifetime_s` is replaced, one slot after the other."""
    config = 'app = "app:app"\nworkers = 2\nmax_lifetime_s = 1\n'
    instance = start(HELLO, config=config)
    before = ids(instance)
    with watched(instance) as seen:
        wait_until(lambda: not before & ids(instance), "all workers are recycled")
    assert {status["ready"] for status in seen} == {2}
    assert max(len(in_transition(status)) for status in seen) == 1
    assert re.search(r"worker \d has served for \d s \(max_lifetime_s\)", instance.log())


def test_max_memory_recycles_the_worker_that_uses_too_much(start: Start) -> None:
    """A worker beyond `max_memory_mb` is replaced; its sibling stays."""
    config = 'app = "app:app"\nworkers = 2\nmax_memory_mb = 150\n'
    instance = start(HOGS, config=config)
    before = ids(instance)
    slot = int(fetch(instance.address, "/hog").text.split()[0])
    wait_until(lambda: before != ids(instance), "a worker is recycled")
    assert re.search(r"worker \d uses 2\d\d MB \(max_memory_mb\)", instance.log())
    assert [one["slot"] for one in instance.status()["last_exits"]] in ([], [slot])
    assert len(before & ids(instance)) == 1


def test_no_worker_is_recycled_during_a_reload(start: Start, tmp_path: Path) -> None:
    """Workers that are due while the new code loads are replaced by the new code alone."""
    config = 'app = "app:app"\nworkers = 2\nmax_lifetime_s = 1.5\n'
    instance = start(HELLO, config=config)
    before = ids(instance)
    (tmp_path / "app.py").write_text(GATED_IMPORT)
    reloading = threading.Thread(target=instance.reload)
    reloading.start()
    instance.wait_log("reload to generation 2 begins")
    wait_until(lambda: instance.log().count("(max_lifetime_s)") == 2, "both workers are due")
    worn_at = instance.status()["workers"][0]["uptime_s"]
    instance.wait_status(lambda status: status["workers"][0]["uptime_s"] > worn_at + 0.5)
    assert ids(instance) == before
    assert not in_transition(dict(instance.status()))
    (tmp_path / "gate").touch()
    reloading.join()
    assert "reload done, generation 2 serves" in instance.log()
    assert "(recycle)" not in instance.log()

"""The clock on the wall may jump; nothing here goes by it."""

import ast
import time
from pathlib import Path

import pytest
from conftest import Start
from instance import Instance, wait_until
from web import fetch

import sdcluster

CLOCK = """
import os
import time

async def app(scope, receive, send):
    assert scope["type"] == "http"
    body = f"{time.time()} {os.environ['SDCLUSTER_WORKER']}".encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
"""

LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
"""The library that moves a process's idea of the time, from Debian's package faketime."""

WALL_CLOCK = {"time", "time_ns", "now", "utcnow", "today", "localtime", "gmtime", "ctime"}


def test_no_code_reads_the_wall_clock() -> None:
    """Master, core, wire and worker use CLOCK_MONOTONIC alone."""
    package = Path(sdcluster.__file__).parent
    found = []
    for file in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in WALL_CLOCK:
                owner = node.value
                if isinstance(owner, ast.Name) and owner.id in ("time", "datetime", "date"):
                    found.append(f"{file.relative_to(package)}:{node.lineno}")
            if isinstance(node, ast.ImportFrom) and node.module in ("time", "datetime"):
                found.append(f"{file.relative_to(package)}:{node.lineno}")
    assert found == []


@pytest.mark.skipif(not LIBRARIES, reason="needs libfaketime")
def test_a_clock_that_jumps_changes_nothing(start: Start, tmp_path: Path) -> None:
    """Ten years back and twenty ahead while it runs: no worker is replaced, no request lost."""
    offset = tmp_path / "offset"
    offset.write_text("+0")
    env = {
        "LD_PRELOAD": str(LIBRARIES[0]),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    config = (
        'app = "app:app"\nworkers = 2\nheartbeat_timeout_s = 0.5\nrequest_timeout_s = 0.5\n'
        "max_lifetime_s = 3600\n"
    )
    instance = start(CLOCK, config=config, env=env)
    before = instance.worker_pids()
    with instance.under_load(close=False, clients=4) as load:
        for years in (-10, 10):
            offset.write_text(f"{365 * years:+}d")
            wait_until(
                lambda: (app_time(instance) - time.time()) * years > 1e8,
                "the clock has jumped",
            )
            uptime = instance.status()["workers"][0]["uptime_s"]
            # Two looks at the health of the workers are long over by then.
            instance.wait_status(lambda status: status["workers"][0]["uptime_s"] > uptime + 2.2)
            assert instance.worker_pids() == before
        assert instance.reload().returncode == 0
    assert load.lost == 0, load.errors
    assert instance.status()["restarts"] == 0


def app_time(instance: Instance) -> float:
    """Return what the app takes for the time."""
    return float(fetch(instance.address).text.split()[0])

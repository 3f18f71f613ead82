"""What people see of a running cluster."""

from typing import Any

import pytest

from sdcluster import __version__
from sdcluster.cli.display import show_reload, show_status

WORKER = {
    "slot": 0,
    "worker": 7,
    "pid": 4711,
    "generation": 2,
    "state": "serving",
    "connections": 3,
    "requests": 1234,
    "wrong": 2,
    "uptime_s": 59.9,
}


def status(**values: Any) -> dict[str, Any]:
    """Return the status of an instance with one worker."""
    return {
        "name": "shop",
        "pid": 4242,
        "status": "1/1 workers ready, gen 2",
        "version": __version__,
        "scheduling": "round-robin",
        "listen": ["127.0.0.1:80", "/run/shop.sock"],
        "workers": [WORKER],
        "last_exits": [],
        **values,
    }


def test_status_is_a_line_and_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    """One row a worker."""
    show_status(status())
    first, second, header, row = capsys.readouterr().out.splitlines()
    assert first == "shop (pid 4242): 1/1 workers ready, gen 2"
    assert second == "listening on 127.0.0.1:80, /run/shop.sock, round-robin"
    assert header.split()[:5] == ["slot", "worker", "pid", "gen", "state"]
    assert row.split() == ["0", "7", "4711", "2", "serving", "3", "1234", "2", "59s"]


def test_master_of_another_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """With what brings the instance over."""
    show_status(status(version="0.0.9"))
    line = capsys.readouterr().out.splitlines()[2]
    assert line.startswith(f"runs version 0.0.9, and {__version__} is installed: a restart")


def test_start_that_waits_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """There is no worker and no scheduling, and there may be no address."""
    line = "cannot start, the next try is in 5 s; 3 tries have failed: app: is missing"
    waits = status(status=line, scheduling="", workers=[])
    show_status(waits)
    assert capsys.readouterr().out.splitlines() == [
        f"shop (pid 4242): {line}",
        "listening on 127.0.0.1:80, /run/shop.sock",
    ]
    show_status({**waits, "listen": []})
    assert capsys.readouterr().out.splitlines() == [f"shop (pid 4242): {line}"]


def test_last_exit_stands_in_the_row_of_its_slot(capsys: pytest.CaptureFixture[str]) -> None:
    """Also when the slot has no worker now; what looks like markup is text."""
    exits = [
        {"slot": 0, "worker": 6, "reason": "crash", "status": "[b]SIGSEGV"},
        {"slot": 1, "worker": 5, "reason": "hung", "status": "SIGABRT"},
    ]
    show_status(status(last_exits=exits))
    rows = capsys.readouterr().out.splitlines()[3:]
    assert "worker 6: crash, [b]SIGSEGV" in " ".join(rows[0].split())
    assert rows[1].split()[:5] == ["1", "-", "-", "-", "empty"]
    assert "worker 5: hung, SIGABRT" in " ".join(rows[1].split())


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.0, "0s"), (61, "1m 1s"), (3600, "1h 0m"), (90061, "1d 1h")],
)
def test_time_is_shown_with_its_two_greatest_units(
    capsys: pytest.CaptureFixture[str], seconds: float, shown: str
) -> None:
    """Nobody counts seconds of a week."""
    show_status(status(workers=[{**WORKER, "uptime_s": seconds}]))
    assert shown in capsys.readouterr().out


def test_reload_is_a_line_for_each_step(capsys: pytest.CaptureFixture[str]) -> None:
    """With a count where there is one to show."""
    show_reload(
        [
            {"event": "begun", "message": "generation 2 is loading", "done": 0, "total": 2},
            {"event": "replaced", "message": "worker 3 serves [slot 0]", "done": 1, "total": 2},
            {"event": "done", "message": "generation 2 serves", "done": 2, "total": 0},
        ]
    )
    lines = [line.strip() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert lines == [
        "begun: generation 2 is loading",
        "replaced: worker 3 serves [slot 0] (1/2)",
        "done: generation 2 serves",
    ]

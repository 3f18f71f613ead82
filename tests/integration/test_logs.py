"""What is seen on a terminal or a plain stderr: who says it, once, and the app's own words."""

import contextlib
import os
import re
import socket
from pathlib import Path

import pytest
from conftest import HELLO, Start
from instance import wait_until
from web import fetch

TALKING = """
import logging
import sys
import warnings

print("print at import")
logging.getLogger("shop").warning("warning at import")

async def app(scope, receive, send):
    assert scope["type"] == "http"
    if scope["path"] == "/fail":
        raise RuntimeError("no such order")
    print("print in a request")
    print("error stream in a request", file=sys.stderr)
    logger = logging.getLogger("shop")
    logger.debug("a debug message")
    logger.info("an info message")
    logger.warning("a warning")
    logger.error("an error")
    try:
        1 / 0
    except ZeroDivisionError:
        logger.exception("an exception")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"done"})
"""


def lines(log: str, text: str) -> list[str]:
    """Return the lines of a log that hold a text."""
    return [line for line in log.splitlines() if text in line]


def test_master_names_the_instance_in_each_line(start: Start) -> None:
    """The course of a cluster, from start to stop, is told by lines that begin with its name."""
    instance = start(HELLO, "--workers", "1")
    (pid,) = instance.worker_pids()
    assert instance.stop() == 0
    said = [line for line in instance.log().splitlines() if line.startswith("sdcluster[")]
    who = f"sdcluster[{instance.name}]:"
    assert said == [
        f"{who} starting 1 workers on {instance.address}",
        f"{who} worker 1 (pid {pid}, slot 0, gen 1) serves",
        f"{who} ready: 1/1 workers ready, gen 1, 0 connections, 0 restarts",
        f"{who} stopping: the workers drain",
        f"{who} worker 1 (pid {pid}) is retired: stop",
        f"{who} worker 1 (slot 0) is gone (stop)",
        f"{who} stopped",
    ]


def test_app_is_heard_as_it_speaks(start: Start) -> None:
    """What the app prints is shown unchanged; what it logs, with its level and who logged it."""
    instance = start(TALKING, "--workers", "1")
    assert fetch(instance.address).status == 200
    log = instance.log()
    worker = f"sdcluster[{instance.name}] worker 1:"
    assert lines(log, "print at import") == ["print at import"]
    mold = f"sdcluster[{instance.name}] mold: WARNING warning at import"
    assert lines(log, "warning at import") == [mold]
    assert lines(log, "print in a request") == ["print in a request"]
    assert lines(log, "error stream in a request") == ["error stream in a request"]
    assert lines(log, "a warning") == [f"{worker} WARNING a warning"]
    assert lines(log, "an error") == [f"{worker} ERROR an error"]
    assert lines(log, "an exception") == [f"{worker} ERROR an exception"]
    assert log.count("ZeroDivisionError: division by zero") == 1


def test_levels_are_the_apps_choice(start: Start) -> None:
    """Below WARNING nothing is logged, as in any Python program, until the app asks for it."""
    quiet = start(TALKING, "--workers", "1")
    assert fetch(quiet.address).status == 200
    assert "an info message" not in quiet.log()
    quiet.stop()
    asking = TALKING.replace('print("print at', 'logging.root.setLevel("INFO")\nprint("print at')
    talkative = start(asking, "--workers", "1")
    assert fetch(talkative.address).status == 200
    assert len(lines(talkative.log(), "INFO an info message")) == 1
    assert "a debug message" not in talkative.log()


def test_logging_of_the_app_is_left_as_it_set_it_up(start: Start) -> None:
    """`basicConfig` in the app rules format and level; nothing is logged twice."""
    set_up = 'logging.basicConfig(format="shop: %(message)s", level="DEBUG")\nprint("print at'
    instance = start(TALKING.replace('print("print at', set_up), "--workers", "1")
    assert fetch(instance.address).status == 200
    for text in ("a debug message", "an info message", "a warning", "an error"):
        assert lines(instance.log(), text) == [f"shop: {text}"]


def test_failing_request_shows_its_traceback_once(start: Start) -> None:
    """An app that raises answers 500, shows where, and goes on serving in the same worker."""
    instance = start(TALKING, "--workers", "1")
    pids = instance.worker_pids()
    assert fetch(instance.address, "/fail").status == 500
    assert fetch(instance.address).status == 200
    log = instance.wait_log("RuntimeError: no such order")
    assert log.count("RuntimeError: no such order") == 1
    failed = log[: log.index("RuntimeError: no such order")]
    assert "app.py" in failed.rpartition("Traceback (most recent call last)")[2]
    assert instance.worker_pids() == pids


def test_failing_request_is_shown_with_logging_of_the_apps_own(start: Start) -> None:
    """When the app has set up logging, the traceback goes there, and once too."""
    set_up = 'logging.basicConfig(format="shop: %(message)s")\nprint("print at'
    instance = start(TALKING.replace('print("print at', set_up), "--workers", "1")
    assert fetch(instance.address, "/fail").status == 500
    log = instance.wait_log("RuntimeError: no such order")
    assert log.count("RuntimeError: no such order") == 1


@pytest.mark.parametrize("set_up", ["", 'import logging\nlogging.basicConfig(level="INFO")\n'])
def test_access_log_has_a_line_for_each_request(start: Start, set_up: str) -> None:
    """With --access-log each request is logged once, with client, method, path and status."""
    instance = start(set_up + HELLO, "--workers", "1", "--access-log")
    fetch(instance.address, "/a?b=c")
    instance.wait_log('"GET /a?b=c HTTP/1.1" 200')
    (line,) = lines(instance.log(), "/a?b=c")
    assert re.search(r'127\.0\.0\.1:\d+ - "GET /a\?b=c HTTP/1\.1" 200', line)


@pytest.mark.parametrize("set_up", ["", 'import logging\nlogging.basicConfig(level="DEBUG")\n'])
def test_no_request_is_logged_by_default(start: Start, set_up: str) -> None:
    """Without --access-log requests leave no line, whatever the app logs."""
    instance = start(set_up + HELLO, "--workers", "1")
    fetch(instance.address, "/secret")
    assert instance.stop() == 0
    assert "/secret" not in instance.log()


def test_output_is_there_at_once(start: Start) -> None:
    """A line that the app prints is not held back in a buffer until there are more."""
    source = 'print("imported", flush=False)\nimport time\ntime.sleep(100)\n'
    instance = start(source, wait=False, env={"PYTHONUNBUFFERED": ""})
    instance.wait_log("imported")


def test_other_text_than_ascii_is_shown(start: Start) -> None:
    """Text in any script arrives as UTF-8, in the C locale as well."""
    source = (
        'import logging\nprint("größe", "日本")\nlogging.getLogger().warning("naïve ☃")\n' + HELLO
    )
    instance = start(source, "--workers", "1", env={"LC_ALL": "C", "LANG": "C"})
    assert lines(instance.log(), "größe 日本")
    assert lines(instance.log(), "WARNING naïve ☃")


def test_nobody_need_read_what_is_said(start: Start) -> None:
    """When stdout and stderr take nothing more, the cluster starts, reloads, serves and stops."""
    prefix = ("sh", "-c", 'exec "$@" >/dev/full 2>&1', "sh")
    instance = start(HELLO, "--workers", "1", prefix=prefix, wait=False)
    instance.wait_status(lambda status: status["ready"] == 1, "ready")
    assert instance.reload().returncode == 0
    assert fetch(instance.status()["listen"][0]).status == 200
    assert instance.stop() == 0


def test_readers_that_are_stuck_are_not_waited_for(start: Start, tmp_path: Path) -> None:
    """With a pipe that is full and a service manager that reads nothing, all goes on.

    And once it reads again, the service manager learns that the cluster is ready.
    """
    os.mkfifo(tmp_path / "pipe")
    pipe = os.open(tmp_path / "pipe", os.O_RDWR | os.O_NONBLOCK)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, open(pipe, "wb", 0) as full:
        while full.write(b"x" * 4096):
            pass
        manager.bind(f"{tmp_path}/notify")
        manager.setblocking(False)
        with (
            contextlib.suppress(BlockingIOError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender,
        ):
            sender.setblocking(False)
            while True:
                sender.sendto(b"FILLER=1", f"{tmp_path}/notify")
        prefix = ("sh", "-c", f'exec "$@" >{tmp_path}/pipe 2>&1', "sh")
        env = {"NOTIFY_SOCKET": f"{tmp_path}/notify", "WATCHDOG_USEC": "300000"}
        instance = start(HELLO, "--workers", "1", prefix=prefix, env=env, wait=False)
        instance.wait_status(lambda status: status["ready"] == 1, "ready")
        assert instance.reload().returncode == 0
        assert fetch(instance.status()["listen"][0]).status == 200
        heard: list[bytes] = []

        def ready() -> bool:
            with contextlib.suppress(BlockingIOError):
                heard.append(manager.recv(4096))
            return b"READY=1" in heard

        wait_until(ready, "the service manager knows that the cluster is ready")
        assert instance.stop() == 0

"""The interpreter of a mold that is begun before anybody asks for it: used once, or ended."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Start
from instance import sdcluster
from waiting import wait_until
from web import fetch

from sdcluster.config.load import from_options
from sdcluster.config.model import Config
from sdcluster.errors import SpawnError
from sdcluster.master.processes import interpreter


def config(folder: Path, **options: object) -> Config:
    """Return that of an app in a folder."""
    return from_options({"app": "app:app", **options}, name="test", directory=folder)


def begun() -> int:
    """Return the pid of the one that was begun."""
    assert interpreter._begun is not None
    return interpreter._begun.pid


def is_gone(pid: int) -> bool:
    """Tell whether a child was reaped."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return True
    return False


@pytest.fixture(autouse=True)
def none_is_left() -> Iterator[None]:
    """Forget the one that was begun."""
    yield
    interpreter.forget()
    assert interpreter._begun is None


def test_one_that_was_begun_is_used_once(tmp_path: Path) -> None:
    """The second start executes another."""
    interpreter.begin(config(tmp_path))
    pid = begun()
    first = interpreter.start(config(tmp_path))
    second = interpreter.start(config(tmp_path))
    assert first.pid == pid != second.pid
    assert first.is_alive() and second.is_alive()
    for one in (first, second):
        one.end()
        assert is_gone(one.pid)


@pytest.mark.parametrize("what", ["environment", "folder"])
def test_one_that_was_begun_otherwise_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """What the config or the environment says now is what counts."""
    interpreter.begin(config(tmp_path))
    pid = begun()
    changed = config(tmp_path)
    if what == "folder":
        (tmp_path / "other").mkdir()
        changed = config(tmp_path / "other")
    else:
        monkeypatch.setenv("CHANGED", "yes")
    started = interpreter.start(changed)
    assert started.pid != pid and is_gone(pid)
    started.end()


def test_one_that_has_died_is_not_used(tmp_path: Path) -> None:
    """Whoever reaped it: another is executed."""
    for is_reaped in (False, True):
        interpreter.begin(config(tmp_path))
        pid = begun()
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | (0 if is_reaped else os.WNOWAIT))
        started = interpreter.start(config(tmp_path))
        assert started.pid != pid and started.is_alive() and is_gone(pid)
        started.end()


def test_none_is_begun_for_a_command(tmp_path: Path) -> None:
    """It is not Python's, maybe."""
    interpreter.begin(from_options({"exec": ["true"]}, name="test", directory=tmp_path))
    assert interpreter._begun is None


def test_what_cannot_be_executed_is_told_when_it_is_started(tmp_path: Path) -> None:
    """And not when it is begun."""
    folder = tmp_path / "gone"
    folder.mkdir()
    gone = config(folder)
    folder.rmdir()
    interpreter.begin(gone)
    assert interpreter._begun is None
    with pytest.raises(SpawnError, match="cannot execute"):
        interpreter.start(gone)


def test_one_that_nobody_asks_for_ends_with_the_master(tmp_path: Path) -> None:
    """It waits for what to load, and the other end of its channel is gone."""
    interpreter.begin(config(tmp_path))
    unused = interpreter._begun
    assert unused is not None
    interpreter._begun = None
    unused.channel.close()
    wait_until(lambda: not unused.is_alive(), "it has ended")
    os.waitpid(unused.pid, 0)


APP = """
import sys

EARLY = b"early" if "early" in sys.orig_argv else b"late"

async def app(scope, receive, send):
    assert scope["type"] == "http"
    headers = [(b"content-length", str(len(EARLY)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": EARLY})
"""


def test_first_mold_is_one_that_was_begun(start: Start) -> None:
    """A reload executes another, with the environment of then."""
    instance = start(APP)
    assert fetch(instance.address).text == "early"
    assert instance.reload().returncode == 0
    assert fetch(instance.address).text == "late"


def test_start_that_fails_leaves_none(start: Start, tmp_path: Path) -> None:
    """It is ended before the master ends."""
    instance = start(APP)
    app = f"{tmp_path.name}_app"
    folder = tmp_path / "second"
    folder.mkdir()
    (folder / f"{app}.py").write_text(APP)
    refused = sdcluster("run", f"{app}:app", "--listen", instance.address, cwd=folder)
    assert refused.returncode != 0 and "Address already in use" in refused.stderr
    assert [pid for pid in all_pids() if folder == folder_of(pid)] == []


def all_pids() -> list[int]:
    """Return the pids of this machine."""
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def folder_of(pid: int) -> Path | None:
    """Return where a process is; None when that is not known."""
    try:
        return Path(os.readlink(f"/proc/{pid}/cwd"))
    except OSError:
        return None

"""Molds that die or stop: the workers serve on, and a new mold is made and tried out."""

import signal
import threading
import time
from os import kill
from pathlib import Path

import pytest
from conftest import HELLO, Start
from instance import Instance, sdcluster, wait_until
from processes import descriptors, is_running, stop
from web import fetch

VERSION = """
import os
import time

while os.path.exists("hold"):
    time.sleep(0.01)

async def app(scope, receive, send):
    assert scope["type"] == "http"
    body = b"VERSION"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
"""
"""An app that answers with its version; its import waits while the file `hold` is there."""


def version(number: int) -> str:
    """Return the app's source in a version of it."""
    return VERSION.replace("VERSION", f"v{number}")


def generations(instance: Instance) -> set[int]:
    """Return the generations that serve."""
    workers = instance.status()["workers"]
    return {one["generation"] for one in workers if one["state"] == "serving"}


def kill_molds(instance: Instance) -> None:
    """Kill the mold of generation 1, and once that is known, the one of generation 2."""
    for generation, mold in enumerate(instance.mold_pids(), start=1):
        kill(mold, signal.SIGKILL)
        instance.wait_log(f"the mold of generation {generation} (pid {mold}) is gone")


def test_a_dead_mold_is_rebuilt_as_a_new_generation(start: Start) -> None:
    """SIGKILL of an idle mold: nothing is lost, all workers come from a new mold afterwards."""
    instance = start(HELLO, "--workers", "2")
    (mold,) = instance.mold_pids()
    with instance.under_load(close=True) as load:
        kill(mold, signal.SIGKILL)
        instance.wait_log("reload done, generation 2 serves")
    assert load.lost == 0, load.errors
    log = instance.log()
    assert f"the mold of generation 1 (pid {mold}) is gone: SIGKILL" in log
    assert "reload to generation 2 begins (the mold died)" in log
    assert generations(instance) == {2}
    wait_until(lambda: len(instance.mold_pids()) == 1, "one mold")


def test_a_worker_that_dies_without_a_mold_is_replaced_by_the_next(
    start: Start, tmp_path: Path
) -> None:
    """A slot that gets empty while the new mold loads is filled as soon as that can fork."""
    instance = start(version(1), "--workers", "2")
    (tmp_path / "hold").touch()
    kill(instance.mold_pids()[0], signal.SIGKILL)
    instance.wait_log("(the mold died)")
    kill(instance.worker_pids()[0], signal.SIGKILL)
    instance.wait_status(lambda status: status["ready"] == 1)
    assert fetch(instance.address).text == "v1"
    (tmp_path / "hold").unlink()
    instance.wait_log("reload done, generation 2 serves")
    assert instance.status()["ready"] == 2
    assert generations(instance) == {2}


def test_a_dead_mold_and_broken_code_leave_the_old_workers(start: Start, tmp_path: Path) -> None:
    """While no mold can be made the workers of the old code serve on; mended code takes over."""
    instance = start(version(1), "--workers", "2")
    before = instance.worker_pids()
    (tmp_path / "app.py").write_text("import nothing_like_that\n")
    kill(instance.mold_pids()[0], signal.SIGKILL)
    instance.wait_log("reload failed, the old code serves on: cannot import 'app'")
    assert instance.worker_pids() == before
    assert fetch(instance.address).text == "v1"
    (tmp_path / "app.py").write_text(version(2))
    instance.wait_log("generation 3 serves")
    wait_until(lambda: fetch(instance.address).text == "v2", "the mended code serves")


def test_broken_code_is_not_tried_in_a_loop(start: Start, tmp_path: Path) -> None:
    """Attempts to rebuild a mold come after growing waits."""
    instance = start(version(1), "--workers", "1")
    (tmp_path / "app.py").write_text("import nothing_like_that\n")
    kill(instance.mold_pids()[0], signal.SIGKILL)

    began: list[float] = []

    def attempts() -> int:
        if instance.log().count("(the mold died)") > len(began):
            began.append(time.monotonic())
        return len(began)

    wait_until(lambda: attempts() == 3, "three attempts")
    first, second, third = began
    assert second - first > 0.15
    assert third - second > 0.3


def test_a_reload_mends_a_broken_rebuild_at_once(start: Start, tmp_path: Path) -> None:
    """`sdcluster reload` does not wait for the next attempt to rebuild the mold."""
    instance = start(version(1), "--workers", "2")
    (tmp_path / "app.py").write_text("import nothing_like_that\n")
    kill(instance.mold_pids()[0], signal.SIGKILL)
    instance.wait_log("reload failed, the old code serves on: cannot import 'app'")
    (tmp_path / "app.py").write_text(version(2))
    done = instance.reload()
    assert done.returncode == 0, done.stderr
    assert fetch(instance.address).text == "v2"


def test_a_stopped_mold_does_not_hinder_a_reload(start: Start, tmp_path: Path) -> None:
    """SIGSTOP of the mold under load: a reload makes a new one, and the old one does not stay."""
    instance = start(version(1), "--workers", "2")
    (mold,) = instance.mold_pids()
    with instance.under_load(close=True) as load:
        stop(mold)
        (tmp_path / "app.py").write_text(version(2))
        done = instance.reload()
    assert done.returncode == 0, done.stderr
    assert load.lost == 0, load.errors
    assert fetch(instance.address).text == "v2"
    wait_until(lambda: not is_running(mold), "the stopped mold is gone")


def test_a_stopped_mold_that_is_to_fork_is_replaced(start: Start) -> None:
    """A mold that does not fork within `ready_timeout_s` is killed, and the slot filled after."""
    config = 'app = "app:app"\nworkers = 2\nready_timeout_s = 2\n'
    instance = start(HELLO, config=config)
    (mold,) = instance.mold_pids()
    stop(mold)
    kill(instance.worker_pids()[0], signal.SIGKILL)
    instance.wait_log("generation 2 serves")
    instance.wait_status(lambda status: status["ready"] == 2)
    assert not is_running(mold)


def test_the_new_mold_dies_while_it_loads(start: Start, tmp_path: Path) -> None:
    """The reload fails and says so; every worker of the old code serves."""
    instance = start(version(1), "--workers", "2")
    before = instance.worker_pids()
    old_molds = instance.mold_pids()
    (tmp_path / "hold").touch()
    (tmp_path / "app.py").write_text(version(2))
    reloading = instance.begin_reload()
    wait_until(lambda: len(instance.mold_pids()) == 2, "the new mold")
    (new,) = set(instance.mold_pids()) - set(old_molds)
    kill(new, signal.SIGKILL)
    output, _ = reloading.communicate(timeout=20)
    assert reloading.returncode != 0
    assert "the mold died: SIGKILL" in output
    assert instance.worker_pids() == before
    assert fetch(instance.address).text == "v1"


def test_the_new_mold_dies_while_workers_are_replaced(start: Start, tmp_path: Path) -> None:
    """The replaced slots go back to the old code; `reload` tells the reason."""
    config = 'app = "app:app"\nworkers = 3\nreload_probation_s = 0.5\n'
    instance = start(version(1), config=config)
    old_molds = instance.mold_pids()
    (tmp_path / "app.py").write_text(version(2))
    with instance.under_load(close=True) as load:
        reloading = instance.begin_reload()
        instance.wait_status(lambda _: generations(instance) == {1, 2})
        (new,) = set(instance.mold_pids()) - set(old_molds)
        kill(new, signal.SIGKILL)
        output, _ = reloading.communicate(timeout=20)
    assert reloading.returncode != 0
    assert "the mold died: SIGKILL" in output
    assert generations(instance) == {1}
    assert fetch(instance.address).text == "v1"
    assert load.lost == 0, load.errors


def test_the_old_mold_dies_during_a_reload(start: Start, tmp_path: Path) -> None:
    """The reload goes on, as its own mold lives."""
    config = 'app = "app:app"\nworkers = 3\nreload_probation_s = 0.3\n'
    instance = start(version(1), config=config)
    (old,) = instance.mold_pids()
    (tmp_path / "app.py").write_text(version(2))
    with instance.under_load(close=True) as load:
        reloading = instance.begin_reload()
        instance.wait_status(lambda _: generations(instance) == {1, 2})
        kill(old, signal.SIGKILL)
        output, _ = reloading.communicate(timeout=20)
    assert reloading.returncode == 0, output
    assert generations(instance) == {2}
    assert load.lost == 0, load.errors


def test_both_molds_die_during_a_reload(start: Start, tmp_path: Path) -> None:
    """No generation can fork: the workers that are there serve on, until a third one takes over."""
    config = 'app = "app:app"\nworkers = 3\nreload_probation_s = 0.5\n'
    instance = start(version(1), config=config)
    (tmp_path / "app.py").write_text(version(2))
    with instance.under_load(close=True) as load:
        reloading = instance.begin_reload()
        instance.wait_status(lambda _: generations(instance) == {1, 2})
        kill_molds(instance)
        output, _ = reloading.communicate(timeout=20)
        assert reloading.returncode != 0
        assert "the mold died: SIGKILL" in output
        instance.wait_log("reload done, generation 3 serves")
    assert generations(instance) == {3}
    assert load.lost == 0, load.errors


def test_both_molds_die_while_the_reload_is_watched(start: Start, tmp_path: Path) -> None:
    """All slots serve the new code already when both molds die: the master lives, a third comes."""
    config = 'app = "app:app"\nworkers = 1\nreload_probation_s = 1\n'
    instance = start(version(1), config=config)
    (tmp_path / "app.py").write_text(version(2))
    reloading = instance.begin_reload()
    instance.wait_status(lambda status: status["status"].endswith("watching"))
    kill_molds(instance)
    reloading.communicate(timeout=20)
    instance.wait_log("reload done, generation 3 serves")
    assert generations(instance) == {3}
    assert fetch(instance.address).text == "v2"


def test_many_reloads_at_once_survive_a_dying_mold(start: Start) -> None:
    """The mold is killed while reloads are asked for from several sides: all get an answer."""
    instance = start(HELLO, "--workers", "2")
    threads = [threading.Thread(target=instance.reload) for _ in range(3)]
    for thread in threads:
        thread.start()
    kill(instance.mold_pids()[0], signal.SIGKILL)
    for thread in threads:
        thread.join(timeout=20)
        assert not thread.is_alive()
    instance.wait_status(lambda status: status["ready"] == 2 and "reload" not in status["status"])


FATAL = """
import os
import signal

from sdcluster.worker.host import forking

MOLD = os.getpid()
fork = forking.fork

def fatal():
    if os.getpid() != MOLD and os.path.exists("late"):
        os.kill(os.getpid(), signal.SIGKILL)
    pid = fork()
    if pid == 0 and os.getppid() == MOLD and os.path.exists("early"):
        os.kill(os.getpid(), signal.SIGKILL)
    return pid

forking.fork = fatal
"""
"""Kills the process between mold and worker while there is a file that says so.

With `early` it is killed as soon as it is there, with `late` when it has taken its order.
"""


@pytest.mark.parametrize("when", ["early", "late"])
def test_a_fork_that_is_killed_halfway_is_told_and_tried_again(
    start: Start, tmp_path: Path, when: str
) -> None:
    """The process between mold and worker is killed, for want of memory: the mold goes on."""
    instance = start(FATAL + HELLO, "--workers", "2")
    (mold,) = instance.mold_pids()
    (tmp_path / when).touch()
    kill(instance.worker_pids()[0], signal.SIGKILL)
    reason = "(boot-failed): cannot fork: the process between mold and worker ended: Killed"
    instance.wait_log(reason)
    assert fetch(instance.address).text.startswith("1 ")
    (tmp_path / when).unlink()
    instance.wait_status(lambda status: status["ready"] == 2)
    assert instance.mold_pids() == [mold]


COLLECTS = """
import os
import signal

def collect(*_):
    while True:
        os.waitpid(-1, 0)

signal.signal(signal.SIGCHLD, {handler})
"""
"""An app that has the children of its mold collected, by the kernel or by a handler that fails."""


@pytest.mark.parametrize("handler", ["signal.SIG_IGN", "collect"])
def test_an_app_that_collects_all_children_gets_its_workers(start: Start, handler: str) -> None:
    """Also those that the mold waits for."""
    instance = start(COLLECTS.format(handler=handler) + HELLO, "--workers", "2")
    (mold,) = instance.mold_pids()
    kill(instance.worker_pids()[0], signal.SIGKILL)
    instance.wait_log("worker 3 (pid")
    instance.wait_status(lambda status: status["ready"] == 2)
    assert instance.mold_pids() == [mold]
    assert "cannot fork" not in instance.log()


HOOKS = """
import multiprocessing
import os

lock = multiprocessing.Lock()

def note(text):
    with open("hooks", "a") as file:
        file.write(f"{text} {os.getpid()}\\n")

os.register_at_fork(before=lambda: (lock.acquire(), note("before")))
os.register_at_fork(after_in_parent=lambda: (note("parent"), lock.release()))
os.register_at_fork(after_in_child=lambda: note("child"))
"""
"""An app that has something to do around each fork, as os.register_at_fork provides for it."""


def test_what_an_app_does_around_a_fork_is_done(start: Start, tmp_path: Path) -> None:
    """Once for each worker: before and after it in the process that forks, and in the worker."""
    instance = start(HOOKS + HELLO, "--workers", "2")
    pids = instance.worker_pids()
    kill(pids[0], signal.SIGKILL)
    instance.wait_status(lambda status: status["restarts"] == 1 and status["ready"] == 2)
    notes = [line.split() for line in (tmp_path / "hooks").read_text().splitlines()]
    by_what = {what: [pid for name, pid in notes if name == what] for what, _ in notes}
    assert sorted(map(int, by_what["child"])) == sorted({*pids, *instance.worker_pids()})
    assert by_what["before"] == by_what["parent"]
    assert len({*by_what["before"]}) == 3


TELLS_PIPES = """
import os

names = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if int(fd) > 2
         and os.path.lexists(f"/proc/self/fd/{fd}")]
pipes = [name for name in names if name.startswith("pipe:")]

async def app(scope, receive, send):
    assert scope["type"] == "http"
    body = repr(pipes).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
"""
"""An app that tells which pipes were open when it was imported."""


def test_a_worker_has_no_pipe_of_the_molds(start: Start) -> None:
    """Nothing that the mold learns the pid by, nor what earlier forks used, is open in it."""
    instance = start(TELLS_PIPES, "--workers", "2", "--no-preload")
    assert [fetch(instance.address).text for _ in range(2)] == ["[]", "[]"]


MANY = 400
"""More workers than a mold that stands still is sent orders for."""

SLEEPER = """
exec = ["sleep", "1000"]
exec_ready = "started"
workers = 1
"""


def scale_without_a_mold(instance: Instance) -> int:
    """Stop the mold, have the master want `MANY` workers, and return the mold's pid."""
    (mold,) = instance.mold_pids()
    stop(mold)
    assert sdcluster("scale", instance.name, str(MANY)).returncode == 0
    return mold


def test_orders_for_many_workers_wait_for_a_busy_mold(start: Start) -> None:
    """However many workers are wanted at once, none is given up because the mold has no time."""
    instance = start(None, config=SLEEPER)
    kill(scale_without_a_mold(instance), signal.SIGCONT)
    instance.wait_status(lambda status: status["ready"] == MANY)
    assert "(boot-failed)" not in instance.log()
    assert len(set(instance.worker_pids())) == MANY


def test_orders_that_wait_fail_with_their_mold(start: Start) -> None:
    """A mold dies with orders still to come: each slot is told once, and filled by the next."""
    instance = start(None, config=SLEEPER)
    before = descriptors(instance.pid)
    kill(scale_without_a_mold(instance), signal.SIGKILL)
    instance.wait_log("reload done, generation 2 serves")
    assert instance.log().count("(boot-failed): the mold died before it forked") == MANY - 1
    instance.wait_status(lambda status: status["ready"] == MANY)
    sdcluster("scale", instance.name, "1")
    instance.wait_status(lambda status: len(status["workers"]) == 1)
    wait_until(lambda: len(descriptors(instance.pid)) <= len(before), "no descriptor is left")

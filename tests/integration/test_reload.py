"""Rolling reloads: the new code goes live everywhere, one slot at a time, and nothing is lost."""

import re
import signal
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from os import kill
from pathlib import Path
from typing import Any

import pytest
from conftest import HELLO, Start
from control import Client
from instance import Instance, sdcluster, wait_until
from web import fetch, fetch_many

VERSION = """
import os
import time

open("importing-VERSION", "w").close()
while os.path.exists("hold"):
    time.sleep(0.01)

async def app(scope, receive, send):
    assert scope["type"] == "http"
    body = f"VERSION {os.environ.get('STAGE')} {os.path.basename(os.getcwd())}\\n".encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
"""
"""An app that answers with its version, an environment variable and its folder.

Its import waits while the file `hold` is there.
"""


def version(number: int) -> str:
    """Return the app's source in a version of it."""
    return VERSION.replace("VERSION", f"v{number}")


def versions(instance: Instance, count: int = 12) -> set[str]:
    """Return what several answers say."""
    return {answer.text for answer in fetch_many(instance.address, count)}


def generations(instance: Instance) -> set[int]:
    """Return the generations that serve."""
    workers = instance.status()["workers"]
    return {one["generation"] for one in workers if one["state"] == "serving"}


@pytest.mark.parametrize(
    ("scheduling", "reloads"), [("round-robin", 10), ("shared", 5), ("reuseport", 5)]
)
@pytest.mark.parametrize("close", [True, False], ids=["close", "keep-alive"])
def test_reloads_under_load_lose_nothing(
    start: Start, scheduling: str, reloads: int, close: bool
) -> None:
    """Clients of both kinds get every answer while all workers are replaced again and again."""
    config = (
        f'app = "app:app"\nworkers = 2\nscheduling = "{scheduling}"\nreload_probation_s = 0.05\n'
    )
    instance = start(HELLO, config=config)
    with instance.under_load(close=close) as load:
        for _ in range(reloads):
            before = instance.worker_pids()
            with Client(instance) as client:
                assert "error" not in client.call("Reload")
            assert not set(before) & set(instance.worker_pids())
    assert load.requests > 100 * reloads
    assert load.lost == 0, load.errors


def test_new_code_is_live_in_all_workers(start: Start, tmp_path: Path) -> None:
    """`reload` exits with 0 once every worker serves the new code, and shows a line for each."""
    instance = start(version(1), "--workers", "3")
    (tmp_path / "app.py").write_text(version(2))
    done = instance.reload()
    assert done.returncode == 0
    assert {text.split()[0] for text in versions(instance)} == {"v2"}
    lines = done.stdout.splitlines()
    assert lines[0] == "begun: generation 2 is loading"
    for number, line in enumerate(lines[1:-1]):
        pattern = rf"replaced: slot {number}: worker \d+ \(pid \d+\) serves \({number + 1}/3\)"
        assert re.fullmatch(pattern, line)
    assert len(lines) == 5
    assert lines[-1] == "done: generation 2 serves"
    pids = {int(text) for text in re.findall(r"pid (\d+)", done.stdout)}
    assert pids == set(instance.worker_pids())


def test_there_are_never_fewer_workers_than_wanted(start: Start) -> None:
    """A worker leaves only when its successor serves, and one is started at a time."""
    instance = start(HELLO, "--workers", "3")
    reloading = instance.begin_reload()
    seen = []
    while reloading.poll() is None:
        seen.append(instance.status())
    assert reloading.communicate()[0].endswith("done: generation 2 serves\n")
    assert {status["ready"] for status in seen} == {3}
    for status in seen:
        states = [one["state"] for one in status["workers"]]
        assert states.count("starting") + states.count("proving") <= 1
    assert len(seen) > 20


HOLDING = """
import asyncio
import os

async def app(scope, receive, send):
    while scope["path"] == "/held" and os.path.exists("hold"):
        await asyncio.sleep(0.01)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"done"})
"""
"""An app that does not answer `/held` while the file `hold` is there."""


def test_old_workers_drain_side_by_side(start: Start, tmp_path: Path) -> None:
    """A reload takes as long as the slowest of them, not as long as all of them together."""
    workers = 3
    instance = start(HOLDING, "--workers", str(workers))
    (tmp_path / "hold").touch()
    with ThreadPoolExecutor(workers) as pool:
        held = [pool.submit(fetch, instance.address, "/held") for _ in range(workers)]
        instance.wait_status(lambda status: _count(status, "serving", connections=1) == workers)
        reloading = instance.begin_reload()
        instance.wait_status(lambda status: _count(status, "draining") == workers)
        assert reloading.poll() is None
        (tmp_path / "hold").unlink()
        assert [one.result().text for one in held] == ["done"] * workers
    assert reloading.communicate()[0].endswith("done: generation 2 serves\n")


def _count(status: Mapping[str, Any], state: str, *, connections: int = 0) -> int:
    workers = [one for one in status["workers"] if one["state"] == state]
    return sum(one["connections"] >= connections for one in workers)


def test_a_reload_applies_the_number_of_workers(start: Start, tmp_path: Path) -> None:
    """More `workers` in the file are ready when the reload is done, fewer are left soon after."""
    text = 'app = "app:app"\nworkers = {}\nreload_probation_s = 0.05\n'
    instance = start(HELLO, config=text.format(2))
    for workers in (4, 1):
        (tmp_path / "test0.toml").write_text(text.format(workers))
        assert instance.reload().returncode == 0
        assert instance.status()["ready"] >= workers
        instance.wait_status(lambda status: status["ready"] == len(status["workers"]) == workers)


def test_a_reload_that_changes_no_number_keeps_what_was_scaled(start: Start) -> None:
    """`scale` stands until a file with another number of workers is loaded."""
    instance = start(HELLO, config='app = "app:app"\nworkers = 1\nreload_probation_s = 0.05\n')
    assert sdcluster("scale", instance.name, "2").returncode == 0
    instance.wait_status(lambda status: status["ready"] == 2)
    assert instance.reload().returncode == 0
    assert instance.status()["ready"] == 2


def test_environment_and_directory_belong_to_the_generation(start: Start, tmp_path: Path) -> None:
    """What changes on disk is used from the next reload on; a respawn before it uses the old."""
    for number in (1, 2):
        (tmp_path / f"r{number}").mkdir()
        (tmp_path / f"r{number}" / "app.py").write_text(version(number))
    (tmp_path / "current").symlink_to("r1")
    text = 'app = "app:app"\nworkers = 2\ndirectory = "current"\nenvironment = {{ STAGE = "{}" }}\n'
    instance = start(None, config=text.format("one"))
    assert versions(instance) == {"v1 one r1"}
    (tmp_path / "next").symlink_to("r2")
    (tmp_path / "next").rename(tmp_path / "current")
    (tmp_path / "test0.toml").write_text(text.format("two"))
    pid = instance.worker_pids()[0]
    kill(pid, signal.SIGKILL)
    wait_until(lambda: pid not in instance.worker_pids(), "the worker is gone")
    instance.wait_status(lambda status: status["ready"] == 2)
    assert versions(instance) == {"v1 one r1"}
    assert instance.reload().returncode == 0
    assert versions(instance) == {"v2 two r2"}


def test_a_respawn_without_preload_imports_what_is_there(start: Start, tmp_path: Path) -> None:
    """With `preload = false` each worker imports for itself: a new file is seen at a respawn."""
    config = 'app = "app:app"\nworkers = 1\npreload = false\n'
    instance = start(version(1), config=config)
    (tmp_path / "app.py").write_text(version(2))
    assert instance.reload().returncode == 0
    assert {text.split()[0] for text in versions(instance)} == {"v2"}


def test_reloads_at_once_all_succeed(start: Start) -> None:
    """Four `sdcluster reload` started at the same time exit with 0, and share two or three."""
    instance = start(HELLO, config='app = "app:app"\nworkers = 2\nreload_probation_s = 0.05\n')
    reloads = [instance.begin_reload() for _ in range(4)]
    for one in reloads:
        output, _ = one.communicate(timeout=20)
        assert one.returncode == 0, output
        assert output.endswith(" serves\n")
    assert 1 <= instance.log().count("reload done") <= 3


def test_reloads_asked_for_during_a_reload_become_one(start: Start, tmp_path: Path) -> None:
    """Who asks during a reload waits for the next one, which has the code that was there then."""
    instance = start(version(1), "--workers", "2")
    (tmp_path / "hold").touch()
    (tmp_path / "app.py").write_text(version(2))
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(instance)) for _ in range(4)]
        clients[0].ask("Reload")
        wait_until((tmp_path / "importing-v2").exists, "the app is being imported")
        (tmp_path / "app.py").write_text(version(3))
        for client in clients[1:]:
            client.ask("Reload")
        instance.status()  # Asked after them, so the master has heard them too.
        (tmp_path / "hold").unlink()
        messages = [client.answer()["parameters"]["message"] for client in clients]
    assert messages == ["generation 2 serves", *["generation 3 serves"] * 3]
    assert instance.log().count("reload done") == 2
    assert {text.split()[0] for text in versions(instance)} == {"v3"}


def test_scaling_during_a_reload_happens_after_it(start: Start, tmp_path: Path) -> None:
    """Both are done in the end, whatever the order; nothing is lost."""
    for wanted in ("4", "1"):
        instance = start(version(1), "--workers", "2")
        (tmp_path / "hold").touch()
        with instance.under_load(close=True) as load:
            reloading = instance.begin_reload()
            instance.wait_log("reload to generation 2 begins")
            assert sdcluster("scale", instance.name, wanted).returncode == 0
            (tmp_path / "hold").unlink()
            assert reloading.wait(20) == 0
            reloading.communicate()
            instance.wait_status(lambda status: len(status["workers"]) == int(wanted))
        instance.wait_status(lambda status: status["ready"] == int(wanted))
        assert generations(instance) == {2}
        assert load.lost == 0, load.errors


def test_scaling_up_and_down_under_load_loses_nothing(start: Start) -> None:
    """Workers come and go by `scale`; clients notice nothing."""
    instance = start(HELLO, "--workers", "2")
    for close in (True, False):
        with instance.under_load(close=close) as load:
            for wanted in (4, 1, 2):
                assert sdcluster("scale", instance.name, str(wanted)).returncode == 0
                instance.wait_status(lambda status: len(status["workers"]) == wanted)
                instance.wait_status(lambda status: status["ready"] == wanted)
        assert load.lost == 0, load.errors


@pytest.mark.parametrize("moment", ["loading", "rolling"])
def test_sigterm_during_a_reload_stops_cleanly(start: Start, tmp_path: Path, moment: str) -> None:
    """The cluster ends with status 0, and who waits for the reload is told why it did not come."""
    instance = start(version(1), "--workers", "3")
    if moment == "loading":
        (tmp_path / "hold").touch()
    reloading = instance.begin_reload()
    instance.wait_status(lambda status: status["status"].endswith(moment))
    instance.signal(signal.SIGTERM)
    output, _ = reloading.communicate(timeout=20)
    assert reloading.returncode != 0
    assert "the cluster is stopping" in output
    assert instance.wait() == 0
    wait_until(lambda: not instance.processes(), "all processes are gone", 5)
    assert not re.search(r"\((crash|boot-failed|hung)\)", instance.log())


def test_a_storm_of_sighup_is_few_reloads(start: Start) -> None:
    """A thousand SIGHUP lead to two or three reloads, and lose nothing."""
    instance = start(HELLO, config='app = "app:app"\nworkers = 2\nreload_probation_s = 0.05\n')
    with instance.under_load(close=True) as load:
        for _ in range(1000):
            instance.signal(signal.SIGHUP)
            time.sleep(0)
        instance.wait_log("reload done")
        instance.wait_status(lambda status: "reload" not in status["status"])
    assert 1 <= instance.log().count("reload done") <= 3
    assert load.lost == 0, load.errors


def test_reloads_crashes_and_scaling_together_lose_only_what_crashed(start: Start) -> None:
    """Everything at once: in the end the wanted number serves the newest generation."""
    instance = start(HELLO, config='app = "app:app"\nworkers = 2\nreload_probation_s = 0.05\n')
    over = threading.Event()

    def crash() -> None:
        while not over.wait(0.3):
            pids = instance.worker_pids()
            if pids:
                try:
                    kill(pids[0], signal.SIGKILL)
                except ProcessLookupError:
                    continue

    crashing = threading.Thread(target=crash)
    with instance.under_load(close=True) as load:
        crashing.start()
        for number in range(4):
            instance.reload()
            sdcluster("scale", instance.name, str(2 + number % 2))
        over.set()
        crashing.join()
        assert instance.reload().returncode == 0
    status = instance.wait_status(lambda status: status["ready"] == status["wanted"] == 3)
    assert {one["generation"] for one in status["workers"]} == {status["generation"]}
    assert not [error for error in load.errors if error.startswith(("connect", "time-out"))]
    assert fetch(instance.address).status == 200

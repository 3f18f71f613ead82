"""Deploys that cannot work: the reload fails with the reason, and the old code serves on."""

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from conftest import Start
from instance import Instance, wait_until
from web import fetch_many

import sdcluster

PACKAGE = Path(sdcluster.__file__).parent

GOOD = """
import os

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"v1"})
"""

CONFIG = """
app = "app:app"
workers = 2
reload_probation_s = 0.2
"""

NEW = GOOD.replace("v1", "v2")


BROKEN = {
    "syntax": ("def app(:\n", r"cannot import 'app': SyntaxError: "),
    "raises": (NEW + "raise KeyError('SECRET')", r"cannot import 'app': KeyError: 'SECRET'"),
    "import": (NEW + "import nothing_like_that", r"ModuleNotFoundError: .*'nothing_like_that'"),
    "exits": (NEW + "raise SystemExit(3)", r"cannot import 'app': it calls sys.exit\(3\)"),
    "attribute": (NEW.replace("app(", "application("), r"no attribute 'app'; there is application"),
    "no-app": ("app = 5\n", r"a int is not an app"),
    "dies": (NEW + "os._exit(4)", r"the mold died: exit status 4"),
    "hangs": (NEW + "import time; time.sleep(1000)", r"the app did not load within 2 s"),
    "thread": (
        NEW + "import threading; threading.Thread(target=threading.Event().wait).start()",
        r"starts a thread when it is imported",
    ),
    "lifespan": (
        NEW.replace("startup.complete", "startup.failed"),
        r"did not become ready: the app's lifespan startup failed",
    ),
    "lifespan-hangs": (
        NEW.replace("await receive()", "import time; time.sleep(1000)", 1),
        r"was not ready within 2 s",
    ),
    "lifespan-dies": (
        NEW.replace("await receive()", "os._exit(5)", 1),
        r"did not become ready: exit status 5",
    ),
    "second": (
        # The second worker that starts dies: by then one slot serves the new code.
        NEW.replace(
            "await receive()",
            """await receive()
        if os.path.exists("first"):
            os._exit(6)
        open("first", "w").close()""",
            1,
        ),
        r"did not become ready: exit status 6",
    ),
    "probation": (
        # It becomes ready, and dies before it has proved itself.
        NEW.replace(
            "        await receive()\n        await send({\"type\": \"lifespan.shutdown",
            "        import asyncio; await asyncio.sleep(0.05); os._exit(7)\n"
            "        await send({\"type\": \"lifespan.shutdown",
            1,
        ),
        r"crashed: exit status 7",
    ),
    "last": (
        # All slots serve the new code when the last one's worker dies within its probation.
        NEW.replace(
            "        await receive()\n        await send({\"type\": \"lifespan.shutdown",
            "        import asyncio\n"
            "        if os.environ['SDCLUSTER_SLOT'] == '1':\n"
            "            await asyncio.sleep(0.3); os._exit(8)\n"
            "        await receive()\n"
            "        await send({\"type\": \"lifespan.shutdown",
            1,
        ),
        r"crashed: exit status 8",
    ),
}  # fmt: skip
"""How an app can be broken, and what `reload` says of it."""
HANGING = ("hangs", "lifespan-hangs")


def serving(instance: Instance) -> list[tuple[int, int]]:
    """Return slot and generation of the workers that serve."""
    workers = instance.status()["workers"]
    return [(one["slot"], one["generation"]) for one in workers if one["state"] == "serving"]


def assert_old_code_serves(instance: Instance, workers: int = 2) -> None:
    """Check that each slot serves generation 1, and that answers come from the old code."""
    assert serving(instance) == [(slot, 1) for slot in range(workers)]
    assert {one.text for one in fetch_many(instance.address, 9)} == {"v1"}
    assert instance.status()["generation"] == 1


def assert_failed(done: "subprocess.CompletedProcess[str]", reason: str) -> None:
    """Check that a command failed, with a reason and without a traceback of ours."""
    assert done.returncode != 0
    assert re.search(reason, done.stderr), done.stderr
    assert "sdcluster: " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_code_changes_nothing(start: Start, tmp_path: Path, kind: str) -> None:
    """`reload` fails with the reason; every slot serves the old code, and no request is lost."""
    source, reason = BROKEN[kind]
    instance = start(GOOD, config=CONFIG)
    before = instance.worker_pids()
    (tmp_path / "app.py").write_text(source)
    if kind in HANGING:
        (tmp_path / "test0.toml").write_text(CONFIG + "ready_timeout_s = 2\n")
    with instance.under_load(close=True, clients=4) as load:
        assert_failed(instance.reload(), reason)
        assert_old_code_serves(instance)
    # But for what a worker is answering that serves already and ends itself.
    assert load.lost <= (4 if kind == "last" else 0), load.errors
    replaced = kind in ("second", "last")
    assert (instance.worker_pids() == before) is not replaced
    assert "reload failed, the old code serves on: " in instance.log()
    assert ("its workers go back" in instance.log()) or not replaced
    wait_until(lambda: len(instance.mold_pids()) == 1, "only the old mold is left")


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (CONFIG + "workers = 2\n", r"test0\.toml: is not valid TOML"),
        (CONFIG + "max_request = 3\n", r"test0\.toml: max_request: unknown key; did you mean"),
        (CONFIG.replace("= 2", '= "three"'), r"test0\.toml: workers: "),
        (CONFIG + 'directory = "gone"\n', r"test0\.toml: directory: .*gone does not exist"),
        (CONFIG + 'scheduling = "shared"\n', r"scheduling has changed; that takes a restart"),
        (CONFIG + 'listen = "127.0.0.1:1"\n', r"listen has changed; that takes a restart"),
        ('exec = ["true"]\n', r"has changed; that takes a restart"),
    ],
    ids=["toml", "unknown", "type", "directory", "scheduling", "listen", "exec"],
)
def test_bad_config_changes_nothing(start: Start, tmp_path: Path, config: str, reason: str) -> None:
    """`reload` names the file and the key; no worker is replaced."""
    instance = start(GOOD, config=CONFIG + 'listen = "127.0.0.1:0"\n', listen=None)
    before = instance.worker_pids()
    if "listen" not in config:
        config += 'listen = "127.0.0.1:0"\n'
    (tmp_path / "test0.toml").write_text(config)
    assert_failed(instance.reload(), reason)
    assert instance.worker_pids() == before
    assert_old_code_serves(instance)


def test_a_mended_deploy_goes_live(start: Start, tmp_path: Path) -> None:
    """After a reload that failed, and one that was rolled back, the next one works."""
    instance = start(GOOD, config=CONFIG)
    for kind in ("syntax", "second"):
        (tmp_path / "app.py").write_text(BROKEN[kind][0])
        assert_failed(instance.reload(), BROKEN[kind][1])
    (tmp_path / "app.py").write_text(NEW)
    assert instance.reload().returncode == 0
    assert {one.text for one in fetch_many(instance.address, 9)} == {"v2"}


def test_a_missing_config_file_changes_nothing(start: Start, tmp_path: Path) -> None:
    """A file that is gone fails the reload; the cluster keeps the config that it had."""
    instance = start(GOOD, config=CONFIG)
    (tmp_path / "test0.toml").unlink()
    assert_failed(instance.reload(), r"test0\.toml: no such file")
    assert_old_code_serves(instance)


def test_a_crash_after_a_failed_reload_respawns_the_old_code(start: Start, tmp_path: Path) -> None:
    """After a rollback a new worker is forked from the old mold, though the disk has other code."""
    instance = start(GOOD, config=CONFIG)
    (tmp_path / "app.py").write_text(BROKEN["second"][0])
    assert_failed(instance.reload(), BROKEN["second"][1])
    for pid in instance.worker_pids():
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: pid not in instance.worker_pids(), "the worker is gone")
    instance.wait_status(lambda status: status["ready"] == 2)
    assert_old_code_serves(instance)


def test_a_config_that_cannot_even_be_looked_at_changes_nothing(
    start: Start, tmp_path: Path
) -> None:
    """A directory that is a loop of links, and a number without end, are reasons like any other."""
    config = 'app = "app:app"\nworkers = 1\n'
    instance = start(GOOD, config=config)
    (tmp_path / "current").symlink_to("current")
    for broken in ('directory = "current"\n', f"threads = {'9' * 5000}\n"):
        (tmp_path / "test0.toml").write_text(config + broken)
        assert_failed(instance.reload(), "test0.toml")
        assert instance.status()["ready"] == 1


def test_a_worker_too_many_changes_nothing(start: Start, tmp_path: Path) -> None:
    """With more `workers` in the file, one of those added that does not start fails the reload."""
    instance = start(GOOD, config=CONFIG)
    (tmp_path / "test0.toml").write_text(CONFIG.replace("workers = 2", "workers = 4"))
    dies = 'await receive() if os.environ["SDCLUSTER_SLOT"] != "3" else os._exit(7)'
    (tmp_path / "app.py").write_text(NEW.replace("await receive()", dies, 1))
    assert_failed(instance.reload(), "worker 6 did not become ready: exit status 7")
    assert_old_code_serves(instance)
    (tmp_path / "app.py").write_text(NEW)
    assert instance.reload().returncode == 0
    assert serving(instance) == [(slot, 3) for slot in range(4)]


UPGRADES = {
    "order": ("wire/frames.py", "PROTOCOL = ", "PROTOCOL = 1000 + "),
    "report": ("wire/frames.py", "type(frame).__name__, **", "'New' + type(frame).__name__, **"),
}
"""A package that speaks another protocol: which file has which text replaced by which."""


@pytest.mark.parametrize("kind", UPGRADES)
def test_a_reload_after_an_upgrade_of_sdcluster_asks_for_a_restart(
    start: Start, tmp_path: Path, kind: str
) -> None:
    """The master that runs is older than the files of its molds: nothing is lost, it is told."""
    package = tmp_path / "installed" / "sdcluster"
    shutil.copytree(PACKAGE, package)
    instance = start(GOOD, config=CONFIG, env={"PYTHONPATH": str(package.parent)})
    file, old, new = UPGRADES[kind]
    source = (package / file).read_text()
    assert old in source
    (package / file).write_text(source.replace(old, new))
    with instance.under_load(close=True, clients=4) as load:
        assert_failed(instance.reload(), r"sdcluster was upgraded.*systemctl restart sdcluster@")
    assert load.lost == 0, load.errors
    assert_old_code_serves(instance)
    (package / file).write_text(source)
    assert instance.reload().returncode == 0

"""The commands: what `run` takes and prints, its signals, and those that ask a running master."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import HELLO, SCHEDULINGS, Launch, Start
from instance import Instance, sdcluster, wait_until
from web import Answer, connection, fetch, slots

from sdcluster import __version__
from sdcluster.config import cpus

GATED = """
import asyncio
import os

async def app(scope, receive, send):
    if scope["path"] == "/gated":
        open("begun", "w").close()
        while not os.path.exists("go"):
            await asyncio.sleep(0.01)
    headers = [(b"content-length", b"5")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"done\\n"})
"""
"""An app whose answer to /gated waits for the file `go`."""


def in_thread(action: Callable[[], Answer]) -> "Future[Answer]":
    """Run a request beside the test."""
    pool = ThreadPoolExecutor(1)
    future = pool.submit(action)
    pool.shutdown(wait=False)
    return future


def gated_request(instance: Instance, folder: Path) -> "Future[Answer]":
    """Begin a request that is answered when the file `go` is there."""
    future = in_thread(lambda: fetch(instance.address, "/gated"))
    wait_until((folder / "begun").exists, "the request has begun")
    return future


# run: what it prints and takes.


def test_run_prints_master_address_and_ready(start: Start) -> None:
    """`run` says who it is, where it listens and when it serves, in this order."""
    instance = start(HELLO, "--workers", "1")
    said = [line for line in instance.log().splitlines() if not line.startswith("sdcluster[")]
    assert said == [
        f"sdcluster {__version__}: {instance.name}, master pid {instance.pid}",
        f"listening on {instance.address}",
        "ready",
    ]
    assert fetch(instance.address).status == 200


def test_version_is_told() -> None:
    """`--version` names the version."""
    assert sdcluster("--version").stdout == f"sdcluster {__version__}\n"


@pytest.mark.parametrize("command", ["run", "serve", "reload", "status", "scale", "check"])
def test_each_command_has_help(command: str) -> None:
    """`COMMAND --help` says what it does, and is listed by `sdcluster --help`."""
    listed = sdcluster("--help").stdout
    own = sdcluster(command, "--help")
    assert own.returncode == 0
    assert f"sdcluster {command} " in own.stdout.splitlines()[0]
    assert f"\n  {command} " in listed


def test_several_addresses_of_each_kind_are_listened_on(start: Start, tmp_path: Path) -> None:
    """IPv4, IPv6, a Unix path and an abstract name are served beside each other."""
    path, abstract = f"{tmp_path}/app.sock", f"@sdcluster-test-{tmp_path.name}"
    options = ("--listen", "127.0.0.1:0", "--listen", "[::1]:0", "-l", path, "-l", abstract)
    instance = start(HELLO, "--workers", "1", *options)
    four, six, *unix = instance.addresses
    assert four.startswith("127.0.0.1:")
    assert six.startswith("[::1]:")
    assert "0" not in (four.rpartition(":")[2], six.rpartition(":")[2])
    assert unix == [path, abstract]
    assert all(fetch(address).status == 200 for address in instance.addresses)
    assert instance.stop() == 0
    assert not Path(path).exists()


def test_workers_option_sets_how_many_there_are(start: Start) -> None:
    """`--workers 3` runs three."""
    assert len(start(HELLO, "--workers", "3").worker_pids()) == 3


def test_workers_max_is_one_per_cpu(start: Start) -> None:
    """`--workers max` runs as many as there are usable CPUs."""
    instance = start(HELLO, "--workers", "max")
    assert len(instance.worker_pids()) == cpus.usable()


@pytest.mark.parametrize("scheduling", SCHEDULINGS)
def test_each_scheduling_uses_all_workers(start: Start, scheduling: str) -> None:
    """Whoever accepts, every worker gets connections."""
    instance = start(HELLO, "--workers", "3", "--scheduling", scheduling)
    assert slots(instance, 3) == {"0", "1", "2"}
    assert instance.status()["scheduling"] == scheduling


def test_round_robin_takes_turns(start: Start) -> None:
    """Round-robin gives each worker the same number of connections."""
    instance = start(HELLO, "--workers", "2")
    turns = [fetch(instance.address).text.split()[0] for _ in range(10)]
    assert sorted(turns) == ["0"] * 5 + ["1"] * 5


def test_directory_option_is_where_the_app_is(start: Start, tmp_path: Path) -> None:
    """`--directory` is the app's working directory and where it is imported from."""
    (tmp_path / "elsewhere").mkdir()
    source = HELLO.replace("{os.getpid()}", "{os.getcwd()}")
    (tmp_path / "elsewhere" / "app.py").write_text(source)
    instance = start(None, "--workers", "1", "--directory", "elsewhere")
    assert fetch(instance.address).text == f"0 {tmp_path}/elsewhere"


def test_instance_is_called_after_its_module(launch: Launch, tmp_path: Path) -> None:
    """Without `--name` an instance has the name of the app's module."""
    (tmp_path / "shop.py").write_text(HELLO)
    instance = launch("run", "shop:app", "-l", "127.0.0.1:0", "-w", "1", name="shop").wait_ready()
    assert f": shop, master pid {instance.pid}\n" in instance.log()
    assert sdcluster("status", "shop").returncode == 0


def test_options_override_the_file(start: Start) -> None:
    """With `--config FILE`, an option wins over the file's key, and the rest of the file holds."""
    config = 'app = "app:app"\nworkers = 3\nlisten = "127.0.0.1:1"\nscheduling = "shared"\n'
    instance = start(HELLO, "--workers", "2", config=config)
    status = instance.status()
    assert len(instance.worker_pids()) == 2
    assert status["scheduling"] == "shared"
    assert not instance.address.endswith(":1")


def test_file_alone_is_enough(start: Start, tmp_path: Path) -> None:
    """Everything can stand in the file; its folder is the app's directory."""
    config = f'app = "app:app"\nworkers = 1\nlisten = ["127.0.0.1:0", "{tmp_path}/s"]\n'
    instance = start(HELLO, config=config, listen=None)
    assert [fetch(one).status for one in instance.addresses] == [200, 200]


def test_app_is_imported_in_each_worker_without_preload(start: Start) -> None:
    """With `--no-preload` the app is imported after the fork, and else before it."""
    source = HELLO.replace("{os.getpid()}", "{IMPORTED_IN == os.getpid()}") + (
        "\nIMPORTED_IN = os.getpid()\n"
    )
    preloaded = start(source, "--workers", "1")
    assert fetch(preloaded.address).text == "0 False"
    preloaded.stop()
    not_preloaded = start(source, "--workers", "1", "--no-preload")
    assert fetch(not_preloaded.address).text == "0 True"


def test_process_titles_tell_who_is_who(start: Start) -> None:
    """In ps stand the role, instance, slot and generation of each process."""
    instance = start(HELLO, "--workers", "2")
    assert instance.reload().returncode == 0

    def title(pid: int) -> str:
        return Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0")

    assert title(instance.pid) == f"sdcluster: master {instance.name}"
    assert [title(pid) for pid in instance.worker_pids()] == [
        f"sdcluster: worker {slot} {instance.name} gen 2" for slot in (0, 1)
    ]
    wait_until(lambda: len(instance.mold_pids()) == 1, "the old mold is gone")
    assert title(instance.mold_pids()[0]) == f"sdcluster: mold {instance.name} gen 2"


# run: its signals.


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_signals_drain(start: Start, tmp_path: Path, number: signal.Signals) -> None:
    """A request under way is answered after SIGTERM or SIGINT, and the exit status is 0."""
    instance = start(GATED, "--workers", "2")
    answer = gated_request(instance, tmp_path)
    instance.signal(number)
    instance.wait_log("stopping: the workers drain")
    (tmp_path / "go").touch()
    assert answer.result().text == "done"
    assert instance.wait() == 0
    assert instance.processes() == []


def test_second_stop_signal_ends_at_once(start: Start, tmp_path: Path) -> None:
    """A second SIGTERM does not wait for requests under way."""
    instance = start(GATED, "--workers", "2")
    answer = gated_request(instance, tmp_path)
    instance.signal(signal.SIGTERM)
    instance.wait_log("stopping: the workers drain")
    instance.signal(signal.SIGTERM)
    assert instance.wait(5) == 0
    assert answer.exception() is not None
    assert instance.processes() == []


def test_idle_connections_do_not_delay_the_stop(start: Start) -> None:
    """A kept-alive connection that asks for nothing is closed when the drain time is over."""
    config = 'app = "app:app"\nworkers = 1\ndrain_timeout_s = 0.3\n'
    instance = start(HELLO, config=config)
    with connection(instance.address) as client:
        assert client.fetch().status == 200
        assert instance.stop() == 0
        assert client.sock.recv(1) == b""


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR2])
def test_reload_signals_replace_the_workers(start: Start, number: signal.Signals) -> None:
    """SIGHUP and SIGUSR2 put new workers in the place of all."""
    instance = start(HELLO, "--workers", "2")
    before = instance.worker_pids()
    instance.signal(number)
    instance.wait_log("reload done, generation 2 serves")
    assert not set(before) & set(instance.worker_pids())


def test_scale_signals_add_and_remove_a_worker(start: Start) -> None:
    """SIGTTIN adds a worker, SIGTTOU removes one, and the last one stays."""
    instance = start(HELLO, "--workers", "1")
    instance.signal(signal.SIGTTIN)
    instance.wait_status(lambda status: status["ready"] == 2, "two workers")
    instance.signal(signal.SIGTTOU)
    instance.wait_status(lambda status: len(status["workers"]) == 1, "one worker")
    instance.signal(signal.SIGTTOU)
    assert fetch(instance.address).status == 200
    assert instance.status()["wanted"] == 1


def test_ctrl_c_drains_as_well(start: Start, tmp_path: Path) -> None:
    """SIGINT for the whole process group, as a terminal sends it, is the master's business."""
    instance = start(GATED, "--workers", "2", prefix=("setsid",))
    answer = gated_request(instance, tmp_path)
    os.killpg(instance.pid, signal.SIGINT)
    instance.wait_log("stopping: the workers drain")
    (tmp_path / "go").touch()
    assert answer.result().text == "done"
    assert instance.wait() == 0


def test_stop_before_it_is_ready_ends_it(start: Start, tmp_path: Path) -> None:
    """SIGTERM while the app is still being imported ends everything, without an error."""
    source = "import time\nopen('importing', 'w').close()\ntime.sleep(100)\n"
    instance = start(source, "--workers", "2", wait=False)
    wait_until((tmp_path / "importing").exists, "the import has begun")
    instance.signal(signal.SIGTERM)
    assert instance.wait(5) == 0
    assert instance.processes() == []


# Those that ask the master.


def test_status_shows_a_table(start: Start) -> None:
    """`status` tells where it listens and has a line for each worker."""
    instance = start(HELLO, "--workers", "2")
    shown = sdcluster("status", instance.name)
    assert shown.returncode == 0
    first, second, header, *rows = shown.stdout.splitlines()
    assert first.startswith(f"{instance.name} (pid {instance.pid}): 2/2 workers ready, gen 1")
    assert second == f"listening on {instance.address}, round-robin"
    assert header.split()[:5] == ["slot", "worker", "pid", "gen", "state"]
    assert [row.split()[2] for row in rows] == [str(pid) for pid in instance.worker_pids()]


def test_status_has_a_line_for_each_worker_in_a_pipe(start: Start) -> None:
    """However narrow the terminal was, what a pipe gets is not wrapped."""
    instance = start(HELLO, "--workers", "2")
    assert instance.reload().returncode == 0
    instance.wait_status(lambda status: len(status["workers"]) == 2, "the old workers are gone")
    _, _, _, *rows = sdcluster("status", instance.name, env={"COLUMNS": "40"}).stdout.splitlines()
    assert [row.split()[0] for row in rows] == ["0", "1"]
    assert all(row.endswith("reload, exit status 0") for row in rows)


def test_status_json_has_the_workers_and_the_last_exits(start: Start) -> None:
    """`status --json` has each worker's figures, and why the last one of a slot is gone."""
    instance = start(HELLO, "--workers", "2")
    instance.wait_status(lambda _: fetch(instance.address).status == 200)
    assert instance.reload().returncode == 0
    instance.wait_status(lambda status: len(status["workers"]) == 2, "the old workers are gone")
    for _ in range(4):
        fetch(instance.address)
    instance.wait_status(lambda status: all(one["requests"] for one in status["workers"]))
    status = json.loads(sdcluster("status", instance.name, "--json").stdout)
    assert (status["name"], status["pid"], status["state"]) == (
        instance.name,
        instance.pid,
        "running",
    )
    assert (status["wanted"], status["ready"], status["restarts"]) == (2, 2, 0)
    assert (status["generation"], status["listen"]) == (2, [instance.address])
    for slot, worker in enumerate(status["workers"]):
        assert worker["slot"] == slot
        assert worker["worker"] == slot + 3
        assert Path(f"/proc/{worker['pid']}").exists()
        assert (worker["generation"], worker["state"]) == (2, "serving")
        assert worker["connections"] == 0
        assert worker["requests"] == 2
        assert 0 < worker["uptime_s"] < 60
    assert status["last_exits"] == [
        {"slot": slot, "worker": slot + 1, "reason": "reload", "status": "exit status 0"}
        for slot in (0, 1)
    ]


def test_status_counts_open_connections(start: Start) -> None:
    """A kept-alive connection counts until it is closed."""
    instance = start(HELLO, "--workers", "1")
    with connection(instance.address) as client:
        client.fetch()
        instance.wait_status(lambda status: status["workers"][0]["connections"] == 1)
    instance.wait_status(lambda status: status["workers"][0]["connections"] == 0)


def test_scale_sets_adds_and_removes(start: Start) -> None:
    """`scale N`, `scale +N` and `scale -N` change the number of workers."""
    instance = start(HELLO, "--workers", "1")
    for given, wanted in (("3", 3), ("+1", 4), ("-2", 2)):
        scaled = sdcluster("scale", instance.name, given)
        assert (scaled.returncode, scaled.stdout) == (0, f"{instance.name}: {wanted} workers\n")
        instance.wait_status(
            lambda status: status["ready"] == wanted and len(status["workers"]) == wanted,
            f"{wanted} workers",
        )


@pytest.mark.parametrize("given", ["0", "-1", "5000", "+5000"])
def test_scale_refuses_numbers_out_of_range(start: Start, given: str) -> None:
    """`scale` to less than one worker, or to too many, changes nothing and says what is allowed."""
    instance = start(HELLO, "--workers", "1")
    scaled = sdcluster("scale", instance.name, given)
    assert scaled.returncode != 0
    assert "from 1 to 1024" in scaled.stderr
    assert instance.status()["wanted"] == 1


@pytest.mark.parametrize("given", ["many", "+", "1.5", "+-2", ""])
def test_scale_refuses_what_is_no_number(given: str) -> None:
    """`scale` with a word is a usage error, told before any master is asked."""
    scaled = sdcluster("scale", "nobody", given)
    assert scaled.returncode == 64
    assert f"{given!r} is not N, +N or -N" in scaled.stderr


@pytest.mark.parametrize("command", [["status"], ["reload"], ["scale"]])
def test_instance_that_does_not_run_is_named(command: list[str], tmp_path: Path) -> None:
    """Asking an instance that does not run says so and where it was looked for; status 69."""
    arguments = [*command, "nobody", *(["2"] if command == ["scale"] else [])]
    asked = sdcluster(*arguments)
    assert asked.returncode == 69
    assert asked.stderr.startswith("sdcluster: nobody does not run: no master listens on ")
    assert f"{tmp_path}/run/sdcluster/nobody/control" in asked.stderr
    assert asked.stderr.count("\n") == 1


@pytest.mark.parametrize("command", [["status"], ["reload"], ["scale"]])
def test_bad_instance_name_is_refused(command: list[str]) -> None:
    """A name that is none is refused before anything is looked for."""
    arguments = [*command, "../etc", *(["2"] if command == ["scale"] else [])]
    asked = sdcluster(*arguments)
    assert asked.returncode == 78
    assert "'../etc' is no name for an instance" in asked.stderr


def test_reload_tells_each_step(start: Start) -> None:
    """`reload` prints a line for each worker replaced, and ends with status 0."""
    instance = start(HELLO, "--workers", "2")
    done = instance.reload()
    assert done.returncode == 0
    begun, *replaced, end = done.stdout.splitlines()
    assert begun == "begun: generation 2 is loading"
    assert [line.rpartition(" ")[2] for line in replaced] == ["(1/2)", "(2/2)"]
    assert end == "done: generation 2 serves"


def test_usage_errors_have_their_status() -> None:
    """What cannot be parsed ends with EX_USAGE and a hint at the help."""
    for arguments in (["run"], ["run", "app:app", "--no-such-option"], ["nonsense"], ["scale"]):
        wrong = sdcluster(*arguments)
        assert wrong.returncode == 64, arguments
        assert "--help" in wrong.stderr


# check.


def test_check_says_ok_and_what_the_app_is(tmp_path: Path) -> None:
    """`check FILE` of a sound file ends with 0 and tells the app's interface."""
    (tmp_path / "app.py").write_text(HELLO)
    (tmp_path / "good.toml").write_text('app = "app:app"\n')
    checked = sdcluster("check", "good.toml", cwd=tmp_path)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert checked.stdout == "good.toml: OK, app:app (asgi)\n"


def test_check_of_a_command_says_ok(tmp_path: Path) -> None:
    """`check` of a file with `exec` does not run the command."""
    (tmp_path / "command.toml").write_text('exec = ["touch", "ran"]\n')
    checked = sdcluster("check", "command.toml", cwd=tmp_path)
    assert checked.stdout == "command.toml: OK, touch ran (exec)\n"
    assert not (tmp_path / "ran").exists()


def test_check_tells_why_an_app_does_not_load(tmp_path: Path) -> None:
    """`check` of an app that raises shows the reason and its traceback, and does not end with 0."""
    (tmp_path / "app.py").write_text("def fail():\n    return 1 / 0\nfail()\n")
    (tmp_path / "bad.toml").write_text('app = "app:app"\n')
    checked = sdcluster("check", "bad.toml", cwd=tmp_path)
    assert checked.returncode == 70
    assert checked.stderr.startswith("sdcluster: cannot import 'app': ZeroDivisionError")
    assert f'File "{tmp_path}/app.py", line 2, in fail' in checked.stderr
    assert checked.stdout == ""


def test_check_does_not_wait_for_ever(tmp_path: Path) -> None:
    """`check` of an app that hangs on import gives up after ready_timeout_s."""
    (tmp_path / "app.py").write_text("import time; time.sleep(100)\n")
    (tmp_path / "slow.toml").write_text('app = "app:app"\nready_timeout_s = 0.2\n')
    checked = sdcluster("check", "slow.toml", cwd=tmp_path)
    assert checked.returncode == 70
    assert "did not load within 0.2 s (ready_timeout_s)" in checked.stderr


def test_check_imports_the_app_without_preload_too(tmp_path: Path) -> None:
    """`check` finds an app that does not load when preload is off as well."""
    (tmp_path / "app.py").write_text("raise RuntimeError('no database')\n")
    (tmp_path / "late.toml").write_text('app = "app:app"\npreload = false\n')
    checked = sdcluster("check", "late.toml", cwd=tmp_path)
    assert checked.returncode == 70
    assert "RuntimeError: no database" in checked.stderr


def test_check_never_binds(start: Start, tmp_path: Path) -> None:
    """`check` works while its address is in use, and the server that uses it is not disturbed."""
    instance = start(HELLO, "--workers", "1", "--listen", f"{tmp_path}/app.sock")
    listen = f'listen = "{tmp_path}/app.sock"\n'
    (tmp_path / "same.toml").write_text('app = "app:app"\n' + listen)
    assert sdcluster("check", "same.toml", cwd=tmp_path).returncode == 0
    assert fetch(instance.address).status == 200


def test_check_by_name_reads_the_config_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`check NAME` looks where `serve NAME` does."""
    monkeypatch.setenv("SDCLUSTER_CONFIG_DIR", str(tmp_path))
    (tmp_path / "app.py").write_text(HELLO)
    (tmp_path / "shop.toml").write_text('app = "app:app"\n')
    assert sdcluster("check", "shop").returncode == 0
    assert sdcluster("check", "ship").returncode == 78


def test_serve_runs_the_named_config(
    launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`serve NAME` serves what NAME.toml says."""
    monkeypatch.setenv("SDCLUSTER_CONFIG_DIR", str(tmp_path))
    (tmp_path / "app.py").write_text(HELLO)
    listen = f"{tmp_path}/app.sock"
    (tmp_path / "shop.toml").write_text(f'app = "app:app"\nlisten = "{listen}"\nworkers = 1\n')
    instance = launch("serve", "shop", name="shop")
    instance.wait_log("ready: 1/1 workers ready")
    assert fetch(listen).status == 200
    assert instance.stop() == 0


WHO = """
import os

assert os.getresuid() == (65534, 65534, 65534), os.getresuid()
assert 0 not in os.getgroups() and os.getgid() != 0
assert os.environ["USER"] == "nobody" and os.environ["HOME"] != "/root", os.environ

async def app(scope, receive, send): pass
"""
"""An app that loads for the user `nobody` alone."""


@pytest.fixture
def units_of_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let systemd say that the units run as `nobody`."""
    (tmp_path / "bin").mkdir()
    systemctl = tmp_path / "bin" / "systemctl"
    systemctl.write_text("#!/bin/sh\necho nobody\n")
    systemctl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setenv("SDCLUSTER_CONFIG_DIR", str(tmp_path))


def python_for_all() -> str:
    """Return a Python like ours that every user may execute; skip the test if there is none."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, f"/usr/bin/{name}"):
        with contextlib.suppress(OSError):
            subprocess.run([python, "-V"], user="nobody", capture_output=True, check=True)
            return python
    pytest.skip(f"no {name} that every user may execute")


@pytest.mark.usefixtures("units_of_nobody")
def test_check_by_name_imports_as_the_user_of_the_service(tmp_path: Path) -> None:
    """Root's `check NAME` finds what the service's user finds, and says who that is."""
    with tempfile.TemporaryDirectory() as folder:  # The test's own is closed to others.
        os.chmod(folder, 0o755)
        subprocess.run([python_for_all(), "-m", "venv", "--without-pip", f"{folder}/v"], check=True)
        (Path(folder) / "app.py").write_text(WHO)
        (tmp_path / "shop.toml").write_text(
            f'app = "app:app"\ndirectory = "{folder}"\nvenv = "v"\n'
        )
        checked = sdcluster("check", "shop")
        assert checked.returncode == 0, checked.stderr
        assert checked.stdout.startswith("importing app:app as the user nobody")
        by_file = sdcluster("check", f"{tmp_path}/shop.toml")
        assert "AssertionError: (0, 0, 0)" in by_file.stderr
        (Path(folder) / "app.py").chmod(0o600)
        closed = sdcluster("check", "shop")
        assert (closed.returncode, "Permission denied" in closed.stderr) == (70, True)
        assert f"sdcluster: as the user nobody, in {folder}:\n" in closed.stderr

"""Starts that a service manager has asked for, and that fail: they wait, and come back."""

import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import HELLO, Launch
from control import INTERFACE, Client
from instance import Instance, sdcluster, wait_until
from processes import descriptors
from web import fetch

from sdcluster.errors import EX_CONFIG, EX_SOFTWARE, EX_UNAVAILABLE
from sdcluster.master.service.last_failure import FILE

LATE = """
import os

if not os.path.exists(f"{os.path.dirname(__file__)}/database"):
    raise ConnectionError("the database does not answer")
"""


class Manager:
    """The service manager of a test: what it was told is kept."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)
        self._told: list[str] = []

    def told(self) -> list[str]:
        """Return all that it was told, in order."""
        while True:
            try:
                self._told.append(self._socket.recv(4096).decode())
            except BlockingIOError:
                return self._told

    def wait_told(self, text: str) -> str:
        """Wait until a message has `text` in it, and return that message."""
        return wait_until(
            lambda: next((one for one in self.told() if text in one), None), f"{text!r} is told"
        )

    def close(self) -> None:
        """Be gone."""
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    """Be the service manager of what the test starts: `serve shop`, of `shop.toml`."""
    made = Manager(tmp_path / "notify")
    (tmp_path / "state").mkdir()
    monkeypatch.setenv("NOTIFY_SOCKET", f"{tmp_path}/notify")
    monkeypatch.setenv("STATE_DIRECTORY", f"{tmp_path}/state")
    monkeypatch.setenv("SDCLUSTER_CONFIG_DIR", str(tmp_path))
    yield made
    made.close()


def configure(tmp_path: Path, source: str = HELLO, more: str = "") -> str:
    """Write app and configuration, and return the address."""
    listen = f"{tmp_path}/app.sock"
    (tmp_path / "app.py").write_text(source)
    text = f'app = "app:app"\nlisten = "{listen}"\nworkers = 2\n{more}\n'
    (tmp_path / "shop.toml").write_text(text)
    return listen


def fail_before(tmp_path: Path, status: int = EX_SOFTWARE) -> None:
    """Let the start before have failed just now."""
    (tmp_path / "state" / FILE).write_text(f"{status} {time.monotonic()}")


def starting(launch: Launch) -> Instance:
    """Start what the unit does."""
    return launch("serve", "shop", name="shop")


def test_a_bad_config_ends_a_deliberate_start(
    launch: Launch, tmp_path: Path, manager: Manager
) -> None:
    """At once, with 78 and its reason, and the next start knows of it."""
    configure(tmp_path, more="workerz = 3")
    instance = starting(launch)
    assert instance.wait() == EX_CONFIG
    assert "workerz: unknown key" in instance.log()
    assert "workerz: unknown key" in manager.wait_told("STATUS=")
    assert (tmp_path / "state" / FILE).read_text().split()[0] == str(EX_CONFIG)


def test_an_app_that_comes_late_is_waited_for(
    launch: Launch, tmp_path: Path, manager: Manager
) -> None:
    """Systemd is told that the start goes on, and never that it stops."""
    listen = configure(tmp_path, LATE + HELLO)
    instance = starting(launch)
    assert "ConnectionError: the database does not answer" in manager.wait_told("2 tries have")
    (tmp_path / "database").touch()
    manager.wait_told("READY=1")
    assert fetch(listen).status == 200
    told = manager.told()
    assert any(one.startswith("EXTEND_TIMEOUT_USEC=") for one in told)
    assert not any("STOPPING=1" in one for one in told)
    assert instance.stop() == 0
    assert not instance.processes()


def test_an_automatic_start_waits_for_a_mended_config(
    launch: Launch, tmp_path: Path, manager: Manager
) -> None:
    """It follows a failed start, so it waits, and tries at once when the file is another."""
    fail_before(tmp_path)
    configure(tmp_path, more="workerz = 3")
    instance = starting(launch)
    manager.wait_told("3 tries have")
    began = time.monotonic()
    listen = configure(tmp_path, more='scheduling = "shared"')
    manager.wait_told("READY=1")
    assert time.monotonic() - began < 10
    assert fetch(listen).status == 200
    assert instance.status()["scheduling"] == "shared"
    assert not (tmp_path / "state" / FILE).exists()


def test_whatever_is_mended_between_two_tries_counts(
    launch: Launch, tmp_path: Path, manager: Manager
) -> None:
    """Another address, scheduling and number of workers: nothing of the first try is left."""
    configure(tmp_path, LATE + HELLO, 'scheduling = "reuseport"')
    instance = starting(launch)
    manager.wait_told("2 tries have")
    text = f'app = "app:app"\nlisten = "{tmp_path}/new.sock"\nworkers = 1\n'
    (tmp_path / "database").touch()
    (tmp_path / "shop.toml").write_text(text)
    manager.wait_told("READY=1")
    assert fetch(f"{tmp_path}/new.sock").status == 200
    assert not (tmp_path / "app.sock").exists()
    status = instance.status()
    assert (status["scheduling"], status["wanted"]) == ("round-robin", 1)


def test_a_stop_ends_the_wait_at_once(launch: Launch, tmp_path: Path, manager: Manager) -> None:
    """SIGTERM during the wait is no failure, and the next start is somebody's wish."""
    fail_before(tmp_path)
    configure(tmp_path, more="workerz = 3")
    instance = starting(launch)
    manager.wait_told("3 tries have")
    began = time.monotonic()
    assert instance.stop() == 0
    assert time.monotonic() - began < 3
    manager.wait_told("STOPPING=1")
    assert not (tmp_path / "state" / FILE).exists()


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR2])
def test_a_signal_has_it_tried_at_once(
    launch: Launch, tmp_path: Path, manager: Manager, number: signal.Signals
) -> None:
    """Whoever has mended what is not in the file need not wait."""
    configure(tmp_path, LATE + HELLO)
    instance = starting(launch)
    manager.wait_told("4 tries have")  # The wait is of more than 2.5 s.
    (tmp_path / "database").touch()
    began = time.monotonic()
    instance.signal(number)
    instance.wait_log("starting 2 workers", 20)
    wait_until(lambda: instance.log().count("starting 2 workers") == 5, "the next try", 20)
    assert time.monotonic() - began < 2.4
    manager.wait_told("READY=1")


def test_other_signals_do_not_end_the_wait(
    launch: Launch, tmp_path: Path, manager: Manager
) -> None:
    """One worker more of none is none."""
    fail_before(tmp_path)
    configure(tmp_path, more="workerz = 3")
    instance = starting(launch)
    manager.wait_told("1 try has")
    for number in (signal.SIGTTIN, signal.SIGTTOU, signal.SIGUSR1):
        instance.signal(number)
    manager.wait_told("3 tries have")
    assert instance.process.poll() is None


def test_who_asks_meanwhile_is_told(launch: Launch, tmp_path: Path, manager: Manager) -> None:
    """`status` shows the reason; `reload` and `scale` fail with it."""
    configure(tmp_path, LATE + HELLO)
    instance = starting(launch)
    manager.wait_told("4 tries have")
    reason = "ConnectionError: the database does not answer"
    status = instance.wait_status(lambda status: status["state"] == "waiting")
    assert reason in status["status"]
    shown = sdcluster("status", "shop")
    assert shown.returncode == 0 and reason in shown.stdout
    instance.wait_status(lambda status: status["state"] == "waiting")
    with Client(instance) as client:
        answer = client.call("Scale", workers=3)
    assert answer["error"] == f"{INTERFACE}.NotStarted"
    assert reason in answer["parameters"]["reason"]
    reload = sdcluster("reload", "shop")
    assert reload.returncode == EX_UNAVAILABLE and reason in reload.stderr
    (tmp_path / "database").touch()
    manager.wait_told("READY=1")
    instance.wait_status(lambda status: status["ready"] == 2)


def test_who_asks_for_a_reload_during_a_try_is_told_why_it_failed(
    launch: Launch, tmp_path: Path, manager: Manager
) -> None:
    """It would come after the start; as there is none, the reason is that of the start."""
    waits = "import os, time\nwhile not os.path.exists('asked'): time.sleep(0.01)\n"
    configure(tmp_path, waits + LATE + HELLO)
    instance = starting(launch)
    instance.wait_log("starting 2 workers")
    with Client(instance) as client:
        client.ask("Reload")
        assert instance.status()["state"] == "starting"  # Read after the call above.
        (tmp_path / "asked").touch()
        answer = client.answer()
    assert answer["error"] == f"{INTERFACE}.NotStarted"
    assert "ConnectionError: the database does not answer" in answer["parameters"]["reason"]
    manager.wait_told("1 try has")


def test_tries_leave_nothing_behind(launch: Launch, tmp_path: Path, manager: Manager) -> None:
    """No descriptor and no process is left of a try, nor a zombie of what it has begun."""
    starts = "import subprocess\nsubprocess.Popen(['true'])\n"
    configure(tmp_path, starts + LATE + HELLO)
    instance = starting(launch)
    manager.wait_told("1 try has")
    before = len(descriptors(instance.pid))
    for tries in range(2, 5):
        manager.wait_told(f"{tries} tries have")
        instance.signal(signal.SIGHUP)
    manager.wait_told("5 tries have")
    wait_until(lambda: instance.processes() == [instance.pid], "only the master is left")
    assert len(descriptors(instance.pid)) <= before
    children = Path(f"/proc/{instance.pid}/task/{instance.pid}/children")
    assert children.read_text() == ""  # No zombie either.


def test_workers_that_fail_are_tried_again(
    launch: Launch, tmp_path: Path, manager: Manager
) -> None:
    """An app that only fails in its workers is waited for as well."""
    listen = configure(tmp_path, LATE + HELLO, "preload = false")
    starting(launch)
    assert "did not become ready" in manager.wait_told("2 tries have")
    (tmp_path / "database").touch()
    manager.wait_told("READY=1")
    assert fetch(listen).status == 200


def test_the_last_reason_is_shown_while_it_is_tried(
    launch: Launch, tmp_path: Path, manager: Manager
) -> None:
    """A try may take long: why the one before has failed is not forgotten meanwhile."""
    configure(tmp_path, LATE.replace("if not", "import time\nif not") + HELLO)
    instance = starting(launch)
    manager.wait_told("1 try has")
    (tmp_path / "app.py").write_text(f"import time\ntime.sleep(3)\n{HELLO}")
    instance.signal(signal.SIGHUP)
    line = manager.wait_told("the last try failed: ")
    assert "workers ready" in line
    assert "ConnectionError" in line
    manager.wait_told("READY=1")
    wait_until(lambda: "ConnectionError" not in manager.told()[-1], "it is history")


def test_the_command_line_does_not_wait(
    launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`serve` that somebody types ends with the first failure."""
    (tmp_path / "app.py").write_text(LATE + HELLO)
    (tmp_path / "shop.toml").write_text('app = "app:app"\nlisten = "127.0.0.1:0"\n')
    monkeypatch.setenv("SDCLUSTER_CONFIG_DIR", str(tmp_path))
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    instance = starting(launch)
    assert instance.wait() == EX_SOFTWARE
    assert "cannot start: cannot import 'app': ConnectionError" in instance.log()

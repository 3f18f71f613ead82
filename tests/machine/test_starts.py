"""A start that fails comes back: typos, late databases, and clients that wait meanwhile."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

from service import HELLO, Service
from waiting import wait_until

LATE = """
import os

if not os.path.exists(f"{os.path.dirname(__file__)}/database"):
    raise ConnectionError("the database does not answer")
"""
"""An app whose database is not there until the file `database` is."""

ASKS = """
for number in $(seq $2); do
    curl --silent --show-error --max-time 90 $1 &
done
wait
"""


@contextmanager
def clients(service: Service, count: int) -> Iterator[list[str]]:
    """Let so many clients ask once each while the body runs; their answers are there at its end."""
    answers: list[str] = []
    url = f"http://127.0.0.1:{service.port}/"
    command = [*service.vm.entry(), "bash", "-c", ASKS, "bash", url, str(count)]
    asking = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip
    try:
        yield answers
        answers += asking.communicate(timeout=100)[0].splitlines()
    finally:
        asking.kill()
        asking.wait()


def start_socket(service: Service) -> None:
    """Start the socket unit alone."""
    service.vm.run("systemctl", "start", service.socket)


def break_config(service: Service, key: str = 'schedulin = "shared"') -> str:
    """Put a typo in the file, and return what it was before."""
    path = f"/etc/sdcluster/{service.name}.toml"
    good = service.vm.run("cat", path).stdout
    service.vm.write(path, f"{good}{key}\n")
    return good


def mend_config(service: Service, good: str) -> None:
    """Put the file in order, and do nothing else."""
    service.vm.write(f"/etc/sdcluster/{service.name}.toml", good)


def is_listening(service: Service) -> bool:
    """Tell whether the socket unit is in order."""
    return service.show("ActiveState", unit=service.socket) == {"ActiveState": "active"}


def seconds_of(service: Service, verb: str) -> tuple[int, float]:
    """Return the exit status of systemctl, and how long it took."""
    began = time.monotonic()
    done = service.systemctl(verb, check=False)
    return done.returncode, time.monotonic() - began


def test_a_typo_and_a_client_are_answered_when_it_is_mended(service: Service) -> None:
    """The socket lives on, the client waits, and mending the file is all that it takes."""
    service.configure()
    good = break_config(service)
    start_socket(service)
    with clients(service, 1) as answers:
        line = service.wait_text("tries have failed")
        assert "the next try is in" in line
        assert "schedulin: unknown key; did you mean scheduling?" in line
        assert service.show("ActiveState", "SubState") == {
            "ActiveState": "activating",
            "SubState": "start",
        }
        assert is_listening(service)
        mend_config(service, good)
        service.wait_show(ActiveState="active")
    assert [one.split()[0] for one in answers] == ["one"]
    assert is_listening(service)
    assert service.systemctl("restart").returncode == 0
    assert "too quickly" not in service.story()


def test_restarts_fail_at_once_until_the_correction(service: Service) -> None:
    """Who restarts it by hand is told each time, also while a client waits, and then it works."""
    service.configure()
    good = break_config(service)
    start_socket(service)
    with clients(service, 1) as answers:
        service.wait_text("the next try is in")
        for _ in range(12):
            # By the client: a restart that comes just before that is taken for a start by it.
            service.wait_show(ActiveState="activating")
            status, took_s = seconds_of(service, "restart")
            assert status != 0
            assert took_s < 10
        service.wait_text("the next try is in")
        mend_config(service, good)
        assert service.systemctl("restart").returncode == 0
    assert [one.split()[0] for one in answers] == ["one"]
    assert is_listening(service)


def test_a_manual_start_with_a_typo_fails_at_once(service: Service) -> None:
    """`systemctl start` tells by its status, and the socket goes on listening."""
    service.configure()
    good = break_config(service)
    status, took_s = seconds_of(service, "start")
    assert status != 0
    assert took_s < 10
    assert service.show("ExecMainStatus", "NRestarts", "ActiveState", "StatusText") == {
        "ExecMainStatus": "78",
        "NRestarts": "0",
        "ActiveState": "failed",
        "StatusText": f"/etc/sdcluster/{service.name}.toml: schedulin: unknown key; "
        "did you mean scheduling?",
    }
    assert is_listening(service)
    mend_config(service, good)
    assert service.get().startswith("one")


def test_a_database_that_comes_late_is_no_incident(service: Service) -> None:
    """A manual start waits for it, past TimeoutStartSec, and succeeds without a failed start."""
    service.configure(LATE + HELLO)
    service.drop_in("[Service]\nTimeoutStartSec=4\n")
    service.vm.run("systemctl", "start", "--no-block", service.unit)
    with clients(service, 40) as answers:
        line = service.wait_text("5 tries have failed", 30)
        assert "ConnectionError: the database does not answer" in line
        service.vm.run("touch", f"/srv/{service.name}/database")
        service.wait_show(ActiveState="active", NRestarts="0", timeout_s=30)
    assert len(answers) == 40
    assert {one.split()[0] for one in answers} == {"one"}
    assert service.show("StatusText")["StatusText"].startswith("2/2 workers ready, gen 1")


def test_a_database_that_comes_after_the_patience_is_waited_for(service: Service) -> None:
    """The manual start fails after half a minute; the one that follows by itself waits on."""
    service.configure(LATE + HELLO)
    status, took_s = seconds_of(service, "start")
    assert status != 0
    assert 25 < took_s < 45
    service.wait_show(NRestarts="1")
    service.wait_text("2 tries have failed")
    with clients(service, 5) as answers:
        service.vm.run("touch", f"/srv/{service.name}/database")
        service.wait_show(ActiveState="active", NRestarts="1", timeout_s=30)
    assert {one.split()[0] for one in answers} == {"one"}
    assert is_listening(service)


def test_a_stop_during_the_wait_is_at_once(service: Service) -> None:
    """`systemctl stop` of socket and service ends it, and nothing has failed."""
    service.configure(LATE + HELLO)
    service.vm.run("systemctl", "start", "--no-block", service.unit)
    service.wait_text("3 tries have failed")
    began = time.monotonic()
    service.vm.run("systemctl", "stop", service.socket, service.unit)
    assert time.monotonic() - began < 3
    assert service.show("ActiveState", "Result", "ExecMainStatus") == {
        "ActiveState": "inactive",
        "Result": "success",
        "ExecMainStatus": "0",
    }


def test_a_start_that_waits_is_shown(service: Service) -> None:
    """`sdcluster status` and the journal tell the reason; `sdcluster reload` is told it too."""
    service.configure(LATE + HELLO)
    service.vm.run("systemctl", "start", "--no-block", service.unit)
    service.wait_text("2 tries have failed")
    reason = "ConnectionError: the database does not answer"
    assert reason in service.vm.run("sdcluster", "status", service.name).stdout
    wait_until(lambda: service.status()["state"] == "waiting", "it waits")
    said = [one["MESSAGE"] for one in service.journal()]
    assert any("the next try is in" in one and reason in one for one in said)
    reload = service.vm.run("sdcluster", "reload", service.name, check=False)
    assert reload.returncode == 69 and reason in reload.stderr
    service.vm.run("touch", f"/srv/{service.name}/database")
    service.wait_show(ActiveState="active")

"""Start, ready, stop and restart of the unit."""

import pytest
from service import HELLO, Service

SLOW_IMPORT = "import time; time.sleep(4)\n" + HELLO
SLOW_ANSWER = HELLO.replace(
    "    body =", "    if scope['path'] == '/slow': await asyncio.sleep(2)\n    body ="
).replace("import os", "import asyncio, os")


def test_start_returns_when_all_workers_serve(service: Service) -> None:
    """After `systemctl start` several workers answer, and the status line says so."""
    service.configure(workers=3)
    service.start()
    answers = {service.get().split()[1] for _ in range(9)}
    assert len(answers) == 3
    assert service.show("StatusText", "ActiveState") == {
        "StatusText": "3/3 workers ready, gen 1, 0 connections, 0 restarts",
        "ActiveState": "active",
    }


def test_start_is_ready_only_when_the_app_is(service: Service) -> None:
    """An app that takes 4 s to import is not active before it has been imported."""
    service.configure(SLOW_IMPORT)
    service.vm.run("systemctl", "start", "--no-block", service.unit)
    service.wait_show(ActiveState="activating")
    service.wait_show(ActiveState="active")
    shown = service.show("ExecMainStartTimestampMonotonic", "ActiveEnterTimestampMonotonic")
    began, ready = (int(value) for value in shown.values())
    assert ready - began > 4_000_000


def test_a_start_that_makes_progress_outlasts_the_start_timeout(service: Service) -> None:
    """With TimeoutStartSec=2 an app that takes 4 s to import starts nevertheless."""
    service.configure(SLOW_IMPORT)
    service.drop_in("[Service]\nTimeoutStartSec=2\n")
    service.start()
    assert service.get().startswith("one")


def test_ready_workers_makes_the_unit_active_early(service: Service) -> None:
    """With ready_workers = 1 the unit is active while a second worker still starts."""
    source = "import os, time\nif os.environ['SDCLUSTER_SLOT'] == '1': time.sleep(30)\n" + HELLO
    service.configure(source, ready_workers=1, preload=False)
    service.start()
    assert service.show("StatusText")["StatusText"].startswith("1/2 workers ready")


def test_the_first_connection_starts_the_service_and_is_answered(service: Service) -> None:
    """With only the socket unit started, a client's connection brings the service up."""
    service.configure()
    service.vm.run("systemctl", "start", service.socket)
    service.wait_show(ActiveState="inactive")
    assert service.get().startswith("one")
    service.wait_show(ActiveState="active")


def test_restart_under_load_loses_nothing(service: Service) -> None:
    """Clients that open a connection per request get every answer across three restarts."""
    service.configure()
    service.start()
    with service.under_load(close=True) as load:
        for _ in range(3):
            service.systemctl("restart")
    assert load.requests > 100
    assert load.lost == 0, load.errors


def test_stop_answers_what_is_under_way(service: Service) -> None:
    """A request that takes 2 s is answered although the service is stopped meanwhile."""
    service.configure(SLOW_ANSWER)
    service.start()
    with service.under_load(close=True, clients=1, path="/slow") as load:
        service.vm.run("systemctl", "stop", service.socket, service.unit)
        # The client goes on with a server that is gone; what counts is the first answer.
    assert load.by_body
    assert service.show("Result", "ExecMainStatus") == {"Result": "success", "ExecMainStatus": "0"}


def test_a_killed_master_is_replaced_and_only_what_was_in_flight_is_lost(service: Service) -> None:
    """SIGKILL of the master: the workers drain, systemd starts a new one, clients wait for it."""
    service.configure()
    service.start()
    before = service.pid
    with service.under_load(close=True, clients=8) as load:
        service.vm.run("kill", "-KILL", str(before))
        service.wait_show(NRestarts="1", ActiveState="active")
    assert service.pid != before
    assert len(load.by_body) > 2  # Old workers have answered, and new ones.
    assert load.lost <= 8, load.errors


def test_a_stopped_master_is_found_by_the_watchdog(service: Service) -> None:
    """SIGSTOP of the master ends in a restart by systemd."""
    service.configure()
    service.drop_in("[Service]\nWatchdogSec=2\n")
    service.start()
    service.vm.run("kill", "-STOP", str(service.pid))
    service.wait_show(NRestarts="1", ActiveState="active")
    assert service.get().startswith("one")
    assert "Watchdog timeout" in service.story()


def test_a_crashed_worker_is_replaced_while_the_unit_stays_active(service: Service) -> None:
    """SIGKILL of a worker is told in the journal and in the status, and nothing else happens."""
    service.configure()
    service.start()
    before = service.worker_pids()
    service.vm.run("kill", "-KILL", str(before[0]))
    service.wait_show(StatusText="2/2 workers ready, gen 1, 0 connections, 1 restarts")
    assert service.show("NRestarts", "ActiveState") == {"NRestarts": "0", "ActiveState": "active"}
    assert "is gone (crash): SIGKILL" in service.story()


@pytest.mark.parametrize("verb", ["daemon-reload", "daemon-reexec"])
@pytest.mark.parametrize("scheduling", ["round-robin", "reuseport"])
def test_systemd_itself_is_reloaded_without_a_loss(
    service: Service, verb: str, scheduling: str
) -> None:
    """Under load systemd re-reads its units or executes itself again; the sockets live on."""
    service.configure(scheduling=scheduling)
    service.start()
    with service.under_load(close=True) as load:
        service.vm.run("systemctl", verb)
        assert service.systemctl("reload").returncode == 0
        service.vm.run("systemctl", verb)
    assert load.requests > 100
    assert load.lost == 0, load.errors

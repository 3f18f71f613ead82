"""`systemctl reload`: new code live without a lost request, broken code without an effect."""

import pytest
from service import HELLO, Service, versions

NEW = HELLO.replace('"one"', '"two"')


@pytest.mark.parametrize("scheduling", ["round-robin", "shared", "reuseport"])
@pytest.mark.parametrize("close", [True, False], ids=["close", "keep-alive"])
def test_reload_puts_new_code_live_without_a_loss(
    service: Service, scheduling: str, close: bool
) -> None:
    """Clients of both kinds get every answer, the last ones from the new code only."""
    service.configure(scheduling=scheduling)
    service.start()
    before = service.worker_pids()
    with service.under_load(close=close) as load:
        service.write_app(NEW)
        service.systemctl("reload")
    assert versions(load) == {"one", "two"}
    assert load.lost == 0, load.errors
    assert not set(before) & set(service.worker_pids())
    assert service.get().startswith("two")


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ("def", "SyntaxError"),
        ("raise RuntimeError('no database')", "RuntimeError: no database"),
        ("application = None", "has no attribute 'app'"),
        ("import sys; sys.exit(3)", "calls sys.exit(3)"),
        (
            "async def app(scope, receive, send):\n"
            "    await receive()\n"
            "    await send({'type': 'lifespan.startup.failed', 'message': 'no'})\n",
            "lifespan startup failed",
        ),
    ],
    ids=["syntax", "raises", "attribute", "exits", "lifespan"],
)
def test_broken_code_changes_nothing(service: Service, broken: str, reason: str) -> None:
    """The reload fails and says why, the old code serves on and nothing is lost."""
    service.configure()
    service.start()
    with service.under_load(close=True) as load:
        service.write_app(broken)
        assert service.systemctl("reload", check=False).returncode != 0
    assert versions(load) == {"one"}
    assert load.lost == 0, load.errors
    assert service.show("ActiveState", "SubState") == {
        "ActiveState": "active",
        "SubState": "running",
    }
    assert reason in service.story()
    service.write_app(NEW)
    service.systemctl("reload")
    assert service.get().startswith("two")


def test_a_bad_config_changes_nothing(service: Service) -> None:
    """A reload with a wrong key fails with the file, the key and a suggestion."""
    service.configure()
    service.start()
    service.configure(None, worker=3)
    assert service.systemctl("reload", check=False).returncode != 0
    path = f"/etc/sdcluster/{service.name}.toml"
    assert f"{path}: worker: unknown key; did you mean workers?" in service.story()
    assert service.get().startswith("one")


def test_another_number_of_workers_is_applied(service: Service) -> None:
    """A reload takes `workers` over from the file."""
    service.configure(workers=1)
    service.start()
    service.configure(None, workers=3)
    service.systemctl("reload")
    service.wait_show(StatusText="3/3 workers ready, gen 2, 0 connections, 0 restarts")


def test_a_slow_reload_is_seen_as_reloading(service: Service) -> None:
    """While the new code loads the unit is `reloading`; longer than TimeoutStartSec, if need be."""
    service.configure()
    service.drop_in("[Service]\nTimeoutStartSec=2\n")
    service.start()
    service.write_app("import time; time.sleep(4)\n" + NEW)
    service.vm.run("systemctl", "reload", "--no-block", service.unit)
    service.wait_show(ActiveState="reloading")
    service.wait_show(ActiveState="active")
    assert service.get().startswith("two")


def test_stop_during_a_reload_works(service: Service) -> None:
    """A stop while the new code loads ends the service cleanly."""
    service.configure()
    service.start()
    service.write_app("import time; time.sleep(30)\n" + NEW)
    service.vm.run("systemctl", "reload", "--no-block", service.unit)
    service.wait_show(ActiveState="reloading")
    service.vm.run("systemctl", "stop", service.socket, service.unit)
    assert service.show("ActiveState", "Result") == {"ActiveState": "inactive", "Result": "success"}


def test_concurrent_reloads_all_succeed(service: Service) -> None:
    """Four `sdcluster reload` at once are served by at most two further generations."""
    service.configure()
    service.start()
    script = f"for i in 1 2 3 4; do sdcluster reload {service.name} & done; wait"
    service.vm.run("sh", "-c", script)
    assert service.status()["generation"] in (2, 3)
    assert service.status()["state"] == "running"

"""rpm on a booted machine: install, serve, reload and upgrade under load, remove."""

import pytest
from checkouts import OLDER
from machine import Machine
from rpms import Rpms
from service import HELLO, Service, versions
from transaction import Scriptlet, scriptlets

import sdcluster

HELPER = "/usr/lib/systemd/systemd-update-helper"
PORT = 8100
NEW = HELLO.replace('"one"', '"two"')
STANDIN = "systemd-standin-1-1"
NOW = f"sdcluster-{sdcluster.__version__}-1"
BEFORE = f"sdcluster-{OLDER}-1"


def order(found: list[Scriptlet]) -> list[tuple[str, str]]:
    """Return kinds and packages."""
    return [(one.kind, one.package) for one in found]


def commands(found: list[Scriptlet]) -> list[str]:
    """Return what the scriptlets of sdcluster itself have called: no tests of the shell's."""
    of_ours = (one for one in found if one.package.startswith("sdcluster-"))
    return [line for one in of_ours for line in one.commands if line[0] not in "[:"]


def test_an_installation_runs_its_scriptlets_in_order(vm: Machine, built: Rpms) -> None:
    """The user first, then presets, then what is done for all packages; then it works at once."""
    found = scriptlets(vm.rpm("-ivv", "--nodeps", files=[built.binary]))
    assert order(found) == [
        ("%prein", NOW),
        ("%post", NOW),
        ("%transfiletriggerin", STANDIN),
        ("%transfiletriggerin", STANDIN),
        ("%transfiletriggerin", STANDIN),
    ]
    assert commands(found) == [
        "systemd-sysusers --replace=/usr/lib/sysusers.d/sdcluster.conf -",
        f"{HELPER} install-system-units sdcluster@.service sdcluster@.socket",
        f"{HELPER} install-user-units sdcluster@.service sdcluster@.socket",
    ]
    assert [one.commands for one in found[2:]] == [
        ("systemd-sysusers",),
        ("journalctl --update-catalog",),
        (f"{HELPER} system-reload-restart",),
    ]
    assert "Enough workers serve" in vm.run("journalctl", "--list-catalog").stdout
    service = Service(vm, "hello", PORT)
    service.configure()
    service.start()
    assert service.get().startswith("one")
    for manager in ("--system", "--user"):
        verify = ("systemd-analyze", "verify", manager, service.unit, service.socket)
        done = vm.run("env", "XDG_RUNTIME_DIR=/run", *verify)
        assert done.stdout + done.stderr == ""
    assert vm.rpm("-V", "--nodeps", "sdcluster") == ""  # Python has compiled nothing.


@pytest.mark.parametrize("close", [True, False], ids=["close", "keep-alive"])
def test_a_reload_under_load_loses_nothing(service: Service, close: bool) -> None:
    """Of what `rpm --root` had installed before the root was booted; the master stays."""
    before = service.pid
    with service.under_load(close=close) as load:
        service.write_app(NEW)
        service.systemctl("reload")
    assert versions(load) == {"one", "two"}
    assert load.lost == 0, load.errors
    assert service.pid == before


@pytest.mark.parametrize("close", [True, False], ids=["close", "keep-alive"])
def test_an_upgrade_under_load_touches_no_instance(
    service: Service, built: Rpms, close: bool
) -> None:
    """Nothing is lost, and the same processes serve; a reload after it goes well."""
    vm = service.vm
    assert vm.run("sdcluster", "--version").stdout.strip() == f"sdcluster {OLDER}"
    before = (service.pid, service.worker_pids())
    with service.under_load(close=close) as load:
        found = scriptlets(vm.rpm("-Uvv", "--nodeps", files=[built.binary]))
    assert load.requests > load.lost == 0, load.errors
    assert (service.pid, service.worker_pids()) == before
    assert vm.run("sdcluster", "--version").stdout.strip() == f"sdcluster {sdcluster.__version__}"
    assert order(found) == [
        ("%prein", NOW),
        ("%post", NOW),
        ("%preun", BEFORE),
        ("%postun", BEFORE),
        ("%transfiletriggerin", STANDIN),
        ("%transfiletriggerin", STANDIN),
        ("%transfiletriggerin", STANDIN),
        ("%transfiletriggerpostun", STANDIN),
    ]
    assert commands(found) == ["systemd-sysusers --replace=/usr/lib/sysusers.d/sdcluster.conf -"]
    # The units of the new version are read, with nobody's help.
    wanted = {"Description": "hello served by sdcluster", "NeedDaemonReload": "no"}
    assert service.show("Description", "NeedDaemonReload") == wanted
    with service.under_load(close=close) as load:
        service.write_app(NEW)
        service.systemctl("reload")
    assert load.lost == 0, load.errors
    assert service.get().startswith("two")


def test_a_restart_after_an_upgrade_runs_the_new_version(service: Service, built: Rpms) -> None:
    """Whenever the administrator wants it; the sockets stay, so nothing is refused."""
    service.vm.rpm("-U", "--nodeps", files=[built.binary])
    assert f"runs version {OLDER}, and " in status(service)
    with service.under_load(close=True) as load:
        before = service.pid
        service.systemctl("restart")
    assert service.pid != before
    assert load.lost == 0, load.errors
    assert "runs version" not in status(service)


def status(service: Service) -> str:
    """Return what `sdcluster status` prints."""
    return service.vm.run("sdcluster", "status", service.name).stdout


def test_a_removal_ends_all_instances(service: Service) -> None:
    """Services and sockets, with no unit, link or process left; the configuration stays."""
    vm = service.vm
    other = Service(vm, "other", PORT + 1)
    other.configure()
    other.start()
    for one in (service, other):
        vm.run("systemctl", "enable", one.unit, one.socket)
    assert vm.run("pgrep", "-f", "sdcluster").stdout
    found = scriptlets(vm.rpm("-evv", "sdcluster"))
    assert order(found) == [
        ("%preun", BEFORE),
        ("%postun", BEFORE),
        ("%transfiletriggerpostun", STANDIN),
    ]
    assert commands(found) == [
        "systemctl stop sdcluster@*.socket sdcluster@*.service",
        "systemctl reset-failed sdcluster@*",
        f"{HELPER} remove-system-units sdcluster@.service sdcluster@.socket",
        f"{HELPER} remove-user-units sdcluster@.service sdcluster@.socket",
    ]
    left = vm.run("systemctl", "list-units", "--all", "--no-legend", "sdcluster@*").stdout
    assert left == ""
    assert vm.run("pgrep", "-af", "sdcluster", check=False).stdout == ""
    assert vm.run("find", "/etc/systemd", "/run/systemd", "-name", "sdcluster@*").stdout == ""
    for one in (service, other):
        assert one.get() == ""
        assert 'app = "app:app"' in vm.run("cat", f"/etc/sdcluster/{one.name}.toml").stdout


def test_a_removal_is_not_stopped_by_clients(service: Service) -> None:
    """A client that comes while the service is stopped does not start it again."""
    with service.under_load(close=True):
        service.vm.rpm("-e", "sdcluster")
        assert service.vm.run("pgrep", "-af", "sdcluster", check=False).stdout == ""

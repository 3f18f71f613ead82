"""The life of the package: an upgrade while instances run, its removal, its purge."""

import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from machine import Machine
from service import Service

OLD = "0.0.9"


@pytest.fixture
def old_deb(deb: Path) -> Iterator[Path]:
    """Return the package as it would be of an older version."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "root")
        subprocess.run(["dpkg-deb", "-R", deb, root], check=True)
        for file, pattern, text in (
            (root / "DEBIAN/control", r"(?m)^Version: .*$", f"Version: {OLD}"),
            (
                root / "usr/lib/python3/dist-packages/sdcluster/__init__.py",
                r"(?m)^__version__ = .*$",
                f'__version__ = "{OLD}"',
            ),
        ):
            new, count = re.subn(pattern, text, file.read_text())
            assert count == 1
            file.write_text(new)
        built = Path(folder, f"sdcluster_{OLD}_all.deb")
        subprocess.run(["dpkg-deb", "--root-owner-group", "-b", root, built], check=True)
        yield built


@pytest.fixture
def machine(release: str) -> Iterator[Machine]:
    """Boot a machine of its own, without the package."""
    with Machine.boot(release) as booted:
        yield booted


def instance(machine: Machine) -> Service:
    """Return an instance that is enabled and serves."""
    service = Service(machine, "shop", 8200)
    service.configure()
    machine.run("systemctl", "enable", "--now", service.unit)
    assert service.get().startswith("one")
    return service


def test_upgrade_interrupts_nobody_and_says_what_brings_instances_over(
    machine: Machine, old_deb: Path, deb: Path
) -> None:
    """They go on as they are; the command that is named loses no request, nor does the upgrade."""
    machine.install([old_deb])
    service = instance(machine)
    before = service.pid
    with service.under_load(close=False) as kept, service.under_load(close=True) as anew:
        said = upgrade(machine, deb)
        assert service.pid == before
        shown = machine.run("sdcluster", "status", service.name).stdout
        assert f"runs version {OLD}, and " in shown
        lines = [line for line in said.splitlines() if line.startswith("sdcluster: ")]
        assert lines[0] == f"sdcluster: still of the version before: {service.unit}"
        command = lines[1].rpartition(": ")[2]
        machine.run(*command.split())
    assert service.pid != before
    assert "runs version" not in machine.run("sdcluster", "status", service.name).stdout
    for load in (kept, anew):
        assert load.requests > 100
        assert load.lost == 0, load.errors
    assert "sdcluster: " not in upgrade(machine, deb, "--reinstall")


def upgrade(machine: Machine, deb: Path, *options: str) -> str:
    """Install the package, and return what that says."""
    (machine.root / "root" / deb.name).write_bytes(deb.read_bytes())
    return machine.run("apt-get", "install", "-y", *options, f"/root/{deb.name}").stdout


def test_removal_ends_instances_and_purge_their_state(machine: Machine, deb: Path) -> None:
    """No unit, link or process is left, and nothing starts again; the TOML is the owner's."""
    machine.install([deb])
    service = instance(machine)
    waits = Service(machine, "waits", 8201)
    waits.configure("import nowhere")
    machine.run("systemctl", "start", "--no-block", waits.unit)
    waits.wait_show(ActiveState="activating")
    machine.run("apt-get", "remove", "-y", "sdcluster")
    units = ("systemctl", "list-units", "--all", "--plain", "--no-legend", "sdcluster*")
    left = machine.run(*units).stdout.split()
    assert [word for word in left if word.startswith("sdcluster@")] == []
    links = machine.run("find", "/etc/systemd/system", "/run/systemd", "-name", "*sdcluster@*")
    assert links.stdout == ""
    assert machine.run("pgrep", "-f", "sdcluster", check=False).stdout == ""
    assert service.get() == ""
    assert machine.run("systemctl", "is-system-running", check=False).stdout == "running\n"
    state = "/var/lib/sdcluster"
    assert machine.run("test", "-d", state, check=False).returncode == 0
    machine.run("apt-get", "purge", "-y", "sdcluster")
    assert machine.run("test", "-e", state, check=False).returncode == 1
    assert machine.run("ls", "/etc/sdcluster").stdout.split() == ["shop.toml", "waits.toml"]


def test_package_comes_back_after_its_removal(machine: Machine, deb: Path) -> None:
    """Its configurations are there, and serve."""
    machine.install([deb])
    service = instance(machine)
    machine.run("apt-get", "remove", "-y", "sdcluster")
    machine.install([deb])
    machine.run("systemctl", "enable", "--now", service.unit)
    assert service.get().startswith("one")

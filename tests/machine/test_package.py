"""The .deb: what it installs, removes and leaves."""

from pathlib import Path

from machine import Machine
from service import Service

DEBIAN = Path(__file__).resolve().parents[2] / "packaging" / "debian"


def test_package_installs_all_that_it_documents(vm: Machine) -> None:
    """Command, units, generator, catalog, manual pages and the user are there."""
    assert vm.run("sdcluster", "--version").stdout.startswith("sdcluster ")
    files = vm.run("dpkg", "-L", "sdcluster").stdout
    for path in (
        "/systemd/system/sdcluster@.service",
        "/systemd/system/sdcluster@.socket",
        "/systemd/system-generators/sdcluster-generator",
        "/systemd/catalog/sdcluster.catalog",
        "/man/man1/sdcluster.1.gz",
        "/man/man5/sdcluster.toml.5.gz",
        "/doc/sdcluster/README.md.gz",
        "/doc/sdcluster/examples/example.toml",
        "/doc/sdcluster/examples/hello.py",
    ):
        assert path in files
    assert vm.run("id", "-u", "sdcluster").returncode == 0
    assert vm.run("stat", "-c", "%F", "/etc/sdcluster").stdout.strip() == "directory"


def test_reinstalling_the_package_leaves_a_running_service_alone(
    vm: Machine, service: Service, deb: Path
) -> None:
    """An upgrade neither stops nor loses anything; the master goes on until it is restarted."""
    service.configure()
    service.start()
    before = service.pid
    with service.under_load(close=True, clients=4) as load:
        vm.run("apt-get", "install", "-y", "--reinstall", f"/root/{deb.name}")
    assert load.lost == 0, load.errors
    assert service.pid == before
    service.systemctl("reload")
    assert service.get().startswith("one")


def test_smoke_test_of_the_package_passes(vm: Machine) -> None:
    """It is what autopkgtest(1) runs on an installed package."""
    vm.write("/root/smoke", (DEBIAN / "tests" / "smoke").read_text())
    vm.run("sh", "/root/smoke")

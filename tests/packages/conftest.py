"""Fixtures for tests of the packages: what is built once, and machines with rpm.

pytest tests/packages --deb=FILE --rpms=FOLDER
"""

from collections.abc import Iterator
from pathlib import Path

import checkouts
import deb as deb_package
import pytest
import roots
import rpms
from checkouts import CHECKOUT
from machine import Machine
from rpms import Rpms
from service import Service

PORT = 8100


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let packages be given that are there already."""
    parser.addoption("--deb", type=Path)
    parser.addoption("--rpms", type=Path)


@pytest.fixture(scope="session")
def deb(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the .deb; build it unless it was given."""
    given: Path | None = request.config.getoption("--deb")
    return given or deb_package.build(CHECKOUT, tmp_path_factory.mktemp("deb"))


@pytest.fixture(scope="session")
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Rpms:
    """Return the rpms; build them unless they were given."""
    given: Path | None = request.config.getoption("--rpms")
    if given is None:
        return rpms.build(CHECKOUT, tmp_path_factory.mktemp("rpms"))
    (source,) = given.glob("*.src.rpm")
    (binary,) = given.glob("*.noarch.rpm")
    return Rpms(source, binary)


@pytest.fixture(scope="session")
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an rpm of a lower version."""
    folder = tmp_path_factory.mktemp("older")
    return rpms.build(checkouts.make_older_version(folder / "checkout"), folder).binary


@pytest.fixture(scope="session")
def standin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the rpm that does what Fedora's systemd does for packages."""
    return rpms.build_standin(CHECKOUT, tmp_path_factory.mktemp("standin"))


@pytest.fixture
def root(standin: Path, tmp_path: Path) -> Iterator[Path]:
    """Return a throwaway root of Debian 12 that is not booted, with the stand-in installed."""
    roots.prepare_host()
    folder = tmp_path / "overlay"
    folder.mkdir()
    try:
        mounted = roots.mount_overlay(folder, [roots.root("bookworm")])
        rpms.rpm(mounted, "-i", "--nodeps", files=[standin])
        yield mounted
    finally:
        roots.unmount_overlay(folder)


@pytest.fixture
def vm(standin: Path) -> Iterator[Machine]:
    """Boot a machine that has rpm and the stand-in, and no sdcluster."""

    def install(mounted: Path) -> None:
        rpms.rpm(mounted, "-i", "--nodeps", files=[standin])

    _, layer = roots.rpm_layer()
    with Machine.boot("bookworm", layers=[layer], prepare=install) as booted:
        yield booted


@pytest.fixture
def older_vm(standin: Path, older: Path) -> Iterator[Machine]:
    """Boot a machine in whose root `rpm --root` has installed the older version before."""

    def install(mounted: Path) -> None:
        rpms.rpm(mounted, "-i", "--nodeps", files=[standin])
        rpms.rpm(mounted, "-i", "--nodeps", files=[older])

    _, layer = roots.rpm_layer()
    with Machine.boot("bookworm", layers=[layer], prepare=install) as booted:
        yield booted


@pytest.fixture
def service(older_vm: Machine) -> Iterator[Service]:
    """Return an instance that the older version serves; a failure shows its journal."""
    one = Service(older_vm, "hello", PORT)
    one.configure()
    one.start()
    yield one
    print(one.story())

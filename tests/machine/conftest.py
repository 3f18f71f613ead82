"""Fixtures for tests on a booted Debian: one machine a run, one instance a test.

pytest tests/machine --release=trixie
"""

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import deb as package
import pytest
import roots
from machine import Machine
from service import Service

CHECKOUT = Path(__file__).resolve().parent.parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the release be chosen, and a package that is there already."""
    parser.addoption("--deb", type=Path)
    parser.addoption("--release", choices=roots.RELEASES, default=roots.RELEASES[0])


@pytest.fixture(scope="session")
def deb(request: pytest.FixtureRequest) -> Iterator[Path]:
    """Return the package; build it unless it was given."""
    given: Path | None = request.config.getoption("--deb")
    if given:
        yield given
        return
    with tempfile.TemporaryDirectory() as folder:
        yield package.build(CHECKOUT, Path(folder))


@pytest.fixture(scope="session")
def release(request: pytest.FixtureRequest) -> str:
    """Return the Debian release under test."""
    return str(request.config.getoption("--release"))


@pytest.fixture(scope="session")
def vm(release: str, deb: Path) -> Iterator[Machine]:
    """Boot a machine with the package installed."""
    with Machine.boot(release, packages=[deb]) as booted:
        yield booted


_ports = iter(range(8100, 9000))


@pytest.fixture
def service(vm: Machine, request: pytest.FixtureRequest) -> Iterator[Service]:
    """Return an instance with a name and a port of its own; a failure shows its journal."""
    port = next(_ports)
    words = re.sub(r"[^a-z0-9]+", "-", request.node.name.removeprefix("test_").lower())
    one = Service(vm, f"{words[:40].strip('-')}-{port}", port)
    yield one
    print(one.story())
    one.remove()

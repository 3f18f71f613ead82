"""A start of an instance: what its end leaves for the next."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from sdcluster.config import Config
from sdcluster.core.starts import PATIENCE_S
from sdcluster.errors import EX_SOFTWARE
from sdcluster.master import launch
from sdcluster.master.chronicle import Chronicle
from sdcluster.master.estate import Estate
from sdcluster.master.journal import Journal
from sdcluster.master.lastfailure import LastFailure
from sdcluster.master.launch import Instance, Launch
from sdcluster.master.loop import Loop
from sdcluster.master.systemd import ServiceManager


class LateLoop(Loop):
    """A loop whose clock goes on by itself when a try has ended."""

    ahead_s = 0.0

    def time(self) -> float:
        """Return the time, and what was added to it."""
        return super().time() + self.ahead_s


def no_config() -> Config:
    """Stand for a file, which is not read here."""
    raise AssertionError


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Make what closes things at the end."""
    with ExitStack() as made:
        yield made


@pytest.mark.parametrize(("is_stopped", "status"), [(True, 0), (False, EX_SOFTWARE)])
def test_start_that_was_told_to_stop_leaves_no_failure(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stack: ExitStack,
    *,
    is_stopped: bool,
    status: int,
) -> None:
    """Though its patience has ended, and the try that a stop has met had failed before."""
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    manager, journal, loop = ServiceManager(), Journal("a"), LateLoop()
    for one in (manager, journal, loop):
        stack.callback(one.close)
    start = Launch(
        Instance(name="a", read=no_config),
        passed=[],
        estate=Estate(manager, []),
        loop=loop,
        journal=journal,
        chronicle=Chronicle(journal, manager),
        is_service=True,
    )

    def end_late() -> launch._Failed:
        loop.ahead_s = PATIENCE_S + 1
        return launch._Failed("the app did not load", is_stopped=is_stopped)

    monkeypatch.setattr(start, "_try", end_late)
    assert start.run() == status
    assert (LastFailure().read().age_s is None) is is_stopped

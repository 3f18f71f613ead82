"""A start of an instance: what its end leaves for the next."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from sdcluster.config.model import Config
from sdcluster.core.starts import PATIENCE_S
from sdcluster.errors import EX_SOFTWARE, ConfigError
from sdcluster.master.host.journal import Journal
from sdcluster.master.host.loop import Loop
from sdcluster.master.host.systemd import ServiceManager
from sdcluster.master.service import launch
from sdcluster.master.service.chronicle import Chronicle
from sdcluster.master.service.estate import Estate
from sdcluster.master.service.instance import Instance
from sdcluster.master.service.last_failure import LastFailure
from sdcluster.master.service.launch import Launch


class LateLoop(Loop):
    """A loop whose clock goes on by itself when a try has ended."""

    ahead_s = 0.0

    def time(self) -> float:
        """Return the time, and what was added to it."""
        return super().time() + self.ahead_s


def broken_file() -> Config:
    """Stand for a file that a reader stumbles over."""
    raise RecursionError("it is too deep")


@pytest.fixture
def loop() -> Iterator[LateLoop]:
    """Make one."""
    made = LateLoop()
    yield made
    made.close()


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loop: LateLoop) -> Iterator[Launch]:
    """Make the start of a service, which has a folder to note failures in."""
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    with ExitStack() as stack:
        manager, journal = ServiceManager(), Journal("a")
        stack.callback(manager.close)
        stack.callback(journal.close)
        yield Launch(
            Instance(name="a", read=broken_file, file=Path("/a.toml")),
            passed=[],
            estate=Estate(manager, []),
            loop=loop,
            journal=journal,
            chronicle=Chronicle(journal, manager),
            is_service=True,
        )


@pytest.mark.parametrize(("is_stopped", "status"), [(True, 0), (False, EX_SOFTWARE)])
def test_start_that_was_told_to_stop_leaves_no_failure(
    start: Launch, loop: LateLoop, monkeypatch: pytest.MonkeyPatch, *, is_stopped: bool, status: int
) -> None:
    """Though its patience has ended, and the try that a stop has met had failed before."""

    def end_late() -> launch._Failed:
        loop.ahead_s = PATIENCE_S + 1
        return launch._Failed("the app did not load", is_stopped=is_stopped)

    monkeypatch.setattr(start, "_try", end_late)
    assert start.run() == status
    assert (LastFailure().read().age_s is None) is is_stopped


def test_file_that_cannot_be_read_is_told_alike_in_start_and_reload(start: Launch) -> None:
    """Whatever the reason is, it ends neither a start that may wait nor what runs."""
    with pytest.raises(ConfigError) as told:
        start._read()
    assert told.value.problems == ("/a.toml: cannot be read: RecursionError: it is too deep",)

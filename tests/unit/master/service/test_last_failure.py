"""What one start leaves for the next to know."""

import math
from pathlib import Path

import pytest

from sdcluster.errors import EX_CONFIG, EX_SOFTWARE
from sdcluster.master.service.last_failure import FILE, LastFailure


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder that systemd keeps for the service."""
    monkeypatch.setenv("STATE_DIRECTORY", f"{tmp_path}:/var/lib/other")
    return tmp_path


@pytest.mark.usefixtures("folder")
def test_failure_is_known_to_the_next_start() -> None:
    """With its age, and whether systemd repeats such a start by itself."""
    assert LastFailure().read().age_s is None
    LastFailure().note(EX_SOFTWARE)
    found = LastFailure().read()
    assert found.age_s is not None and 0 <= found.age_s < 60
    assert found.mends_itself
    LastFailure().note(EX_CONFIG)
    assert not LastFailure().read().mends_itself


@pytest.mark.parametrize(
    ("noted", "age_s"),
    [("70 900.0", 100.0), ("70 1001.0", math.inf), ("70", math.inf), ("70 soon", math.inf)],
)
def test_age_is_that_of_the_note(
    folder: Path, monkeypatch: pytest.MonkeyPatch, noted: str, age_s: float
) -> None:
    """One of another boot, or that makes no sense, is as old as can be."""
    monkeypatch.setattr("time.monotonic", lambda: 1000.0)
    (folder / FILE).write_text(noted)
    assert LastFailure().read().age_s == age_s


@pytest.mark.usefixtures("folder")
def test_what_is_forgotten_has_not_failed() -> None:
    """Nor is it an error to forget it twice."""
    LastFailure().note(EX_SOFTWARE)
    LastFailure().forget()
    LastFailure().forget()
    assert LastFailure().read().age_s is None


@pytest.mark.parametrize("given", ["", "/nowhere/at/all"])
def test_without_a_place_nothing_is_known(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    """And nothing is noted, which is no error."""
    monkeypatch.setenv("STATE_DIRECTORY", given)
    LastFailure().note(EX_SOFTWARE)
    LastFailure().forget()
    assert LastFailure().read().age_s == math.inf


def test_link_is_not_followed(folder: Path, tmp_path: Path) -> None:
    """What the app has put in its place stays as it is."""
    (tmp_path / "precious").write_text("data")
    (folder / FILE).symlink_to(tmp_path / "precious")
    LastFailure().note(EX_SOFTWARE)
    assert (tmp_path / "precious").read_text() == "data"

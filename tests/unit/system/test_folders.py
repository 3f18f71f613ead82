"""Folders of one user's own, where others may be faster."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from sdcluster.system.folders import NotOursError, make_private

STRANGER = 12345
NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another user")


@pytest.fixture(autouse=True, params=[0, 0o022, 0o777], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """Have any umask: a service manager's, a shell's, and what nobody has."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    """Return the permissions."""
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return a folder that everybody may write to, as /tmp is."""
    made = tmp_path / "tmp"
    made.mkdir()
    made.chmod(0o1777)
    return made


def test_folder_is_for_its_user_alone_whatever_the_umask(place: Path) -> None:
    """And so are those above it that are made."""
    make_private(place / "user" / "shop")
    make_private(place / "user" / "blog")
    assert [mode(one) for one in (place / "user", place / "user" / "shop")] == [0o700, 0o700]


def test_those_above_may_be_for_all_to_pass(place: Path) -> None:
    """As /run/sdcluster is, with folders of several users below it."""
    make_private(place / "sdcluster" / "shop", above=0o755)
    assert mode(place / "sdcluster") == 0o755
    assert mode(place / "sdcluster" / "shop") == 0o700


def test_folder_that_is_there_is_closed_to_others(place: Path) -> None:
    """A group that may read may go on doing so."""
    (place / "shop").mkdir()
    (place / "shop").chmod(0o755)
    make_private(place / "shop")
    assert mode(place / "shop") == 0o750


@pytest.mark.parametrize("open_to", [0o770, 0o707])
def test_folder_where_others_may_write_is_refused(place: Path, open_to: int) -> None:
    """What is in it may be theirs; unless an administrator wants it so."""
    (place / "shop").mkdir()
    (place / "shop").chmod(open_to)
    with pytest.raises(NotOursError, match="others may write there"):
        make_private(place / "shop")
    make_private(place / "shop", is_strict=False)
    assert mode(place / "shop") == open_to


@pytest.mark.parametrize("kind", ["symlink", "file", "dangling"])
def test_what_is_no_folder_is_not_followed(place: Path, kind: str) -> None:
    """A link that somebody has put there, to a folder of this user's."""
    own = place / "own"
    own.mkdir()
    own.chmod(0o755)
    if kind == "file":
        (place / "shop").touch()
    else:
        (place / "shop").symlink_to(own if kind == "symlink" else place / "nowhere")
    with pytest.raises(OSError, match="Not a directory"):
        make_private(place / "shop")
    assert mode(own) == 0o755
    assert not (place / "nowhere").exists()


@NEEDS_ROOT
@pytest.mark.parametrize("where", ["shop", "user/shop"])
def test_folder_of_somebody_elses_is_told_of(place: Path, where: str) -> None:
    """Also when it is the one above, which may be replaced with all that is in it."""
    (place / where).parent.mkdir(exist_ok=True)
    squatted = place / where.partition("/")[0]
    squatted.mkdir(exist_ok=True)
    squatted.chmod(0o777)
    os.chown(squatted, STRANGER, STRANGER)
    with pytest.raises(NotOursError, match=f"belongs to the user {STRANGER}"):
        make_private(place / where)


def test_folder_where_anybody_may_replace_it_is_refused(place: Path) -> None:
    """Without the sticky bit, whoever may write may rename what is there."""
    place.chmod(0o777)
    with pytest.raises(NotOursError, match="others may write there"):
        make_private(place / "shop")
    make_private(place / "shop", is_strict=False)


def test_folder_that_somebody_makes_in_between_is_looked_at(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was not there at first."""
    make = os.mkdir

    def race(name: str, mode: int, *, dir_fd: int) -> None:
        make(place / name)
        os.chown(place / name, STRANGER, STRANGER)
        make(name, mode, dir_fd=dir_fd)

    if os.geteuid() == 0:
        monkeypatch.setattr(os, "mkdir", race)
        with pytest.raises(NotOursError, match="belongs to the user"):
            make_private(place / "shop")

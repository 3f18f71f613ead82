"""Where an instance keeps its control socket."""

import os
from pathlib import Path

import pytest

from sdcluster.errors import ListenError
from sdcluster.system import runtime
from sdcluster.system.runtime import control_sockets, directory, places

OWN_UID = os.geteuid()


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be an ordinary user without any of the variables."""
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.delenv("SDCLUSTER_INSTANCE", raising=False)
    monkeypatch.setenv("HOME", "/home/shop")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)


def test_systemd_says_where(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of several folders."""
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/sdcluster/shop:/run/other")
    assert places("shop")[0] == Path("/run/sdcluster/shop")


def test_user_has_a_folder_for_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or one below /tmp that bears the user's number."""
    assert places("shop")[0] == Path("/tmp/sdcluster-1000/shop")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    assert places("shop")[0] == Path("/run/user/1000/sdcluster/shop")


def test_root_uses_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where systemd would have it as well."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert places("shop")[0] == Path("/run/sdcluster/shop")


def test_client_looks_for_the_service_first_and_for_each_place_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A client does not know how the instance was started."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    assert control_sockets("shop") == [
        Path("/run/sdcluster/shop/control"),
        Path("/run/user/1000/sdcluster/shop/control"),
        Path("/tmp/sdcluster-1000/shop/control"),
        Path("/home/shop/.local/state/sdcluster/run/shop/control"),
    ]
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert control_sockets("shop").count(Path("/run/sdcluster/shop/control")) == 1


NEEDS_ROOT = pytest.mark.skipif(OWN_UID != 0, reason="needs root, to be another user")


@pytest.fixture
def squatted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have a folder in a place for all made by somebody else; return the home directory."""
    monkeypatch.setattr(os, "geteuid", lambda: OWN_UID)
    shared, home = tmp_path / "tmp", tmp_path / "home"
    shared.mkdir()
    shared.chmod(0o1777)
    home.mkdir(mode=0o700)
    squat = shared / "sdcluster"
    squat.mkdir()
    squat.chmod(0o777)
    os.chown(squat, 12345, 12345)
    places = [squat / "shop", home / ".local/state/sdcluster/run/shop"]
    monkeypatch.setattr(runtime, "_candidates", lambda _name: places)
    monkeypatch.setattr(runtime, "_has_own", lambda: False)
    return home


@NEEDS_ROOT
def test_folder_that_somebody_else_has_made_is_not_used(squatted: Path) -> None:
    """Another place is, that is the user's alone; the client looks there as well."""
    found = directory("shop")
    assert found == squatted / ".local/state/sdcluster/run/shop"
    assert found.stat().st_mode & 0o777 == 0o700
    assert found / "control" in control_sockets("shop")


@NEEDS_ROOT
def test_message_says_what_can_be_done_when_there_is_no_place(squatted: Path) -> None:
    """Whose folder it is, and what to set."""
    squatted.rmdir()
    squatted.touch()
    with pytest.raises(ListenError, match=r"sdcluster: it belongs to the user 12345; .*home.*"):
        directory("shop")
    with pytest.raises(ListenError, match="set XDG_RUNTIME_DIR to a folder of your own"):
        directory("shop")


@pytest.mark.parametrize("umask", [0, 0o077])
def test_folder_is_private_whatever_the_umask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, umask: int
) -> None:
    """Also the one above it."""
    monkeypatch.setattr(os, "geteuid", lambda: OWN_UID)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    before = os.umask(umask)
    try:
        found = directory("shop")
    finally:
        os.umask(before)
    assert found == tmp_path / "sdcluster" / "shop"
    assert [one.stat().st_mode & 0o777 for one in (found, found.parent)] == [0o700, 0o700]


def test_client_of_a_service_looks_where_systemd_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """ExecReload= of a unit has the master's RUNTIME_DIRECTORY, which may be anywhere."""
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/shop:/run/other")
    assert control_sockets("shop")[:2] == [
        Path("/run/shop/control"),
        Path("/run/sdcluster/shop/control"),
    ]
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/sdcluster/shop")
    assert control_sockets("shop").count(Path("/run/sdcluster/shop/control")) == 1


def test_folder_of_another_instance_is_not_where_to_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """An app that asks for another instance has its own RUNTIME_DIRECTORY, and must not hit it."""
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/sdcluster/blog")
    assert Path("/run/sdcluster/blog/control") not in control_sockets("shop")
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/blog")
    monkeypatch.setenv("SDCLUSTER_INSTANCE", "blog")
    assert Path("/run/blog/control") not in control_sockets("shop")
    assert control_sockets("blog")[0] == Path("/run/blog/control")


def test_app_of_an_instance_may_start_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has inherited RUNTIME_DIRECTORY, where the first instance's master listens."""
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/sdcluster/first")
    monkeypatch.setenv("SDCLUSTER_INSTANCE", "first")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1")
    assert places("second")[0] == Path("/run/user/1/sdcluster/second")

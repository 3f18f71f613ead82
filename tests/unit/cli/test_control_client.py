"""How a client finds the master, and whom it takes for it."""

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sdcluster.cli import control_client
from sdcluster.cli.control_client import Master
from sdcluster.errors import ControlError
from sdcluster.system import runtime

STRANGER = 12345

NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another user")

Listen = Callable[..., None]


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Have two places where a control socket may be."""
    found = [tmp_path / "first" / "control", tmp_path / "second" / "control"]
    monkeypatch.setattr(runtime, "control_sockets", lambda _name: found)
    for path in found:
        path.parent.mkdir()
    return found


@pytest.fixture
def listen() -> Iterator[Listen]:
    """Listen on a path, as another user if one is given."""
    with contextlib.ExitStack() as stack:

        def listen(path: Path, uid: int | None = None) -> None:
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.bind(str(path))
            own = os.geteuid()
            try:
                if uid is not None:
                    os.seteuid(uid)
                sock.listen()  # What SO_PEERCRED tells is as of now, see unix(7).
            finally:
                os.seteuid(own)

        yield listen


def deny(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """Have a socket refuse whoever asks, as root is never refused."""

    class Refusing(socket.socket):
        def connect(self, address: object) -> None:
            if address == str(path):
                raise PermissionError(13, "Permission denied")
            super().connect(str(address))

    monkeypatch.setattr(socket, "socket", Refusing)


def refused(name: str) -> str:
    """Return why there is no connection to the master."""
    with pytest.raises(ControlError) as caught:
        Master(name)
    return str(caught.value)


def test_search_goes_on_after_a_place_that_is_denied(
    paths: list[Path], listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service of that name is another user's, and one's own is elsewhere."""
    listen(paths[1])
    deny(monkeypatch, paths[0])
    with Master("shop"):
        pass


@pytest.mark.parametrize("which", [0, 1])
def test_denial_is_told_rather_than_absence(
    paths: list[Path], monkeypatch: pytest.MonkeyPatch, which: int
) -> None:
    """It says what to do; that nothing is there does not."""
    deny(monkeypatch, paths[which])
    assert refused("shop").startswith(f"access to {paths[which]} is denied; be root or ")


def test_absence_is_told_with_each_place(paths: list[Path]) -> None:
    """A socket that nobody listens on is as none."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(paths[0]))
    told = f"shop does not run: no master listens on {paths[0]} or {paths[1]}"
    assert refused("shop") == told


@NEEDS_ROOT
def test_server_of_another_user_is_not_believed(paths: list[Path], listen: Listen) -> None:
    """Whoever may write to a folder may listen there and tell anything."""
    paths[0].parent.parent.chmod(0o777)
    listen(paths[0], STRANGER)
    assert refused("shop") == (
        f"what listens on {paths[0]} runs as user {STRANGER}, and is not taken for the master "
        "of shop; ask as that user, if it is"
    )
    listen(paths[1])
    with Master("shop"):
        pass


@NEEDS_ROOT
def test_root_believes_the_user_of_a_service(paths: list[Path], listen: Listen) -> None:
    """Root has put the folder where no one else can, and has given it to that user."""
    paths[0].parent.parent.chmod(0o755)
    os.chown(paths[0].parent, STRANGER, STRANGER)
    listen(paths[0], STRANGER)
    with Master("shop"):
        pass


@NEEDS_ROOT
@pytest.mark.parametrize(("owner", "mode"), [(STRANGER, 0o755), (0, 0o1777)])
def test_root_believes_no_folder_that_others_have_placed(
    paths: list[Path], listen: Listen, owner: int, mode: int
) -> None:
    """Below a user's folder, or below /tmp, anybody may have made it."""
    parent = paths[0].parent.parent
    os.chown(paths[0].parent, STRANGER, STRANGER)
    listen(paths[0], STRANGER)
    os.chown(parent, owner, -1)
    parent.chmod(mode)
    assert "is not taken for the master" in refused("shop")


def test_user_believes_root(
    paths: list[Path], listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root need not deceive anybody."""
    listen(paths[0])
    monkeypatch.setattr(control_client, "peer_uid", lambda _connection: 0)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with Master("shop"):
        pass


def test_user_believes_no_other(
    paths: list[Path], listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does the folder's owner count for any but root."""
    listen(paths[0])
    monkeypatch.setattr(control_client, "peer_uid", lambda _connection: STRANGER)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert f"runs as user {STRANGER}" in refused("shop")


def test_master_that_accepts_nobody_is_not_waited_for_for_ever(
    paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stuck master's backlog fills up; who comes then is told that it does not answer."""
    monkeypatch.setattr(control_client, "CONNECT_TIMEOUT_S", 0.05)
    with socket.socket(socket.AF_UNIX) as stuck, socket.socket(socket.AF_UNIX) as first:
        stuck.bind(str(paths[0]))
        stuck.listen(0)
        first.connect(str(paths[0]))
        assert refused("shop") == "the master of shop does not answer"

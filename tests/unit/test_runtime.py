"""Where an instance keeps its control socket."""

import os
from pathlib import Path

import pytest

from sdcluster.errors import ListenError
from sdcluster.runtime import control_sockets, directory


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be an ordinary user without any of the variables."""
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.delenv("SDCLUSTER_INSTANCE", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)


def test_systemd_says_where(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of several folders."""
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/sdcluster/shop:/run/other")
    assert directory("shop") == Path("/run/sdcluster/shop")


def test_user_has_a_folder_for_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or one below /tmp that bears the user's number."""
    assert directory("shop") == Path("/tmp/sdcluster-1000/shop")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    assert directory("shop") == Path("/run/user/1000/sdcluster/shop")


def test_root_uses_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where systemd would have it as well."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert directory("shop") == Path("/run/sdcluster/shop")


def test_client_looks_for_the_service_first_and_for_each_place_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A client does not know how the instance was started."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    assert control_sockets("shop") == [
        Path("/run/sdcluster/shop/control"),
        Path("/run/user/1000/sdcluster/shop/control"),
        Path("/tmp/sdcluster-1000/shop/control"),
    ]
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert control_sockets("shop").count(Path("/run/sdcluster/shop/control")) == 1


def test_a_folder_that_somebody_else_has_made_is_not_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Below /tmp anybody can make a folder with the user's number: master and client keep out."""
    monkeypatch.setattr(os, "lstat", lambda _path: tmp_path.stat())  # Not user 1000's.
    with pytest.raises(ListenError, match="not this user's alone"):
        directory("shop")
    assert control_sockets("shop") == [Path("/run/sdcluster/shop/control")]


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
    assert directory("second") == Path("/run/user/1/sdcluster/second")

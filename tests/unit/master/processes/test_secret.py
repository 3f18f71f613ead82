"""Where the secret for cookies comes from."""

import os
import shutil
from pathlib import Path

import pytest

from sdcluster.errors import ListenError
from sdcluster.master.processes import secret
from sdcluster.system import runtime


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have a folder for the service's state, and no credential; return it."""
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    monkeypatch.delenv("SDCLUSTER_INSTANCE", raising=False)
    folder = tmp_path / "state"
    monkeypatch.setenv("STATE_DIRECTORY", f"{folder}:/var/lib/other")
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "run"))
    secret.cookie_secret.cache_clear()
    return folder


def cookie_secret(name: str) -> str:
    """Return the secret as a master that has just been started has it."""
    secret.cookie_secret.cache_clear()
    return secret.cookie_secret(name)


def credential(folder: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the service a credential."""
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    (folder / "cookie-secret").write_bytes(content)


def test_secret_lasts_as_long_as_the_state(state: Path) -> None:
    """It is no other after a restart, and cannot be told from anything on the machine."""
    one = cookie_secret("one")
    assert len(bytes.fromhex(one)) == 32
    assert cookie_secret("one") == one
    shutil.rmtree(state)
    assert cookie_secret("one") != one


@pytest.mark.parametrize("umask", [0, 0o777])
def test_secret_is_kept_where_nobody_else_can_read_it(state: Path, umask: int) -> None:
    """Whatever the umask, and nothing else is left there."""
    before = os.umask(umask)
    try:
        cookie_secret("one")
    finally:
        os.umask(before)
    (kept,) = state.iterdir()
    assert (kept.name, kept.stat().st_mode & 0o777) == ("cookie-secret", 0o600 & ~umask)
    assert state.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("kind", ["empty", "half", "readable", "symlink", "fifo"])
def test_what_others_may_know_or_have_put_there_is_replaced(
    state: Path, tmp_path: Path, kind: str
) -> None:
    """By a new one, which stays."""
    first = cookie_secret("one")
    kept, known = state / "cookie-secret", tmp_path / "known"
    match kind:
        case "empty":
            kept.write_bytes(b"")
        case "half":
            kept.write_bytes(kept.read_bytes()[:16])
        case "readable":
            kept.chmod(0o644)
        case "symlink":
            kept.rename(known)
            kept.symlink_to(known)
        case "fifo":
            kept.unlink()
            os.mkfifo(kept)
    second = cookie_secret("one")
    assert second != first
    assert cookie_secret("one") == second
    assert kept.stat().st_mode & 0o177777 == 0o100600


def test_secret_does_not_change_while_the_master_runs(state: Path) -> None:
    """A reload has the one that the workers have which are still there."""
    one = cookie_secret("one")
    shutil.rmtree(state)
    assert secret.cookie_secret("one") == one


def test_credential_goes_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Machines that have the same one take each other's cookies; a line end does not matter."""
    before = cookie_secret("one")
    credential(tmp_path, b"known to both\n", monkeypatch)
    given = cookie_secret("one")
    assert given != before
    credential(tmp_path, b"known to both", monkeypatch)
    shutil.rmtree(tmp_path / "state")
    assert cookie_secret("one") == given != cookie_secret("two")


def test_credential_that_is_empty_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret that everybody knows is not used."""
    before = cookie_secret("one")
    credential(tmp_path, b"\n", monkeypatch)
    assert cookie_secret("one") == before
    (tmp_path / "cookie-secret").unlink()
    assert cookie_secret("one") == before


def test_state_is_the_users_own_without_systemd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what another instance has in its environment is not for this one."""
    monkeypatch.setenv("SDCLUSTER_INSTANCE", "other")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/user")
    assert secret._state("one") == Path("/home/user/.local/state/sdcluster/one")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert secret._state("one") == tmp_path / "sdcluster" / "one"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "")
    assert secret._state("one") is None
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert secret._state("one") == Path("/var/lib/sdcluster/one")


def test_secret_is_in_the_runtime_folder_where_no_state_can_be_kept(
    state: Path, tmp_path: Path
) -> None:
    """A restart that leaves it there leaves clients where they are."""
    state.touch()
    one = cookie_secret("one")
    assert (tmp_path / "run" / "cookie-secret").exists()
    assert cookie_secret("one") == one


def test_secret_lasts_as_long_as_the_process_when_there_is_no_place(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service starts in any case."""

    def nowhere(_name: str) -> Path:
        raise ListenError("no folder")

    state.touch()
    monkeypatch.setattr(runtime, "directory", nowhere)
    one = cookie_secret("one")
    assert secret.cookie_secret("one") == one
    assert cookie_secret("one") != one

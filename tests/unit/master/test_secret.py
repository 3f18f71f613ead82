"""Where the secret for cookies comes from."""

from pathlib import Path

import pytest

from sdcluster.master import secret
from sdcluster.master.secret import cookie_secret


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Be on a machine with an id of its own, and without credentials."""
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    monkeypatch.setattr(secret, "MACHINE_ID", tmp_path / "machine-id")
    secret._random.cache_clear()
    return tmp_path


def credential(folder: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the service a credential."""
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    (folder / "cookie-secret").write_bytes(content)


def test_secret_lasts_as_long_as_the_machine(machine: Path) -> None:
    """It is no other after a restart, and does not show the id; each instance has its own."""
    (machine / "machine-id").write_text("b1c2a3d4e5f60718293a4b5c6d7e8f90\n")
    one = cookie_secret("one")
    assert one == cookie_secret("one") != cookie_secret("two")
    assert len(bytes.fromhex(one)) == 32
    (machine / "machine-id").write_text("00000000000000000000000000000000\n")
    assert cookie_secret("one") != one


def test_credential_goes_before(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Machines that have the same one take each other's cookies; a line end does not matter."""
    (machine / "machine-id").write_text("b1c2a3d4e5f60718293a4b5c6d7e8f90\n")
    before = cookie_secret("one")
    credential(machine, b"known to both\n", monkeypatch)
    given = cookie_secret("one")
    assert given != before
    credential(machine, b"known to both", monkeypatch)
    (machine / "machine-id").write_text("00000000000000000000000000000000\n")
    assert cookie_secret("one") == given


def test_credential_that_is_empty_is_none(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret that everybody knows is not used."""
    (machine / "machine-id").write_text("b1c2a3d4e5f60718293a4b5c6d7e8f90\n")
    before = cookie_secret("one")
    credential(machine, b"\n", monkeypatch)
    assert cookie_secret("one") == before


def test_secret_without_an_id_lasts_as_long_as_the_process() -> None:
    """In a container that has none, say."""
    one = cookie_secret("one")
    assert cookie_secret("one") == one
    secret._random.cache_clear()
    assert cookie_secret("one") != one

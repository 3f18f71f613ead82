"""What the own process is to the system."""

import os

import pytest

from sdcluster.system.process import stderr_is_journal


@pytest.mark.parametrize(
    ("stream", "expected"),
    [("{}:{}", True), ("{}:1{}", False), ("", False), (None, False), ("{}:{}:1", False)],
)
def test_stderr_is_the_journal_when_device_and_inode_match(
    monkeypatch: pytest.MonkeyPatch, stream: str | None, expected: bool
) -> None:
    """JOURNAL_STREAM may be inherited by a process whose stderr goes elsewhere."""
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    if stream is not None:
        found = os.fstat(2)
        monkeypatch.setenv("JOURNAL_STREAM", stream.format(found.st_dev, found.st_ino))
    assert stderr_is_journal() is expected


def test_stderr_that_is_closed_is_no_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the environment says."""

    def closed(_fd: int) -> None:
        raise OSError

    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", closed)
        patch.setenv("JOURNAL_STREAM", "8:15")
        found = stderr_is_journal()
    assert not found

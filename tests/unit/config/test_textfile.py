"""Files that a user writes, and what stands in the place of one."""

import os
import socket
from pathlib import Path

import pytest
from waiting import at_once

from sdcluster.config import textfile
from sdcluster.config.textfile import MAX_BYTES, UnreadableError, read


def test_text_is_read_with_one_kind_of_line_end(tmp_path: Path) -> None:
    """As UTF-8, whatever system it was written on."""
    (tmp_path / "file").write_bytes("größe\r\nb\rc\n".encode())
    assert read(tmp_path / "file") == "größe\nb\nc\n"


def test_file_that_is_missing_is_the_callers_to_judge(tmp_path: Path) -> None:
    """It may be allowed; a link to nowhere is no more than that."""
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("none", "link"):
        with pytest.raises(FileNotFoundError):
            read(tmp_path / name)


def test_fifo_is_not_waited_for(tmp_path: Path) -> None:
    """Neither without a writer, nor with one that writes nothing."""
    os.mkfifo(tmp_path / "fifo")
    with at_once(), pytest.raises(UnreadableError, match=r"^is a FIFO, not a file$"):
        read(tmp_path / "fifo")
    writer = os.open(tmp_path / "fifo", os.O_RDWR)
    try:
        with at_once(), pytest.raises(UnreadableError, match="is a FIFO"):
            read(tmp_path / "fifo")
        with at_once(), pytest.raises(UnreadableError, match="is a FIFO"):
            read(Path(f"/dev/fd/{writer}"))
    finally:
        os.close(writer)


def test_what_is_no_file_is_told(tmp_path: Path) -> None:
    """And it is not opened: to open a device may do something."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "socket"))
        with pytest.raises(UnreadableError, match=r"^is a socket, not a file$"):
            read(tmp_path / "socket")
    with pytest.raises(UnreadableError, match=r"^is a directory, not a file$"):
        read(tmp_path)
    for device in ("zero", "null"):
        with at_once(), pytest.raises(UnreadableError, match=r"^is a device, not a file$"):
            read(Path("/dev", device))


def test_file_that_changes_its_kind_meanwhile_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What counts is what was opened."""
    os.mkfifo(tmp_path / "fifo")
    monkeypatch.setattr(textfile, "_look", lambda _path: None)
    with at_once(), pytest.raises(UnreadableError, match="is a FIFO"):
        read(tmp_path / "fifo")


def test_size_is_limited(tmp_path: Path) -> None:
    """A file of the limit's size is read, a larger one refused."""
    (tmp_path / "file").write_bytes(b"x" * MAX_BYTES)
    assert len(read(tmp_path / "file")) == MAX_BYTES
    (tmp_path / "file").write_bytes(b"x" * (MAX_BYTES + 1))
    with pytest.raises(UnreadableError, match=r"^is larger than 1 MiB$"):
        read(tmp_path / "file")


def test_bytes_that_are_no_text_are_told_with_their_place(tmp_path: Path) -> None:
    """The place helps to find them."""
    (tmp_path / "file").write_bytes(b"A=\xff")
    with pytest.raises(UnreadableError, match=r"^is not UTF-8 text \(byte 2\)$"):
        read(tmp_path / "file")


def test_other_failure_is_told_with_the_systems_reason(tmp_path: Path) -> None:
    """Without its number."""
    (tmp_path / "file").touch()
    with pytest.raises(UnreadableError, match=r"^cannot be read: Not a directory$"):
        read(tmp_path / "file" / "x")

"""What the master prints, and that it never waits for anybody to read it."""

import contextlib
import os
import pty
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from waiting import at_once

from sdcluster.master.host.output import Output

LINES = 20_000
"""More of them than any pipe, socket or terminal holds."""


@contextlib.contextmanager
def ends(kind: str) -> Iterator[tuple[int, int]]:
    """Yield the end that is read and the end that is written of a pipe, socket or terminal."""
    read, write = {"pipe": os.pipe, "socket": sockets, "terminal": pty.openpty}[kind]()
    try:
        yield read, write
    finally:
        os.close(read)
        os.close(write)


def sockets() -> tuple[int, int]:
    """Return the descriptors of a pair."""
    one, other = socket.socketpair()
    return one.detach(), other.detach()


KINDS = pytest.mark.parametrize("kind", ["pipe", "socket", "terminal"])


@KINDS
def test_text_arrives(kind: str) -> None:
    """As UTF-8, and what is no Unicode readably."""
    with ends(kind) as (read, write):
        output = Output(write)
        output.write("größe … \udce9")
        assert os.read(read, 100).decode() == "größe … \\udce9"
        output.close()


@KINDS
def test_nobody_is_waited_for(kind: str) -> None:
    """What is not read is lost, and what is written once it is read is not."""
    with ends(kind) as (read, write):
        output = Output(write)
        with at_once():
            for number in range(LINES):
                output.write(f"line {number}\n")
            output.write("x" * 1_000_000)
        os.set_blocking(read, False)
        with contextlib.suppress(BlockingIOError):
            while os.read(read, 64 * 1024):
                pass
        output.write("heard\n")
        assert b"heard" in os.read(read, 100)
        output.close()


@KINDS
def test_descriptor_stays_as_others_expect_it(kind: str) -> None:
    """It is inherited and shared: O_NONBLOCK would be set for everybody."""
    with ends(kind) as (_, write):
        output = Output(write)
        output.write("hello\n")
        assert os.get_blocking(write)
        output.close()


def test_file_is_appended_to_what_others_write(tmp_path: Path) -> None:
    """A place in a file is shared with those who have inherited it."""
    with (tmp_path / "log").open("wb", buffering=0) as file:
        output = Output(file.fileno())
        output.write("one\n")
        file.write(b"two\n")
        output.write("three\n")
        output.close()
    assert (tmp_path / "log").read_text() == "one\ntwo\nthree\n"


def test_reader_that_is_gone_is_not_missed() -> None:
    """A broken pipe is no reason to stop serving, before or after the first word."""
    for first in ("", "hello"):
        read, write = os.pipe()
        output = Output(write)
        output.write(first)
        os.close(read)
        output.write("lost")
        output.close()
        os.close(write)


def test_descriptor_that_is_closed_is_not_missed() -> None:
    """There is nobody to tell."""
    read, write = os.pipe()
    os.close(write)
    os.close(read)
    output = Output(write)
    output.write("lost")
    output.close()

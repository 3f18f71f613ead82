"""Reads the small text files that a user writes: configurations, variables.

A name may lead to anything. What could be waited for, or never ends, is refused and not read.
"""

import os
import stat
from pathlib import Path

from sdcluster.errors import reason_of

MAX_BYTES = 1024 * 1024

_OTHERS = {
    stat.S_IFDIR: "directory",
    stat.S_IFIFO: "FIFO",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
}


class UnreadableError(ValueError):
    """The file is none that is read; the text goes on after its name: `is a FIFO, not a file`."""


def read(path: Path) -> str:
    r"""Return the text, its lines ended by `\n`. Raises FileNotFoundError, `UnreadableError`."""
    try:
        _look(path)
        data = _read(path)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UnreadableError(f"cannot be read: {reason_of(error)}") from error
    if len(data) > MAX_BYTES:
        raise UnreadableError(f"is larger than {MAX_BYTES // 1024**2} MiB")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UnreadableError(f"is not UTF-8 text (byte {error.start})") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _look(path: Path) -> None:
    """Refuse what is no file before it is opened, as to open a device may do something."""
    _check(os.stat(path).st_mode)


def _read(path: Path) -> bytes:
    # A FIFO that has come since would be waited for without O_NONBLOCK, see fifo(7).
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    with open(fd, "rb") as file:
        _check(os.fstat(fd).st_mode)
        return file.read(MAX_BYTES + 1)


def _check(mode: int) -> None:
    kind = stat.S_IFMT(mode)
    if kind != stat.S_IFREG:
        raise UnreadableError(f"is a {_OTHERS.get(kind, 'special file')}, not a file")

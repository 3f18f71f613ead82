"""What the master prints, to a terminal or whatever its stdout and stderr are, without waiting.

A descriptor that was inherited is shared with the workers and with who started the master, so
O_NONBLOCK must not be set on it: that would be set for all of them, see fcntl(2).
"""

import os
import select
import stat


class Output:
    """Writes text to the descriptor `fd`. What nobody takes at once is lost."""

    def __init__(self, fd: int) -> None:
        self._own = _reopened(fd)
        self._fd = fd if self._own is None else self._own

    def write(self, text: str) -> None:
        """Write `text`, or as much of it as there is room for. Never fails, never waits."""
        data = text.encode("utf-8", "backslashreplace")
        try:
            while data and _has_room(self._fd):
                data = data[os.write(self._fd, data[: select.PIPE_BUF]) :]
        except OSError:
            pass  # Nobody reads it any more: no reason to stop serving.

    def close(self) -> None:
        """Release what was opened; `fd` itself stays open."""
        if self._own is not None:
            os.close(self._own)


def _reopened(fd: int) -> int | None:
    """Return a non-blocking description of our own of the same pipe or terminal, if it can be had.

    Others may fill a pipe after poll(2) has found room in it, and a terminal has room before it
    has room for a whole line; a write that does not block needs neither.
    """
    try:
        mode = os.fstat(fd).st_mode
        if stat.S_ISFIFO(mode) or os.isatty(fd):
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY
            return os.open(f"/proc/self/fd/{fd}", flags)
    except OSError:
        pass  # Closed, or another user's, or without a reader: poll(2) has to do.
    return None


def _has_room(fd: int) -> bool:
    """Tell whether PIPE_BUF bytes can be written without waiting, as pipe(7) has it."""
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return bool(poll.poll(0))

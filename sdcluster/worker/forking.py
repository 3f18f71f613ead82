"""fork(2) apart from what Python does around it, for processes that do not go on with Python.

What `os.fork` does in a child, once there and once in each child of that, writes to hundreds of
pages of memory, which are copied; a process that only waits has them as well, for ever. The
functions are those of Python's C API, "Operating System Utilities".
"""

import ctypes
import os

_libc = ctypes.PyDLL(None, use_errno=True)  # With the GIL, as `os.fork`.
_fork = _libc.fork


def fork() -> int:
    """Fork the process, which has one thread; return 0 in the child. Raises OSError."""
    pid: int = _fork()
    if pid < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return pid


def go_on() -> None:
    """Do what Python does around a fork, in a child that goes on with it.

    What comes before the fork as well: the process has one thread, so nothing has happened since.
    """
    ctypes.pythonapi.PyOS_BeforeFork()
    ctypes.pythonapi.PyOS_AfterFork_Child()

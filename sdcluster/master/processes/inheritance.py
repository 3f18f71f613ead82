"""What a process that is started now gets of this one: whether that has changed since another was.

A mold has what there was when it was started, and so have the workers that it forks. A fork of the
program's is to have what there is when it asks for it, as a new process has: see execve(2).
"""

import os
import resource
from typing import TypeAlias

from sdcluster.config.model import Config

Inheritance: TypeAlias = tuple[object, ...]

_LIMITS = sorted({getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")})
_OUTPUTS = (1, 2)
"""Standard output and error; the input of a mold is empty."""


def now(config: Config) -> Inheritance:
    """Return what a mold with this config would get now, to be compared with what it would before.

    Raises OSError when /proc cannot be read.
    """
    return (
        config,
        dict(os.environ),
        _place(str(config.directory)),
        [_place(fd) for fd in _OUTPUTS],
        _mask(),
        os.getresuid(),
        os.getresgid(),
        os.getgroups(),
        [resource.getrlimit(limit) for limit in _LIMITS],
        os.getpriority(os.PRIO_PROCESS, 0),
        os.sched_getaffinity(0),
    )


def _place(file: str | int) -> tuple[int, int] | None:
    """Return which file that is; None when there is none."""
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _mask() -> str:
    """Return the umask, which cannot be read by umask(2) without setting it: proc_pid_status(5)."""
    with open("/proc/thread-self/status", encoding="ascii", errors="replace") as status:
        return next((line for line in status if line.startswith("Umask:")), "")

"""What /proc says of processes (proc(5)), and the end of those that this one has started."""

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
ENDING_TIMEOUT_S = 10.0


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends, prctl(2).

    So a daemon that a peer leaves behind is still found below this process.
    """
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def is_alive(pid: int) -> bool:
    """Tell whether `pid` runs; one that has ended and is not reaped does not."""
    stat = _stat(pid)
    return stat is not None and stat[0] not in "ZX"


def descendants(pid: int) -> list[int]:
    """Return the processes below `pid`, parents first."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        stat = _stat(int(entry)) if entry.isdecimal() else None
        if stat is not None:
            children.setdefault(int(stat[1]), []).append(int(entry))
    found: list[int] = []
    queue = [pid]
    while queue:
        below = children.get(queue.pop(0), [])
        found += below
        queue += below
    return found


def end_descendants() -> None:
    """Kill and reap all that is still there below this process."""
    deadline = time.monotonic() + ENDING_TIMEOUT_S
    while remaining := descendants(os.getpid()):
        for pid in remaining:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        _reap()
        if time.monotonic() > deadline:
            raise RuntimeError(f"processes that SIGKILL does not end: {remaining}")
        time.sleep(0.01)


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def pss_kib(pid: int) -> int:
    """Return the memory of `pid`, each page divided by the number of processes that share it."""
    return _field(Path(f"/proc/{pid}/smaps_rollup"), "Pss:")


def rss_kib(pid: int) -> int:
    """Return the resident memory of `pid`."""
    return _field(Path(f"/proc/{pid}/status"), "VmRSS:")


def wake_ups(pid: int) -> int:
    """Return how often the threads of `pid` have gone to sleep so far, and so woken up."""
    tasks: Iterable[Path] = Path(f"/proc/{pid}/task").iterdir()
    return sum(_field(task / "status", "voluntary_ctxt_switches:") for task in tasks)


def cpu_ns(pid: int) -> int:
    """Return the processor time of the threads that `pid` has, /proc/PID/task/TID/schedstat."""
    tasks: Iterable[Path] = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)


def _field(path: Path, name: str) -> int:
    for line in path.read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    return 0


def _stat(pid: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name may hold spaces and parentheses; what follows the last one is regular.
    return text.rpartition(")")[2].split()

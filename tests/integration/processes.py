"""What /proc tells of a process: proc_pid_status(5) and its siblings."""

import os
import signal
from pathlib import Path

from instance import wait_until

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def is_running(pid: int) -> bool:
    """Tell whether the process is there and no zombie."""
    return _status(pid).get("State", "X")[0] not in "XZ"


def is_stopped(pid: int) -> bool:
    """Tell whether a signal has stopped the process."""
    return _status(pid).get("State", "X")[0] == "T"


def stop(pid: int) -> None:
    """Stop a process with SIGSTOP, and wait until it has."""
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: is_stopped(pid), f"process {pid} is stopped")


def end(pid: int) -> None:
    """End a process with SIGKILL, and wait until it has ended."""
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_running(pid), f"process {pid} has ended")


def descriptors(pid: int) -> list[str]:
    """Return what each open descriptor of the process is: `socket:[123]`, or a path."""
    found = []
    for entry in os.scandir(f"/proc/{pid}/fd"):
        try:
            found.append(os.readlink(entry.path))
        except FileNotFoundError:
            continue  # Closed since.
    return sorted(found)


def memory_mb(pid: int) -> float:
    """Return its resident memory."""
    return int(_status(pid)["VmRSS"].split()[0]) / 1024


def wakeups(pid: int) -> int:
    """Return how often it has waited for something and gone on."""
    return int(_status(pid)["voluntary_ctxt_switches"])


def cpu_s(pid: int) -> float:
    """Return the processor time that it has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def _status(pid: int) -> dict[str, str]:
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    pairs = (line.partition(":") for line in text.splitlines())
    return {name: value.strip() for name, _, value in pairs}

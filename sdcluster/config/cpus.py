"""How many CPUs this process may use: its affinity, and the quota of its cgroups."""

import math
import os
from pathlib import Path, PurePosixPath

CGROUP_ROOT = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")


def usable() -> int:
    """Return the number of CPUs, at least 1. A quota of 1.5 CPUs counts as 2."""
    count = len(os.sched_getaffinity(0))
    try:
        groups = OWN_GROUPS.read_text()
    except OSError:
        groups = ""
    quota = cgroup_quota(CGROUP_ROOT, groups)
    if quota is not None:
        count = min(count, math.ceil(quota))
    return max(1, count)


def cgroup_quota(root: Path, groups: str) -> float | None:
    """Return the smallest quota, in CPUs, on the way up from the cgroups of /proc/self/cgroup.

    See cgroups(7). None when there is no quota.
    """
    quotas: list[float] = []
    for line in groups.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            quotas += _quotas(root, path, "cpu.max", None)
        elif "cpu" in controllers.split(","):
            quotas += _quotas(root / "cpu", path, "cpu.cfs_quota_us", "cpu.cfs_period_us")
    return min(quotas, default=None)


def _quotas(root: Path, path: str, quota_file: str, period_file: str | None) -> list[float]:
    found = []
    folder = PurePosixPath(path)
    for part in (folder, *folder.parents):
        place = root / str(part).lstrip("/")
        try:
            text = (place / quota_file).read_text()
            if period_file is not None:
                text += " " + (place / period_file).read_text()
        except OSError:
            continue
        quota = parse_quota(text)
        if quota is not None:
            found.append(quota)
    return found


def parse_quota(text: str) -> float | None:
    """Return the CPUs that `150000 100000` allows; None for `max` and for -1, no limit."""
    words = text.split()
    try:
        quota, period = int(words[0]), int(words[1])
    except (ValueError, IndexError):
        return None
    if quota <= 0 or period <= 0:
        return None
    return quota / period

"""Locks in a store: a key that one process has, for a time.

Who holds a lock writes a token of its own. A process of this machine that has died with a lock does
not make others wait for the lock's end: they see that the token's process is gone.
"""

import itertools
import os
import random
from collections.abc import Iterator
from pathlib import Path

from sdcluster.cache.store import Store

FIRST_WAIT_S = 0.002
LONGEST_WAIT_S = 0.05

_turns = itertools.count()


class Lock:
    """A lock that this process has, or is about to take. `ttl_s` ends it whatever happens.

    Raises ValueError for a `ttl_s` that is none.
    """

    def __init__(self, store: Store, key: bytes, ttl_s: float) -> None:
        if not ttl_s > 0:
            raise ValueError(f"a lock's ttl is more than 0 seconds, not {ttl_s}")
        self._store = store
        self._key = key
        self._ttl_s = ttl_s
        self._token = f"{os.getpid()}:{_started(os.getpid())}:{next(_turns)}".encode()

    def take(self) -> bool:
        """Take it if nobody has it; tell whether it was taken."""
        if self._store.add(self._key, self._token, self._ttl_s):
            return True
        if not self._store.is_local:
            return False
        holder = self._store.get(self._key)
        if holder is None or not _is_gone(holder):
            return False
        return self._store.replace(self._key, holder, self._token, self._ttl_s)

    def extend(self) -> bool:
        """Have it for `ttl_s` from now on; False when it has ended, and may be another's."""
        return self._store.replace(self._key, self._token, self._token, self._ttl_s)

    def release(self) -> bool:
        """Let it go; False when it had ended before."""
        return self._store.delete(self._key, only=self._token)


def waits() -> Iterator[float]:
    """Yield how long to wait for a lock, again and again: longer each time, with jitter."""
    wait_s = FIRST_WAIT_S
    while True:
        yield wait_s * random.uniform(0.5, 1.0)
        wait_s = min(2 * wait_s, LONGEST_WAIT_S)


def _is_gone(token: bytes) -> bool:
    pid, started, *_ = (*token.split(b":"), b"", b"")
    return pid.isdigit() and _started(int(pid)) != started.decode(errors="replace")


def _started(pid: int) -> str:
    """Return when a process was started, see proc_pid_stat(5); empty when there is none.

    One that has ended and whose parent has not asked for its end, a zombie, is none.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return ""
    fields = stat.rpartition(b")")[2].split()
    return "" if fields[0] in b"ZX" else fields[19].decode()

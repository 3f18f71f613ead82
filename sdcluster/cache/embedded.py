"""The cache of one machine: LMDB on a tmpfs, shared by all processes of an instance.

It survives workers that crash and reloads, and holds up nobody: readers take no lock, and the lock
of a writer that has died is recovered by the next one. What is over goes first, then what was
written first.
"""

import contextlib
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from sdcluster.cache.entries import HEAD, Entries, now
from sdcluster.cache.lmdb_environment import GATE, environment

T = TypeVar("T")

_WAITS_S = (0.001, 0.003, 0.01, 0.03, 0.1)
"""For pages that are being replaced: those who read them are done in no time, if they have it."""
_SHARES = (0.9, 0.8, 0.5, 0.2, 0.0)
"""Then room is made: what is left, of what was there before."""
_TRANSACTIONS = 2
"""LMDB uses pages again that were given back two transactions before."""


class EmbeddedStore:
    """A `Store` in the folder `path`, whose files take at most `size_mb` megabytes.

    `owner` is whose it is: another owner's is refused. Raises `CacheError`.
    """

    is_local = True

    def __init__(self, path: Path, *, size_mb: float, owner: str = "") -> None:
        size = int(size_mb * 1_000_000)
        self._user = id(self)
        self._environment = environment(path, size=size, owner=owner, user=self._user)
        self._entries = Entries(self._environment)
        self._mends: list[Callable[[], None]] = [
            self._free_readers,
            *(partial(self._wait, seconds) for seconds in _WAITS_S),
            *(partial(self._shrink, share) for share in _SHARES),
        ]
        """What may help when there is no room, one after the other."""

    @property
    def locks(self) -> "EmbeddedStore":
        """This store."""
        return self

    # Reading.

    def get(self, key: bytes) -> bytes | None:
        """Return a value, or None when there is none."""
        environment = self._environment
        try:
            # What `_run` and `live` do, in fewer steps: this is what a cache does most.
            with GATE:
                transaction = environment.get(self._user).begin()
                try:
                    entry = transaction.get(key, None, environment.databases[b"values"])
                finally:
                    transaction.abort()
        except environment.failures:
            return self.get_many([key]).get(key)
        if entry is None:
            return None
        ends = HEAD.unpack_from(entry)[0]
        return None if ends and ends <= now() else entry[HEAD.size :]

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Return the values of the keys that are there."""

        def read(transaction: Any) -> dict[bytes, bytes]:
            found = {}
            for key in keys:
                entry = self._entries.live(transaction, key)
                if entry is not None:
                    found[key] = entry[HEAD.size :]
            return found

        return self._run(read, write=False)

    # Writing.

    def set(self, key: bytes, value: bytes, ttl_s: float | None) -> None:
        """Write a value, whatever was there."""
        environment, ends = self._environment, _end(ttl_s)
        try:
            with GATE:
                transaction = environment.get(self._user).begin(write=True)
                try:
                    self._entries.put(transaction, key, value, ends)
                    transaction.commit()
                except BaseException:
                    transaction.abort()
                    raise
        except environment.failures:
            self._run(lambda transaction: self._entries.put(transaction, key, value, ends))

    def add(self, key: bytes, value: bytes, ttl_s: float | None) -> bool:
        """Write a value if there is none; tell whether it was written."""

        def add(transaction: Any) -> bool:
            if self._entries.live(transaction, key) is not None:
                return False
            self._entries.put(transaction, key, value, _end(ttl_s))
            return True

        return self._run(add)

    def replace(self, key: bytes, old: bytes, new: bytes, ttl_s: float | None) -> bool:
        """Write a value if `old` is there; tell whether it was written."""

        def replace(transaction: Any) -> bool:
            entry = self._entries.live(transaction, key)
            if entry is None or entry[HEAD.size :] != old:
                return False
            self._entries.put(transaction, key, new, _end(ttl_s))
            return True

        return self._run(replace)

    def delete(self, key: bytes, *, only: bytes | None = None) -> bool:
        """Remove a value, with `only` if it is that one; tell whether it was removed."""

        def delete(transaction: Any) -> bool:
            entry = self._entries.live(transaction, key)
            if entry is None or (only is not None and entry[HEAD.size :] != only):
                return False
            self._entries.remove(transaction, key)
            return True

        return self._run(delete)

    def touch(self, key: bytes, ttl_s: float | None) -> bool:
        """Let a value live from now on for `ttl_s`; tell whether it is there."""

        def touch(transaction: Any) -> bool:
            entry = self._entries.live(transaction, key)
            if entry is None:
                return False
            self._entries.put(transaction, key, entry[HEAD.size :], _end(ttl_s))
            return True

        return self._run(touch)

    def incr(
        self, key: bytes, delta: int, ttl_s: float | None, *, create: bool = True
    ) -> int | None:
        """Add to a decimal number; None when what is there is no number, or is not created."""

        def incr(transaction: Any) -> int | None:
            entry = self._entries.live(transaction, key)
            if entry is None:
                if not create:
                    return None
                number, ends = 0, _end(ttl_s)
            else:
                digits = entry[HEAD.size :]
                if not digits.removeprefix(b"-").isdigit():
                    return None
                number, ends = int(digits), HEAD.unpack_from(entry)[0]
            self._entries.put(transaction, key, b"%d" % (number + delta), ends)
            return number + delta

        return self._run(incr)

    def clear(self, prefix: bytes) -> int:
        """Remove every key that begins with `prefix`; return how many there were."""

        def clear(transaction: Any) -> int:
            keys = list(self._entries.keys(transaction, prefix))
            for key in keys:
                self._entries.remove(transaction, key)
            return len(keys)

        return self._run(clear)

    # Transactions.

    def _run(self, action: Callable[[Any], T], *, write: bool = True) -> T:
        lmdb = self._environment.lmdb
        try:
            for mend in self._mends:
                try:
                    return self._attempt(action, write)
                except (lmdb.MapFullError, lmdb.ReadersFullError):
                    with contextlib.suppress(lmdb.MapFullError):
                        mend()
            return self._attempt(action, write)
        except (lmdb.Error, OSError) as error:
            raise self._environment.error(error) from error

    def _attempt(self, action: Callable[[Any], T], write: bool) -> T:
        with GATE, self._environment.get(self._user).begin(write=write) as transaction:
            return action(transaction)

    def _free_readers(self) -> None:
        """Let go of what processes that have died were reading."""
        with GATE:
            self._environment.get(self._user).reader_check()

    def _wait(self, seconds: float) -> None:
        """Wait for those who read: what is being replaced is free when they have done so."""
        with GATE:
            reading = self._environment.get(self._user).readers()
        if any(line.split()[-1].isdecimal() for line in reading.splitlines()[1:]):
            time.sleep(seconds)

    def _shrink(self, share: float) -> None:
        """Make room by force: the pages that are free may be too scattered for a large value."""
        self._attempt(lambda transaction: self._entries.shrink(transaction, share), write=True)
        for _ in range(_TRANSACTIONS):
            self._attempt(lambda transaction: self._entries.shrink(transaction, 1.0), write=True)

    def close(self) -> None:
        """Close it for this process; it is opened again when it is used."""
        self._environment.close(self._user)


def _end(ttl_s: float | None) -> float:
    return 0.0 if ttl_s is None else now() + ttl_s

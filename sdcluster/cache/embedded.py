"""The cache of one machine: LMDB on a tmpfs, shared by all processes of an instance.

It survives workers that crash and reloads, and holds up nobody: readers take no lock, and the lock
of a writer that has died is recovered by the next one. What is too old goes first, then what was
written first: an entry is a value with its time to live, and a place in the order of writing.

Sizes are counted here, so that the limit is one of values and keys; the map is larger than that,
as pages that are being replaced stay until the last reader has gone.
"""

import os
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from sdcluster.errors import CacheError, reason_of

DEFAULT_SIZE_MB = 64
MAX_READERS = 2048
LARGEST_SHARE = 4
"""A value may take one such part of the cache."""

_ENTRY = struct.Struct("<dQ")
"""When it ends, on the clock of `_now` (0 for never), and its place in the order of writing."""
_TOTALS = struct.Struct("<QQ")
"""The bytes of all keys and values, and the last place that was given out."""
_PLACE = struct.Struct(">Q")
_OVERHEAD_BYTES = 64
"""What an entry takes beside its key and value, about."""
_SWEEP = 16
"""Old entries looked at by each write, for those whose time is over."""

T = TypeVar("T")


def _now() -> float:
    """Return seconds on a clock that all processes share and nobody sets: CLOCK_BOOTTIME."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class EmbeddedStore:
    """A `Store` in the folder `path`, which may grow to `size_mb` megabytes.

    `owner` is whose it is: another owner's is refused. Raises `CacheError`.
    """

    is_local = True

    def __init__(self, path: Path, *, size_mb: float = DEFAULT_SIZE_MB, owner: str = "") -> None:
        self._path = path
        self._limit = int(size_mb * 1_000_000)
        self._owner = owner
        self._opening = threading.Lock()
        self._pid = 0
        self._env: Any = None
        self._inherited: list[Any] = []
        self._open()

    # Opening.

    def _open(self) -> None:
        import lmdb

        self._lmdb = lmdb
        try:
            self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
            env = lmdb.open(
                str(self._path),
                map_size=4 * self._limit + 16_000_000,
                max_dbs=2,
                max_readers=MAX_READERS,
                mode=0o600,
                sync=False,
                metasync=False,
            )
            env.reader_check()
            self._values = env.open_db(b"values")
            self._order = env.open_db(b"order")
            self._env, self._pid = env, os.getpid()
            self._claim()
        except (OSError, lmdb.Error) as error:
            raise CacheError(f"the cache in {self._path}: {_text(error)}") from error

    def _claim(self) -> None:
        with self._env.begin(write=True) as transaction:
            owner = transaction.get(b"owner")
            if owner is None:
                transaction.put(b"owner", self._owner.encode())
            elif owner != self._owner.encode():
                raise CacheError(
                    f"the cache in {self._path} belongs to {owner.decode()!r}; give "
                    f"{self._owner!r} a folder of its own"
                )

    def _environment(self) -> Any:
        """Return the environment, opened by this process: one must not be used across fork(2)."""
        if self._pid != os.getpid():
            with self._opening:
                if self._pid != os.getpid():
                    self._reopen()
        return self._env

    def _reopen(self) -> None:
        """Open it in a child of the process that opened it before."""
        inherited = self._env
        try:
            self._open()
        except CacheError as error:
            if "already open" not in str(error):
                raise
            inherited.close()  # A py-lmdb that knows this case closes its own copy only.
            self._open()
        else:
            self._inherited.append(inherited)  # Closed, it would harm the parent's.

    # Reading.

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Return the values of the keys that are there."""

        def read(transaction: Any) -> dict[bytes, bytes]:
            found = {}
            for key in keys:
                entry = self._live(transaction, key)
                if entry is not None:
                    found[key] = bytes(entry[_ENTRY.size :])
            return found

        return self._run(read, write=False)

    def _live(self, transaction: Any, key: bytes) -> bytes | None:
        entry: bytes | None = transaction.get(key, db=self._values)
        if entry is None:
            return None
        ends, _ = _ENTRY.unpack_from(entry)
        return None if ends and ends <= _now() else entry

    # Writing.

    def set(self, key: bytes, value: bytes, ttl_s: float | None) -> None:
        """Write a value, whatever was there."""
        self._run(lambda transaction: self._put(transaction, key, value, _end(ttl_s)))

    def add(self, key: bytes, value: bytes, ttl_s: float | None) -> bool:
        """Write a value if there is none; tell whether it was written."""

        def add(transaction: Any) -> bool:
            if self._live(transaction, key) is not None:
                return False
            self._put(transaction, key, value, _end(ttl_s))
            return True

        return self._run(add)

    def replace(self, key: bytes, old: bytes, new: bytes, ttl_s: float | None) -> bool:
        """Write a value if `old` is there; tell whether it was written."""

        def replace(transaction: Any) -> bool:
            entry = self._live(transaction, key)
            if entry is None or entry[_ENTRY.size :] != old:
                return False
            self._put(transaction, key, new, _end(ttl_s))
            return True

        return self._run(replace)

    def delete(self, key: bytes, *, only: bytes | None = None) -> bool:
        """Remove a value, with `only` if it is that one; tell whether it was removed."""

        def delete(transaction: Any) -> bool:
            entry = self._live(transaction, key)
            if entry is None or (only is not None and entry[_ENTRY.size :] != only):
                return False
            self._remove(transaction, key)
            return True

        return self._run(delete)

    def touch(self, key: bytes, ttl_s: float | None) -> bool:
        """Let a value live from now on for `ttl_s`; tell whether it is there."""

        def touch(transaction: Any) -> bool:
            entry = self._live(transaction, key)
            if entry is None:
                return False
            self._put(transaction, key, entry[_ENTRY.size :], _end(ttl_s))
            return True

        return self._run(touch)

    def incr(self, key: bytes, delta: int, ttl_s: float | None) -> int | None:
        """Add to a decimal number; None when what is there is no number."""

        def incr(transaction: Any) -> int | None:
            entry = self._live(transaction, key)
            if entry is None:
                number, ends = 0, _end(ttl_s)
            else:
                digits = entry[_ENTRY.size :]
                if not digits.removeprefix(b"-").isdigit():
                    return None
                number, ends = int(digits), _ENTRY.unpack_from(entry)[0]
            self._put(transaction, key, b"%d" % (number + delta), ends)
            return number + delta

        return self._run(incr)

    def clear(self, prefix: bytes) -> int:
        """Remove every key that begins with `prefix`; return how many there were."""

        def clear(transaction: Any) -> int:
            keys = list(self._keys(transaction, prefix))
            for key in keys:
                self._remove(transaction, key)
            return len(keys)

        return self._run(clear)

    def _keys(self, transaction: Any, prefix: bytes) -> Iterator[bytes]:
        with transaction.cursor(db=self._values) as cursor:
            found = cursor.set_range(prefix) if prefix else cursor.first()
            while found and cursor.key().startswith(prefix):
                yield bytes(cursor.key())
                found = cursor.next()

    def _put(self, transaction: Any, key: bytes, value: bytes, ends: float) -> None:
        size = _size(key, value)
        if size > self._limit // LARGEST_SHARE:
            raise CacheError(
                f"a value of {len(value)} bytes; a cache of {self._limit} bytes takes "
                f"{self._limit // LARGEST_SHARE} at most"
            )
        self._remove(transaction, key)
        self._make_room(transaction, size)
        total, place = self._totals(transaction)
        transaction.put(key, _ENTRY.pack(ends, place + 1) + value, db=self._values)
        transaction.put(_PLACE.pack(place + 1), key, db=self._order)
        transaction.put(b"totals", _TOTALS.pack(total + size, place + 1))

    def _remove(self, transaction: Any, key: bytes) -> None:
        entry = transaction.get(key, db=self._values)
        if entry is None:
            return
        _, place = _ENTRY.unpack_from(entry)
        total, last = self._totals(transaction)
        size = _size(key, entry[_ENTRY.size :])
        transaction.delete(_PLACE.pack(place), db=self._order)
        transaction.delete(key, db=self._values)
        transaction.put(b"totals", _TOTALS.pack(total - size, last))

    def _totals(self, transaction: Any) -> tuple[int, int]:
        data = transaction.get(b"totals")
        if data is None:
            return 0, 0
        total, place = _TOTALS.unpack(data)
        return total, place

    def _make_room(self, transaction: Any, size: int) -> None:
        """Remove some of what is too old, and then the oldest until `size` bytes fit."""
        for key in self._oldest(transaction, _SWEEP):
            if self._live(transaction, key) is None:
                self._remove(transaction, key)
        while self._totals(transaction)[0] + size > self._limit:
            for key in self._oldest(transaction, _SWEEP):
                self._remove(transaction, key)

    def _oldest(self, transaction: Any, count: int) -> list[bytes]:
        keys: list[bytes] = []
        with transaction.cursor(db=self._order) as cursor:
            found = cursor.first()
            while found and len(keys) < count:
                keys.append(bytes(cursor.value()))
                found = cursor.next()
        return keys

    def _run(self, action: Callable[[Any], T], *, write: bool = True) -> T:
        try:
            with self._environment().begin(write=write) as transaction:
                return action(transaction)
        except (self._lmdb.Error, OSError) as error:
            raise CacheError(f"the cache in {self._path}: {_text(error)}") from error

    def close(self) -> None:
        """Close it for this process."""
        if self._env is not None and self._pid == os.getpid():
            self._env.close()
            self._env, self._pid = None, 0


def _text(error: Exception) -> str:
    """Return what an error says; LMDB's begin with a path and a colon."""
    return reason_of(error).rpartition(": ")[2]


def _size(key: bytes, value: bytes) -> int:
    return len(key) + len(value) + _OVERHEAD_BYTES


def _end(ttl_s: float | None) -> float:
    return 0.0 if ttl_s is None else _now() + ttl_s

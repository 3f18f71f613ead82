"""The cache of one machine: LMDB on a tmpfs, shared by all processes of an instance.

It survives workers that crash and reloads, and holds up nobody: readers take no lock, and the lock
of a writer that has died is recovered by the next one. What is over goes first, then what was
written first: an entry is a value with its end, and has a place in the order of writing and one in
the order of ends.

Sizes are counted here, so that the limit is one of values and keys.
"""

import struct
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from sdcluster.cache.environment import GATE, environment
from sdcluster.cache.store import OWN
from sdcluster.errors import CacheError

DEFAULT_SIZE_MB = 64
LARGEST_SHARE = 4
"""A value may take one such part of the cache."""

_ENTRY = struct.Struct("<dQ")
"""When it ends, on the clock of `_now` (0 for never), and its place in the order of writing."""
_TOTALS = struct.Struct("<QQ")
"""The bytes of all keys and values, and the last place that was given out."""
_PLACE = struct.Struct(">Q")
_END = struct.Struct(">dQ")
"""An end and a place, as bytes that have the order of the numbers."""
_OVERHEAD_BYTES = 64
"""What an entry takes beside its key and value, about."""
_SWEEP = 16
"""Values that are over and are removed by each write, at most."""

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
        limit = int(size_mb * 1_000_000)
        self._environment = environment(path, limit=limit, owner=owner, user=id(self))

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
        entry: bytes | None = transaction.get(key, db=self._db(b"values"))
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
        with transaction.cursor(db=self._db(b"values")) as cursor:
            found = cursor.set_range(prefix or b"\0")
            while found and cursor.key().startswith(prefix):
                if not cursor.key().startswith(OWN):
                    yield bytes(cursor.key())
                found = cursor.next()

    def _put(self, transaction: Any, key: bytes, value: bytes, ends: float) -> None:
        size, limit = _size(key, value), self._environment.limit
        if size > limit // LARGEST_SHARE:
            raise CacheError(
                f"a value of {len(value)} bytes; a cache of {limit} bytes takes "
                f"{limit // LARGEST_SHARE} at most, its key included"
            )
        self._remove(transaction, key)
        self._make_room(transaction, size)
        total, last = self._totals(transaction)
        place = last + 1
        transaction.put(key, _ENTRY.pack(ends, place) + value, db=self._db(b"values"))
        if not key.startswith(OWN):  # A lock that made room for a value would be none.
            transaction.put(_PLACE.pack(place), key, db=self._db(b"order"))
        if ends:
            transaction.put(_END.pack(ends, place), key, db=self._db(b"ends"))
        transaction.put(b"totals", _TOTALS.pack(total + size, place))

    def _remove(self, transaction: Any, key: bytes) -> None:
        entry = transaction.get(key, db=self._db(b"values"))
        if entry is None:
            return
        ends, place = _ENTRY.unpack_from(entry)
        total, last = self._totals(transaction)
        size = _size(key, entry[_ENTRY.size :])
        transaction.delete(_PLACE.pack(place), db=self._db(b"order"))
        transaction.delete(_END.pack(ends, place), db=self._db(b"ends"))
        transaction.delete(key, db=self._db(b"values"))
        transaction.put(b"totals", _TOTALS.pack(total - size, last))

    def _totals(self, transaction: Any) -> tuple[int, int]:
        data = transaction.get(b"totals")
        if data is None:
            return 0, 0
        total, place = _TOTALS.unpack(data)
        return total, place

    def _make_room(self, transaction: Any, size: int) -> None:
        """Remove some of what is over, and then the oldest until `size` bytes fit."""
        for _ in range(_SWEEP):
            key = self._ended(transaction)
            if key is None:
                break
            self._remove(transaction, key)
        while self._totals(transaction)[0] + size > self._environment.limit:
            key = self._ended(transaction) or self._oldest(transaction)
            if key is None:
                break
            self._remove(transaction, key)

    def _ended(self, transaction: Any) -> bytes | None:
        """Return the key of the value that has been over for longest."""
        with transaction.cursor(db=self._db(b"ends")) as cursor:
            if not cursor.first() or _END.unpack(cursor.key())[0] > _now():
                return None
            return bytes(cursor.value())

    def _oldest(self, transaction: Any) -> bytes | None:
        with transaction.cursor(db=self._db(b"order")) as cursor:
            return bytes(cursor.value()) if cursor.first() else None

    # Transactions.

    def _db(self, name: bytes) -> Any:
        return self._environment.databases[name]

    def _run(self, action: Callable[[Any], T], *, write: bool = True) -> T:
        lmdb = self._environment.lmdb
        try:
            for mend in (self._free_readers, self._halve):
                try:
                    return self._attempt(action, write)
                except (lmdb.MapFullError, lmdb.ReadersFullError):
                    mend()
            return self._attempt(action, write)
        except (lmdb.Error, OSError) as error:
            raise self._environment.error(error) from error

    def _attempt(self, action: Callable[[Any], T], write: bool) -> T:
        with GATE, self._environment.get(id(self)).begin(write=write) as transaction:
            return action(transaction)

    def _free_readers(self) -> None:
        """Let go of what processes that have died were reading."""
        with GATE:
            self._environment.get(id(self)).reader_check()

    def _halve(self) -> None:
        """Make room by force: the pages that are free may be too scattered for a large value."""
        half = self._environment.limit // 2
        self._attempt(lambda transaction: self._make_room(transaction, half), write=True)

    def close(self) -> None:
        """Close it for this process; it is opened again when it is used."""
        self._environment.close(id(self))


def _size(key: bytes, value: bytes) -> int:
    return len(key) + len(value) + _OVERHEAD_BYTES


def _end(ttl_s: float | None) -> float:
    return 0.0 if ttl_s is None else _now() + ttl_s

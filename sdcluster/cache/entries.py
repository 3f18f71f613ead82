"""What is in the embedded cache: entries, and which of them goes first when there is no room.

An entry is a value with its end and its place in the order of writing. Two indexes, `order` and
`ends`, lead from places and ends to keys. They are mended late: a value that is written over stays
where it is in them, which is never behind where it belongs. So the first of an index is the first
of all when it is where its entry says; else it is moved there, and the next one is looked at. The
order is exact, and a write over an older value touches neither index.

Sizes are counted here, as what LMDB's pages take for them: so the limit is one of the files.
"""

import math
import struct
import time
from collections.abc import Iterator
from typing import Any

from sdcluster.cache.lmdb_environment import TOTALS, Environment
from sdcluster.cache.store import OWN
from sdcluster.errors import CacheRefusedError

LARGEST_SHARE = 4
"""A value may take one such part of the room for values."""

HEAD = struct.Struct("<dQdQ")
"""Before a value: when it ends, on the clock of `now` (0 for never), and its place in the order of
writing; then the end and the place under which the indexes have it."""
_TOTALS = struct.Struct("<QQd")
"""The bytes of all entries, the last place that was given out, and an end before which nothing is
over."""
_PLACE = struct.Struct(">Q")
_END = struct.Struct(">d")
"""As bytes that have the order of the numbers; behind an end in the index stands the key."""
_NODE_BYTES = 10
"""What LMDB has beside a key and its value in a page."""
_LARGEST_NODE_BYTES = 2038
"""What is larger has pages of its own."""
_PAGE_BYTES, _PAGE_HEAD_BYTES, _REFERENCE_BYTES = 4096, 16, 8
_FILLED = 2
"""A page that many values share is filled to one such part at least, as a rule."""
_INDEXED_BYTES = 48
"""What an entry takes in the indexes beside its key, which is in both of them."""
_SWEEP = 16
"""Entries that each write looks at, at most, to remove what is over."""


def now() -> float:
    """Return seconds on a clock that all processes share and nobody sets: CLOCK_BOOTTIME."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Entries:
    """The entries of an environment, for whoever has a transaction of it."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment

    def live(self, transaction: Any, key: bytes) -> bytes | None:
        """Return the entry of a key, its value behind `HEAD`; None when it is over or not there."""
        entry: bytes | None = transaction.get(key, None, self._environment.databases[b"values"])
        if entry is None:
            return None
        ends = HEAD.unpack_from(entry)[0]
        return None if ends and ends <= now() else entry

    def keys(self, transaction: Any, prefix: bytes) -> Iterator[bytes]:
        """Yield the keys that begin with `prefix`, but those of locks."""
        with transaction.cursor(db=self._environment.databases[b"values"]) as cursor:
            found = cursor.set_range(prefix or b"\0")
            while found and cursor.key().startswith(prefix):
                if not cursor.key().startswith(OWN):
                    yield bytes(cursor.key())
                found = cursor.next()

    def put(self, transaction: Any, key: bytes, value: bytes, ends: float) -> None:
        """Write a value, and make room for it. Raises `CacheRefusedError` for one too large."""
        size, limit = size_of(len(key), len(value)), self._environment.limit
        if size > limit // LARGEST_SHARE:
            raise CacheRefusedError(
                f"a value of {len(value)} bytes; a cache of {self._environment.size} bytes takes "
                f"{limit // LARGEST_SHARE} at most, its key included"
            )
        databases = self._environment.databases
        values = databases[b"values"]
        total, last, due = totals(transaction)
        place = indexed_place = last + 1
        indexed_end = 0.0
        old = transaction.get(key, None, values)
        if old is not None:
            _, _, indexed_end, indexed_place = HEAD.unpack_from(old)
            total -= _size(key, old)
        elif not key.startswith(OWN):  # A lock that made room for a value would be none.
            transaction.put(_PLACE.pack(place), key, append=True, db=databases[b"order"])
        if ends and (not indexed_end or ends < indexed_end):
            if indexed_end:
                transaction.delete(_END.pack(indexed_end) + key, db=databases[b"ends"])
            transaction.put(_END.pack(ends) + key, b"", db=databases[b"ends"])
            indexed_end = ends
            due = min(due, ends)
        transaction.put(key, HEAD.pack(ends, place, indexed_end, indexed_place) + value, db=values)
        total += size
        if total > limit or due <= now():
            removed, due = self._make_room(transaction, total - limit)
            total -= removed
        transaction.put(TOTALS, _TOTALS.pack(total, place, due))

    def remove(self, transaction: Any, key: bytes) -> None:
        """Remove an entry, if it is there."""
        entry = transaction.get(key, None, self._environment.databases[b"values"])
        if entry is not None:
            total, last, due = totals(transaction)
            total -= self._drop(transaction, key, entry)
            transaction.put(TOTALS, _TOTALS.pack(total, last, due))

    def shrink(self, transaction: Any, share: float) -> None:
        """Remove the oldest, by place, until one such share of what is there is left.

        Nothing is written but what takes less room than what is removed; so no index is mended.
        """
        total, last, due = totals(transaction)
        with transaction.cursor(db=self._environment.databases[b"values"]) as cursor:
            found = sorted(
                (HEAD.unpack_from(entry)[1], bytes(key))
                for key, entry in cursor
                if not key.startswith(OWN)
            )
        left = total * share
        for _, key in found:
            if total <= left:
                break
            total -= self._drop(transaction, key, self._entry(transaction, key))
        transaction.put(TOTALS, _TOTALS.pack(total, last, due))

    def _make_room(self, transaction: Any, excess: int) -> tuple[int, float]:
        """Remove some of what is over, and then the oldest until there is no excess.

        Returns how many bytes were removed, and the first end that is left. Each turn removes an
        entry or mends an index.
        """
        removed = turns = 0
        while removed < excess or turns < _SWEEP:
            turns += 1
            due, key = self._first_end(transaction)
            if due <= now():
                entry = self._entry(transaction, key)
                ends = HEAD.unpack_from(entry)[0]
                if not ends or ends > now():
                    self._mend(transaction, key, entry)
                    continue
            else:
                key = self._first_place(transaction)
                if removed >= excess or not key:
                    break
                entry = self._entry(transaction, key)
                _, place, _, indexed_place = HEAD.unpack_from(entry)
                if place != indexed_place:
                    self._mend(transaction, key, entry)
                    continue
            removed += self._drop(transaction, key, entry)
        return removed, self._first_end(transaction)[0]

    def _entry(self, transaction: Any, key: bytes) -> bytes:
        entry: bytes = transaction.get(key, None, self._environment.databases[b"values"])
        return entry

    def _first_end(self, transaction: Any) -> tuple[float, bytes]:
        """Return the first end, as far as the index knows, and its key; infinity without any."""
        with transaction.cursor(db=self._environment.databases[b"ends"]) as cursor:
            if not cursor.first():
                return math.inf, b""
            found: bytes = cursor.key()
            return _END.unpack_from(found)[0], found[_END.size :]

    def _first_place(self, transaction: Any) -> bytes:
        """Return the key that was written first, as far as the index knows; empty without any."""
        with transaction.cursor(db=self._environment.databases[b"order"]) as cursor:
            return bytes(cursor.value()) if cursor.first() else b""

    def _mend(self, transaction: Any, key: bytes, entry: bytes) -> None:
        """Have an entry in both indexes where it belongs."""
        ends, place, indexed_end, indexed_place = HEAD.unpack_from(entry)
        databases = self._environment.databases
        if indexed_place != place and not key.startswith(OWN):
            transaction.delete(_PLACE.pack(indexed_place), db=databases[b"order"])
            transaction.put(_PLACE.pack(place), key, db=databases[b"order"])
        if indexed_end != ends:
            transaction.delete(_END.pack(indexed_end) + key, db=databases[b"ends"])
            if ends:
                transaction.put(_END.pack(ends) + key, b"", db=databases[b"ends"])
        mended = HEAD.pack(ends, place, ends, place) + entry[HEAD.size :]
        transaction.put(key, mended, db=databases[b"values"])

    def _drop(self, transaction: Any, key: bytes, entry: bytes) -> int:
        """Remove an entry, and return its size."""
        databases = self._environment.databases
        _, _, indexed_end, indexed_place = HEAD.unpack_from(entry)
        if not key.startswith(OWN):
            transaction.delete(_PLACE.pack(indexed_place), db=databases[b"order"])
        if indexed_end:
            transaction.delete(_END.pack(indexed_end) + key, db=databases[b"ends"])
        transaction.delete(key, db=databases[b"values"])
        return _size(key, entry)


def size_of(key_bytes: int, value_bytes: int) -> int:
    """Return the bytes that an entry takes in the file, with those of its indexes."""
    node, pages = key_bytes + HEAD.size + value_bytes + _NODE_BYTES, 0
    if node > _LARGEST_NODE_BYTES:
        pages = -(-(HEAD.size + value_bytes + _PAGE_HEAD_BYTES) // _PAGE_BYTES)
        node = key_bytes + _REFERENCE_BYTES + _NODE_BYTES
    return pages * _PAGE_BYTES + _FILLED * (node + 2 * key_bytes + _INDEXED_BYTES)


def _size(key: bytes, entry: bytes) -> int:
    return size_of(len(key), len(entry) - HEAD.size)


def totals(transaction: Any) -> tuple[int, int, float]:
    """Return the bytes of all entries, the last place, and an end before the first."""
    data = transaction.get(TOTALS)
    return _TOTALS.unpack(data) if data is not None else (0, 0, math.inf)

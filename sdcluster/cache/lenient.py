"""A store that fails nobody: while the one behind it is out of order, it is as an empty one.

That is `on_error=miss`. An outage is logged when it begins and when it is over; in between, the
store is asked once in a while by whoever comes by, and all others are answered at once.
"""

import logging
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from sdcluster.cache.store import OWN, Store
from sdcluster.errors import CacheError, CacheRefusedError

RETRY_S = 1.0
"""How long a store that has failed is left alone."""
QUIET_S = 60.0
"""How long nothing is logged of refusals after one has been."""

T = TypeVar("T")

_log = logging.getLogger("sdcluster.cache")


class LenientStore:
    """The `Store` that `open_store` returns; what it raises is answered as by an empty one.

    Locks are in the store itself, as nothing else can answer for it: `locks` raises `CacheError`.
    """

    def __init__(self, open_store: Callable[[], Store], *, is_local: bool) -> None:
        self.is_local = is_local
        self._open = open_store
        self._store: Store | None = None
        self._reads = _Outage("nothing is found in it")
        # A full disk can be read; what is behind a network is there or not.
        self._writes = _Outage("nothing is kept in it") if is_local else self._reads
        self._quiet_until_s = 0.0
        self._ask(self._reads, lambda _store: None, None)  # What fails at the start is told then.

    @property
    def locks(self) -> Store:
        """The store itself. Raises `CacheError` when it cannot be opened."""
        if self._store is None:
            self._store = self._open()
        return self._store

    def _ask(self, outage: "_Outage", action: Callable[[Store], T], otherwise: T) -> T:
        if not outage.may_ask():
            return otherwise
        try:
            answer = action(self.locks)
        except CacheRefusedError as error:
            outage.end()
            self._tell(error)
            return otherwise
        except CacheError as error:
            outage.begin(error)
            return otherwise
        outage.end()
        return answer

    def _tell(self, error: CacheRefusedError) -> None:
        now_s = time.monotonic()
        if now_s >= self._quiet_until_s:
            self._quiet_until_s = now_s + QUIET_S
            _log.warning("%s; it is left out", error)

    def get(self, key: bytes) -> bytes | None:
        """Return a value, or None when there is none."""
        return self._ask(self._reads, lambda store: store.get(key), None)

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Return the values of the keys that are there."""
        return self._ask(self._reads, lambda store: store.get_many(keys), {})

    def set(self, key: bytes, value: bytes, ttl_s: float | None) -> None:
        """Write a value, whatever was there."""
        self._ask(self._writes, lambda store: store.set(key, value, ttl_s), None)

    def add(self, key: bytes, value: bytes, ttl_s: float | None) -> bool:
        """Write a value if there is none; tell whether it was written.

        True in place of an answer for a key of our own, by which one asks whether to make a value
        for all: then each makes it for itself.
        """
        otherwise = key.startswith(OWN)
        return self._ask(self._writes, lambda store: store.add(key, value, ttl_s), otherwise)

    def replace(self, key: bytes, old: bytes, new: bytes, ttl_s: float | None) -> bool:
        """Write a value if `old` is there; tell whether it was written."""
        return self._ask(self._writes, lambda store: store.replace(key, old, new, ttl_s), False)

    def delete(self, key: bytes, *, only: bytes | None = None) -> bool:
        """Remove a value, with `only` if it is that one; tell whether it was removed."""
        return self._ask(self._writes, lambda store: store.delete(key, only=only), False)

    def touch(self, key: bytes, ttl_s: float | None) -> bool:
        """Let a value live from now on for `ttl_s`; tell whether it is there."""
        return self._ask(self._writes, lambda store: store.touch(key, ttl_s), False)

    def incr(
        self, key: bytes, delta: int, ttl_s: float | None, *, create: bool = True
    ) -> int | None:
        """Add to a decimal number, 0 if there is none; see `Store`."""
        return self._ask(
            self._writes,
            lambda store: store.incr(key, delta, ttl_s, create=create),
            delta if create else None,
        )

    def clear(self, prefix: bytes) -> int:
        """Remove every key that begins with `prefix`, but no lock; return how many there were."""
        return self._ask(self._writes, lambda store: store.clear(prefix), 0)

    def close(self) -> None:
        """Release what is held."""
        if self._store is not None:
            self._store.close()


class _Outage:
    """Whether a store answers, and when to ask it again.

    Many threads use it, without a lock: a fork could leave that locked in the child for ever.
    """

    def __init__(self, consequence: str) -> None:
        self._consequence = consequence
        self._until_s = 0.0
        """Until when nobody asks; 0 when there is no outage."""
        self._told_end: list[None] = [None]
        self._told_begin: list[None] = []
        """Who takes the one out of here logs the other: `pop` gives it to one thread."""

    def may_ask(self) -> bool:
        if not self._until_s:
            return True
        now_s = time.monotonic()
        if now_s < self._until_s:
            return False
        self._until_s = now_s + RETRY_S  # While this one asks, and may wait, the others do not.
        return True

    def begin(self, error: CacheError) -> None:
        self._until_s = time.monotonic() + RETRY_S
        if _take(self._told_end):
            self._told_begin.append(None)
            _log.warning("%s; until it works again, %s", error, self._consequence)

    def end(self) -> None:
        if self._until_s:
            self._until_s = 0.0
            if _take(self._told_begin):
                self._told_end.append(None)
                _log.warning("the cache works again")


def _take(marks: list[None]) -> bool:
    try:
        marks.pop()
    except IndexError:
        return False
    return True

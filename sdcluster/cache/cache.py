"""A cache that all workers share, whichever store holds it."""

import asyncio
import contextlib
import functools
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any, TypeVar

from sdcluster.cache import values
from sdcluster.cache.locks import Lock, waits
from sdcluster.cache.store import MAX_KEY_BYTES, OWN, Store
from sdcluster.errors import CacheError

T = TypeVar("T")

_LOCK = OWN + b"lock:"
"""Before the name of a lock: no key of the user's begins so."""
_LONGEST_KEY_BYTES = MAX_KEY_BYTES - len(_LOCK) - 11


class Cache:
    """Keys are text, values bytes, str, int, float or what JSON can express.

    Each call is atomic for all workers. `ttl` is in seconds; without, a value lives until it is
    removed or has to make room. Raises `CacheError` when the store fails, ValueError for a key that
    is empty or too long and for a `ttl` that is no number, TypeError for a key that is no text and
    for a value that cannot be written.
    """

    def __init__(self, store: Store, *, serializer: values.Serializer = "json") -> None:
        self._store = store
        self._serializer = serializer

    # Values.

    def get(self, key: str, default: Any = None) -> Any:
        """Return a value, or `default` when there is none."""
        data = self._store.get(_name(key))
        return default if data is None else values.loads(data, self._serializer)

    def get_many(self, keys: Sequence[str]) -> dict[str, Any]:
        """Return the values of the keys that are there."""
        names = {_name(key): key for key in keys}
        found = self._store.get_many(list(names))
        return {names[name]: values.loads(data, self._serializer) for name, data in found.items()}

    def set(self, key: str, value: Any, *, ttl: float | None = None) -> None:
        """Write a value."""
        if _is_over(ttl):
            self.delete(key)
            return
        self._store.set(_name(key), self._dumps(value), ttl)

    def add(self, key: str, value: Any, *, ttl: float | None = None) -> bool:
        """Write a value only if there is none; tell whether it was written."""
        return not _is_over(ttl) and self._store.add(_name(key), self._dumps(value), ttl)

    def compare_and_set(
        self, key: str, expected: Any, value: Any, *, ttl: float | None = None
    ) -> bool:
        """Write a value only if `expected` is there; tell whether it was written."""
        old, new = self._dumps(expected), self._dumps(value)
        if _is_over(ttl):
            return self._store.delete(_name(key), only=old)
        return self._store.replace(_name(key), old, new, ttl)

    def delete(self, key: str) -> bool:
        """Remove a value; tell whether there was one."""
        return self._store.delete(_name(key))

    def touch(self, key: str, *, ttl: float | None = None) -> bool:
        """Let a value live for `ttl` from now on; tell whether it is there."""
        return self.delete(key) if _is_over(ttl) else self._store.touch(_name(key), ttl)

    def incr(
        self, key: str, delta: int = 1, *, ttl: float | None = None, create: bool = True
    ) -> int:
        """Add to a number and return it; it begins at 0, and `ttl` counts from there.

        Raises TypeError when the value or `delta` is no int, and KeyError when there is no value
        and none is to be created.
        """
        _is_over(ttl)
        if not isinstance(delta, int):
            raise TypeError(f"{delta!r} is no int")
        name = _name(key)
        number = self._store.incr(name, delta, ttl, create=create)
        if number is None:
            if not create and self._store.get(name) is None:
                raise KeyError(key)
            raise TypeError(f"the value of {key!r} is no int")
        return number

    def clear(self, prefix: str = "") -> int:
        """Remove all keys, or those that begin with `prefix`; return how many there were.

        Locks stay.
        """
        return self._store.clear(prefix.encode())

    def _dumps(self, value: Any) -> bytes:
        return values.dumps(value, self._serializer)

    # One for all.

    def get_or_set(
        self,
        key: str,
        make: Callable[[], Any],
        *,
        ttl: float | None = None,
        lock_ttl: float = 30.0,
    ) -> Any:
        """Return a value; if there is none, one worker makes it and the others wait for it.

        `lock_ttl` is how long they wait before the next one tries; when the one that makes it has
        died or failed, they do not wait.
        """
        missing = object()
        for wait_s in waits():
            value = self.get(key, missing)
            if value is not missing:
                return value
            lock = self._flight(key, lock_ttl)
            if lock.take():
                try:
                    value = self.get(key, missing)  # It may have come in between.
                    if value is missing:
                        value = make()
                        self.set(key, value, ttl=ttl)
                    return value
                finally:
                    lock.release()
            time.sleep(wait_s)
        raise AssertionError("waits never ends")

    @contextlib.contextmanager
    def lock(self, name: str, *, ttl: float = 30.0, timeout: float | None = None) -> Iterator[Lock]:
        """Have a lock of all workers while the body runs, for at most `ttl`.

        Raises TimeoutError when it cannot be had within `timeout`.
        """
        lock = Lock(self._store.locks, _LOCK + _name(name), ttl)
        began = time.monotonic()
        for wait_s in waits():
            if lock.take():
                break
            _check_time(name, began, timeout)
            time.sleep(wait_s)
        try:
            yield lock
        finally:
            lock.release()

    def _flight(self, key: str, ttl_s: float) -> Lock:
        return Lock(self._store, _LOCK + b"get_or_set:" + _name(key), ttl_s)

    # The same for coroutines.

    async def aget(self, key: str, default: Any = None) -> Any:
        """As `get`."""
        return await self._off(lambda: self.get(key, default))

    async def aget_many(self, keys: Sequence[str]) -> dict[str, Any]:
        """As `get_many`."""
        return await self._off(lambda: self.get_many(keys))

    async def aset(self, key: str, value: Any, *, ttl: float | None = None) -> None:
        """As `set`."""
        await self._off(lambda: self.set(key, value, ttl=ttl))

    async def aadd(self, key: str, value: Any, *, ttl: float | None = None) -> bool:
        """As `add`."""
        return await self._off(lambda: self.add(key, value, ttl=ttl))

    async def acompare_and_set(
        self, key: str, expected: Any, value: Any, *, ttl: float | None = None
    ) -> bool:
        """As `compare_and_set`."""
        return await self._off(lambda: self.compare_and_set(key, expected, value, ttl=ttl))

    async def adelete(self, key: str) -> bool:
        """As `delete`."""
        return await self._off(lambda: self.delete(key))

    async def atouch(self, key: str, *, ttl: float | None = None) -> bool:
        """As `touch`."""
        return await self._off(lambda: self.touch(key, ttl=ttl))

    async def aincr(
        self, key: str, delta: int = 1, *, ttl: float | None = None, create: bool = True
    ) -> int:
        """As `incr`."""
        return await self._off(lambda: self.incr(key, delta, ttl=ttl, create=create))

    async def aclear(self, prefix: str = "") -> int:
        """As `clear`."""
        return await self._off(lambda: self.clear(prefix))

    async def aget_or_set(
        self,
        key: str,
        make: Callable[[], Awaitable[Any]],
        *,
        ttl: float | None = None,
        lock_ttl: float = 30.0,
    ) -> Any:
        """As `get_or_set`, with a coroutine function."""
        missing = object()
        for wait_s in waits():
            value = await self.aget(key, missing)
            if value is not missing:
                return value
            lock = self._flight(key, lock_ttl)
            if await self._take(lock):
                try:
                    value = await self.aget(key, missing)
                    if value is missing:
                        value = await make()
                        await self.aset(key, value, ttl=ttl)
                    return value
                finally:
                    await self._off(lock.release)
            await asyncio.sleep(wait_s)
        raise AssertionError("waits never ends")

    @contextlib.asynccontextmanager
    async def alock(
        self, name: str, *, ttl: float = 30.0, timeout: float | None = None
    ) -> AsyncIterator[Lock]:
        """As `lock`."""
        lock = Lock(self._store.locks, _LOCK + _name(name), ttl)
        began = time.monotonic()
        for wait_s in waits():
            if await self._take(lock):
                break
            _check_time(name, began, timeout)
            await asyncio.sleep(wait_s)
        try:
            yield lock
        finally:
            await self._off(lock.release)

    async def _take(self, lock: Lock) -> bool:
        """Take a lock; a coroutine that is cancelled meanwhile leaves none behind."""
        taking = asyncio.ensure_future(self._off(lock.take))
        try:
            return await asyncio.shield(taking)
        except asyncio.CancelledError:
            await asyncio.wait([taking])
            if not taking.exception() and taking.result():
                await self._off(lock.release)
            raise

    async def _off(self, action: Callable[[], T]) -> T:
        """Call here what takes microseconds, and in a thread what goes over a network."""
        return action() if self._store.is_local else await asyncio.to_thread(action)

    def close(self) -> None:
        """Release what the store holds in this process."""
        self._store.close()


# Most calls are for few keys, and to look at one costs as much as to read its value.
@functools.lru_cache(maxsize=1024)
def _name(key: str) -> bytes:
    if not isinstance(key, str):
        raise TypeError(f"{key!r} is no key: a key is text")
    name = key.encode()
    if not name or name.startswith(OWN) or len(name) > _LONGEST_KEY_BYTES:
        raise ValueError(f"{key[:40]!r} is no key: 1 to {_LONGEST_KEY_BYTES} bytes")
    return name


def _is_over(ttl: float | None) -> bool:
    """Tell whether a time to live is over at once. Raises ValueError for one that is no number."""
    if ttl is not None and math.isnan(ttl):
        raise ValueError(f"ttl is a number of seconds, not {ttl}")
    return ttl is not None and ttl <= 0


def _check_time(name: str, began: float, timeout: float | None) -> None:
    if timeout is not None and time.monotonic() - began >= timeout:
        raise TimeoutError(f"another has the lock {name!r}")


__all__ = ["Cache", "CacheError"]

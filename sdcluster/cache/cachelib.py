"""The shared cache as a `cachelib` cache: for Flask-Session, Flask-Caching and whoever takes one.

app.config["SESSION_TYPE"] = "cachelib"
app.config["SESSION_CACHELIB"] = SharedCache()
"""

from typing import Any

from cachelib import BaseCache

from sdcluster.cache import connect
from sdcluster.cache.values import Serializer


class SharedCache(BaseCache):
    """The cache at a URL, by default the instance's own; its keys have `key_prefix` before them.

    As everywhere in cachelib, a timeout is in seconds, None is `default_timeout`, and 0 is for
    ever; `clear` without a prefix removes what others have written too. Values are what JSON can
    express, and anything else with `serializer="pickle"` only. Raises `CacheError`.
    """

    def __init__(
        self,
        url: str = "",
        *,
        default_timeout: int = 300,
        key_prefix: str = "",
        serializer: Serializer = "json",
    ) -> None:
        super().__init__(default_timeout)
        self._cache = connect(url, serializer=serializer)
        self._prefix = key_prefix

    def _ttl(self, timeout: Any) -> float | None:
        return self._normalize_timeout(timeout) or None

    def get(self, key: str) -> Any:
        """Return a value, or None when there is none."""
        return self._cache.get(self._prefix + key)

    def get_many(self, *keys: str) -> list[Any]:
        """Return the value of each key, read at once; None where there is none."""
        names = [self._prefix + key for key in keys]
        found = self._cache.get_many(names)
        return [found.get(name) for name in names]

    def has(self, key: str) -> bool:
        """Tell whether there is a value."""
        missing = object()
        return self._cache.get(self._prefix + key, missing) is not missing

    def set(self, key: str, value: Any, timeout: Any = None) -> bool:
        """Write a value."""
        self._cache.set(self._prefix + key, value, ttl=self._ttl(timeout))
        return True

    def add(self, key: str, value: Any, timeout: Any = None) -> bool:
        """Write a value only if there is none; tell whether it was written."""
        return self._cache.add(self._prefix + key, value, ttl=self._ttl(timeout))

    def delete(self, key: str) -> bool:
        """Remove a value; tell whether there was one."""
        return self._cache.delete(self._prefix + key)

    def clear(self) -> bool:
        """Remove all that begins with the prefix."""
        self._cache.clear(self._prefix)
        return True

    def inc(self, key: str, delta: int = 1) -> int:
        """Add to a number, atomically, and return it; it begins at 0, with the default timeout."""
        return self._cache.incr(self._prefix + key, delta, ttl=self._ttl(None))

    def dec(self, key: str, delta: int = 1) -> int:
        """Take from a number, as `inc`."""
        return self.inc(key, -delta)

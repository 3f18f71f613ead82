"""The shared cache as a cache of Django's, and so for its sessions.

CACHES = {"default": {"BACKEND": "sdcluster.cache.django.SharedCache"}}
SESSION_ENGINE = "django.contrib.sessions.backends.cache"
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, get_args

from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache
from django.core.exceptions import ImproperlyConfigured

from sdcluster.cache import connect
from sdcluster.cache.values import Serializer

_IGNORED = {"MAX_ENTRIES", "CULL_FREQUENCY"}
"""Options for every cache of Django's; here the size is a part of the URL."""

# Django makes a cache for each thread.
_connect = functools.cache(connect)


class SharedCache(BaseCache):
    """The cache at the URL `LOCATION`, by default the instance's own.

    Values are what JSON can express; anything else, as Django's own caches take it, needs
    `"OPTIONS": {"serializer": "pickle"}`. Raises `CacheError`.
    """

    def __init__(self, location: str, params: Mapping[str, Any]) -> None:
        super().__init__(params)
        options: dict[str, Any] = {**params.get("OPTIONS", {})}
        serializer = options.pop("serializer", "json")
        if serializer not in get_args(Serializer):
            raise ImproperlyConfigured(
                f"CACHES: the serializer is {' or '.join(get_args(Serializer))}, not {serializer!r}"
            )
        if unknown := sorted(options.keys() - _IGNORED):
            raise ImproperlyConfigured(f"CACHES: OPTIONS has 'serializer', and not {unknown[0]!r}")
        self._cache = _connect(location, serializer=serializer)

    def _name(self, key: str, version: int | None) -> str:
        name: str = self.make_key(key, version=version)
        self.validate_key(name)
        return name

    def _ttl(self, timeout: Any) -> float | None:
        """Return how long a value lives: None for ever, and 0 not at all, as Django has it."""
        ttl: float | None = self.default_timeout if timeout is DEFAULT_TIMEOUT else timeout
        return ttl

    def get(self, key: str, default: Any = None, version: int | None = None) -> Any:
        """Return a value, or `default` when there is none."""
        return self._cache.get(self._name(key, version), default)

    def get_many(self, keys: Iterable[str], version: int | None = None) -> dict[str, Any]:
        """Return the values of the keys that are there, read at once."""
        names = {self._name(key, version): key for key in keys}
        return {names[name]: value for name, value in self._cache.get_many(list(names)).items()}

    def has_key(self, key: str, version: int | None = None) -> bool:
        """Tell whether there is a value."""
        missing = object()
        return self.get(key, missing, version) is not missing

    def set(
        self, key: str, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> None:
        """Write a value."""
        self._cache.set(self._name(key, version), value, ttl=self._ttl(timeout))

    def add(
        self, key: str, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> bool:
        """Write a value only if there is none; tell whether there was none."""
        ttl = self._ttl(timeout)
        if ttl is not None and ttl <= 0:
            return not self.has_key(key, version)
        return self._cache.add(self._name(key, version), value, ttl=ttl)

    def get_or_set(
        self, key: str, default: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> Any:
        """Return a value; if there is none, write `default`, or what one worker makes by it."""
        make: Callable[[], Any] = default if callable(default) else lambda: default
        return self._cache.get_or_set(self._name(key, version), make, ttl=self._ttl(timeout))

    def touch(self, key: str, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """Let a value live for the timeout from now on; tell whether it is there."""
        return self._cache.touch(self._name(key, version), ttl=self._ttl(timeout))

    def incr(self, key: str, delta: int = 1, version: int | None = None) -> int:
        """Add to a number, atomically, and return it. Raises ValueError when there is none."""
        try:
            return self._cache.incr(self._name(key, version), delta, create=False)
        except KeyError:
            raise ValueError(f"Key {key!r} not found") from None

    def delete(self, key: str, version: int | None = None) -> bool:
        """Remove a value; tell whether there was one."""
        return self._cache.delete(self._name(key, version))

    def clear(self) -> None:
        """Remove all values, as everywhere in Django: those of other prefixes and programs too."""
        self._cache.clear()

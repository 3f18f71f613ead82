"""A cache that all workers of an instance share: `from sdcluster import cache`.

    cache.set("user:7", {"name": "Ada"}, ttl=60)
    users = cache.get_or_set("users", count_users, ttl=10)    # one worker asks, all others wait

Where it is, SDCLUSTER_CACHE says: `lmdb:///FOLDER?size_mb=64`, or a URL of Redis or Valkey
(`redis://HOST`, `valkey://HOST`, `unix:///PATH`). Without, it is embedded, in memory, and goes with
the service; an instance that was not started by systemd finds it again.

`?on_error=miss` has a store that fails answer as an empty one that keeps nothing: nothing is found,
writes are dropped, `get_or_set` makes its value, `add` and the others that tell whether they have
written say no, `incr` begins at 0. A lock is a `CacheError` then all the same.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sdcluster.cache.cache import Cache
from sdcluster.cache.embedded import EmbeddedStore
from sdcluster.cache.lenient import LenientStore
from sdcluster.cache.store import Store
from sdcluster.cache.values import Serializer
from sdcluster.errors import CacheError, reason_of
from sdcluster.system import command_line
from sdcluster.system.folders import make_private
from sdcluster.wire import cache_url

MEMORY = Path("/dev/shm")

__all__ = ["Cache", "CacheError", "connect"]

_default: Cache | None = None


def connect(url: str = "", *, serializer: Serializer = "json") -> Cache:
    """Return the cache at a URL, or the instance's own. Raises `CacheError`."""
    name = os.environ.get("SDCLUSTER_INSTANCE") or _own_name()
    try:
        parts = cache_url.parse(url or os.environ.get(cache_url.VARIABLE, ""))
    except ValueError as error:
        raise CacheError(str(error)) from error
    open_store = _opener(parts, name)
    if parts.on_error == "miss":
        return Cache(LenientStore(open_store, is_local=not parts.remote), serializer=serializer)
    return Cache(open_store(), serializer=serializer)


def _own_name() -> str:
    """Return the name of the program of the library's that this may be: its workers have it."""
    script = command_line.script()
    return command_line.name(script) if script else "default"


def _opener(parts: cache_url.CacheUrl, name: str) -> Callable[[], Store]:
    """Return what opens the store. Raises `CacheError` for what can never be opened."""
    if parts.remote:
        from sdcluster.cache.remote import RemoteStore

        store = RemoteStore(parts.remote, prefix=f"sdcluster:{name}:")
        return lambda: store

    def open_store() -> EmbeddedStore:
        folder = Path(parts.folder) if parts.folder else _folder(name)
        return EmbeddedStore(folder, size_mb=parts.size_mb, owner=name)

    return open_store


def _folder(name: str) -> Path:
    """Return a folder in memory: the unit's RuntimeDirectory=, else one of the user's own."""
    given = os.environ.get("RUNTIME_DIRECTORY", "")
    if given:
        return Path(given.split(":")[0]) / "cache"
    own = MEMORY / f"sdcluster-{os.geteuid()}"
    try:
        make_private(own)
    except OSError as error:  # There anybody may make one.
        raise CacheError(f"the cache in {own}: {reason_of(error)}; remove it") from error
    return own / name


def __getattr__(name: str) -> Any:
    """Return a method of the instance's own cache: `cache.get` and the others."""
    global _default
    if name.startswith("_") or not hasattr(Cache, name):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if _default is None:
        _default = connect()
    return getattr(_default, name)

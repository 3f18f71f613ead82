"""A cache that all workers of an instance share: `from sdcluster import cache`.

    cache.set("user:7", {"name": "Ada"}, ttl=60)
    users = cache.get_or_set("users", count_users, ttl=10)    # one worker asks, all others wait

Where it is, SDCLUSTER_CACHE says: `lmdb:///FOLDER?size_mb=64`, or a URL of Redis or Valkey
(`redis://HOST`, `valkey://HOST`, `unix:///PATH`). Without, it is embedded, in memory, and lives as
long as the instance.
"""

import os
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from sdcluster.cache.cache import Cache
from sdcluster.cache.values import Serializer
from sdcluster.errors import CacheError

VARIABLE = "SDCLUSTER_CACHE"

__all__ = ["Cache", "CacheError", "connect"]

_default: Cache | None = None


def connect(url: str = "", *, serializer: Serializer = "json") -> Cache:
    """Return the cache at a URL, or the instance's own. Raises `CacheError`."""
    name = os.environ.get("SDCLUSTER_INSTANCE", "default")
    parts = urlsplit(url)
    if parts.scheme in ("redis", "rediss", "valkey", "valkeys", "unix"):
        from sdcluster.cache.remote import RemoteStore

        return Cache(RemoteStore(url, prefix=f"sdcluster:{name}:"), serializer=serializer)
    if parts.scheme not in ("", "lmdb"):
        raise CacheError(f"{url}: a cache is lmdb://, redis://, valkey:// or unix://")
    from sdcluster.cache.embedded import DEFAULT_SIZE_MB, EmbeddedStore

    folder = Path(unquote(parts.path)) if parts.path else _folder(name)
    try:
        size_mb = float(parse_qs(parts.query).get("size_mb", [str(DEFAULT_SIZE_MB)])[0])
    except ValueError as error:
        raise CacheError(f"{url}: size_mb is a number of megabytes") from error
    return Cache(EmbeddedStore(folder, size_mb=size_mb, owner=name), serializer=serializer)


def _folder(name: str) -> Path:
    """Return a folder in memory: the unit's RuntimeDirectory=, else one of the user's own."""
    given = os.environ.get("RUNTIME_DIRECTORY", "")
    if given:
        return Path(given.split(":")[0]) / "cache"
    return Path(f"/dev/shm/sdcluster-{os.geteuid()}") / name


def __getattr__(name: str) -> Any:
    """Return a method of the instance's own cache: `cache.get` and the others."""
    global _default
    if name.startswith("_") or not hasattr(Cache, name):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if _default is None:
        _default = connect(os.environ.get(VARIABLE, ""))
    return getattr(_default, name)

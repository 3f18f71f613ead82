"""A cache that all workers of an instance share: `from sdcluster import cache`.

    cache.set("user:7", {"name": "Ada"}, ttl=60)
    users = cache.get_or_set("users", count_users, ttl=10)    # one worker asks, all others wait

Where it is, SDCLUSTER_CACHE says: `lmdb:///FOLDER?size_mb=64`, or a URL of Redis or Valkey
(`redis://HOST`, `valkey://HOST`, `unix:///PATH`). Without, it is embedded, in memory, and goes with
the service; an instance that was not started by systemd finds it again.
"""

import os
import stat
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from sdcluster.cache.cache import Cache
from sdcluster.cache.embedded import DEFAULT_SIZE_MB, EmbeddedStore
from sdcluster.cache.values import Serializer
from sdcluster.errors import CacheError, reason_of

VARIABLE = "SDCLUSTER_CACHE"
MEMORY = Path("/dev/shm")
SMALLEST_MB, LARGEST_MB = 0.01, 1_000_000

__all__ = ["Cache", "CacheError", "connect"]

_default: Cache | None = None


def connect(url: str = "", *, serializer: Serializer = "json") -> Cache:
    """Return the cache at a URL, or the instance's own. Raises `CacheError`."""
    url = url or os.environ.get(VARIABLE, "")
    name = os.environ.get("SDCLUSTER_INSTANCE", "default")
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise CacheError(f"the URL of the cache is wrong: {error}") from error
    if parts.scheme in ("redis", "rediss", "valkey", "valkeys", "unix"):
        from sdcluster.cache.remote import RemoteStore

        return Cache(RemoteStore(url, prefix=f"sdcluster:{name}:"), serializer=serializer)
    if parts.scheme not in ("", "lmdb"):
        raise CacheError(
            f"a cache is lmdb://, redis://, valkey:// or unix://, and not {parts.scheme}://"
        )
    return Cache(_embedded(parts, name), serializer=serializer)


def _embedded(parts: SplitResult, name: str) -> EmbeddedStore:
    if parts.netloc or (not parts.scheme and parts.path):
        raise CacheError(f"{parts.geturl()}: an embedded cache is lmdb:///FOLDER, three slashes")
    size_mb = _size_mb(parts) if parts.query else DEFAULT_SIZE_MB
    folder = Path(unquote(parts.path)) if parts.path else _folder(name)
    return EmbeddedStore(folder, size_mb=size_mb, owner=name)


def _size_mb(parts: SplitResult) -> float:
    try:
        size_mb = float(parse_qs(parts.query, strict_parsing=True)["size_mb"][0])
    except (KeyError, ValueError):
        size_mb = 0.0
    if not SMALLEST_MB <= size_mb <= LARGEST_MB:
        raise CacheError(
            f"{parts.geturl()}: size_mb is a number of megabytes from {SMALLEST_MB} to {LARGEST_MB}"
        )
    return size_mb


def _folder(name: str) -> Path:
    """Return a folder in memory: the unit's RuntimeDirectory=, else one of the user's own."""
    given = os.environ.get("RUNTIME_DIRECTORY", "")
    if given:
        return Path(given.split(":")[0]) / "cache"
    own = MEMORY / f"sdcluster-{os.geteuid()}"
    try:
        own.mkdir(mode=0o700, exist_ok=True)
        found = own.lstat()
    except OSError as error:
        raise CacheError(f"the cache in {own}: {reason_of(error)}") from error
    # There anybody may make one.
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise CacheError(f"the cache in {own}: it is not this user's alone; remove it")
    return own / name


def __getattr__(name: str) -> Any:
    """Return a method of the instance's own cache: `cache.get` and the others."""
    global _default
    if name.startswith("_") or not hasattr(Cache, name):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if _default is None:
        _default = connect()
    return getattr(_default, name)

"""The cache of several machines: Redis or Valkey, through redis-py.

What Redis has no command for is a script, which it runs as one.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from sdcluster.cache import redis_client
from sdcluster.cache.store import OWN
from sdcluster.errors import CacheError, CacheRefusedError, reason_of

CLEAR_BATCH = 512
LONGEST_MS = 10**15
"""Redis refuses a time to live that does not fit its clock."""

_REPLACE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[3] == '' then redis.call('SET', KEYS[1], ARGV[2])
else redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
return 1
"""
_DELETE_ONLY = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
"""
_INCR = """
local new = redis.call('EXISTS', KEYS[1]) == 0
if new and ARGV[3] == '0' then return false end
local number = redis.call('INCRBY', KEYS[1], ARGV[1])
if new and ARGV[2] ~= '' then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return number
"""

T = TypeVar("T")


class RemoteStore:
    """A `Store` at a URL that redis-py takes; each key has `prefix` before it."""

    is_local = False

    def __init__(self, url: str, *, prefix: str = "") -> None:
        self._redis = redis_client.library()
        self._client: Any = redis_client.connect(url)
        self._prefix = prefix.encode()
        self._where = redis_client.without_secrets(url)

    @property
    def locks(self) -> "RemoteStore":
        """This store."""
        return self

    def _run(self, action: Callable[[], T]) -> T:
        try:
            return action()
        except self._redis.ResponseError as error:
            raise CacheRefusedError(f"the cache at {self._where}: {reason_of(error)}") from error
        except (self._redis.RedisError, OSError) as error:
            raise CacheError(f"the cache at {self._where}: {reason_of(error)}") from error

    def _key(self, key: bytes) -> bytes:
        return self._prefix + key

    def get(self, key: bytes) -> bytes | None:
        """Return a value, or None when there is none."""
        value: bytes | None = self._run(lambda: self._client.get(self._key(key)))
        return value

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Return the values of the keys that are there."""
        if not keys:
            return {}
        values = self._run(lambda: self._client.mget([self._key(key) for key in keys]))
        return {key: value for key, value in zip(keys, values, strict=True) if value is not None}

    def set(self, key: bytes, value: bytes, ttl_s: float | None) -> None:
        """Write a value, whatever was there."""
        self._run(lambda: self._client.set(self._key(key), value, px=_ms(ttl_s)))

    def add(self, key: bytes, value: bytes, ttl_s: float | None) -> bool:
        """Write a value if there is none; tell whether it was written."""
        return bool(
            self._run(lambda: self._client.set(self._key(key), value, px=_ms(ttl_s), nx=True))
        )

    def replace(self, key: bytes, old: bytes, new: bytes, ttl_s: float | None) -> bool:
        """Write a value if `old` is there; tell whether it was written."""
        arguments = (self._key(key), old, new, _ms(ttl_s) or "")
        return bool(self._run(lambda: self._client.eval(_REPLACE, 1, *arguments)))

    def delete(self, key: bytes, *, only: bytes | None = None) -> bool:
        """Remove a value, with `only` if it is that one; tell whether it was removed."""
        if only is None:
            return bool(self._run(lambda: self._client.delete(self._key(key))))
        return bool(self._run(lambda: self._client.eval(_DELETE_ONLY, 1, self._key(key), only)))

    def touch(self, key: bytes, ttl_s: float | None) -> bool:
        """Let a value live from now on for `ttl_s`; tell whether it is there."""
        ttl_ms = _ms(ttl_s)
        if ttl_ms is None:
            self._run(lambda: self._client.persist(self._key(key)))
            return bool(self._run(lambda: self._client.exists(self._key(key))))
        return bool(self._run(lambda: self._client.pexpire(self._key(key), ttl_ms)))

    def incr(
        self, key: bytes, delta: int, ttl_s: float | None, *, create: bool = True
    ) -> int | None:
        """Add to a decimal number; None when what is there is no number, or is not created."""
        arguments = (self._key(key), delta, _ms(ttl_s) or "", int(create))

        def incr() -> int | None:
            try:
                number: int | None = self._client.eval(_INCR, 1, *arguments)
                return number
            except self._redis.ResponseError as error:
                if "not an integer" in str(error):
                    return None
                raise

        return self._run(incr)

    def clear(self, prefix: bytes) -> int:
        """Remove every key that begins with `prefix`, but no lock; return how many there were."""
        own = self._key(OWN)

        def clear() -> int:
            removed = 0
            batch: list[bytes] = []
            for key in self._client.scan_iter(match=_glob(self._key(prefix)), count=CLEAR_BATCH):
                if not key.startswith(own):
                    batch.append(key)
                if len(batch) == CLEAR_BATCH:
                    removed += self._client.unlink(*batch)
                    batch.clear()
            return removed + (self._client.unlink(*batch) if batch else 0)

        return self._run(clear)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


def _ms(ttl_s: float | None) -> int | None:
    if ttl_s is None or math.isinf(ttl_s):
        return None
    return min(max(1, round(ttl_s * 1000)), LONGEST_MS)


def _glob(prefix: bytes) -> bytes:
    """Return the pattern of all keys that begin with `prefix`, see the KEYS command."""
    special = b"\\*?[]^-"
    return (
        b"".join(b"\\" + bytes([one]) if one in special else bytes([one]) for one in prefix) + b"*"
    )

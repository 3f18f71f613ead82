"""Connections to Redis or Valkey, through redis-py."""

import sys
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from sdcluster.errors import CacheError

TIMEOUT_S = 3.0


def library() -> ModuleType:
    """Return redis-py. Raises `CacheError` when it is not installed."""
    try:
        import redis
        import redis.backoff
        import redis.retry
    except ImportError as error:
        raise CacheError(
            f"a cache in Redis needs redis: {sys.prefix}/bin/pip install redis"
        ) from error
    return redis


def connect(url: str) -> Any:
    """Return a client, which connects when it is used. Raises `CacheError` for a wrong URL."""
    redis = library()
    # For a socket's path an older redis-py takes no such time-out; the kernel answers at once.
    connecting = {} if url.startswith("unix:") else {"socket_connect_timeout": TIMEOUT_S}
    try:
        client = redis.Redis.from_url(
            url.replace("valkey://", "redis://", 1).replace("valkeys://", "rediss://", 1),
            socket_timeout=TIMEOUT_S,
            **connecting,
            health_check_interval=30,
            # None: what has no answer may have been done, and one would wait for each.
            retry=redis.retry.Retry(redis.backoff.NoBackoff(), 0),
        )
        pool = client.connection_pool
        pool.connection_class(**pool.connection_kwargs)  # TypeError for an option it has not.
    except (ValueError, TypeError) as error:
        raise CacheError(f"the cache at {without_secrets(url)}: the URL is wrong") from error
    return client


def without_secrets(url: str) -> str:
    """Return where it is: no user, and no query, which may have a password too."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

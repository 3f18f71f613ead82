"""Broadcasts to the workers of every machine: through the Redis or Valkey that holds the cache.

Instances of one name are one cluster there. Who is not connected at that moment misses a message,
as with any PUBLISH; one that cannot be sent is dropped, and the first of them is logged.
"""

import logging
import os
import queue
import threading
from collections.abc import Callable
from typing import Any

from sdcluster.cache import redis_client
from sdcluster.errors import CacheError, ClusterError, reason_of
from sdcluster.wire import cache_url
from sdcluster.wire.messages import MAX_BODY_BYTES

LIMIT = 1024
"""Messages that may wait to be sent."""
HIGH_WATER = 256
"""Messages that may wait before `publish` says so."""
RETRY_S = 1.0
POLL_S = 30.0
"""How long to wait for a message before the connection is looked after."""

NOT_SHARED = (
    "no other machine is known: the cache has to be in Redis or Valkey, "
    "cache = 'redis://HOST' in the configuration, or SDCLUSTER_CACHE"
)

DROPPED = "a broadcast to all machines is dropped"
DEAF = "broadcasts of other machines do not arrive"

logger = logging.getLogger("sdcluster")


def place() -> str:
    """Return the URL of the cache if other machines may share it; else an empty text."""
    try:
        return cache_url.parse(os.environ.get(cache_url.VARIABLE, "")).remote
    except ValueError:
        return ""


class Everywhere:
    """The channel of all instances of one name. Any thread may use it.

    Raises `ClusterError` when the cache is where no other machine can be.
    """

    def __init__(self, name: str) -> None:
        where = place()
        if not where:
            raise ClusterError(NOT_SHARED)
        try:
            self._redis = redis_client.library()
            self._client = redis_client.connect(where)
        except CacheError as error:
            raise ClusterError(str(error)) from error
        self._channel = f"sdcluster:{name}:messages"
        self._queue: queue.Queue[bytes] = queue.Queue(LIMIT)
        self._lock = threading.Lock()
        self._has_publisher = False
        self._troubles: set[str] = set()
        """What does not work, and was told."""

    def publish(self, body: bytes) -> bool:
        """Send every worker a message; False when many wait already, or this one is dropped.

        Raises `ClusterError` when it is too large.
        """
        if len(body) > MAX_BODY_BYTES:
            raise ClusterError(f"a message of {len(body)} bytes; {MAX_BODY_BYTES} are the most")
        with self._lock:
            if not self._has_publisher:
                self._has_publisher = True
                _thread(self._send_all)
        try:
            self._queue.put_nowait(body)
        except queue.Full:
            return False
        return self._queue.qsize() <= HIGH_WATER

    def _send_all(self) -> None:
        while True:
            body = self._queue.get()
            try:
                self._client.publish(self._channel, body)
                self._troubles.discard(DROPPED)
            except (self._redis.RedisError, OSError) as error:
                self._tell(DROPPED, error)

    def subscribe(self, on_message: Callable[[bytes], None]) -> None:
        """Have `on_message` called, in a thread, for each message from now on."""
        subscribed = self._client.pubsub(ignore_subscribe_messages=True)

        def receive() -> None:
            subscribed.subscribe(self._channel)
            self._troubles.discard(DEAF)
            while True:
                message = subscribed.get_message(timeout=POLL_S)
                if message is not None:
                    on_message(message["data"])

        def receive_always() -> None:
            while True:
                try:
                    receive()
                except (self._redis.RedisError, OSError) as error:
                    self._tell(DEAF, error)
                    subscribed.reset()
                    threading.Event().wait(RETRY_S)

        _thread(receive_always)

    def _tell(self, what: str, error: Exception) -> None:
        """Log the first of many failures."""
        if what not in self._troubles:
            self._troubles.add(what)
            logger.warning("%s: %s", what, reason_of(error))


def _thread(target: Callable[[], Any]) -> None:
    threading.Thread(target=target, name="sdcluster-everywhere", daemon=True).start()

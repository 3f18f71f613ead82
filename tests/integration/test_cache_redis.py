"""A cache in Redis: a server that is not there, goes away or hangs."""

import asyncio
import signal
import sys
import time

import pytest
from conftest import Share
from stores import RedisServer
from waiting import wait_until

from sdcluster.cache import CacheError, connect, redis_client

pytestmark = pytest.mark.usefixtures("one_name")


def test_server_that_is_down_at_the_start_is_told(server: RedisServer) -> None:
    """By the first call and at once; later it works."""
    cache = connect(server.url)
    began = time.monotonic()
    with pytest.raises(CacheError, match=f"^the cache at {server.url}: .*[Cc]onnection refused"):
        cache.get("key")
    with pytest.raises(CacheError):
        asyncio.run(cache.aincr("key"))
    assert time.monotonic() - began < 1
    server.start()
    assert cache.incr("key") == 1
    cache.close()


def test_server_that_comes_back_is_used_again(server: RedisServer) -> None:
    """By the first call that it can answer: no connection of before stands in the way."""
    server.start()
    cache = connect(server.url)
    for number in range(3):
        cache.set("key", number)
        server.stop()
        began = time.monotonic()
        with pytest.raises(CacheError):
            cache.set("key", 1)
        with pytest.raises(CacheError), cache.lock("lock"):
            pass
        assert time.monotonic() - began < 1
        server.start()
        assert cache.get("key") is None
    cache.set("key", 1)
    server.stop()
    server.start()
    assert cache.incr("key") == 1
    cache.close()


def test_server_that_hangs_is_not_waited_for(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Longer than the time-out; what had no answer is not tried again."""
    monkeypatch.setattr(redis_client, "TIMEOUT_S", 0.3)
    server.start()
    cache = connect(server.url)
    assert cache.incr("key") == 1
    server.signal(signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(CacheError, match="Timeout"):
        cache.incr("key")
    assert 0.3 <= time.monotonic() - began < 1
    server.signal(signal.SIGCONT)
    wait_until(lambda: cache.get("key") == 2, "the increment that had no answer")
    cache.close()


def test_value_of_another_program_is_told(redis_server: RedisServer) -> None:
    """It is no value of ours; a number is, whoever wrote it."""
    import redis

    with redis.Redis(host="127.0.0.1", port=redis_server.port) as direct:
        direct.set("sdcluster:default:text", "text")
        direct.set("sdcluster:default:number", "17")
        direct.lpush("sdcluster:default:list", "1")
    cache = connect(redis_server.url)
    with pytest.raises(CacheError, match="somebody else"):
        cache.get("text")
    assert cache.incr("number") == 18
    for call in (cache.incr, lambda key: cache.compare_and_set(key, 1, 2)):
        with pytest.raises(CacheError, match="WRONGTYPE"):
            call("list")
    cache.clear()
    cache.close()


@pytest.mark.parametrize("kind", ["valkey", "unix"])
def test_each_kind_of_url_works(redis_server: RedisServer, kind: str) -> None:
    """Valkey speaks the same; a socket is a path."""
    port, path = redis_server.port, redis_server.socket
    cache = connect(f"valkey://127.0.0.1:{port}/1" if kind == "valkey" else f"unix://{path}?db=1")
    cache.set("key", kind)
    assert cache.get("key") == kind
    cache.close()


def test_password_is_in_no_message(server: RedisServer) -> None:
    """Neither before the host nor in the query."""
    for url in (f"redis://me:secret@127.0.0.1:{server.port}", f"{server.url}?password=secret"):
        cache = connect(url)
        with pytest.raises(CacheError) as caught:
            cache.get("key")
        assert "secret" not in str(caught.value)
        assert str(server.port) in str(caught.value)


def test_option_that_redis_py_has_not_is_told() -> None:
    """When the cache is made, and not by a TypeError of the first call."""
    with pytest.raises(CacheError, match=r"^the cache at redis://host: the URL is wrong$"):
        connect("redis://host?no_such_option=secret")
    with pytest.raises(CacheError, match=r"^the cache at redis://host: the URL is wrong$"):
        connect("redis://host?socket_timeout=soon")


def test_package_that_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that installs it."""
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(CacheError, match=f"needs redis: {sys.prefix}/bin/pip install redis"):
        connect("redis://127.0.0.1")


FORKS = """
cache.set("key", 1)
for _ in range(3):
    pid = os.fork()
    if pid == 0:
        for _ in range(100):
            cache.incr("n")
        os._exit(0)
    for _ in range(100):
        cache.incr("n")
    assert os.waitpid(pid, 0)[1] == 0
print(cache.get("n"))
cache.clear()
"""


def test_parent_and_children_go_on_after_a_fork(redis_server: RedisServer, share: Share) -> None:
    """Each has connections of its own."""
    told = share(FORKS, redis_server.url, env={"SDCLUSTER_INSTANCE": "forks"}).output()
    assert told == "600"

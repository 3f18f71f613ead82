"""A cache with `on_error=miss`: whatever becomes of the store, the app goes on."""

import asyncio
import contextlib
import itertools
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from conftest import Share, Start
from stores import RedisServer
from waiting import wait_until
from web import fetch

from sdcluster.cache import Cache, CacheError, connect, lenient, redis_client

pytestmark = pytest.mark.usefixtures("one_name")


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask a store that has failed again soon."""
    monkeypatch.setattr(lenient, "RETRY_S", 0.1)


def check_that_it_is_empty(cache: Cache) -> None:
    """Call everything: nothing fails, nothing is found, nothing is said to have been written."""
    made = itertools.count()
    cache.set("key", 1)
    assert cache.get("key") is None and cache.get("key", 7) == 7
    assert cache.get_many(["key"]) == {}
    assert not cache.add("key", 1)
    assert not cache.compare_and_set("key", 1, 2)
    assert not cache.touch("key") and not cache.delete("key")
    assert (cache.incr("n"), cache.incr("n", 5)) == (1, 5)
    with pytest.raises(KeyError):
        cache.incr("n", create=False)
    assert cache.clear() == 0
    assert [cache.get_or_set("made", lambda: next(made)) for _ in range(2)] == [0, 1]
    asyncio.run(check_coroutines(cache))


async def check_coroutines(cache: Cache) -> None:
    """Call those that are more than a call in a thread."""

    async def make() -> int:
        return 5

    assert await cache.aget("key") is None
    assert await cache.aget_or_set("made", make) == 5


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what was logged since the last time."""
    messages = [record.getMessage() for record in caplog.records]
    assert all(record.name == "sdcluster.cache" for record in caplog.records)
    caplog.clear()
    return messages


def test_server_that_goes_and_comes_is_told_once(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Down at the start, and later; what comes in between does not wait for it."""
    cache = connect(f"{server.url}?on_error=miss")
    for _ in range(2):
        began = time.monotonic()
        for _ in range(20):
            check_that_it_is_empty(cache)
        with contextlib.suppress(AssertionError):
            wait_until(lambda: cache.get("key"), "more than one attempt", timeout_s=0.5)
        assert time.monotonic() - began < 3
        (line,) = told(caplog)
        assert line.startswith(f"the cache at {server.url}: ")
        assert line.endswith("; until it works again, nothing is found in it")
        server.start()
        wait_until(lambda: cache.add("back", 1), "the server that is back")
        assert cache.get("back") == 1
        assert cache.get_or_set("made", lambda: 1) == cache.get_or_set("made", lambda: 2) == 1
        with cache.lock("lock", timeout=0):
            pass
        assert told(caplog) == ["the cache works again"]
        server.stop()


def test_lock_is_no_pretence(server: RedisServer) -> None:
    """Without a store nobody can promise that only one has it."""
    cache = connect(f"{server.url}?on_error=miss")
    with pytest.raises(CacheError, match="the cache at"), cache.lock("lock"):
        pass

    async def lock() -> None:
        async with cache.alock("lock"):
            pass

    with pytest.raises(CacheError, match="the cache at"):
        asyncio.run(lock())


def test_server_that_hangs_is_waited_for_once(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """By one of many threads; the others have their answer at once, again and again."""
    monkeypatch.setattr(redis_client, "TIMEOUT_S", 0.5)
    monkeypatch.setattr(lenient, "RETRY_S", 60.0)
    server.start()
    cache = connect(f"{server.url}?on_error=miss")
    cache.set("key", 1)
    server.signal(signal.SIGSTOP)
    began = time.monotonic()
    assert cache.get("key") is None
    assert 0.5 <= time.monotonic() - began < 2
    threads = [threading.Thread(target=cache.get, args=("key",)) for _ in range(50)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - began < 0.5
    (line,) = told(caplog)
    assert "Timeout" in line
    server.signal(signal.SIGCONT)


def test_folder_that_cannot_be_opened_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And is opened as soon as it can be."""
    (tmp_path / "file").touch()
    url = f"lmdb://{tmp_path}/file/cache?on_error=miss"
    with contextlib.closing(connect(url)) as cache:
        for _ in range(20):
            check_that_it_is_empty(cache)
        assert told(caplog) == [
            f"the cache in {tmp_path}/file/cache: Not a directory; until it works again, {what}"
            for what in ("nothing is found in it", "nothing is kept in it")
        ]
        with pytest.raises(CacheError, match="Not a directory"), cache.lock("lock"):
            pass
        (tmp_path / "file").unlink()
        wait_until(lambda: cache.add("key", 1), "the folder")
        wait_until(lambda: cache.get("key") == 1, "the value")
        assert told(caplog) == ["the cache works again"] * 2


FILLS = """
import logging
from sdcluster.cache import lenient
logging.basicConfig(format="%(message)s", stream=sys.stdout)
lenient.RETRY_S = 0.05
fill = pathlib.Path(sys.argv[2]) / "fill"
for number in range(20):
    cache.set(f"key{number}", bytes(1000))
with fill.open("wb", buffering=0) as file:
    try:
        while file.write(bytes(4096)):
            pass
    except OSError:
        pass
for number in range(200):
    cache.set(f"more{number}", bytes(10_000))
    assert cache.get("key7") == bytes(1000)
assert cache.get("more199") is None
assert cache.get_or_set("made", lambda: bytes(10_000)) == bytes(10_000)
fill.unlink()
deadline = time.monotonic() + 20
while not cache.add("key", bytes(10_000)):
    assert time.monotonic() < deadline
    time.sleep(0.01)
assert cache.get("key") == bytes(10_000)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a file system")
def test_full_file_system_is_read_all_the_same(tiny: Path, share: Share) -> None:
    """What would be written is dropped, and is written again when there is room."""
    url = f"lmdb://{tiny}/cache?size_mb=20&on_error=miss"
    lines = share(FILLS, url, str(tiny)).output().splitlines()
    full = "No space left on device; until it works again, nothing is kept in it"
    assert lines == [f"the cache in {tiny}/cache: {full}", "the cache works again"]


def test_value_that_is_too_large_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is no outage; it is told, but not each time."""
    with contextlib.closing(connect(f"lmdb://{tmp_path}?size_mb=1&on_error=miss")) as cache:
        cache.set("key", 1)
        for _ in range(3):
            cache.set("large", bytes(300_000))
            assert cache.get("large") is None and cache.get("key") == 1
            assert cache.get_or_set("made", lambda: bytes(300_000)) == bytes(300_000)
        cache.set("key", 2)
        assert cache.get("key") == 2
    (line,) = told(caplog)
    assert line.startswith("a value of 300001 bytes; a cache of 1000000 bytes takes 96512 at most")


def test_what_redis_refuses_is_left_out(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The one call; all others go on."""
    import redis

    with redis.Redis(host="127.0.0.1", port=redis_server.port) as direct:
        direct.lpush("sdcluster:default:list", "1")
    with contextlib.closing(connect(f"{redis_server.url}?on_error=miss")) as cache:
        cache.set("key", 1)
        assert cache.get("list") is None and cache.incr("list") == 1
        assert cache.get("key") == 1
        cache.clear()
    (line,) = told(caplog)
    assert "WRONGTYPE" in line


def test_wrong_url_is_an_error_all_the_same() -> None:
    """It would never work."""
    for url in ("lmdb:///c?size_mb=x&on_error=miss", "redis://h?no_such=1&on_error=miss"):
        with pytest.raises(CacheError):
            connect(url)


SERVING = """
from sdcluster import cache

def app(environ, start_response):
    body = f"{cache.incr('n')} {cache.get_or_set('made', lambda: 'made')}".encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""


def test_app_serves_on_without_its_redis(start: Start, server: RedisServer) -> None:
    """From the start on; the reason is in the log, and the server is found when it is there."""
    config = f'app = "app:app"\nworkers = 1\ncache = "{server.url}?on_error=miss"\n'
    instance = start(SERVING, config=config)
    assert [fetch(instance.address).text for _ in range(5)] == ["1 made"] * 5
    assert instance.log().count("until it works again, nothing is found in it") == 1
    server.start()
    wait_until(lambda: fetch(instance.address).text == "2 made", "a number that is kept")
    instance.wait_log("the cache works again")

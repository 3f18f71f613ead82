"""The shared cache as Django has one."""

import asyncio
import datetime
import itertools
from typing import Any

import pytest
from waiting import wait_until

from sdcluster.cache import connect

pytest.importorskip("django")

from django.core.exceptions import ImproperlyConfigured

from sdcluster.cache import django as module
from sdcluster.cache.django import SharedCache


@pytest.fixture(autouse=True)
def connect_anew() -> None:
    """Forget the caches of the tests before, which were those of other instances."""
    module._connect.cache_clear()


def made(url: str, **params: Any) -> SharedCache:
    """Return a cache as Django makes it of its setting `CACHES`."""
    return SharedCache(url, params)


@pytest.fixture
def cache(url: str) -> SharedCache:
    """Return an empty cache."""
    return made(url)


def test_values_are_written_read_and_removed(cache: SharedCache) -> None:
    """With the answers that Django's own caches give."""
    value = {"_auth_user_id": "1", "numbers": [1, 2.5, None, True]}
    assert cache.get("key") is None and cache.get("key", 7) == 7
    assert not cache.has_key("key") and "key" not in cache
    cache.set("key", value)
    assert cache.get("key") == value
    assert cache.has_key("key") and "key" in cache
    assert cache.add("key", 2) is False and cache.add("other", 2) is True
    assert cache.get_many(["key", "none", "other"]) == {"key": value, "other": 2}
    assert cache.set_many({"a": 1, "b": b"two"}) == []
    assert cache.get_many(["a", "b"]) == {"a": 1, "b": b"two"}
    assert cache.delete("a") is True and cache.delete("a") is False
    cache.delete_many(["b", "other"])
    assert cache.get_many(["a", "b", "other"]) == {}
    cache.set("none", None)
    assert cache.get("none", 7) is None and "none" in cache
    cache.clear()
    assert "key" not in cache


def test_number_is_added_to_if_it_is_there(cache: SharedCache) -> None:
    """A missing one is a ValueError, and is not made; the time of one stays."""
    for call in (cache.incr, cache.decr, cache.incr_version):
        with pytest.raises(ValueError, match=r"'n' not found|:n' not found"):
            call("n")
    assert "n" not in cache
    cache.set("n", 41)
    assert (cache.incr("n"), cache.incr("n", 10), cache.decr("n", 2)) == (42, 52, 50)
    assert cache.get("n") == 50
    cache.set("word", "text")
    with pytest.raises(TypeError):
        cache.incr("word")
    cache.set("short", 1, timeout=0.05)
    cache.incr("short")
    wait_until(lambda: cache.get("short") is None, "the end of the number")


def test_timeout_is_as_in_django(url: str) -> None:
    """None is for ever, 0 and less not at all, and none given is the default."""
    cache = made(url, TIMEOUT=1)
    cache.set("ever", 1, timeout=None)
    cache.set("default", 1)
    cache.set("touched", 1)
    assert cache.touch("touched", timeout=None) is True
    assert cache.touch("missing") is False
    for timeout in (0, -1):
        cache.set("ended", 1)
        cache.set("ended", 2, timeout=timeout)
        assert "ended" not in cache
        assert cache.add("ended", 1, timeout=timeout) is True
        assert "ended" not in cache
        assert cache.add("ever", 2, timeout=timeout) is False
        cache.set("ended", 1)
        assert cache.touch("ended", timeout=timeout) is True
        assert "ended" not in cache
        assert cache.get_or_set("ended", 5, timeout=timeout) == 5
        assert "ended" not in cache
    wait_until(lambda: cache.get("default") is None, "the end of the default")
    assert cache.get_many(["ever", "touched"]) == {"ever": 1, "touched": 1}
    assert made(url, TIMEOUT=None).get("ever") == 1


def test_get_or_set_makes_a_value_once(cache: SharedCache) -> None:
    """It takes a value, or what makes one."""
    calls = itertools.count(1)
    for _ in range(2):
        assert cache.get_or_set("made", lambda: next(calls)) == 1
        assert cache.get_or_set("given", "other") == "other"
        assert cache.get_or_set("none", None) is None


def test_versions_and_prefixes_keep_keys_apart(url: str) -> None:
    """As `make_key` puts them together."""
    cache, prefixed = made(url), made(url, KEY_PREFIX="shop", VERSION=2)
    cache.set("key", 1)
    cache.set("key", 2, version=2)
    prefixed.set("key", 3)
    assert (cache.get("key"), cache.get("key", version=2)) == (1, 2)
    assert (prefixed.get("key"), prefixed.get("key", version=1)) == (3, None)
    assert connect(url).get("shop:2:key") == 3
    assert cache.incr_version("key") == 2
    assert (cache.get("key"), cache.get("key", version=2)) == (None, 1)
    upper = made(url, KEY_FUNCTION=lambda key, _prefix, version: f"{key}{version}".upper())
    upper.set("key", 4)
    assert connect(url).get("KEY1") == 4


def test_coroutines_do_the_same(cache: SharedCache) -> None:
    """They come from Django, from version 4 on."""
    if not hasattr(cache, "aget"):
        pytest.skip("this Django has none")

    async def use() -> None:
        await cache.aset("key", {"a": 1})
        assert await cache.aget("key") == {"a": 1}
        assert await cache.aadd("key", 2) is False
        assert await cache.aget_many(["key", "none"]) == {"key": {"a": 1}}
        assert await cache.aget_or_set("made", lambda: 5) == 5
        assert await cache.aincr("made") == 6
        assert await cache.ahas_key("key")
        assert await cache.adelete("key")

    asyncio.run(use())


def test_pickle_only_when_asked_for(url: str, cache: SharedCache) -> None:
    """The message says how to ask."""
    value = {"at": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC), "set": {1}}
    with pytest.raises(TypeError, match=r'is no JSON: .*; serializer="pickle" would take more'):
        cache.set("key", value)
    pickling = made(url, OPTIONS={"serializer": "pickle", "MAX_ENTRIES": 5})
    pickling.set("key", value)
    pickling.set("n", 1)
    assert pickling.get("key") == value
    assert pickling.incr("n") == 2


@pytest.mark.parametrize("options", [{"serializer": "yaml"}, {"serialiser": "json"}], ids=repr)
def test_wrong_option_is_told(url: str, options: dict[str, str]) -> None:
    """When the cache is made."""
    with pytest.raises(ImproperlyConfigured, match=r"CACHES: .*serializer"):
        made(url, OPTIONS=options)


def test_cache_of_the_instance_is_the_default(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where `SDCLUSTER_CACHE` says, when `LOCATION` says nothing."""
    monkeypatch.setenv("SDCLUSTER_CACHE", url)
    made("").set("key", 1)
    assert connect(url).get(":1:key") == 1

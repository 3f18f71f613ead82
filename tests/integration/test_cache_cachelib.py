"""The shared cache as `cachelib` has one."""

import datetime
from typing import Any

import pytest
from waiting import wait_until

from sdcluster.cache import connect

cachelib = pytest.importorskip("cachelib")

from sdcluster.cache.cachelib import SharedCache  # noqa: E402


@pytest.fixture
def cache(url: str) -> SharedCache:
    """Return an empty cache."""
    return SharedCache(url)


def test_it_is_a_cache_of_cachelib(cache: SharedCache) -> None:
    """Whoever asks for one takes it."""
    assert isinstance(cache, cachelib.BaseCache)
    assert cache.default_timeout == 300


def test_values_are_written_read_and_removed(cache: SharedCache) -> None:
    """With the answers that cachelib's own caches give."""
    session = {"_permanent": True, "user": "Ada", "_flashes": [["message", "hello"]]}
    assert cache.get("key") is None and not cache.has("key")
    assert cache.set("key", session)
    assert cache.get("key") == session and cache.has("key")
    assert not cache.add("key", 2) and cache.add("other", 2)
    assert cache.get_many("key", "none", "other") == [session, None, 2]
    assert cache.get_dict("other", "none") == {"other": 2, "none": None}
    assert cache.set_many({"a": 1, "b": b"two"}) == ["a", "b"]
    assert cache.get_many("a", "b") == [1, b"two"]
    assert cache.delete("a") and not cache.delete("a")
    cache.delete_many("b", "other")
    assert not cache.has("b") and not cache.has("other")
    assert cache.clear()
    assert not cache.has("key")


def test_number_is_added_to(cache: SharedCache, url: str) -> None:
    """Atomically, by the command of the store."""
    assert cache.inc("n") == 1
    assert cache.inc("n", 5) == 6
    assert cache.dec("n", 2) == 4
    assert connect(url).get("n") == 4
    assert cache.dec("m") == -1


def test_timeout_of_zero_is_for_ever(url: str) -> None:
    """And none given is the default."""
    cache = SharedCache(url, default_timeout=1)
    cache.set("ever", 1, timeout=0)
    cache.add("added", 1, timeout=0)
    cache.set("long", 1, timeout=60)
    for key in ("short", "shorter"):
        cache.set(key, 1)
    cache.inc("n")
    wait_until(lambda: cache.get_many("short", "shorter", "n") == [None] * 3, "the default's end")
    assert cache.get_many("ever", "added", "long") == [1, 1, 1]


def test_timeout_may_be_a_timedelta(cache: SharedCache) -> None:
    """Where cachelib takes one."""
    if not hasattr(cachelib.BaseCache, "_to_seconds"):
        pytest.skip("this cachelib takes none")
    cache.set("key", 1, timeout=datetime.timedelta(minutes=1))
    assert cache.get("key") == 1


def test_prefix_keeps_what_others_have(url: str) -> None:
    """`clear` removes what has the prefix, and `get` sees nothing else."""
    ours, theirs = SharedCache(url, key_prefix="ours:"), SharedCache(url)
    ours.set("key", 1)
    theirs.set("key", 2)
    assert (ours.get("key"), theirs.get("key"), theirs.get("ours:key")) == (1, 2, 1)
    assert ours.get_many("key") == [1]
    ours.clear()
    assert (ours.get("key"), theirs.get("key")) == (None, 2)


@pytest.mark.parametrize("value", [{1, 2}, object(), {"at": datetime.date(2026, 1, 1)}], ids=repr)
def test_pickle_only_when_asked_for(url: str, cache: SharedCache, value: Any) -> None:
    """The message says how to ask."""
    with pytest.raises(TypeError, match=r'is no JSON: .*; serializer="pickle" would take more'):
        cache.set("key", value)
    if type(value) is not object:
        pickling = SharedCache(url, serializer="pickle")
        pickling.set("key", value)
        assert pickling.get("key") == value


def test_cache_of_the_instance_is_the_default(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where `SDCLUSTER_CACHE` says, as for `cache` itself."""
    monkeypatch.setenv("SDCLUSTER_CACHE", url)
    SharedCache().set("key", 1)
    assert connect(url).get("key") == 1
    assert connect(serializer="pickle").get("key") == 1

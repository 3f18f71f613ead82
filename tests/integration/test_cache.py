"""What a cache does, whichever store holds it."""

import asyncio
import contextlib
import math
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Share
from stores import Sharer
from waiting import wait_until

from sdcluster import cache as module
from sdcluster.cache import Cache, CacheError, connect


@pytest.fixture
def cache(url: str) -> Iterator[Cache]:
    """Return an empty cache."""
    opened = connect(url)
    yield opened
    opened.close()


def is_embedded(url: str) -> bool:
    """Tell whether the processes of one machine alone share it."""
    return url.startswith("lmdb:")


# Values.

VALUES = [
    *(b"", b"\0\1\xff", b"17", "", "Grüße \0", "\ud800", "17", 0, 17, -3, 2**200, 1.5, -0.0, 1e300),
    *(math.inf, True, False, None, [], [1, "a", None, [2.5]], {}, {"a": {"b": [1]}, "ü": None}),
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_value_comes_back_as_it_was(cache: Cache, value: Any) -> None:
    """With its type: a number is not the text of that number."""
    cache.set("key", value)
    found = cache.get("key", "none")
    assert found == value and type(found) is type(value)


def test_missing_value_is_the_default(cache: Cache) -> None:
    """None unless another is given; a None that was written is a value."""
    assert cache.get("key") is None
    assert cache.get("key", 7) == 7
    cache.set("key", None)
    assert cache.get("key", 7) is None


def test_many_are_read_at_once(cache: Cache) -> None:
    """Those that are there."""
    cache.set("a", 1)
    cache.set("ü", "two")
    assert cache.get_many(["a", "b", "ü", "a"]) == {"a": 1, "ü": "two"}
    assert cache.get_many([]) == {}


def test_value_ends_with_its_time(cache: Cache) -> None:
    """It is as if it had never been."""
    cache.set("short", 1, ttl=0.05)
    cache.set("long", 2, ttl=60)
    cache.set("ever", 3)
    wait_until(lambda: cache.get("short") is None, "the end of the value")
    assert cache.get_many(["short", "long", "ever"]) == {"long": 2, "ever": 3}
    assert not cache.delete("short")
    assert cache.add("short", 4)
    assert cache.get("short") == 4


def test_new_value_has_its_own_time(cache: Cache) -> None:
    """Not that of the value before."""
    cache.set("key", 1, ttl=0.05)
    cache.set("key", 2)
    cache.set("mark", 1, ttl=0.1)
    wait_until(lambda: cache.get("mark") is None, "the end of the mark")
    assert cache.get("key") == 2


@pytest.mark.parametrize("ttl", [0, -1])
def test_value_without_time_is_never_there(cache: Cache, ttl: float) -> None:
    """It removes the one before."""
    cache.set("key", 1)
    cache.set("key", 2, ttl=ttl)
    assert cache.get("key") is None
    assert not cache.add("key", 3, ttl=ttl)
    assert cache.get("key") is None
    cache.set("key", 1)
    assert cache.compare_and_set("key", 1, 2, ttl=ttl)
    assert cache.get("key") is None
    cache.set("key", 1)
    assert cache.touch("key", ttl=ttl)
    assert cache.get("key") is None


def test_time_may_be_without_end(cache: Cache) -> None:
    """As None; what is no number is refused."""
    cache.set("key", 1, ttl=math.inf)
    assert cache.get("key") == 1
    assert cache.touch("key", ttl=math.inf)
    assert cache.incr("number", ttl=math.inf) == 1
    with pytest.raises(ValueError, match="ttl"):
        cache.set("key", 1, ttl=math.nan)


def test_delete_tells_whether_there_was_one(cache: Cache) -> None:
    """And removes one alone."""
    cache.set("a", 1)
    cache.set("b", 2)
    assert cache.delete("a")
    assert not cache.delete("a")
    assert cache.get_many(["a", "b"]) == {"b": 2}


def test_add_writes_only_where_nothing_is(cache: Cache) -> None:
    """The first wins."""
    assert cache.add("key", 1)
    assert not cache.add("key", 2)
    assert cache.get("key") == 1


def test_compare_and_set_writes_only_over_what_is_expected(cache: Cache) -> None:
    """Equal values are the same, whatever order their keys have."""
    assert not cache.compare_and_set("key", None, 1)
    cache.set("key", {"a": 1, "b": 2})
    assert not cache.compare_and_set("key", {"a": 1}, 2)
    assert cache.compare_and_set("key", {"b": 2, "a": 1}, 3, ttl=0.05)
    assert cache.get("key") == 3
    wait_until(lambda: cache.get("key") is None, "the end of the value")
    assert not cache.compare_and_set("key", 3, 4)


def test_touch_gives_a_value_another_time(cache: Cache) -> None:
    """A longer one, a shorter one, or none."""
    assert not cache.touch("key", ttl=5)
    cache.set("key", "value", ttl=0.3)
    cache.set("mark", 1, ttl=0.3)
    assert cache.touch("key")
    wait_until(lambda: cache.get("mark") is None, "the end of the mark")
    assert cache.get("key") == "value"
    assert cache.touch("key", ttl=0.05)
    wait_until(lambda: cache.get("key") is None, "the end of the value")
    assert not cache.touch("key")


def test_number_is_added_to(cache: Cache) -> None:
    """From 0, or from what was written; it can be read as any value."""
    assert [cache.incr("n"), cache.incr("n", 5), cache.incr("n", -8)] == [1, 6, -2]
    assert cache.get("n") == -2
    cache.set("n", 40)
    assert cache.incr("n", 2) == 42
    assert cache.compare_and_set("n", 42, 1)


def test_time_of_a_number_counts_from_its_begin(cache: Cache) -> None:
    """So many in so long: what comes later does not make it longer."""
    cache.incr("n", ttl=0.1)

    def ended() -> bool:
        return cache.incr("n", ttl=60) == 1

    wait_until(ended, "the number's end", timeout_s=5)


@pytest.mark.parametrize("value", ["17", b"17", 1.0, True, None, [], "text"], ids=repr)
def test_only_a_number_is_added_to(cache: Cache, value: Any) -> None:
    """What is there stays."""
    cache.set("key", value)
    with pytest.raises(TypeError, match="no int"):
        cache.incr("key")
    assert cache.get("key") == value


def test_only_an_int_is_added(cache: Cache) -> None:
    """A fraction would be lost."""
    with pytest.raises(TypeError, match="int"):
        cache.incr("key", 0.5)  # type: ignore[arg-type]
    assert cache.get("key") is None


def test_clear_removes_what_begins_with_a_prefix(cache: Cache) -> None:
    """A prefix is no pattern."""
    for key in ("a:1", "a:2", "ab", "*:1", "[a]:1", "b\\:1", "ü"):
        cache.set(key, 1)
    assert cache.clear("a:") == 2
    assert cache.clear("*") == 1
    assert cache.clear("[a") == 1
    assert cache.clear("b\\") == 1
    assert cache.get_many(["a:1", "ab", "*:1", "ü"]) == {"ab": 1, "ü": 1}
    assert cache.clear() == 2
    assert cache.clear() == 0


def test_clear_removes_thousands(cache: Cache) -> None:
    """More than go into one answer."""
    for number in range(1500):
        cache.set(f"key:{number}", number)
    cache.set("other", 1)
    assert cache.clear("key:") == 1500
    assert cache.get("other") == 1


def test_clear_leaves_locks(cache: Cache) -> None:
    """Who has one relies on it."""
    with cache.lock("lock"):
        assert cache.clear() == 0
        with pytest.raises(TimeoutError), cache.lock("lock", timeout=0):
            pass


@pytest.mark.parametrize("key", ["", "x" * 500, "\0key"], ids=["empty", "long", "ours"])
def test_wrong_key_is_refused(cache: Cache, key: str) -> None:
    """Before anything is done."""
    for call in (cache.get, cache.delete, cache.incr, cache.touch):
        with pytest.raises(ValueError, match="no key"):
            call(key)
    with pytest.raises(ValueError, match="no key"):
        cache.set(key, 1)


@pytest.mark.parametrize("key", [7, b"key", None], ids=repr)
def test_key_of_another_type_is_refused(cache: Cache, key: Any) -> None:
    """A key is text."""
    with pytest.raises(TypeError, match="no key"):
        cache.get(key)
    with pytest.raises(TypeError, match="no key"):
        cache.set(key, 1)


def test_longest_key_may_be_locked(cache: Cache) -> None:
    """What is before it is accounted for."""
    key = "x" * 463
    assert cache.get_or_set(key, lambda: 5) == 5
    with cache.lock(key):
        assert cache.get(key) == 5


RECURSIVE: list[Any] = []
RECURSIVE.append(RECURSIVE)
DEEP: list[Any] = []
for _ in range(100_000):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    "value",
    [{1, 2}, object(), {"a": b""}, {("a",): 1}, [object()], RECURSIVE, DEEP, 10**5000, ["\ud800"]],
    ids=["set", "object", "bytes", "tuple", "inner", "recursive", "deep", "huge", "surrogate"],
)
def test_value_that_is_no_json_is_refused(cache: Cache, value: Any) -> None:
    """TypeError, and what was there stays."""
    cache.set("key", 1)
    with pytest.raises(TypeError):
        cache.set("key", value)
    assert cache.get("key") == 1


def test_pickle_only_when_asked_for(url: str, cache: Cache) -> None:
    """Who has not asked for it does not run what is in it."""
    pickling = connect(url, serializer="pickle")
    pickling.set("key", {1, 2})
    assert pickling.get("key") == {1, 2}
    with pytest.raises(CacheError, match="pickled"):
        cache.get("key")
    cache.set("key", [1])
    assert pickling.get("key") == [1]
    with pytest.raises(TypeError):
        pickling.set("key", lambda: None)


class Gone:
    """A class that the next version of an app has no more."""


def test_pickle_of_a_class_that_is_gone_is_told(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a reload the code may be another."""
    pickling = connect(url, serializer="pickle")
    pickling.set("key", Gone())
    monkeypatch.delattr(f"{__name__}.Gone")
    with pytest.raises(CacheError, match="makes no sense"):
        pickling.get("key")
    pickling.close()


def test_instances_do_not_see_each_other(
    url: str, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One store may have several, but for a folder, which is one instance's."""
    cache.set("key", 1)
    monkeypatch.setenv("SDCLUSTER_INSTANCE", "another")
    if is_embedded(url):
        with pytest.raises(CacheError, match="belongs to"):
            connect(url)
    else:
        other = connect(url)
        assert other.get("key") is None
        other.clear()
        assert cache.get("key") == 1


def test_several_of_one_process_are_one(url: str, cache: Cache) -> None:
    """One that is closed leaves the others alone, and may be used again."""
    other = connect(url)
    other.set("key", 1)
    assert cache.get("key") == 1
    other.close()
    assert cache.incr("key") == 2
    assert other.get("key") == 2


def test_module_is_the_cache_of_the_instance(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """SDCLUSTER_CACHE says where it is."""
    monkeypatch.setattr(module, "_default", None)
    monkeypatch.setenv("SDCLUSTER_CACHE", url)
    module.set("key", 1)
    assert module.incr("key") == 2
    with pytest.raises(AttributeError, match="nothing"):
        _ = module.nothing
    module.close()


def test_threads_share_it(cache: Cache) -> None:
    """None loses what another adds."""

    def add() -> None:
        for _ in range(200):
            cache.incr("n")

    threads = [threading.Thread(target=add) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cache.get("n") == 1600


# One for all.

MAKES = """
def make():
    cache.incr("made")
    done("making")
    wait_for("go")
    return {"by": os.getpid()}

done(f"ready{sys.argv[2]}")
wait_for("begin")
began = time.monotonic()
value = cache.get_or_set("key", make, lock_ttl=float(sys.argv[3]))
print(value["by"], time.monotonic() - began)
"""


def all_there(folder: Path, count: int) -> bool:
    """Tell whether so many processes are ready."""
    return all((folder / f"ready{number}").exists() for number in range(count))


def test_one_process_makes_it_and_the_others_wait(
    url: str, cache: Cache, tmp_path: Path, share: Share
) -> None:
    """Eight that ask at once have one value, that was made once."""
    sharers = [share(MAKES, url, str(number), "30") for number in range(8)]
    wait_until(lambda: all_there(tmp_path, 8), "eight processes")
    (tmp_path / "begin").touch()
    wait_until((tmp_path / "making").exists, "the one that makes it")
    (tmp_path / "go").touch()
    makers = {sharer.output().split()[0] for sharer in sharers}
    assert len(makers) == 1 and int(makers.pop()) in {sharer.pid for sharer in sharers}
    assert cache.get("made") == 1


STUCK = """
def make():
    print(os.getpid(), flush=True)
    done("stuck")
    signal.pause()

cache.get_or_set("key", make, lock_ttl=float(sys.argv[2]))
"""


def test_others_go_on_when_the_one_that_makes_it_dies(
    url: str, cache: Cache, tmp_path: Path, share: Share
) -> None:
    """At once on one machine, though nobody has reaped it; else when its time is over."""
    lock_ttl = 30.0 if is_embedded(url) else 1.0
    stuck = share(STUCK, url, str(lock_ttl))
    wait_until((tmp_path / "stuck").exists, "the one that makes it")
    sharers = [share(MAKES, url, str(number), str(lock_ttl)) for number in range(3)]
    wait_until(lambda: all_there(tmp_path, 3), "three processes")
    (tmp_path / "go").touch()
    os.kill(stuck.pid, 9)
    (tmp_path / "begin").touch()
    told = [sharer.output().split() for sharer in sharers]
    assert len({maker for maker, _ in told}) == 1
    assert max(float(waited_s) for _, waited_s in told) < 5
    assert cache.get("made") == 1


def test_next_one_tries_when_making_fails(cache: Cache) -> None:
    """The error is that of the one that made it; nobody waits for the lock's end."""

    def fail() -> None:
        raise OSError("no database")

    with pytest.raises(OSError, match="no database"):
        cache.get_or_set("key", fail)
    began = time.monotonic()
    assert cache.get_or_set("key", lambda: 5) == 5
    assert time.monotonic() - began < 5
    assert cache.get_or_set("key", fail) == 5


def test_none_is_a_value_that_is_made_once(cache: Cache) -> None:
    """And it has its time to live."""
    made: list[int] = []
    for _ in range(3):
        assert cache.get_or_set("key", lambda: made.append(1), ttl=60) is None
    assert made == [1]


def test_each_key_is_made_by_itself(cache: Cache) -> None:
    """The one may need the other."""
    assert cache.get_or_set("a", lambda: cache.get_or_set("b", lambda: 1) + 1) == 2


# Locks.

LOCKED = """
for _ in range(50):
    with cache.lock("lock"):
        number = int(open("number").read())
        open("number", "w").write(str(number + 1))
"""


def test_lock_is_had_by_one_process_at_a_time(url: str, tmp_path: Path, share: Share) -> None:
    """What is read and written under it is never in between."""
    (tmp_path / "number").write_text("0")
    for sharer in [share(LOCKED, url) for _ in range(4)]:
        sharer.output()
    assert (tmp_path / "number").read_text() == "200"


def test_lock_is_not_had_twice(cache: Cache) -> None:
    """Not within the time-out; afterwards it is free."""
    with cache.lock("lock"):
        began = time.monotonic()
        with pytest.raises(TimeoutError, match="'lock'"), cache.lock("lock", timeout=0.1):
            pass
        assert 0.1 <= time.monotonic() - began < 2
        with cache.lock("another", timeout=0):
            pass
    with cache.lock("lock", timeout=0):
        pass


def test_lock_is_let_go_when_the_body_fails(cache: Cache) -> None:
    """The error is the body's."""
    with pytest.raises(OSError, match="body"), cache.lock("lock"):
        raise OSError("body")
    with cache.lock("lock", timeout=0):
        pass


def test_lock_ends_with_its_time(cache: Cache) -> None:
    """Who had it can neither extend it nor release that of the next."""
    with cache.lock("lock", ttl=0.1) as first:
        with cache.lock("lock", ttl=30, timeout=10) as second:
            assert not first.extend()
            assert not first.release()
            assert second.extend()
            with pytest.raises(TimeoutError), cache.lock("lock", timeout=0):
                pass
        assert not second.release()


def test_lock_is_extended(cache: Cache) -> None:
    """By its whole time, from now on."""
    with cache.lock("lock", ttl=1.0) as lock:
        cache.set("mark", 1, ttl=1.2)

        def ended() -> bool:
            assert lock.extend()
            return cache.get("mark") is None

        wait_until(ended, "the end of the mark")
        with pytest.raises(TimeoutError), cache.lock("lock", timeout=0):
            pass


HOLDS = """
with cache.lock("lock", ttl=float(sys.argv[2])):
    done("held")
    signal.pause()
"""


def test_lock_of_a_dead_process_is_had_by_the_next(
    url: str, cache: Cache, tmp_path: Path, share: Share
) -> None:
    """At once on one machine; else when its time is over."""
    holder: Sharer = share(HOLDS, url, "60" if is_embedded(url) else "0.5")
    wait_until((tmp_path / "held").exists, "the lock")
    os.kill(holder.pid, 9)
    with cache.lock("lock", timeout=5):
        pass


# Coroutines.


def test_each_call_has_a_coroutine(cache: Cache) -> None:
    """They do the same."""

    async def use() -> None:
        await cache.aset("key", 1, ttl=60)
        assert await cache.aget("key") == 1
        assert await cache.aget("none", 5) == 5
        assert await cache.aget_many(["key", "none"]) == {"key": 1}
        assert not await cache.aadd("key", 2)
        assert await cache.acompare_and_set("key", 1, 2)
        assert await cache.aincr("key", 3) == 5
        assert await cache.atouch("key", ttl=60)
        assert await cache.adelete("key")
        await cache.aset("key", 1)
        assert await cache.aclear() == 1
        async with cache.alock("lock") as lock:
            assert lock.extend()
            with pytest.raises(TimeoutError):
                async with cache.alock("lock", timeout=0.05):
                    pass
        async with cache.alock("lock", timeout=0):
            pass

    asyncio.run(use())


def test_one_coroutine_makes_it_and_the_others_wait(cache: Cache) -> None:
    """The loop goes on meanwhile."""
    made: list[int] = []

    async def use() -> list[Any]:
        async def make() -> int:
            made.append(1)
            await asyncio.sleep(0.1)  # The time that making takes.
            return 5

        return await asyncio.gather(*(cache.aget_or_set("key", make) for _ in range(200)))

    assert asyncio.run(use()) == [5] * 200
    assert made == [1]


def test_next_coroutine_tries_when_making_fails(cache: Cache) -> None:
    """The error is that of one alone."""
    made: list[int] = []

    async def use() -> list[Any]:
        async def make() -> int:
            made.append(1)
            if len(made) == 1:
                raise OSError("no database")
            return 5

        calls = (cache.aget_or_set("key", make) for _ in range(5))
        return await asyncio.gather(*calls, return_exceptions=True)

    told = asyncio.run(use())
    assert sorted(map(str, told)) == ["5"] * 4 + ["no database"]
    assert len(made) == 2


def test_coroutine_that_is_cancelled_leaves_no_lock(cache: Cache) -> None:
    """Wherever it is: asking for the lock, or having it."""

    async def use() -> None:
        async def have() -> None:
            async with cache.alock("lock"):
                await asyncio.Event().wait()

        for turns in range(40):
            task = asyncio.create_task(have())
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        async with cache.alock("lock", timeout=5):
            pass

    asyncio.run(use())


def test_others_go_on_when_the_coroutine_that_makes_it_is_cancelled(cache: Cache) -> None:
    """At once: it lets the lock go."""

    async def use() -> None:
        begun = asyncio.Event()

        async def hang() -> None:
            begun.set()
            await asyncio.Event().wait()

        async def make() -> int:
            return 5

        hanging = asyncio.create_task(cache.aget_or_set("key", hang))
        await begun.wait()
        waiting = asyncio.create_task(cache.aget_or_set("key", make))
        hanging.cancel()
        assert await asyncio.wait_for(waiting, 5) == 5
        with pytest.raises(asyncio.CancelledError):
            await hanging

    asyncio.run(use())

"""The embedded cache: many processes, sudden deaths, limits, and folders that are not right."""

import contextlib
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Share
from processes import stop
from waiting import at_once, wait_until

from sdcluster.cache import Cache, CacheError, connect, embedded, entries
from sdcluster.cache.embedded import EmbeddedStore
from sdcluster.cache.entries import size_of

pytestmark = pytest.mark.usefixtures("one_name")

NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount and to be another")


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Return where a new cache is."""
    return f"lmdb://{tmp_path}/cache?size_mb=2"


@pytest.fixture
def cache(url: str) -> Iterator[Cache]:
    """Return an empty cache of 2 MB."""
    opened = connect(url)
    yield opened
    opened.close()


def files_bytes(folder: Path) -> int:
    """Return what the files of a cache take."""
    return sum(path.stat().st_blocks * 512 for path in folder.iterdir())


def limit(cache: Cache) -> int:
    """Return what entries may take."""
    store = cache._store
    assert isinstance(store, EmbeddedStore)
    return store._environment.limit


# Processes.

ADDS = """
for _ in range(int(sys.argv[2])):
    cache.incr("n")
"""


def test_processes_lose_no_increment(url: str, cache: Cache, share: Share) -> None:
    """Four that add to one number as fast as they can."""
    for sharer in [share(ADDS, url, "3000") for _ in range(4)]:
        sharer.output()
    assert cache.get("n") == 12000


WRITES = """
import random

number = 0
while True:
    number += 1
    cache.set(f"key{random.randrange(50)}", f"{number}:" + "x" * random.randrange(8000))
    cache.incr("n")
    cache.get_many([f"key{one}" for one in range(50)])
    if number == 20:
        done(f"writing{os.getpid()}")
"""


def test_writer_that_dies_blocks_nobody_and_damages_nothing(
    url: str, cache: Cache, tmp_path: Path, share: Share
) -> None:
    """SIGKILL at any moment: what it had begun was never there."""
    chance = random.Random(1)
    for _ in range(12):
        writers = [share(WRITES, url) for _ in range(2)]
        for writer in writers:
            wait_until((tmp_path / f"writing{writer.pid}").exists, "a writer")
        time.sleep(chance.uniform(0, 0.03))  # At any moment: this waits for nothing.
        for writer in writers:
            writer.kill()
        with at_once():
            # The first write sees to it that a last one that was complete is there for readers too.
            cache.set("mark", 1)
            before = cache.get("n")
            assert cache.incr("n") == before + 1
            for key, value in cache.get_many([f"key{one}" for one in range(50)]).items():
                number, _, text = value.partition(":")
                assert number.isdigit() and set(text) <= {"x"}, key
    assert cache.clear() > 1
    assert totals(cache) == 0


def totals(cache: Cache) -> int:
    """Return what the cache takes for the size of all that is in it."""
    store = cache._store
    assert isinstance(store, embedded.EmbeddedStore)
    return store._run(lambda transaction: entries.totals(transaction)[0], write=False)


def test_readers_that_die_do_not_fill_it(url: str, cache: Cache, share: Share) -> None:
    """What they were reading is free again, though nobody opens the cache anew."""
    read = """
store = cache._store
transaction = store._environment.get(id(store)).begin()
transaction.get(b"owner")
print("reading", flush=True)
signal.pause()
"""
    cache.set("key", 1)
    readers = [share(read, url) for _ in range(2)]
    for reader in readers:
        assert reader.process.stdout is not None
        assert reader.process.stdout.readline() == "reading\n"
        reader.kill()
    for number in range(200):
        cache.set(f"key{number % 20}", bytes(200_000 // 4))
    assert cache.get("key199") is None and cache.get("key19") is not None


def test_process_that_is_stopped_holds_up_nobody(url: str, cache: Cache, share: Share) -> None:
    """One that has used the cache and is in no call of it."""
    stopped = share('cache.incr("n"); print("used", flush=True); signal.pause()', url)
    assert stopped.process.stdout is not None
    assert stopped.process.stdout.readline() == "used\n"
    stop(stopped.pid)
    with at_once(20):
        for number in range(300):
            cache.set(f"key{number % 10}", bytes(100_000))
    assert files_bytes(Path(url[7:].partition("?")[0])) <= 2_000_000


FORKS = """
cache.set("key", "parent's")
assert cache.get("key") == "parent's"
children = []
for number in range(4):
    pid = os.fork()
    if pid == 0:
        assert cache.get("key") == "parent's"
        for _ in range(200):
            cache.incr("n")
        os._exit(0)
    children.append(pid)
for _ in range(200):
    cache.incr("n")
for pid in children:
    assert os.waitpid(pid, 0)[1] == 0
assert cache.get("key") == "parent's"
cache.incr("n", 5)
with cache.lock("lock", timeout=1):
    pid = os.fork()
    if pid == 0:
        grandchild = os.fork()
        if grandchild:
            os._exit(os.waitpid(grandchild, 0)[1])
        cache.incr("n", 5)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
print(cache.get("n"))
"""


def test_parent_and_children_go_on_after_a_fork(url: str, cache: Cache, share: Share) -> None:
    """Each opens the cache for itself; a child of a child too, that has not used it before."""
    assert share(FORKS, url).output() == "1010"
    assert cache.get("n") == 1010


def test_fork_may_come_from_a_process_with_threads(url: str, share: Share) -> None:
    """Whatever they were about to do with the cache."""
    code = """
import threading, warnings
warnings.simplefilter("ignore")
ended = threading.Event()
def use():
    while not ended.is_set():
        other = module.connect(sys.argv[1])
        other.incr("n")
        assert other.get("n") > 0
        other.close()
threads = [threading.Thread(target=use) for _ in range(3)]
for thread in threads:
    thread.start()
began = time.monotonic()
for _ in range(30):
    pid = os.fork()
    if pid == 0:
        signal.alarm(10)
        cache.incr("children")
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
assert time.monotonic() - began < 20, "a fork waits for long"
ended.set()
for thread in threads:
    thread.join()
print(cache.get("children"))
"""
    assert share(code, url).output(60) == "30"


def test_it_outlives_every_process(url: str, share: Share) -> None:
    """As long as its folder is there."""
    share('cache.set("key", {"a": 1})', url).output()
    assert share('print(cache.get("key"))', url).output() == "{'a': 1}"


def test_clock_of_times_to_live_is_one_that_nobody_sets(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A time of day that jumps ends nothing and prolongs nothing."""
    monkeypatch.setattr(time, "time", lambda: 0.0)
    cache.set("key", 1, ttl=60)
    monkeypatch.setattr(time, "time", lambda: 1e12)
    assert cache.get("key") == 1
    boot_s = time.clock_gettime(time.CLOCK_BOOTTIME)
    monkeypatch.setattr(time, "clock_gettime", lambda _clock: boot_s + 61)
    assert cache.get("key") is None


# The limit.


@pytest.mark.parametrize("seed", range(3))
def test_ten_times_the_limit_is_written(url: str, cache: Cache, seed: int) -> None:
    """Of values of all sizes, under few keys and many: it never fails, and stays in its limits."""
    chance = random.Random(seed)
    written = 0
    for number in range(100_000):
        size = int(10 ** chance.uniform(0, 5.3))
        ttl = chance.choice([None, None, 0.001, 60])
        cache.set(f"key{chance.choice([number, number % 7])}", bytes(size), ttl=ttl)
        written += size
        if number % 50 == 0:
            assert totals(cache) <= limit(cache)
        if written > 20_000_000:
            break
    assert written > 10_000_000
    assert files_bytes(Path(url[7:].partition("?")[0])) <= 2_000_000
    assert cache.clear() > 0
    assert totals(cache) == 0


SHAPES = {
    "tiny": "1",
    "just a page": "bytes(2100)",
    "ragged": "bytes(chance.choice([1, 1300, 2100, 9000, 40_000]))",
    "large": "bytes(chance.randrange(100_000, 249_000))",
}


@pytest.mark.parametrize("shape", SHAPES)
def test_size_is_the_most_that_all_files_take(
    url: str, cache: Cache, share: Share, shape: str
) -> None:
    """Whatever the values are like that several processes write and read at once."""
    code = f"""
chance = random.Random(int(sys.argv[2]))
end = time.monotonic() + 3
while time.monotonic() < end:
    for _ in range(20):
        key = f"key{{chance.randrange(100_000)}}"
        cache.set(key, {SHAPES[shape]}, ttl=chance.choice([None, None, 60]))
        cache.get(f"key{{chance.randrange(100_000)}}")
print("done")
"""
    folder = Path(url[7:].partition("?")[0])
    writers = [share(f"import random\n{code}", url, str(seed)) for seed in range(3)]
    largest = 0
    while any(one.process.poll() is None for one in writers):
        largest = max(largest, files_bytes(folder))
    assert [one.output() for one in writers] == ["done"] * 3
    assert largest <= 2_000_000
    assert totals(cache) > 0


def test_oldest_go_first(cache: Cache) -> None:
    """And no more than have to; who is written again is new."""
    keys = [f"key{number}" for number in range(limit(cache) // size_of(4, 100_001))]
    for key in keys:
        cache.set(key, bytes(100_000))
    assert len(cache.get_many(keys)) == len(keys)
    cache.set("key0", bytes(100_000))
    cache.set("new", bytes(150_000))
    there = cache.get_many(keys)
    assert sorted(there) in (sorted({*keys} - {"key1"}), sorted({*keys} - {"key1", "key2"}))


@pytest.mark.parametrize("seed", range(3))
def test_order_is_exact_whatever_is_written_over(cache: Cache, seed: int) -> None:
    """What is there is what a list of the writes says, as it fills and long after."""
    chance = random.Random(seed)
    written: dict[str, int] = {}  # The first is the oldest.
    for _ in range(3000):
        key = f"key{chance.randrange(400):03}"
        match chance.randrange(10):
            case 0:
                assert cache.delete(key) == (written.pop(key, None) is not None)
            case 1:
                assert cache.touch(key, ttl=chance.choice([None, 60])) == (key in written)
                if key in written:
                    written[key] = written.pop(key)
            case _:
                size = chance.randrange(8000)
                cache.set(key, bytes(size), ttl=chance.choice([None, 50, 60]))
                written.pop(key, None)
                written[key] = size
        while sum(size_of(len(one), size + 1) for one, size in written.items()) > limit(cache):
            del written[next(iter(written))]
    there = cache.get_many([f"key{number:03}" for number in range(400)])
    assert {key: len(value) for key, value in there.items()} == written


def test_end_that_is_put_off_or_brought_forward_is_kept(cache: Cache) -> None:
    """By a write over the value; what is over is removed, and nothing else."""
    for number in range(60):
        cache.set(f"later{number}", bytes(1000), ttl=0.05)
        cache.set(f"later{number}", 1, ttl=60)
        cache.set(f"never{number}", bytes(1000), ttl=0.05)
        cache.set(f"never{number}", 1)
    cache.set("mark", 1, ttl=0.05)
    before = totals(cache)
    for number in range(60):
        cache.set(f"sooner{number}", bytes(1000), ttl=60)
        cache.set(f"sooner{number}", bytes(1000), ttl=0.05)
    wait_until(lambda: cache.get("mark") is None, "the first end")

    def small() -> bool:
        cache.set("later0", 1, ttl=60)
        return totals(cache) < before

    wait_until(small, "the removal of what is over", timeout_s=5)
    keys = [f"{kind}{number}" for kind in ("later", "never") for number in range(60)]
    assert len(cache.get_many(keys)) == 120
    assert cache.clear() == 120
    assert totals(cache) == 0


def test_what_is_over_goes_before_what_is_not(cache: Cache) -> None:
    """Though it was written last."""
    for number in range(40):
        cache.set(f"old{number}", bytes(10_000))
    cache.set("short", bytes(200_000), ttl=0.05)
    cache.set("shorter", bytes(200_000), ttl=0.04)
    wait_until(lambda: cache.get("short") is None, "the end of the value")
    cache.set("new1", bytes(240_000))
    cache.set("new2", bytes(240_000))
    assert len(cache.get_many([f"old{number}" for number in range(40)])) == 40


def test_what_is_over_is_removed_by_the_writes_that_follow(cache: Cache) -> None:
    """Though there is room, and older values that stay."""
    for number in range(20):
        cache.set(f"old{number}", number)
    before = totals(cache)
    for number in range(50):
        cache.set(f"short{number}", bytes(1000), ttl=0.05)
    wait_until(lambda: cache.get("short49") is None, "the end of the values")

    def small() -> bool:
        cache.set("old0", 0)
        return totals(cache) == before

    wait_until(small, "their removal", timeout_s=5)


def test_lock_makes_no_room(cache: Cache) -> None:
    """Who has it relies on it, however much the others write."""
    with cache.lock("lock"):
        for number in range(30):
            cache.set(f"key{number}", bytes(200_000))
        with pytest.raises(TimeoutError), cache.lock("lock", timeout=0):
            pass


def test_value_that_is_too_large_is_told(cache: Cache) -> None:
    """With what is allowed; what was there stays."""
    cache.set("key", 1)
    most = limit(cache) // 4
    with pytest.raises(CacheError, match=rf"{most + 1} bytes; .* takes {most} at most"):
        cache.set("key", bytes(most))
    assert cache.get("key") == 1
    cache.set("key", bytes(most - 5000))


def test_first_who_opens_it_sets_the_size(tmp_path: Path, share: Share) -> None:
    """All processes have the same, also those of a reload that has another."""
    small = connect(f"lmdb://{tmp_path}/cache?size_mb=1")
    large = f"lmdb://{tmp_path}/cache?size_mb=50"
    told = share(
        """
try:
    cache.set("key", bytes(100_000))
except CacheError as error:
    print(error)
for number in range(5000):
    cache.set(f"key{number}", bytes(1000))
""",
        large,
    ).output()
    assert f"{limit(small) // 4} at most" in told
    assert small.get("key4999") == bytes(1000)
    small.close()


# Folders.


def test_folder_is_made(tmp_path: Path) -> None:
    """With those above it, and for its user alone."""
    cache = connect(f"lmdb://{tmp_path}/a%20b/c/cache")
    cache.set("key", 1)
    assert (tmp_path / "a b" / "c" / "cache").stat().st_mode & 0o777 == 0o700
    cache.close()


def test_path_of_a_file_is_told(tmp_path: Path) -> None:
    """At once."""
    (tmp_path / "file").touch()
    with pytest.raises(CacheError, match=rf"the cache in {tmp_path}/file: Not a directory$"):
        connect(f"lmdb://{tmp_path}/file")
    with pytest.raises(CacheError, match=r"Not a directory$"):
        connect(f"lmdb://{tmp_path}/file/cache")


def test_file_that_is_no_cache_is_told(tmp_path: Path) -> None:
    """It is left as it is."""
    (tmp_path / "data.mdb").write_bytes(b"no cache" * 2000)
    with pytest.raises(CacheError, match=f"the cache in {tmp_path}: "):
        connect(f"lmdb://{tmp_path}")
    assert (tmp_path / "data.mdb").read_bytes() == b"no cache" * 2000


@NEEDS_ROOT
def test_folder_that_is_not_writable_is_told(tmp_path: Path) -> None:
    """Another user's, who may write there, is refused by name."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == 0 and folder != Path("/tmp"):
            folder.chmod(folder.stat().st_mode | 0o055)
    (tmp_path / "theirs").mkdir()
    os.seteuid(12345)
    try:
        with pytest.raises(CacheError, match=f"in {tmp_path}/new: Permission denied$"):
            connect(f"lmdb://{tmp_path}/new")
        with pytest.raises(CacheError, match="it belongs to the user 0, and this process"):
            connect(f"lmdb://{tmp_path}/theirs")
    finally:
        os.seteuid(0)
    os.chown(tmp_path / "theirs", 12345, 12345)
    with pytest.raises(CacheError, match="it belongs to the user 12345"):
        connect(f"lmdb://{tmp_path}/theirs")
    assert not list((tmp_path / "theirs").iterdir())


def test_folder_of_another_instance_is_refused(
    url: str, share: Share, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says whose it is."""
    share("pass", url, env={"SDCLUSTER_INSTANCE": "shop"}).output()
    monkeypatch.setenv("SDCLUSTER_INSTANCE", "blog")
    with pytest.raises(CacheError, match="belongs to 'shop'; give 'blog' a folder of its own"):
        connect(url)
    monkeypatch.setenv("SDCLUSTER_INSTANCE", "shop")
    connect(url).close()


def test_two_instances_that_start_at_once_do_not_share_a_folder(
    url: str, tmp_path: Path, share: Share
) -> None:
    """One of them has it, and the others are told whose it is."""
    code = """
print(flush=True)
wait_for("go")
for _ in range(20):
    try:
        print(module.connect(sys.argv[2]).incr("n"))
    except CacheError as error:
        print(error)
"""
    names = ("shop", "blog", "wiki")
    elsewhere = f"lmdb://{tmp_path}/{{}}"
    sharers = [
        share(code, elsewhere.format(name), url, env={"SDCLUSTER_INSTANCE": name}) for name in names
    ]
    for sharer in sharers:
        assert sharer.process.stdout is not None and sharer.process.stdout.readline() == "\n"
    (tmp_path / "go").touch()
    outputs = {name: sharer.output() for name, sharer in zip(names, sharers, strict=True)}
    (owner,) = [name for name in names if outputs[name].splitlines()[0] == "1"]
    assert outputs.pop(owner).splitlines() == [str(number) for number in range(1, 21)]
    for name, output in outputs.items():
        line = f"the cache in {tmp_path}/cache belongs to {owner!r}; give {name!r} a folder"
        assert output.splitlines() == [f"{line} of its own"] * 20


def test_reboot_empties_it(url: str, tmp_path: Path, share: Share) -> None:
    """On a disk: the clock of times to live begins anew with the machine."""
    code = """
from sdcluster.cache import lmdb_environment
lmdb_environment.BOOT_ID = pathlib.Path("boot")
cache = module.connect(sys.argv[2])
print(cache.get("ended"), cache.get("ever"))
cache.set("ended", 1, ttl=60)
cache.set("ever", bytes(900))
"""
    elsewhere = f"lmdb://{tmp_path}/elsewhere"
    for boot, told in (("1", "None None"), ("1", f"1 {bytes(900)!r}"), ("2", "None None")):
        (tmp_path / "boot").write_text(boot)
        assert share(code, elsewhere, url).output() == told


def test_folder_of_another_version_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It could not be read."""
    with monkeypatch.context() as older:
        older.setattr("sdcluster.cache.lmdb_environment._LAYOUT", b"0")
        connect(url).close()
    # In this process the environment of before would be found again.
    monkeypatch.setattr("sdcluster.cache.lmdb_environment._environments", {})
    with pytest.raises(CacheError, match="another version's; stop who uses it and remove it"):
        connect(url)


FILLS = """
fill = pathlib.Path(sys.argv[2]) / "fill"

def fill_up():
    with fill.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            pass
"""


@NEEDS_ROOT
def test_full_file_system_is_told_and_works_again(tiny: Path, share: Share) -> None:
    """No error is another's than the cache's, and no signal ends the process."""
    code = f"""{FILLS}
for number in range(50):
    cache.set(f"key{{number}}", bytes(1000))
fill_up()
try:
    for number in range(1000):
        cache.set(f"more{{number}}", bytes(10_000))
except CacheError as error:
    print(error)
assert cache.get("key7") == bytes(1000)
fill.unlink()
cache.set("key", bytes(10_000))
assert cache.get("key") == bytes(10_000)
print(cache.incr("n"))
"""
    told = share(code, f"lmdb://{tiny}/cache?size_mb=20", str(tiny)).output()
    assert told == f"the cache in {tiny}/cache: No space left on device\n1"


@NEEDS_ROOT
@pytest.mark.parametrize("left", [0, 1, 10, 33, 34, 35, 36, 37, 38, 40])
def test_start_in_a_full_file_system_is_told_and_works_later(
    tiny: Path, share: Share, left: int
) -> None:
    """With so many pages left; nothing that was half made stands in the way."""
    code = f"""{FILLS}
fill_up()
os.truncate(fill, fill.stat().st_size - {left} * 4096)
url = sys.argv[3]
try:
    full = module.connect(url)
    for number in range(100):
        full.set("key", bytes(10_000))
        full.incr("n")
except CacheError as error:
    print(error)
fill.unlink()
later = module.connect(url)
later.set("key", bytes(10_000))
later.delete("n")
print(later.incr("n"))
"""
    elsewhere = f"lmdb://{tiny.parent}/elsewhere"
    told = share(code, elsewhere, str(tiny), f"lmdb://{tiny}/cache?size_mb=20").output()
    assert told == f"the cache in {tiny}/cache: No space left on device\n1"


@pytest.mark.parametrize(
    "url",
    [
        *("lmdb://folder/cache", "/folder", "folder", "lmdb:///f?size_mb=big", "lmdb:///f?size_mb"),
        *("lmdb:///f?size_mb=0", "lmdb:///f?size_mb=-1", "lmdb:///f?size_mb=nan", "lmdb:///f?mb=1"),
        *("lmdb:///f?size_mb=inf", "http://host", "redis://[", "redis://:secret@host:port"),
    ],
)
def test_url_that_is_wrong_is_told(url: str) -> None:
    """Without what is secret in it."""
    with pytest.raises(CacheError) as caught:
        connect(url)
    assert "secret" not in str(caught.value)


# The folder of one's own.


def test_own_folder_is_the_users_and_the_instances(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In memory, unless systemd has given one."""
    monkeypatch.setattr("sdcluster.cache.MEMORY", tmp_path)
    monkeypatch.setenv("SDCLUSTER_INSTANCE", "shop")
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    with contextlib.closing(connect()) as cache:
        cache.set("key", 1)
    assert (tmp_path / f"sdcluster-{os.geteuid()}" / "shop" / "data.mdb").exists()
    (tmp_path / "runtime").mkdir()
    monkeypatch.setenv("RUNTIME_DIRECTORY", f"{tmp_path}/runtime:/another")
    with contextlib.closing(connect("lmdb://?size_mb=1")) as cache:
        cache.set("key", 1)
    assert (tmp_path / "runtime" / "cache" / "data.mdb").exists()


@pytest.mark.parametrize("kind", ["open", "link", "file"])
def test_own_folder_that_others_may_change_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Where all may write, another may have made it before."""
    monkeypatch.setattr("sdcluster.cache.MEMORY", tmp_path)
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    folder = tmp_path / f"sdcluster-{os.geteuid()}"
    match kind:
        case "open":
            folder.mkdir()
            folder.chmod(0o777)
        case "link":
            (tmp_path / "elsewhere").mkdir(mode=0o700)
            folder.symlink_to(tmp_path / "elsewhere")
        case "file":
            folder.touch()
    with pytest.raises(CacheError, match=f"the cache in {folder}: "):
        connect()

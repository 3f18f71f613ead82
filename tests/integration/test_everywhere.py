"""Broadcasts to the workers of every machine: two instances of one name that share a Redis."""

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Play
from instance import Instance, wait_until
from stores import RedisServer
from web import fetch

APP = """
import json
import os

from sdcluster import cluster

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

@cluster.on_message
def hear(message):
    say("heard", cluster.worker.id, json.dumps(message))

async def app(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError
    try:
        word = scope["query_string"].decode()
        result = cluster.broadcast(eval(word) if word[0] == "'" else word, everywhere=True)
    except Exception as error:
        result = f"{type(error).__name__}: {error}"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps(result).encode()})
"""


def heard(instance: Instance, word: str) -> set[int]:
    """Return the workers that have heard a word."""
    found = re.findall(rf'^heard (\d+) "{word}"$', instance.log(), re.MULTILINE)
    return {int(worker) for worker in found}


def machine(folder: Path, url: str, *, name: str = "shop") -> Instance:
    """Start an instance that knows of no other, but for the Redis."""
    folder.mkdir()
    (folder / "run").mkdir()
    (folder / "app.py").write_text(APP)
    (folder / "shop.toml").write_text(f'app = "app:app"\nworkers = 2\ncache = "{url}"\n')
    words = ["run", "--name", name, "--config", "shop.toml", "--listen", "127.0.0.1:0"]
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(folder / "run")}
    command = [sys.executable, "-m", "sdcluster", *words]
    return Instance(command, name=name, cwd=folder, env=environment)


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    """Run a Redis of the test's own."""
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def machines(tmp_path: Path, redis: RedisServer) -> Iterator[list[Instance]]:
    """Start two instances of one name, and one of another."""
    names = ("shop", "shop", "other")
    started = [
        machine(tmp_path / f"machine{number}", redis.url, name=name)
        for number, name in enumerate(names)
    ]
    yield [one.wait_ready() for one in started]
    for one in started:
        one.end()
        print(f"--- log of {one.name}\n{one.log()}")


def say_until_heard(machines: list[Instance], word: str) -> None:
    """Broadcast from the first one until all workers of the first two have heard it."""

    def say() -> bool:
        assert json.loads(fetch(machines[0].address, f"/?{word}").body) is True
        return all(len(heard(one, word)) == 2 for one in machines[:2])

    wait_until(say, f"{word!r} is heard everywhere")


def test_broadcast_reaches_the_workers_of_every_machine(machines: list[Instance]) -> None:
    """Of that name: others are not told."""
    say_until_heard(machines, "hello")
    assert not heard(machines[2], "hello")


def test_each_worker_hears_it_once(machines: list[Instance]) -> None:
    """Those of the machine that it comes from as well."""
    say_until_heard(machines, "hello")
    fetch(machines[0].address, "/?once")
    fetch(machines[0].address, "/?last")
    wait_until(lambda: all(len(heard(one, "last")) == 2 for one in machines[:2]), "it is heard")
    for one in machines[:2]:
        assert len(re.findall(r'^heard \d+ "once"$', one.log(), re.MULTILINE)) == 2


def test_it_goes_on_when_redis_is_back(machines: list[Instance], redis: RedisServer) -> None:
    """What is sent meanwhile is dropped, which is logged once; nobody waits."""
    say_until_heard(machines, "before")
    redis.stop()
    for _ in range(3):
        assert json.loads(fetch(machines[0].address, "/?meanwhile").body) is True
    machines[1].wait_log("broadcasts of other machines do not arrive: ")
    redis.start()
    say_until_heard(machines, "after")


def test_each_outage_is_told(machines: list[Instance], redis: RedisServer) -> None:
    """Once by each worker, whether it sends or only hears."""
    say_until_heard(machines, "first")
    for outages in (1, 2):
        redis.stop()
        wait_until(
            lambda: (
                machines[1].log().count("broadcasts of other machines do not arrive: ")
                == 2 * outages
            ),
            f"outage {outages} is told by both workers",
        )
        redis.start()
        say_until_heard(machines, f"after {outages}".replace(" ", "-"))


def test_mistakes_are_named(machines: list[Instance]) -> None:
    """A message that is too large is an error at once."""
    answer = fetch(machines[0].address, "/?'x'*2000000").text
    assert answer == '"ClusterError: a message of 2000002 bytes; 1048576 are the most"'


def test_embedded_cache_knows_no_other_machine(tmp_path: Path) -> None:
    """The error says what to do."""
    instance = machine(tmp_path / "alone", f"lmdb://{tmp_path}/cache")
    try:
        answer = fetch(instance.wait_ready().address, "/?hello").text
    finally:
        instance.end()
    assert answer.startswith('"ClusterError: no other machine is known: the cache has to be in Re')


def test_program_of_the_library_tells_every_machine(play: Play, redis: RedisServer) -> None:
    """Its master and its workers may, and its workers hear."""
    source = """
if cluster.is_master:
    cluster.fork()

    @cluster.every(0.1)
    def tell():
        cluster.broadcast("from the master", everywhere=True)

    cluster.on("exit")(lambda worker, code, signal: say("exit", code))
    cluster.run()
else:
    heard = set()

    @cluster.on_message
    def hear(message):
        if message not in heard:
            heard.add(message)
            say("heard", message)
            cluster.broadcast("from a worker", everywhere=True)
        if len(heard) == 2:
            os._exit(0)

    time.sleep(60)
"""
    program = play(source, env={"SDCLUSTER_CACHE": redis.url})
    program.wait_log("exit 0\n")
    assert program.wait() == 0

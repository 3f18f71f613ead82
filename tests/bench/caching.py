"""What is measured of the shared cache: a call beside one of redis-py, and how often one computes.

Each function takes one round, of all contenders, and returns a sample of each. The calls of one
contender stand between those of the others: what disturbs the machine for a while disturbs all.
"""

import contextlib
import dataclasses
import itertools
import json
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import load
import redis
from instances import ServerFailed, running, wait_until
from measures import Sample
from options import Effort
from servers import SERVERS

from sdcluster.cache import connect

OURS = "sdcluster cache"
REDIS_UNIX = "redis-py, unix socket"
REDIS_TCP = "redis-py, loopback"

TTL_S = 60
KEYS = [f"user:{number}" for number in range(100)]
TEXT = bytes(range(128))
SESSION = {"id": 7, "name": "Ada Lovelace", "roles": ["admin", "user"], "csrf": "0123456789abcdef"}
SLICE_S = 0.05

WORKERS = 8
CLIENTS = 200
VALUE_TTL_S = 0.25
START_TIMEOUT_S = 10.0

Calls = Mapping[str, Callable[[str], object]]
"""What is called with a key, by the name of its figure."""


def calls(effort: Effort) -> dict[str, Sample]:
    """Calls a second of one process: bytes, and a session as JSON, which redis-py leaves to us."""
    with _folder() as folder, _redis(folder) as (unix, tcp):
        cache = connect(f"lmdb://{folder}/cache")
        contenders = {OURS: _ours(cache), REDIS_UNIX: _theirs(unix), REDIS_TCP: _theirs(tcp)}
        spent: dict[tuple[str, str], list[float]] = {}
        for _ in range(round(effort.load_s / SLICE_S)):
            for figure in contenders[OURS]:
                for contender, one in contenders.items():
                    count, seconds = _slice(one[figure])
                    total = spent.setdefault((contender, figure), [0.0, 0.0])
                    total[0] += count
                    total[1] += seconds
        cache.close()
    return {
        contender: Sample({figure: _rate(*spent[contender, figure]) for figure in one})
        for contender, one in contenders.items()
    }


def _rate(count: float, seconds: float) -> float:
    return count / seconds


def _slice(call: Callable[[str], object]) -> tuple[int, float]:
    """Call for a short while; return how often, and how long that took."""
    began = time.perf_counter()
    for count in itertools.count(1):
        for key in KEYS:
            call(key)
        seconds = time.perf_counter() - began
        if seconds > SLICE_S:
            return count * len(KEYS), seconds
    raise AssertionError("count never ends")


def _ours(cache: Any) -> Calls:
    return {
        "set": lambda key: cache.set(key, TEXT, ttl=TTL_S),
        "get": cache.get,
        "set JSON": lambda key: cache.set(key, SESSION, ttl=TTL_S),
        "get JSON": cache.get,
    }


def _theirs(client: Any) -> Calls:
    return {
        "set": lambda key: client.set(key, TEXT, ex=TTL_S),
        "get": client.get,
        "set JSON": lambda key: client.set(key, json.dumps(SESSION), ex=TTL_S),
        "get JSON": lambda key: json.loads(client.get(key)),
    }


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """Have a folder in memory, where the cache is by default."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="sdbench-", dir=memory if memory.is_dir() else None))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _redis(folder: Path) -> Iterator[tuple[Any, Any]]:
    """Run a Redis that keeps nothing; return a client for its socket and one for its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    command += ["--unixsocket", str(folder / "redis.sock"), "--dir", str(folder)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    unix = redis.Redis(unix_socket_path=str(folder / "redis.sock"))
    tcp = redis.Redis(port=port)

    def answers() -> bool:
        with contextlib.suppress(redis.ConnectionError):
            return bool(unix.ping() and tcp.ping())
        return False

    try:
        wait_until(answers, START_TIMEOUT_S, "redis-server does not answer")
        yield unix, tcp
    finally:
        unix.close()
        tcp.close()
        process.terminate()
        process.wait()


def once(effort: Effort) -> dict[str, Sample]:
    """How often a value is made that many clients of all workers want: once each time it ends."""
    server = next(one for one in SERVERS if one.name.startswith("sdcluster"))
    with _folder() as folder:
        environment = {**server.environment, "SDCLUSTER_CACHE": f"lmdb://{folder}/cache"}
        environment["VALUE_TTL_S"] = str(VALUE_TTL_S)
        server = dataclasses.replace(server, environment=environment)
        with running(server, workers=WORKERS, app="making_asgi:app") as instance:
            url = f"{instance.url}/value"
            with load.running(url, clients=CLIENTS, close=False) as result:
                time.sleep(effort.load_s)
            lines = (instance.home / "made").read_text().splitlines()
    if not lines:
        raise ServerFailed("the value was never made")
    made = sorted((float(began), float(ended)) for began, ended in map(str.split, lines))
    early = sum(began < ended + VALUE_TTL_S for (_, ended), (began, _) in itertools.pairwise(made))
    figures = {"requests": result.requests, "lost": result.lost, "made": len(made), "early": early}
    return {OURS: Sample({name: float(value) for name, value in figures.items()})}


ROUNDS: Mapping[str, Callable[[Effort], Mapping[str, Sample]]] = {
    "cache": calls,
    "get_or_set": once,
}
"""What takes one round, by the name of the measure."""

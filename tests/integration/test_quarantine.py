"""Requests that kill their worker, again and again: nobody else notices.

`SDCLUSTER_ATTACK_SECONDS` makes the attacks longer.
"""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import SCHEDULINGS, Start
from instance import Instance, wait_until
from web import dial, fetch

APP = """
import asyncio
import os

async def app(scope, receive, send):
    assert scope["type"] == "http"
    if scope["path"] == "/death":
        os._exit(7)
    if scope["path"] == "/slow-death":
        await asyncio.sleep(0.05)
        os._exit(7)
    if scope["path"] == "/bad" and scope["query_string"] == b"kill":
        os._exit(7)
    await asyncio.sleep(0.005)
    body = str(os.getpid()).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""
"""Some of its requests kill the worker; of the others, many are under way at a time."""

CONFIG = 'app = "app:app"\nworkers = 4\n'
ATTACK_S = float(os.environ.get("SDCLUSTER_ATTACK_SECONDS", "5"))


class Attack:
    """Requests of death, sent at a rate from a thread of its own; each on a new connection."""

    def __init__(self, address: str, target: str, *, method: str, per_second: float) -> None:
        self._address = address
        self._request = (
            f"{method} {target} HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n".encode()
        )
        self._interval_s = 1 / per_second
        self._ended = threading.Event()
        self._open: list[socket.socket] = []
        self.sent = 0

    def _run(self) -> None:
        while not self._ended.is_set():
            client = dial(self._address)
            client.sendall(self._request)
            self._open.append(client)
            self.sent += 1
            self._ended.wait(self._interval_s)

    @contextlib.contextmanager
    def under_way(self) -> Iterator["Attack"]:
        """Attack while the body runs."""
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            yield self
        finally:
            self._ended.set()
            thread.join()
            for client in self._open:
                client.close()


def is_whole(instance: Instance, workers: int = 4) -> bool:
    """Tell whether all workers serve that are wanted."""
    return int(instance.status()["ready"]) == workers


@pytest.mark.parametrize("per_second", [1, 10])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_attack_costs_nobody_else_a_request(
    start: Start, engine: str, method: str, per_second: int
) -> None:
    """64 clients, kept alive and connecting anew, get each answer; afterwards all workers serve."""
    instance = start(APP, config=CONFIG)
    attack = Attack(instance.address, "/death", method=method, per_second=per_second)
    with (
        instance.under_load(close=False, clients=32) as kept,
        instance.under_load(close=True, clients=32) as anew,
    ):
        with attack.under_way():
            wait_until(lambda: attack.sent >= ATTACK_S * per_second, "its end", 2 * ATTACK_S + 10)
        began = time.monotonic()
        wait_until(lambda: is_whole(instance), "all workers")
        whole_after_s = time.monotonic() - began
    assert (kept.lost, kept.errors) == (0, {}), engine
    assert (anew.lost, anew.errors) == (0, {}), engine
    assert whole_after_s <= 1


@pytest.mark.parametrize("scheduling", SCHEDULINGS)
def test_innocent_requests_beside_one_of_death_are_answered(start: Start, scheduling: str) -> None:
    """All that a worker was at work on when it died; the guilty one gets a 502."""
    instance = start(APP, config=f'{CONFIG}scheduling = "{scheduling}"\n')
    for _ in range(3):
        with ThreadPoolExecutor(41) as pool:
            innocent = [pool.submit(fetch, instance.address) for _ in range(20)]
            guilty = pool.submit(fetch, instance.address, "/slow-death")
            innocent += [pool.submit(fetch, instance.address) for _ in range(20)]
            assert [one.result().status for one in innocent] == [200] * 40
            assert guilty.result().status == 502


def test_next_requests_of_death_kill_no_other_worker(start: Start) -> None:
    """They go to the quarantine: the workers that serve the others are the same ever after."""
    instance = start(APP, config=CONFIG)
    assert fetch(instance.address, "/death").status == 502
    wait_until(lambda: is_whole(instance), "all workers")
    pids = [one["pid"] for one in instance.status()["workers"] if one["slot"] >= 0]
    for _ in range(5):
        assert fetch(instance.address, "/death?again").status == 502
        assert fetch(instance.address).status == 200
    assert [one["pid"] for one in instance.status()["workers"] if one["slot"] >= 0] == pids


def test_path_that_kills_only_now_and_then_is_served(start: Start) -> None:
    """Its innocent requests are answered, and go to all workers again after a few of them."""
    instance = start(APP, config=CONFIG)
    for _ in range(3):
        assert fetch(instance.address, "/bad?kill").status == 502
        served = {fetch(instance.address, "/bad?other").text for _ in range(40)}
        assert len(served) >= 4


HELD = """
import os
import time
from pathlib import Path

async def app(scope, receive, send):
    if scope["path"] == "/held":
        with Path("seen").open("a") as file:
            print(os.getpid(), file=file)
        while not Path("go").exists():
            time.sleep(0.01)
        os._exit(7)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"alive"})
"""
"""An app that dies of `/held` once there is the file `go`, and writes down who was given it."""


@pytest.mark.parametrize("address", ["127.0.0.1:0", "app.sock"])
def test_request_whose_client_has_gone_is_not_made_again(
    start: Start, tmp_path: Path, address: str
) -> None:
    """It would kill one more worker, for nobody."""
    listen = str(tmp_path / address) if address.endswith(".sock") else address
    instance = start(HELD, config=CONFIG, listen=listen)
    client = dial(instance.address)
    client.sendall(b"GET /held HTTP/1.1\r\nHost: test\r\n\r\n")
    seen = tmp_path / "seen"
    wait_until(lambda: seen.exists() and seen.read_text(), "the app has it")
    client.close()
    (tmp_path / "go").touch()
    instance.wait_log("which is dead")
    assert fetch(instance.address).text == "alive"
    assert fetch(instance.address, "/held").status == 502  # After what was to come before.
    assert len(seen.read_text().split()) == 2


LATE = """
import asyncio
import os
from pathlib import Path

async def app(scope, receive, send):
    if scope["query_string"] == b"late":
        Path("began").touch()
        await asyncio.sleep(0.3)
    if scope["query_string"] in (b"late", b"now"):
        os._exit(7)
    await asyncio.sleep(0.5)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"alive"})
"""
"""An app that dies of some requests, of one of them after a while."""


def test_request_that_is_still_at_work_is_alone_though_its_client_has_gone(
    start: Start, tmp_path: Path, engine: str
) -> None:
    """The next one of the quarantine does not go to its worker, which is about to die."""
    instance = start(LATE, config=CONFIG)
    assert fetch(instance.address, "/?now").status == 502
    with dial(instance.address) as client:
        client.sendall(b"GET /?late HTTP/1.1\r\nHost: test\r\n\r\n")
        wait_until((tmp_path / "began").exists, "the app has it")
    assert fetch(instance.address, "/?innocent").status == 200, engine

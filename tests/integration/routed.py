"""An app behind a router: what the tests of sticky sessions, sharding and proxies share."""

import random
import signal
from collections.abc import Mapping
from os import kill

from instance import Instance, wait_until
from web import Answer, Connection, fetch

__all__ = [
    "APP",
    "CONFIG",
    "cookie",
    "cookies",
    "replace_one",
    "slot_of",
    "with_cookie",
]

CONFIG = 'app = "app:app"\nworkers = 4\nscheduling = "{}"\n'

APP = """
import os
from urllib.parse import parse_qs

from sdcluster import cluster

def key(scope):
    if scope["path"] == "/fails":
        raise RuntimeError("no key for this")
    return scope["path"].encode() or None

async def app(scope, receive, send):
    slot = os.environ["SDCLUSTER_SLOT"]
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": slot})
        return
    assert scope["type"] == "http"
    size = 0
    while True:
        message = await receive()
        size += len(message.get("body", b""))
        if not message.get("more_body", False):
            break
    owned = [str(number) for number in range(64) if cluster.owns(f"key {number}")]
    body = f"{slot} {os.getpid()} {size} {cluster.owner('tom')} {','.join(owned)}".encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""
"""An app that answers with its slot and pid, how much was sent, and what belongs to whom."""


def slot_of(answer: Answer) -> int:
    """Return who has answered."""
    assert answer.status == 200
    return int(answer.text.split()[0])


def cookie(answer: Answer) -> str:
    """Return the cookie that was put in, as a client sends it back."""
    return answer.headers["set-cookie"].partition(";")[0]


def cookies(instance: Instance, headers: Mapping[str, str] | None = None) -> dict[int, str]:
    """Return the cookie of each slot, from clients that had none."""
    found: dict[int, str] = {}

    def ask() -> bool:
        answer = fetch(instance.address, headers=headers)
        found[slot_of(answer)] = cookie(answer)
        return len(found) == len(instance.status()["workers"])

    wait_until(ask, "an answer of each worker")
    return found


def with_cookie(client: Connection, value: str) -> Answer:
    """Send a request with a cookie."""
    return client.fetch(headers={"Cookie": f"other=1; {value}"})


def replace_one(instance: Instance) -> None:
    """Kill a worker, and wait until another serves in its place."""
    pid = random.choice(instance.worker_pids())
    kill(pid, signal.SIGKILL)

    def is_so() -> bool:
        pids = instance.worker_pids()
        return len(pids) == 4 and pid not in pids

    wait_until(is_so, "another worker serves")

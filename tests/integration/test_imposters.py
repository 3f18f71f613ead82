"""Workers that hand over connections that cannot be: they end, and others never hear of it."""

import re

import pytest
from conftest import Start
from instance import Instance, wait_until
from web import fetch, fetch_many

LIES = """
import os
import socket

from sdcluster.wire.channel import LEDGER, Handoff, encode_handoff, encode_kept

def sockets(kind):
    for name in os.listdir("/proc/self/fd"):
        try:
            found = socket.socket(fileno=os.dup(int(name)))
        except OSError:
            continue
        if found.type == kind and not found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            yield found

def client():
    return next(one for one in sockets(socket.SOCK_STREAM) if one.family == socket.AF_INET)

def elsewhere():
    listener = socket.create_server(("127.0.0.1", 0))
    return socket.create_connection(listener.getsockname())

def tell(data, *fds):
    channel = next(one for one in sockets(socket.SOCK_SEQPACKET) if one.family == socket.AF_UNIX)
    socket.send_fds(channel, [data], [fd.fileno() for fd in fds])

def hand(connection=None, **said):
    tell(encode_handoff(Handoff(**{"serial": 1, **said})), connection or client())

LIES = {
    "slot": lambda: hand(slot=2),
    "hops": lambda: hand(hops=2),
    "deaths": lambda: hand(deaths=200),
    "crashes": lambda: hand(crashes=1, deaths=1),
    "more-crashes-than-deaths": lambda: hand(crashes=1),
    "no-serial": lambda: hand(serial=0),
    "unread": lambda: hand(unanswered=b"GET / HTTP/1.1", consumed=1),
    "read": lambda: hand(unanswered=b"GET / HTTP/1.1", consumed=100_000),
    "written": lambda: hand(written=100_000),
    "refusal": lambda: hand(unanswered=b"x", consumed=1, refusal=503),
    "endless": lambda: hand(written=2**64 - 1),
    "proxied": lambda: hand(proxied=b"PROXY 192.0.2.1 port"),
    "elsewhere": lambda: hand(elsewhere()),
    "kept": lambda: tell(encode_kept([3]), client()),
    "ledger": lambda: tell(LEDGER, client()),
    "keeper": lambda: tell(b"X_KEEPER=%d" % os.getppid()),
    "own-keeper": lambda: tell(b"X_KEEPER=%d" % os.getpid()),
}

async def app(scope, receive, send):
    if scope["path"] != "/":
        LIES[scope["path"].strip("/")]()
    body = os.environ["SDCLUSTER_SLOT"].encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""
"""An app that says of the connection of a request what cannot be."""

CONFIG = 'app = "app:app"\nworkers = 2\nreload_probation_s = 0\n'
WAYS = (
    *("slot", "hops", "deaths", "crashes", "more-crashes-than-deaths", "no-serial"),
    *("refusal", "unread", "read", "written", "endless", "proxied", "elsewhere", "kept", "ledger"),
)


def ids(instance: Instance) -> dict[int, int]:
    """Return the id of the worker that serves in each slot."""
    workers = instance.status()["workers"]
    return {one["slot"]: one["worker"] for one in workers if one["state"] == "serving"}


@pytest.mark.parametrize("way", WAYS)
def test_worker_that_says_what_cannot_be_ends_and_its_sibling_hears_nothing(
    start: Start, way: str
) -> None:
    """The log says what it was; the sibling serves on, and has no connection more than before."""
    instance = start(LIES, config=CONFIG)
    before = ids(instance)
    slot = int(fetch(instance.address, f"/{way}").text)
    wait_until(lambda: ids(instance).get(slot, 0) > 2, "it is replaced")
    said = re.findall(r"worker (\d+) \(pid \d+\) broke the protocol: (.*)", instance.log())
    assert [int(worker) for worker, _ in said] == [before[slot]]
    assert {one.status for one in fetch_many(instance.address, 20)} == {200}
    assert ids(instance)[1 - slot] == before[1 - slot]
    instance.wait_status(
        lambda status: all(one["connections"] == 0 for one in status["workers"]),
        "nobody has a connection that is left",
    )
    assert "Traceback" not in instance.log()


@pytest.mark.parametrize("way", ["keeper", "own-keeper"])
def test_worker_that_names_a_keeper_that_is_none_of_its_is_replaced(start: Start, way: str) -> None:
    """It has named the one that it has; without one, the master would end another's process."""
    instance = start(LIES, config=f"{CONFIG}crash_recovery = false\n")
    before = ids(instance)
    slot = int(fetch(instance.address, f"/{way}").text)
    wait_until(lambda: ids(instance).get(slot, 0) > 2, "it is replaced")
    assert ids(instance)[1 - slot] == before[1 - slot]
    assert "is its keeper" in instance.log()

"""Descriptors whose close(2) takes long, sent by a worker wherever it can: the master goes on."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from conftest import Start
from instance import Instance, wait_until
from web import fetch

PROMPT_S = 3.0
"""What an answer of the master's takes at the most, on a machine that is busy."""

SENDS = """
import os
import socket
import struct

from sdcluster.wire.channel import LEDGER, Handoff, encode_handoff, encode_kept
from sdcluster.wire.messages import Frame, Kind, encode

LINGER_S = 12

def lingering(port):
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setblocking(False)
    try:
        while True:
            sock.send(bytes(65536))
    except BlockingIOError:
        pass
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, LINGER_S))
    return sock

def channel(kind):
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        try:
            found = socket.socket(fileno=os.dup(fd))
        except OSError:
            continue
        if found.family == socket.AF_UNIX and found.type == kind:
            creator = found.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 4)
            if struct.unpack("i", creator)[0] == os.getppid():
                return found
    raise RuntimeError("no channel")

def send(data, socks, kind=socket.SOCK_SEQPACKET):
    found = channel(kind)
    socket.send_fds(found, [data], [sock.fileno() for sock in socks])
    for sock in socks:
        sock.close()
    found.close()

def wrapped(sock):
    one, other = socket.socketpair()
    socket.send_fds(one, [b"x"], [sock.fileno()])
    one.close()
    sock.close()
    return other

def act(path, port):
    if path == "/notification":
        send(b"STATUS=hello", [lingering(port)])
    if path == "/junk":
        send(b"junk", [lingering(port) for _ in range(16)])
    if path == "/more":
        send(b"junk", [lingering(port)] * 40)
    if path == "/handoff":
        send(encode_handoff(Handoff(serial=1)), [lingering(port)])
    if path == "/kept":
        send(encode_kept([7]), [lingering(port)])
    if path == "/ledger":
        send(LEDGER, [lingering(port)])
    if path == "/within":
        send(b"STATUS=hello", [wrapped(lingering(port))])
    if path == "/message":
        frame = encode(Frame(Kind.MESSAGE, b"1", attached=1))
        send(frame, [lingering(port)], socket.SOCK_STREAM)
    if path == "/messages":
        frame = encode(Frame(Kind.MESSAGE, b"1", attached=1))
        send(frame, [lingering(port)] * 100, socket.SOCK_STREAM)
    if path == "/unread":
        for _ in range(3):
            send(b"STATUS=hello", [lingering(port)])
            send(encode(Frame(Kind.MESSAGE, b"1", attached=1)), [lingering(port)],
                 socket.SOCK_STREAM)
        os._exit(1)

async def app(scope, receive, send):
    act(scope["path"], int(scope["query_string"] or 0))
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"done"})
"""
"""An app that sends connections that linger: their peer, on the port named, reads nothing."""


@contextmanager
def deaf() -> Iterator[int]:
    """Listen on a port, and read nothing of what comes."""
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        yield listener.getsockname()[1]


def slowest_answer_s(instance: Instance, seconds: float) -> float:
    """Return how long the master took at the most to answer, within so many seconds."""
    slowest, end = 0.0, time.monotonic() + seconds
    while time.monotonic() < end:
        begun = time.monotonic()
        instance.status()
        slowest = max(slowest, time.monotonic() - begun)
    return slowest


WAYS = (
    *("notification", "junk", "more", "handoff", "kept", "ledger"),
    *("within", "message", "messages", "unread"),
)


@pytest.mark.parametrize("way", WAYS)
def test_master_does_not_wait_for_what_a_worker_sends_to_be_closed(start: Start, way: str) -> None:
    """Whatever it is sent with, and also when it is sent to nobody."""
    instance = start(SENDS, "--workers", "2")
    with deaf() as port:
        asking = threading.Thread(target=lambda: _ask(instance, f"/{way}?{port}"))
        asking.start()
        assert slowest_answer_s(instance, 2.0) < PROMPT_S
        asking.join()
    instance.wait_status(lambda status: status["ready"] == 2)
    wait_until(lambda: fetch(instance.address).status == 200, "it serves")


def _ask(instance: Instance, path: str) -> None:
    try:
        fetch(instance.address, path)
    except OSError:
        pass  # That worker has ended.

"""Connections that go to another worker: their clients see nothing of it."""

import signal
import socket
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from conftest import HELLO, SCHEDULED, SCHEDULINGS, Start
from control import reloading
from instance import Instance, sdcluster, wait_until
from web import Connection, connection, dial

SLOW = """
import asyncio
import os

async def app(scope, receive, send):
    assert scope["type"] == "http"
    if scope["path"] == "/slow":
        open("begun", "w").close()
        while not os.path.exists("go"):
            await asyncio.sleep(0.01)
    size = 0
    while True:
        message = await receive()
        size += len(message.get("body", b""))
        if not message.get("more_body", False):
            break
    body = f"{os.getpid()} {size} {scope['client']}".encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""
"""An app that answers with its pid and the size of what was sent to it; /slow waits."""


def open_in(instance: Instance) -> int:
    """Return how many connections its workers have open."""
    return sum(int(one["connections"]) for one in instance.status()["workers"])


@pytest.mark.parametrize("scheduling", SCHEDULINGS)
def test_clients_that_never_reconnect_live_through_reloads(
    start: Start, engine: str, scheduling: str
) -> None:
    """No close, no reset, no `Connection: close`: there are as many connections as clients."""
    instance = start(HELLO, config=SCHEDULED.format(scheduling))
    with instance.under_load(close=False, clients=16) as load, reloading(instance) as reloads:
        wait_until(lambda: len(reloads) >= 5, "five reloads")
    assert load.requests > 500
    assert load.lost == 0, load.errors
    assert load.connections == 16, engine


@pytest.mark.parametrize("listen", ["[::1]:0", "unix"])
@pytest.mark.parametrize("scheduling", SCHEDULINGS)
def test_connections_of_every_kind_of_socket_move(
    start: Start, tmp_path: Path, scheduling: str, listen: str
) -> None:
    """IPv6 and Unix sockets as well."""
    if listen == "unix":
        if scheduling == "reuseport":
            pytest.skip("Unix sockets have no SO_REUSEPORT")
        listen = str(tmp_path / "sock")
    instance = start(HELLO, "--listen", listen, config=SCHEDULED.format(scheduling))
    with instance.under_load(close=False, clients=8) as load, reloading(instance) as reloads:
        wait_until(lambda: len(reloads) >= 3, "three reloads")
    assert load.lost == 0, load.errors
    assert load.connections == 8


@pytest.mark.parametrize("scheduling", SCHEDULINGS)
def test_idle_connections_move_at_once(start: Start, engine: str, scheduling: str) -> None:
    """The worker that leaves does not wait for their next request; nor do they end."""
    instance = start(HELLO, config=SCHEDULED.format(scheduling))
    with ExitStack() as stack:
        clients = [stack.enter_context(connection(instance.address)) for _ in range(32)]
        before = {client.fetch().text.split()[1] for client in clients}
        sockets = [client.sock for client in clients]
        assert instance.reload().returncode == 0
        wait_until(
            lambda: {one["generation"] for one in instance.status()["workers"]} == {2},
            "the old workers are gone",
        )
        after = [client.fetch() for client in clients]
        assert [client.sock for client in clients] == sockets, engine
    assert not before & {answer.text.split()[1] for answer in after}
    assert all("connection" not in answer.headers for answer in after)


def test_a_connection_that_has_had_no_request_moves(start: Start) -> None:
    """It may be of a browser that connects ahead."""
    instance = start(HELLO, config=SCHEDULED.format("round-robin"))
    with dial(instance.address) as early:
        wait_until(lambda: open_in(instance) == 1, "it is open")
        assert instance.reload().returncode == 0
        wait_until(lambda: len(instance.status()["workers"]) == 2, "the old workers are gone")
        early.sendall(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        assert early.recv(1000).startswith(b"HTTP/1.1 200 ")


def test_half_a_request_moves(start: Start, engine: str) -> None:
    """The worker that leaves gives what it has read along."""
    instance = start(SLOW, config=SCHEDULED.format("round-robin"))
    with dial(instance.address) as client:
        client.sendall(b"GET /x HTTP/1.1\r\nHo")
        wait_until(lambda: open_in(instance) == 1, "it is open")
        old = instance.worker_pids()
        assert instance.reload().returncode == 0
        wait_until(lambda: len(instance.status()["workers"]) == 2, "the old workers are gone")
        client.sendall(b"st: test\r\n\r\n")
        answer = client.recv(1000)
    assert answer.startswith(b"HTTP/1.1 200 "), engine
    assert int(answer.partition(b"\r\n\r\n")[2].split()[0]) not in old


def test_a_request_under_way_is_answered_first(start: Start, tmp_path: Path, engine: str) -> None:
    """Then its connection moves, and the next request is answered by a new worker."""
    instance = start(SLOW, config=SCHEDULED.format("round-robin"))
    with dial(instance.address) as client:
        client.sendall(b"GET /slow HTTP/1.1\r\nHost: test\r\n\r\n")
        wait_until((tmp_path / "begun").exists, "the request has begun")
        old = instance.worker_pids()
        command = instance.begin_reload()
        wait_until(lambda: instance.log().count(" is retired: reload") >= 1, "one leaves")
        (tmp_path / "go").touch()
        first = client.recv(1000)
        assert first.startswith(b"HTTP/1.1 200 ")
        assert b"connection" not in first.lower()
        assert command.wait(20) == 0
        wait_until(lambda: len(instance.status()["workers"]) == 2, "the old workers are gone")
        client.sendall(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        second = client.recv(1000)
    pids = [int(answer.partition(b"\r\n\r\n")[2].split()[0]) for answer in (first, second)]
    assert pids[0] in old, engine
    assert pids[1] not in old


@pytest.mark.parametrize("count", [2, 5])
def test_pipelined_requests_are_answered_in_order_and_then_move(
    start: Start, tmp_path: Path, engine: str, count: int
) -> None:
    """They do not move before, as where one ends and the next begins is the engine's secret."""
    instance = start(SLOW, config=SCHEDULED.format("round-robin"))
    with dial(instance.address) as client, client.makefile("rb") as answers:
        request = b"POST /slow HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n"
        client.sendall(b"".join(request % n + b"x" * n for n in range(count)))
        wait_until((tmp_path / "begun").exists, "the first has begun")
        old = instance.worker_pids()
        command = instance.begin_reload()
        wait_until(lambda: instance.log().count(" is retired: reload") >= 1, "one leaves")
        (tmp_path / "go").touch()

        def read() -> list[str]:
            while line := answers.readline().strip():
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            return answers.read(length).decode().split()

        assert [read()[1] for _ in range(count)] == [str(n) for n in range(count)], engine
        assert command.wait(20) == 0
        wait_until(lambda: len(instance.status()["workers"]) == 2, "the old workers are gone")
        client.sendall(request % 7 + b"x" * 7)
        pid, size, *_ = read()
    assert size == "7"
    assert int(pid) not in old


def test_connections_move_when_the_cluster_shrinks(start: Start, engine: str) -> None:
    """Those of the slot that goes are served by the slot that stays."""
    instance = start(HELLO, config=SCHEDULED.format("round-robin"))
    with instance.under_load(close=False, clients=8) as load:
        for workers in ("1", "3", "1"):
            assert sdcluster("scale", instance.name, workers).returncode == 0
            wait_until(
                lambda workers=workers: len(instance.status()["workers"]) == int(workers),  # type: ignore[misc]
                "it is scaled",
            )
    assert load.lost == 0, load.errors
    assert load.connections == 8, engine


@pytest.mark.parametrize("scheduling", SCHEDULINGS)
def test_connections_move_when_a_worker_is_recycled(start: Start, scheduling: str) -> None:
    """Again and again, for `max_requests`."""
    instance = start(HELLO, config=SCHEDULED.format(scheduling) + "max_requests = 500\n")
    with instance.under_load(close=False, clients=8) as load:
        wait_until(lambda: instance.log().count(" is retired: ") >= 6, "six are recycled")
    assert load.lost == 0, load.errors
    assert load.connections == 8


def test_a_handed_over_connection_that_stays_idle_ends_in_time(start: Start) -> None:
    """The keep-alive time-out goes on in the new worker: nobody holds a connection for ever."""
    instance = start(HELLO, config=SCHEDULED.format("round-robin"))
    with connection(instance.address) as client:
        client.fetch()
        assert instance.reload().returncode == 0
        assert client.sock is not None
        began = time.monotonic()
        assert client.sock.recv(1) == b""
        assert 3 < time.monotonic() - began < 10


def test_a_stop_tells_kept_alive_clients(start: Start) -> None:
    """There is nobody to hand them to: each gets its answer, and is told that it is the last."""
    instance = start(SLOW, config=SCHEDULED.format("round-robin"))
    client = Connection(instance.address)
    client.connect()
    client.fetch()
    instance.signal(signal.SIGTERM)
    wait_until(lambda: " is retired: stop" in instance.log(), "they leave")
    assert client.fetch().headers["connection"] == "close"
    assert instance.wait() == 0
    client.close()


def test_nobody_hears_of_a_client_that_has_gone(start: Start) -> None:
    """Its connection may be on its way at that moment."""
    instance = start(HELLO, config=SCHEDULED.format("round-robin"))
    with reloading(instance) as reloads:
        while len(reloads) < 3:
            with connection(instance.address) as client:
                client.fetch()
                assert client.sock is not None
                client.sock.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0"
                )  # A reset.
    wait_until(lambda: open_in(instance) == 0, "none is left")
    assert "Traceback" not in instance.log()

"""The PROXY protocol: the client is who the proxy says, wherever its connection goes."""

import os
import re
import signal
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import pytest
from conftest import SCHEDULINGS, Start
from control import reloading
from instance import Instance, wait_until
from web import Answer, Connection, dial, fetch, is_read

from sdcluster.wire.proxy_protocol import SIGNATURE
from sdcluster.wire.rendezvous import owner

CONFIG = 'app = "app:app"\nworkers = 2\nscheduling = "{}"\nproxy_protocol = true\n'
CLIENT = "192.0.2.7"
PORT = 4711
LINE = b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 80\r\n"
REQUEST = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"

APP = """
import asyncio
import os

async def app(scope, receive, send):
    client = " ".join(map(str, scope["client"] or ()))
    told = f"{os.environ['SDCLUSTER_SLOT']} {os.getpid()} {client}"
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": told})
        return
    assert scope["type"] == "http"
    if scope["path"] == "/slow" and not os.path.exists("go"):
        open("begun", "a").write(f"{os.getpid()}\\n")
        while not os.path.exists("go"):
            await asyncio.sleep(0.01)
    headers = [(b"content-length", str(len(told)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": told.encode()})
"""
"""An app that answers with its slot, its pid, and who the client is; /slow waits."""


def binary(client: str, *, command: int = 0x21, rest: bytes = b"") -> bytes:
    """Return a header of version 2."""
    addresses = socket.inet_aton(client) + socket.inet_aton("198.51.100.1")
    told = addresses + PORT.to_bytes(2, "big") + (80).to_bytes(2, "big") + rest
    return SIGNATURE + bytes([command, 0x11]) + len(told).to_bytes(2, "big") + told


TLV = b"\x04\x01\x2c" + bytes(300)
"""Of the type that is to be ignored: PP2_TYPE_NOOP."""

HEADERS = {"v1": LINE, "v2": binary(CLIENT), "v2 with a TLV": binary(CLIENT, rest=TLV)}


class Proxied(Connection):
    """A kept-alive connection that a proxy has opened for a client."""

    def __init__(self, address: str, header: bytes) -> None:
        super().__init__(address)
        self._header = header

    def connect(self) -> None:
        """Connect, and say for whom."""
        super().connect()
        self.sock.sendall(self._header)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def client_of(answer: Answer) -> tuple[str, int]:
    """Return who the client is to the app."""
    assert answer.status == 200
    host, port = answer.text.split()[2:]
    return host, int(port)


def answer_of(client: socket.socket) -> list[str]:
    """Return the words of the next answer on a connection."""
    received = b""
    while not re.search(rb"\r\n\r\n-?\d+ \d+ .* \d+$", received):
        part = client.recv(10_000)
        assert part, received
        received += part
    assert received.startswith(b"HTTP/1.1 200 ")
    return received.partition(b"\r\n\r\n")[2].decode().split()


def open_in(instance: Instance) -> list[int]:
    """Return the pids of the workers that have connections open."""
    workers = instance.status()["workers"]
    return [one["pid"] for one in workers if one["connections"]]


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("scheduling", SCHEDULINGS)
def test_client_is_whom_the_header_names(
    start: Start, engine: str, scheduling: str, header: str
) -> None:
    """For each request of the connection."""
    instance = start(APP, config=CONFIG.format(scheduling))
    with Proxied(instance.address, HEADERS[header]) as client:
        for _ in range(3):
            assert client_of(client.fetch()) == (CLIENT, PORT), engine


@pytest.mark.parametrize("header", HEADERS)
def test_header_may_come_in_pieces(start: Start, engine: str, header: str) -> None:
    """Byte by byte, or with the request."""
    instance = start(APP, config=CONFIG.format("round-robin"))
    data = HEADERS[header]
    with dial(instance.address) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(len(data)):
            client.sendall(data[at : at + 1])
            wait_until(is_read(client), "it is read")
        client.sendall(REQUEST)
        assert answer_of(client)[2:] == [CLIENT, str(PORT)], engine
    with dial(instance.address) as client:
        client.sendall(data + REQUEST)
        assert answer_of(client)[2:] == [CLIENT, str(PORT)], engine


@pytest.mark.parametrize(
    "header", [b"PROXY UNKNOWN\r\n", binary(CLIENT, command=0x20)], ids=["v1", "v2"]
)
def test_proxy_may_speak_for_itself(start: Start, header: bytes) -> None:
    """As in its health checks: the client is the proxy then."""
    instance = start(APP, config=CONFIG.format("round-robin"))
    with Proxied(instance.address, header) as client:
        answer = client.fetch()
        assert client_of(answer) == client.sock.getsockname()
        assert instance.reload().returncode == 0
        assert client_of(client.fetch()) == client_of(answer)


@pytest.mark.parametrize("data", [REQUEST, b"PROXY TCP4 nonsense\r\n", SIGNATURE + bytes(100)])
def test_proxy_that_says_nothing_right_is_closed(start: Start, data: bytes) -> None:
    """The log says who it was, and what it has sent; no app sees the request."""
    instance = start(APP, config=CONFIG.format("round-robin"))
    with dial(instance.address) as client:
        client.sendall(data)
        assert client.recv(100) == b""
        log = instance.wait_log("it has no header of the PROXY protocol")
        assert f"('127.0.0.1', {client.getsockname()[1]}) is closed" in log


def test_who_is_no_proxy_cannot_say_who_he_is(start: Start) -> None:
    """What he sends is taken as it is: a request is served, and a header is none."""
    config = CONFIG.format("round-robin") + 'proxy_allow_ips = ["10.0.0.0/8", "unix"]\n'
    instance = start(APP, config=config)
    assert client_of(fetch(instance.address))[0] == "127.0.0.1"
    for header in HEADERS.values():
        with dial(instance.address) as client:
            client.sendall(header + REQUEST)
            assert client.recv(1000).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("scheduling", ["round-robin", "shared"])
def test_proxy_may_come_over_a_unix_socket(
    start: Start, tmp_path: Path, engine: str, scheduling: str
) -> None:
    """And its connections go to other workers as all do."""
    path = str(tmp_path / "sock")
    instance = start(APP, "--listen", path, config=CONFIG.format(scheduling))
    with ExitStack() as stack:
        clients = [
            stack.enter_context(Proxied(path, header))
            for header in HEADERS.values()
            for _ in range(4)
        ]
        for client in clients:
            assert client_of(client.fetch()) == (CLIENT, PORT), engine
        sockets = [client.sock for client in clients]
        assert instance.reload().returncode == 0
        for pid in instance.worker_pids():
            os.kill(pid, signal.SIGKILL)
        for client in clients:
            assert client_of(client.fetch()) == (CLIENT, PORT), engine
        assert [client.sock for client in clients] == sockets


@pytest.mark.parametrize("scheduling", SCHEDULINGS)
def test_header_is_known_to_the_next_worker(start: Start, engine: str, scheduling: str) -> None:
    """At reloads; nothing is lost, and nobody takes another's name."""
    instance = start(APP, config=CONFIG.format(scheduling) + "reload_probation_s = 0.05\n")
    with ExitStack() as stack:
        clients = [
            stack.enter_context(Proxied(instance.address, binary(f"192.0.2.{number}")))
            for number in range(24)
        ]
        for client in clients:
            client.fetch()
        sockets = [client.sock for client in clients]
        with reloading(instance) as reloads:
            while len(reloads) < 3:
                for number, client in enumerate(clients):
                    assert client_of(client.fetch()) == (f"192.0.2.{number}", PORT), engine
        assert [client.sock for client in clients] == sockets


@pytest.mark.parametrize("header", HEADERS)
def test_half_a_header_goes_to_the_next_worker(start: Start, header: str) -> None:
    """With a reload, and with a crash: no app has seen anything of it."""
    instance = start(APP, config=CONFIG.format("round-robin"))
    data = HEADERS[header]
    with dial(instance.address) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.sendall(data[:8])
        wait_until(lambda: open_in(instance) and is_read(client)(), "it is read")
        assert instance.reload().returncode == 0
        wait_until(lambda: len(instance.status()["workers"]) == 2, "the old workers are gone")
        client.sendall(data[8:20])
        wait_until(is_read(client), "it is read")
        for _ in range(2):
            (pid,) = wait_until(lambda: open_in(instance), "a worker has it")
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda: open_in(instance) not in ([], [pid]), "another has it")
        client.sendall(data[20:] + REQUEST)
        assert answer_of(client)[2:] == [CLIENT, str(PORT)]


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("scheduling", SCHEDULINGS)
def test_request_of_a_dead_worker_is_made_again_by_the_same_client(
    start: Start, tmp_path: Path, engine: str, scheduling: str, header: str
) -> None:
    """Whether it came with the header or after it."""
    instance = start(APP, config=CONFIG.format(scheduling))
    slow = b"GET /slow HTTP/1.1\r\nHost: test\r\n\r\n"
    begun = tmp_path / "begun"
    with dial(instance.address) as first, dial(instance.address) as second:
        first.sendall(HEADERS[header] + slow)
        second.sendall(HEADERS[header])
        wait_until(is_read(second), "it is read")
        second.sendall(slow)
        wait_until(lambda: begun.exists() and begun.read_text().count("\n") == 2, "two requests")
        old = {*begun.read_text().split()}
        for pid in old:
            os.kill(int(pid), signal.SIGKILL)
        wait_until(lambda: begun.read_text().count("\n") == 4, "the same again")
        (tmp_path / "go").touch()
        for client in (first, second):
            words = answer_of(client)
            assert words[1] not in old
            assert words[2:] == [CLIENT, str(PORT)], engine
            client.sendall(REQUEST)
            assert answer_of(client)[2:] == [CLIENT, str(PORT)], engine


@pytest.mark.parametrize("header", HEADERS)
def test_websocket_has_the_client_that_the_header_names(start: Start, header: str) -> None:
    """Although the engine asks the transport for it."""
    from websockets.sync.client import connect

    instance = start(APP, config=CONFIG.format("round-robin"))
    with dial(instance.address) as sock:
        sock.sendall(HEADERS[header])
        with connect(f"ws://{instance.address}/", sock=sock) as client:
            assert str(client.recv()).split()[2:] == [CLIENT, str(PORT)]


@pytest.mark.parametrize("scheduling", SCHEDULINGS)
def test_client_is_kept_with_its_worker(start: Start, engine: str, scheduling: str) -> None:
    """By the address that the proxy tells; its own would be the same for all."""
    config = CONFIG.format(scheduling).replace("workers = 2", "workers = 4")
    instance = start(APP, config=config + 'sticky = "client-ip"\n')
    for number in range(24):
        address = f"192.0.2.{number}"
        with Proxied(instance.address, binary(address)) as client:
            for _ in range(2):
                answer = client.fetch()
                assert int(answer.text.split()[0]) == owner(address, 4), engine
                assert client_of(answer) == (address, PORT)

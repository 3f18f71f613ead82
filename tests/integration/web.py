"""A small HTTP client for TCP and Unix sockets: one request at a time, or many at once."""

import contextlib
import fcntl
import socket
import struct
import sys
import termios
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

from instance import Instance, wait_until

TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Answer:
    """A response; the names of its headers are lower-case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body as text, without white space around it."""
        return self.body.decode().strip()


def dial(address: str, timeout_s: float = TIMEOUT_S) -> socket.socket:
    """Connect to an address as the master prints it: HOST:PORT, [IPV6]:PORT, /PATH, @ABSTRACT."""
    if address.startswith(("/", "@")):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(timeout_s)
        sock.connect(address.replace("@", "\0", 1) if address.startswith("@") else address)
        return sock
    host, _, port = address.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), timeout_s)


def backlog(listener: socket.socket) -> tuple[int, int]:
    """Return how many connections wait in a TCP socket's backlog, and how many may. tcp(7)."""
    info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    waiting, limit = struct.unpack_from("2I", info, 8 + 4 * 4)
    return waiting, limit


def is_read(client: socket.socket) -> Callable[[], bool]:
    """Return what tells whether the server has read all that was sent.

    What has come is acknowledged: tcp(7), SIOCOUTQ. What of it is unread has proc(5), net/tcp.
    """
    ports = tuple(f":{name[1]:04X}" for name in (client.getpeername(), client.getsockname()))

    def look() -> bool:
        if int.from_bytes(fcntl.ioctl(client, termios.TIOCOUTQ, bytes(4)), sys.byteorder):
            return False
        lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
        # Another connection, to another server, may have the client's port as well.
        found = [line[4] for line in lines if (line[1][-5:], line[2][-5:]) == ports]
        return bool(found) and all(rest.endswith(":00000000") for rest in found)

    return look


class Connection(HTTPConnection):
    """A kept-alive connection."""

    def __init__(self, address: str, timeout_s: float = TIMEOUT_S) -> None:
        super().__init__("test", timeout=timeout_s)
        self._address = address
        self._timeout_s = timeout_s

    def connect(self) -> None:
        """Connect to the address, whatever its kind."""
        self.sock = dial(self._address, self._timeout_s)

    def fetch(
        self,
        target: str = "/",
        *,
        method: str = "GET",
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send a request and return its answer."""
        self.request(method, target, body=body, headers=dict(headers or {}))
        response = self.getresponse()
        names = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, names, response.read())


@contextlib.contextmanager
def connection(address: str, timeout_s: float = TIMEOUT_S) -> Iterator[Connection]:
    """Open a kept-alive connection, and close it at the end."""
    opened = Connection(address, timeout_s)
    try:
        yield opened
    finally:
        opened.close()


def fetch(
    address: str,
    target: str = "/",
    *,
    method: str = "GET",
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    timeout_s: float = TIMEOUT_S,
) -> Answer:
    """Send one request on a connection of its own, closed afterwards."""
    with connection(address, timeout_s) as opened:
        headers = {"Connection": "close", **(headers or {})}
        return opened.fetch(target, method=method, body=body, headers=headers)


def fetch_many(address: str, count: int, target: str = "/", *, at_once: int = 8) -> list[Answer]:
    """Send `count` requests, each on a connection of its own, `at_once` at a time."""
    with ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(lambda _: fetch(address, target), range(count)))


def workers_that_answer(address: str, count: int) -> set[str]:
    """Return the first words of answers, which tell workers apart, once there are `count`."""
    seen: set[str] = set()

    def ask() -> bool:
        seen.update(one.text.split()[0] for one in fetch_many(address, 16))
        return len(seen) >= count

    wait_until(ask, f"answers from {count} workers")
    return seen


def slots(instance: Instance, count: int) -> set[str]:
    """Return the slots that answer, once `count` of them have."""
    return workers_that_answer(instance.address, count)

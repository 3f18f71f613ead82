"""What a Unix socket had no room for."""

import asyncio
import errno
import os
import socket

import pytest
from waiting import TIMEOUT_S

from sdcluster.worker.moving.backlog import Backlog

DATA = bytes(range(256)) * 8000
"""More than a socket has room for."""


class Client:
    """A connection's other end, and what its backlog has called."""

    def __init__(self) -> None:
        self.server, self.client = socket.socketpair()
        self.client.setblocking(False)
        self.told: list[str] = []
        self.lefts: list[int] = []
        self.backlog: Backlog

    async def connect(self) -> None:
        """Make the transport, and the backlog before it."""
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, self.server.dup())
        self.backlog = Backlog(
            transport,
            self.server.fileno(),
            write=self._write,
            on_written=lambda: self.told.append("written"),
            on_uncounted=lambda: self.told.append("uncounted"),
        )

    def _write(self, data: bytes, left: int) -> int:
        self.lefts.append(left)
        try:
            return os.write(self.server.fileno(), data)
        except OSError:
            return 0


def test_all_is_written_in_order_before_the_connection_closes() -> None:
    """Also when it is closed at once: then it is the transport that writes."""

    async def run() -> None:
        one = Client()
        await one.connect()
        one.backlog.write(DATA[:1000])
        one.backlog.write(DATA[1000:])
        assert one.backlog.get_write_buffer_size() == len(DATA)
        one.backlog.close()
        assert one.backlog.is_closing()
        one.server.close()
        found = b""
        while data := await asyncio.get_running_loop().sock_recv(one.client, 100_000):
            found += data
        assert found == DATA
        assert one.told == ["uncounted"]
        one.client.close()

    asyncio.run(asyncio.wait_for(run(), TIMEOUT_S))


@pytest.mark.parametrize("is_out_of_descriptors", [False, True])
def test_what_is_left_is_told_and_when_all_is_written(
    monkeypatch: pytest.MonkeyPatch, is_out_of_descriptors: bool
) -> None:
    """Without a descriptor to wait with, the transport writes it, and that is told as well."""

    def fail(_fd: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    async def run() -> None:
        one = Client()
        await one.connect()
        if is_out_of_descriptors:
            monkeypatch.setattr(os, "dup", fail)
        one.backlog.write(DATA[:-1])
        one.backlog.write(DATA[-1:])
        found = b""
        while len(found) < len(DATA):
            found += await asyncio.get_running_loop().sock_recv(one.client, 50_000)
        assert found == DATA
        assert one.backlog.get_write_buffer_size() == 0
        if is_out_of_descriptors:
            assert (one.told, one.lefts) == (["uncounted"], [])
        else:
            assert one.told == ["written"]
            assert one.lefts == sorted(one.lefts, reverse=True)
            assert one.lefts[-1] == 0
        one.backlog.abort()
        one.server.close()
        one.client.close()

    asyncio.run(asyncio.wait_for(run(), TIMEOUT_S))


def test_connection_that_is_broken_is_left_to_the_transport() -> None:
    """It finds that, and closes; nobody waits for room for ever."""

    async def run() -> None:
        one = Client()
        await one.connect()
        one.backlog.pause_reading()  # Else the transport would see the end at once.
        one.client.close()
        one.backlog.write(DATA)
        while not one.backlog.is_closing():
            await asyncio.sleep(0)
        assert one.told == ["uncounted"]
        assert len(one.lefts) == 1
        one.server.close()

    asyncio.run(asyncio.wait_for(run(), TIMEOUT_S))

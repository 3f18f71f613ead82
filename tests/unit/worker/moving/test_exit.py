"""The way out of a worker, when the channel to the master is full, and when it is not."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from typing import Any

import pytest

from sdcluster.wire.channel import MAX_HANDOFF_BYTES, MAX_UNANSWERED_BYTES, Handoff, decode_handoff
from sdcluster.worker.moving.exit import Exit, Sent

LARGE = Handoff(unanswered=b"x" * 8192, consumed=8192)


class Way:
    """A way out, and the master's end of it."""

    def __init__(self) -> None:
        self.worker, self.master = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self.worker, self.master):
            end.setblocking(False)
        self.exit = Exit(self.worker)
        self.given, other = socket.socketpair()
        other.close()
        self.sent: list[int] = []

    def send(self, number: int = 0) -> Sent:
        """Try to send one connection."""
        handoff = replace(LARGE, serial=number)
        sent = self.exit.send(self.given.fileno(), handoff)
        if sent is Sent.YES:
            self.sent.append(number)
        return sent

    def fill(self) -> int:
        """Send until the channel is full; return how many that were."""
        count = 0
        while self.send() is Sent.YES:
            count += 1
        self.sent.clear()
        return count

    def read(self, count: int) -> list[int]:
        """Be the master, and return the numbers of some connections."""
        numbers = []
        for _ in range(count):
            data, fds, _, _ = socket.recv_fds(self.master, MAX_HANDOFF_BYTES, 1)
            numbers.append(decode_handoff(data, len(fds)).serial)
            for fd in fds:
                os.close(fd)
        return numbers

    def close(self) -> None:
        """Close all."""
        for one in (self.worker, self.master, self.given):
            one.close()


@pytest.fixture
def way() -> Iterator[Way]:
    """Return a way that is closed afterwards."""
    one = Way()
    yield one
    one.close()


def run(body: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a coroutine to its end, in good time."""
    asyncio.run(asyncio.wait_for(body(), 10))


def test_connection_goes_at_once_where_there_is_room(way: Way) -> None:
    """Nobody waits."""

    async def body() -> None:
        assert await way.exit.send_in_turn(lambda: way.send(7), 0) is Sent.YES

    run(body)
    assert way.read(1) == [7]


def test_connection_waits_until_there_is_room(way: Way) -> None:
    """The loop goes on meanwhile."""

    async def body() -> None:
        count = way.fill()
        task = asyncio.create_task(way.exit.send_in_turn(lambda: way.send(7), 60))
        await asyncio.sleep(0)
        assert not task.done()
        assert way.read(count) == [0] * count
        assert await task is Sent.YES
        assert way.read(1) == [7]

    run(body)


def test_those_who_wait_go_in_turn(way: Way) -> None:
    """And nobody before them; more of them than the channel takes at a time."""

    async def body() -> None:
        count = way.fill()
        numbers = [*range(1, 3 * count)]
        tasks = [
            asyncio.create_task(way.exit.send_in_turn(lambda number=n: way.send(number), 60))  # type: ignore[misc]
            for n in numbers
        ]
        await asyncio.sleep(0)
        way.read(count // 2)
        assert way.send(99) is Sent.FULL
        found: list[int] = []
        while len(found) < count - count // 2 + len(numbers):
            await asyncio.sleep(0)
            with contextlib.suppress(BlockingIOError):
                found += way.read(1)
        assert [one for one in found if one] == numbers
        assert {await task for task in tasks} == {Sent.YES}
        assert way.send(99) is Sent.YES

    run(body)


def test_who_has_waited_too_long_is_told(way: Way) -> None:
    """And is not sent later."""

    async def body() -> None:
        count = way.fill()
        assert await way.exit.send_in_turn(lambda: way.send(7), 0.01) is Sent.FULL
        way.read(count)
        assert way.send(8) is Sent.YES
        assert way.read(1) == [8]

    run(body)


def test_who_is_cancelled_is_not_sent(way: Way) -> None:
    """Others that wait are."""

    async def body() -> None:
        count = way.fill()
        first, second = (
            asyncio.create_task(way.exit.send_in_turn(lambda number=n: way.send(number), 60))  # type: ignore[misc]
            for n in (1, 2)
        )
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.sleep(0)
        way.read(count)
        assert await second is Sent.YES
        assert way.read(1) == [2]

    run(body)


def test_who_cannot_go_any_more_makes_room_for_the_next(way: Way) -> None:
    """Its client has gone, say."""

    async def body() -> None:
        count = way.fill()
        answers = iter([Sent.FULL, Sent.NEVER])
        first = asyncio.create_task(way.exit.send_in_turn(lambda: next(answers), 60))
        second = asyncio.create_task(way.exit.send_in_turn(lambda: way.send(2), 60))
        await asyncio.sleep(0)
        way.read(count)
        assert [await first, await second] == [Sent.NEVER, Sent.YES]

    run(body)


@pytest.mark.parametrize("how", ["told", "dead", "dead and full"])
def test_nobody_waits_for_a_master_that_is_not_there(way: Way, how: str) -> None:
    """Those who wait are told at once."""

    async def body() -> None:
        way.fill()
        task = asyncio.create_task(way.exit.send_in_turn(lambda: way.send(7), 60))
        await asyncio.sleep(0)
        if how == "told":
            way.exit.shut()
        else:
            way.master.close()
            if how == "dead":
                assert way.exit.send(way.given.fileno(), LARGE) is Sent.FULL
        assert await task is Sent.NEVER
        assert way.exit.is_shut and way.send() is Sent.NEVER

    run(body)


def test_what_is_too_large_never_goes(way: Way) -> None:
    """The channel would not take it."""
    handoff = Handoff(unanswered=b"x" * (MAX_UNANSWERED_BYTES + 1))
    assert way.exit.send(way.given.fileno(), handoff) is Sent.NEVER


def test_what_lacks_something_else_than_room_is_tried_again(way: Way) -> None:
    """The kernel has a limit to the descriptors under way: ETOOMANYREFS, unix(7)."""

    async def body() -> None:
        answers = iter([Sent.FULL, Sent.FULL, Sent.FULL, Sent.YES])
        assert await way.exit.send_in_turn(lambda: next(answers), 60) is Sent.YES

    run(body)


def test_two_whose_channels_are_full_do_not_wait_for_each_other(way: Way) -> None:
    """Each goes on to take what is sent to it, which is all that the other waits for."""
    other = Way()

    async def worker(mine: Way, count: int) -> set[Sent]:
        attempts = (lambda number=n: mine.send(number) for n in range(1, count))
        return {*await asyncio.gather(*(mine.exit.send_in_turn(one, 60) for one in attempts))}

    async def body() -> None:
        ways = (way, other)
        count = 3 * max(one.fill() for one in ways)

        def pump(source: Way) -> None:
            with contextlib.suppress(BlockingIOError):
                source.read(1)

        for one in ways:
            asyncio.get_running_loop().add_reader(one.master, pump, one)
        found = await asyncio.gather(*(worker(one, count) for one in ways))
        assert found == [{Sent.YES}, {Sent.YES}]
        for one in ways:
            asyncio.get_running_loop().remove_reader(one.master)

    run(body)
    other.close()

"""What a loop can do for those that need one, and asyncio's as such a loop.

The service's master has a loop of its own (`master.host.loop`), which runs nothing of the user's. A
program that uses the library has asyncio's, on which its handlers run as well.
"""

import select
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio  # Not at run time: the service's master has no use for its megabytes.

READ = select.EPOLLIN
WRITE = select.EPOLLOUT


class Timer(Protocol):
    """A callback at a time."""

    def cancel(self) -> None:
        """Make it not happen. Harmless when it has happened."""


class EventLoop(Protocol):
    """Waits for descriptors and times, and calls back."""

    def time(self) -> float:
        """Return the time that `call_at` goes by, in seconds. It never goes back."""

    def add(self, fd: int, callback: Callable[[], None], events: int = READ) -> None:
        """Run `callback` whenever `fd` is ready, until `remove`."""

    def remove(self, fd: int) -> None:
        """Stop watching `fd`, before it is closed. Harmless when it is not watched."""

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Run `callback` at `when`, on the clock of `time`."""

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        """Run `callback` in `delay_s` seconds."""


class AsyncLoop:
    """An `EventLoop` that is asyncio's."""

    def __init__(self, loop: "asyncio.AbstractEventLoop") -> None:
        self._loop = loop

    def time(self) -> float:
        """Return the loop's time."""
        return self._loop.time()

    def add(self, fd: int, callback: Callable[[], None], events: int = READ) -> None:
        """Run `callback` whenever `fd` is ready, until `remove`."""
        if events & READ:
            self._loop.add_reader(fd, callback)
        if events & WRITE:
            self._loop.add_writer(fd, callback)

    def remove(self, fd: int) -> None:
        """Stop watching `fd`, before it is closed. Harmless when it is not watched."""
        self._loop.remove_reader(fd)
        self._loop.remove_writer(fd)

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Run `callback` at `when`."""
        return self._loop.call_at(when, callback)

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        """Run `callback` in `delay_s` seconds."""
        return self._loop.call_later(delay_s, callback)

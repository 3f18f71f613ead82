"""The master's event loop: epoll(7), timers and signals, and nothing else.

Callbacks run one at a time and to their end. A signal handler only wakes the loop, which then runs
the signal's callback like any other, before those of the descriptors that are ready as well.
"""

import heapq
import itertools
import os
import select
import signal
import time
from collections.abc import Callable

from sdcluster.system.event_loop import READ


class Timer:
    """A callback at a time; `cancel` makes it not happen."""

    __slots__ = ("_callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Make it not happen. Harmless when it has happened."""
        self._callback = None

    def _fire(self) -> None:
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()


class Loop:
    """Waits for descriptors, timers and signals, on CLOCK_MONOTONIC."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._readers: dict[int, Callable[[], None]] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._count = itertools.count()
        self._signals: dict[int, Callable[[], None]] = {}
        self._handled: set[signal.Signals] = set()
        self._running = True
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._epoll.register(self._wake_read, READ)
        # From here on, as a signal that comes before `run` is to be heard as well.
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)

    def time(self) -> float:
        """Return the time that `call_at` goes by, in seconds. It never goes back."""
        return time.monotonic()

    def add(self, fd: int, callback: Callable[[], None], events: int = READ) -> None:
        """Run `callback` whenever `fd` is ready, until `remove`."""
        self._readers[fd] = callback
        self._epoll.register(fd, events)

    def remove(self, fd: int) -> None:
        """Stop watching `fd`, before it is closed. Harmless when it is not watched."""
        if self._readers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Run `callback` at `when`, on the clock of `time`."""
        timer = Timer(callback)
        heapq.heappush(self._timers, (when, next(self._count), timer))
        return timer

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        """Run `callback` in `delay_s` seconds."""
        return self.call_at(self.time() + delay_s, callback)

    def on_signal(self, number: signal.Signals, callback: Callable[[], None]) -> None:
        """Run `callback` after the signal `number` arrived; several may be one."""
        self._signals[number] = callback
        self._handled.add(number)
        signal.signal(number, lambda *_: None)
        signal.siginterrupt(number, False)

    def run(self) -> None:
        """Run until `stop`; not at all when that was before."""
        while self._running:
            self._turn()

    def stop(self) -> None:
        """End `run` after the callback under way, for good."""
        self._running = False

    def renew(self) -> None:
        """Forget every callback, so that `run` may follow for something else.

        Signals that arrive meanwhile are kept for the callbacks that come.
        """
        self._epoll.close()  # Its descriptors may be closed by now, and their numbers others'.
        self._epoll = select.epoll()
        self._epoll.register(self._wake_read, READ)
        self._readers.clear()
        self._timers.clear()
        self._signals.clear()
        self._running = True

    def _turn(self) -> None:
        timeout_s = -1.0
        if self._timers:
            timeout_s = max(0.0, self._timers[0][0] - self.time())
        ready = self._epoll.poll(timeout_s)
        if any(fd == self._wake_read for fd, _ in ready):
            self._run_signals()
        for fd, _ in ready:
            callback = self._readers.get(fd)  # An earlier callback may have removed it.
            if callback is not None and self._running:
                callback()
        now = self.time()
        while self._running and self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2]._fire()

    def _run_signals(self) -> None:
        try:
            numbers = set(os.read(self._wake_read, 4096))
        except BlockingIOError:
            return
        for number in sorted(numbers):
            callback = self._signals.get(number)
            if callback is not None and self._running:
                callback()

    def close(self) -> None:
        """Release the loop's own descriptors and give the signals back."""
        signal.set_wakeup_fd(-1)
        for number in self._handled:
            signal.signal(number, signal.SIG_DFL)
        self._epoll.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

"""The master's loop: signals, timers and descriptors, each in its turn."""

import os
import signal
from collections.abc import Iterator
from functools import partial

import pytest

from sdcluster.master.host.loop import Loop


@pytest.fixture
def loop() -> Iterator[Loop]:
    """Return a loop, closed afterwards."""
    made = Loop()
    yield made
    made.close()


def test_a_signal_that_came_before_the_loop_ran_is_not_forgotten(loop: Loop) -> None:
    """From the moment on that a signal has a callback, it is run however early the signal was."""
    loop.on_signal(signal.SIGUSR1, loop.stop)
    os.kill(os.getpid(), signal.SIGUSR1)
    loop.call_later(5, lambda: pytest.fail("the signal was lost"))
    loop.run()


def test_a_signal_many_times_runs_its_callback_at_least_once(loop: Loop) -> None:
    """Signals may be one, but none is lost after the last callback."""
    count = []
    loop.on_signal(signal.SIGUSR1, lambda: count.append(1))
    for _ in range(1000):
        os.kill(os.getpid(), signal.SIGUSR1)
    loop.call_later(0, loop.stop)
    loop.run()
    assert 1 <= len(count) <= 1000


def test_signals_run_before_descriptors_that_are_ready_as_well(loop: Loop) -> None:
    """What a signal tells, such as a death, is known when a descriptor's callback runs."""
    told: list[str] = []
    reader, writer = os.pipe()

    def read() -> None:
        told.append("descriptor")
        loop.stop()

    loop.add(reader, read)
    loop.on_signal(signal.SIGUSR1, lambda: told.append("signal"))
    os.write(writer, b"x")
    os.kill(os.getpid(), signal.SIGUSR1)
    loop.run()
    loop.remove(reader)
    os.close(reader)
    os.close(writer)
    assert told == ["signal", "descriptor"]


def test_timers_run_in_the_order_of_their_times(loop: Loop) -> None:
    """A timer that is due earlier runs earlier, whenever it was set; a cancelled one never."""
    told: list[int] = []
    now = loop.time()

    def last() -> None:
        told.append(3)
        loop.stop()

    loop.call_at(now + 0.02, last)
    loop.call_at(now + 0.01, lambda: told.append(2))
    loop.call_at(now + 0.01, lambda: told.append(0)).cancel()
    loop.call_at(now - 1, lambda: told.append(1))
    loop.run()
    assert told == [1, 2, 3]


def test_a_callback_that_was_removed_in_the_same_turn_does_not_run(loop: Loop) -> None:
    """Of two descriptors that are ready, the first one's callback may do away with the second."""
    pipes = [os.pipe() for _ in range(2)]
    told: list[int] = []

    def only(reader: int) -> None:
        told.append(reader)
        for other, _ in pipes:
            loop.remove(other)
        loop.stop()

    for reader, writer in pipes:
        loop.add(reader, partial(only, reader))
        os.write(writer, b"x")
    loop.run()
    assert len(told) == 1
    for fd in [fd for pipe in pipes for fd in pipe]:
        os.close(fd)


def test_a_closed_loop_gives_the_signals_back() -> None:
    """After `close` a signal does what it did by default, and wakes nobody."""
    loop = Loop()
    loop.on_signal(signal.SIGUSR1, lambda: None)
    loop.close()
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
    assert signal.set_wakeup_fd(-1) == -1


def test_renewed_loop_has_forgotten_what_it_was_to_do(loop: Loop) -> None:
    """No timer, descriptor or signal of before calls back, and it can run once more."""
    reader, writer = os.pipe()
    os.write(writer, b"x")
    loop.add(reader, lambda: pytest.fail("a descriptor of before"))
    loop.call_later(0, lambda: pytest.fail("a timer of before"))
    loop.on_signal(signal.SIGUSR1, lambda: pytest.fail("a signal of before"))
    loop.stop()
    loop.run()
    gone, other = os.pipe()
    loop.add(gone, lambda: pytest.fail("a descriptor that is closed"))
    os.close(gone)
    loop.renew()
    loop.call_later(0.01, loop.stop)
    loop.run()
    for fd in (reader, writer, other):
        os.close(fd)


def test_signal_that_comes_while_a_loop_is_renewed_is_kept(loop: Loop) -> None:
    """It is heard by the callback that is set next: a stop between two tries is not lost."""
    loop.on_signal(signal.SIGUSR1, lambda: pytest.fail("the callback of before"))
    loop.renew()
    os.kill(os.getpid(), signal.SIGUSR1)
    loop.on_signal(signal.SIGUSR1, loop.stop)
    loop.call_later(5, lambda: pytest.fail("the signal was lost"))
    loop.run()

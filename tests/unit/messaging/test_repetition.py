"""What is done every so often, on a loop whose time is the test's."""

import asyncio
import math
from collections.abc import Callable
from typing import Any

import pytest

from sdcluster.messaging.repetition import Repeating


class Loop:
    """The part of a loop that is needed, with a clock of its own."""

    def __init__(self) -> None:
        self.due: list[tuple[float, Callable[..., Any], tuple[Any, ...]]] = []

    def call_later(self, delay: float, callback: Callable[..., Any], *arguments: Any) -> "Loop":
        """Remember a call."""
        self.due.append((delay, callback, arguments))
        return self

    def cancel(self) -> None:
        """Forget it."""
        self.due.clear()

    def turn(self) -> None:
        """Let the time come of what is due."""
        due, self.due = self.due, []
        for _, callback, arguments in due:
            callback(*arguments)


def begun(function: Callable[[], Any], seconds: float = 10) -> tuple[Loop, list[Any]]:
    """Return a loop on which the function is called, and the coroutines that it has started."""
    loop, started = Loop(), list[Any]()
    Repeating(seconds, function, start=started.append).begin(loop)  # type: ignore[arg-type]
    return loop, started


def test_function_is_called_again_and_again() -> None:
    """For the first time when the seconds have passed."""
    calls: list[int] = []
    loop, _ = begun(lambda: calls.append(1))
    assert [delay for delay, _, _ in loop.due] == [10]
    assert not calls
    loop.turn()
    loop.turn()
    assert calls == [1, 1]
    assert len(loop.due) == 1


def test_time_is_left_out_while_the_coroutine_runs() -> None:
    """Else they would pile up when one takes long."""
    calls: list[int] = []
    release = asyncio.Event()

    async def work() -> None:
        calls.append(1)
        await release.wait()

    async def scene() -> None:
        loop, started = begun(work)
        loop.turn()
        first = asyncio.ensure_future(started.pop())
        await asyncio.sleep(0)
        loop.turn()
        assert calls == [1] and not started
        release.set()
        await first
        loop.turn()
        await started.pop()
        assert calls == [1, 1]

    asyncio.run(scene())


def test_function_that_raises_is_called_again() -> None:
    """Its traceback is logged, see `Emitter`."""
    calls: list[int] = []

    def work() -> None:
        calls.append(1)
        raise OSError

    loop, _ = begun(work)
    loop.turn()
    loop.turn()
    assert calls == [1, 1]


def test_coroutine_that_raises_is_called_again() -> None:
    """The one before has ended."""
    calls: list[int] = []

    async def work() -> None:
        calls.append(1)
        raise OSError

    loop, started = begun(work)
    for _ in range(2):
        loop.turn()
        asyncio.run(started.pop())
    assert calls == [1, 1]


def test_end_is_the_end() -> None:
    """And harmless before the beginning."""
    loop = Loop()
    repeating = Repeating(1, lambda: None, start=lambda _: None)
    repeating.end()
    repeating.begin(loop)  # type: ignore[arg-type]
    repeating.end()
    assert not loop.due


@pytest.mark.parametrize("seconds", [0, -1, math.inf, math.nan])
def test_time_that_makes_no_sense_is_refused(seconds: float) -> None:
    """At once, where it was written."""
    with pytest.raises(ValueError, match="is no number of seconds"):
        Repeating(seconds, lambda: None, start=lambda _: None)

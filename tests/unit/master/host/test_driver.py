"""Events and actions in their order, whatever an action raises."""

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import pytest

from sdcluster.master.host.driver import Driver
from sdcluster.master.host.loop import Timer
from sdcluster.system.event_loop import EventLoop
from unit.master.connections.test_dispatch import FakeLoop


class Clock(FakeLoop):
    """Has its time passed by the test."""

    def __init__(self) -> None:
        super().__init__()
        self._due: list[tuple[float, Timer]] = []

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Set a timer."""
        self._due.append((when, Timer(callback)))
        return self._due[-1][1]

    def pass_to(self, now: float) -> None:
        """Let the timers go off that are due."""
        self.now = now
        due = [timer for when, timer in self._due if when <= now]
        self._due = [one for one in self._due if one[0] > now]
        for timer in due:
            timer._fire()


class Policy:
    """Answers each event with the actions that a test names."""

    def __init__(self, answers: Mapping[str, Sequence[str]]) -> None:
        self._answers = answers
        self.handled: list[str] = []
        self.next_s: float | None = None

    def handle(self, event: str, _now: float) -> Sequence[str]:
        """Note it."""
        self.handled.append(event)
        return self._answers.get(event, ())

    def deadline(self) -> float | None:
        """Return what the test says."""
        return self.next_s


def driver_of(
    policy: Policy, perform: Callable[[str], None], loop: Clock | None = None
) -> Driver[str, str]:
    """Return a driver whose deadlines are told as `time`."""
    return Driver(
        policy, perform=perform, loop=cast(EventLoop, loop or Clock()), time_passed="time"
    )


def test_events_that_actions_feed_come_after_all_actions() -> None:
    """One at a time."""
    policy = Policy({"start": ["a", "b"], "fed": ["c"]})
    performed = []

    def perform(action: str) -> None:
        performed.append(action)
        if action == "a":
            driver.feed("fed")

    driver = driver_of(policy, perform)
    driver.feed("start")
    assert policy.handled == ["start", "fed"]
    assert performed == ["a", "b", "c"]


def test_action_that_raises_stops_nothing() -> None:
    """The other actions are performed, the error is told, and the next event is handled."""
    policy = Policy({"start": ["a", "bad", "b", "worse"], "next": ["c"]})
    performed = []

    def perform(action: str) -> None:
        if action in ("bad", "worse"):
            raise OSError(action)
        performed.append(action)

    driver = driver_of(policy, perform)
    with pytest.raises(OSError, match="bad"):
        driver.feed("start")
    driver.feed("next")
    assert performed == ["a", "b", "c"]


def test_policy_that_raises_is_not_the_end_of_events() -> None:
    """That would be a bug of ours; the cluster goes on all the same."""

    class Broken(Policy):
        def handle(self, event: str, now: float) -> Sequence[str]:
            if event == "bad":
                raise AssertionError(event)
            return super().handle(event, now)

    policy = Broken({})
    driver = driver_of(policy, lambda _action: None)
    with pytest.raises(AssertionError):
        driver.feed("bad")
    driver.feed("good")
    assert policy.handled == ["good"]


def test_policy_is_told_of_its_deadline_once() -> None:
    """Of the last one that it had."""
    loop = Clock()
    policy = Policy({})
    driver = driver_of(policy, lambda _action: None, loop)
    for deadline in (5.0, 3.0):
        policy.next_s = deadline
        driver.feed("event")
    loop.pass_to(2.9)
    assert "time" not in policy.handled
    policy.next_s = None
    loop.pass_to(10.0)
    assert policy.handled.count("time") == 1

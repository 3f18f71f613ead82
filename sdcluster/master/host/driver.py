"""Between a policy and the deeds: events go in, actions come out, and are performed in order."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

from sdcluster.system.event_loop import EventLoop, Timer

E_contra = TypeVar("E_contra", contravariant=True)
A_co = TypeVar("A_co", covariant=True)
E = TypeVar("E")
A = TypeVar("A")


class Policy(Protocol[E_contra, A_co]):
    """Decides what to do, and does nothing itself."""

    def handle(self, event: E_contra, now: float) -> Sequence[A_co]:
        """Return what an event makes necessary, in order."""

    def deadline(self) -> float | None:
        """Return when the policy wants to be told that time has passed; None for never."""


class Driver(Generic[E, A]):
    """Feeds events to a policy, one at a time, and has its actions performed."""

    def __init__(
        self,
        policy: Policy[E, A],
        *,
        perform: Callable[[A], None],
        loop: EventLoop,
        time_passed: E,
        on_settled: Callable[[], None] = lambda: None,
    ) -> None:
        """`time_passed` is the event of a deadline; `on_settled` follows the last of the events."""
        self._policy = policy
        self._perform = perform
        self._loop = loop
        self._time_passed = time_passed
        self._on_settled = on_settled
        self._events: deque[E] = deque()
        self._is_feeding = False
        self._timer: Timer | None = None
        self._timer_at: float | None = None

    def feed(self, event: E) -> None:
        """Handle an event, and those that its actions feed.

        An action that raises keeps none of the others from being performed. The first error is
        raised when all are.
        """
        self._events.append(event)
        if self._is_feeding:
            return
        self._is_feeding = True
        error: Exception | None = None
        try:
            while self._events:
                for action in self._policy.handle(self._events.popleft(), self._loop.time()):
                    try:
                        self._perform(action)
                    except Exception as raised:
                        error = error or raised
        finally:
            self._is_feeding = False
        self._on_settled()
        self._set_timer()
        if error is not None:
            raise error

    def _set_timer(self) -> None:
        deadline = self._policy.deadline()
        if deadline == self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = None, deadline
        if deadline is not None:
            self._timer = self._loop.call_at(deadline, self._pass_time)

    def _pass_time(self) -> None:
        self._timer = self._timer_at = None
        self.feed(self._time_passed)

"""What becomes of a start that fails: it ends, or it is tried again after a growing wait.

A *start* is the life of a master until its cluster serves. It consists of *tries*, each of which
reads the configuration and loads the app anew:

    TRYING ──failed──▶ WAITING ──time, or something new──▶ TRYING
       ├─────failed──▶ OVER
       └──told to stop, and failed──▶ STOPPED

Whether a failure ends the start depends on who waits for it, its *origin*:

- `FOREGROUND`: somebody has typed the command, and sees why it ended. The first failure ends it.
- `DELIBERATE`: `systemctl start`, the boot, a deploy. What waiting does not mend, such as a typo in
  the configuration, ends it at once. An app may fail because a database is late: it is tried for
  `PATIENCE_S`, and then whoever waits learns why it does not start.
- `AUTOMATIC`: it follows a failed start by itself, because a client waits or the unit has
  Restart=. Nobody waits for its exit status, and each further failed start would bring systemd
  nearer to giving up. It is tried until it succeeds or is stopped.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import assert_never

FIRST_WAIT_S = 1.0
GROWTH = 1.5
MAX_WAIT_S = 20.0
"""How late an app may notice that what it needs is there: clients wait meanwhile."""
JITTER = 0.25
"""Apps that miss the same database do not all come back in the same moment."""
PATIENCE_S = 30.0
"""How long a deliberate start is tried."""
RESTARTED_WITHIN_S = 10.0
"""A start so soon after a failed one is systemd's: RestartSec=1, and what the start takes."""


class Origin(StrEnum):
    """Who wants the start, see the module's text."""

    FOREGROUND = "foreground"
    DELIBERATE = "deliberate"
    AUTOMATIC = "automatic"


class State(StrEnum):
    """What a start is at."""

    TRYING = "trying"
    WAITING = "waiting"
    OVER = "over"
    """It has failed for good."""
    STOPPED = "stopped"
    """A service was told to stop before it was known what becomes of the start."""


class Start:
    """One start. `jitter` returns a random number from 0 to 1; times are those of one clock."""

    def __init__(self, origin: Origin, now: float, *, jitter: Callable[[], float]) -> None:
        self.origin = origin
        self.state = State.TRYING
        self.tries = 1
        """How many tries there were, the one under way among them."""
        self._jitter = jitter
        self._patience_ends = now + PATIENCE_S
        self._wait_s = FIRST_WAIT_S
        self._next_at = now

    def deadline(self) -> float | None:
        """Return when `time_passed` is due; None when it is not waited for."""
        return self._next_at if self.state is State.WAITING else None

    def failed(self, now: float, *, waiting_may_mend: bool, is_stopped: bool = False) -> State:
        """Take note that the try under way has failed, and return what the start is at then.

        `waiting_may_mend` tells that the reason may go away without anybody's doing. `is_stopped`
        tells that somebody stopped it meanwhile, such as `systemctl restart`: that is no failure of
        the service, or the start that follows would be taken for an automatic one.
        """
        if self.state is not State.TRYING:
            return self.state
        if is_stopped and self.origin is not Origin.FOREGROUND:
            self.state = State.STOPPED
            return self.state
        if self._ends(now, waiting_may_mend):
            self.state = State.OVER
            return self.state
        self.state = State.WAITING
        self._next_at = now + self._wait_s * (1.0 - JITTER * self._jitter())
        self._wait_s = min(MAX_WAIT_S, GROWTH * self._wait_s)
        if self.origin is Origin.DELIBERATE:
            self._next_at = min(self._next_at, self._patience_ends)  # The last try comes then.
        return self.state

    def _ends(self, now: float, waiting_may_mend: bool) -> bool:
        match self.origin:
            case Origin.FOREGROUND:
                return True
            case Origin.DELIBERATE:
                return not waiting_may_mend or now >= self._patience_ends
            case Origin.AUTOMATIC:
                return False
            case _:
                assert_never(self.origin)

    def time_passed(self, now: float) -> State:
        """Begin the next try if it is due, and return what the start is at then."""
        if self.state is State.WAITING and now >= self._next_at:
            self._try_again()
        return self.state

    def news(self) -> State:
        """Begin the next try at once: something has changed that may have been the reason.

        Waits grow from the first one again. Return what the start is at then.
        """
        if self.state is State.WAITING:
            self._wait_s = FIRST_WAIT_S
            self._try_again()
        return self.state

    def _try_again(self) -> None:
        self.state = State.TRYING
        self.tries += 1


def origin(
    *, is_service: bool, last_failed_s_ago: float | None, mends_itself: bool, client_waits: bool
) -> Origin:
    """Tell who wants a start, from what a master can see when it begins.

    `is_service` says that a service manager has started it, and that it may wait.
    `last_failed_s_ago` is the age of the failure that the start before this one ended with, None if
    it did not fail; `mends_itself` says that systemd repeats such a start by itself (Restart=,
    which the status 78 prevents). `client_waits` says that a connection waits on a socket of
    systemd's.

    A socket unit starts its service again in the moment in which that has failed, if a client still
    waits. So a client that waits after a failed start tells a start by the socket unit. After a
    start that did not fail it tells nothing: there are always some when a busy service is
    restarted.
    """
    if not is_service:
        return Origin.FOREGROUND
    if last_failed_s_ago is None:
        return Origin.DELIBERATE
    restarted = mends_itself and 0.0 <= last_failed_s_ago <= RESTARTED_WITHIN_S
    return Origin.AUTOMATIC if client_waits or restarted else Origin.DELIBERATE

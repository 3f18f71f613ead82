"""Which requests are served apart from all others. Pure.

A worker has died. Each request that its app was at work on is a *suspect*, and nobody knows which
of them it was. So each is made again alone, one after the other, in a worker of the quarantine,
which has nothing else: the innocent ones are answered, and the guilty one kills a worker that
nobody else is in.

Requests of the guilty one's *signature* (method and path) are then *listed*: they go to the
quarantine before the app of another worker sees them, after all suspects. The signature of a
suspect that must not be made again is listed as well: only the next ones can tell whether it was
guilty. A signature is listed until requests of it have survived in the quarantine, or until none
has done harm for a while.
"""

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

MAX_SIGNATURES = 32
"""Signatures that are listed at a time; the one that has done no harm for longest makes room."""
MAX_WAITING = 128
"""Listed requests that wait at a time; others are refused for now."""
FORGET_S = 60.0
"""How long a signature is listed after its last harm, if nothing else clears it."""
SURVIVALS = 8
"""Requests of a signature that must survive, for each death, before it is listed no more."""
PATIENCE_S = 0.5
"""How long a request may be alone in a worker before the next one gets a worker of its own."""
MAX_WORKERS = 4
"""Workers of the quarantine at a time."""
LONGEST_WAIT_S = 10.0
"""How long a request waits for a worker of the quarantine.

Then a suspect is given to any worker, and one of a listed signature is refused.
"""

Worker = TypeVar("Worker", bound=Hashable)
Request = TypeVar("Request")


@dataclass(slots=True)
class _Listing:
    """Why a signature is listed."""

    deaths: int
    survivals: int
    last_death: float


@dataclass(frozen=True, slots=True)
class _Waiting(Generic[Request]):
    request: Request
    signature: int
    since: float
    is_suspect: bool
    tells: bool
    """Whether what becomes of it tells something of its signature."""


@dataclass(frozen=True, slots=True)
class _Trial(Generic[Request]):
    waiting: _Waiting[Request]
    began: float


class Trials(Generic[Worker, Request]):
    """The requests that wait, the workers that have one each, and the signatures that are listed.

    Times are of one monotonic clock, in seconds.
    """

    def __init__(self) -> None:
        self._suspects: deque[_Waiting[Request]] = deque()
        self._others: deque[_Waiting[Request]] = deque()
        """Those of listed signatures."""
        self._trials: dict[Worker, _Trial[Request]] = {}
        self._listings: dict[int, _Listing] = {}

    @property
    def is_active(self) -> bool:
        """Whether anything is served here, or would be."""
        return bool(self.waiting or self._trials or self._listings)

    @property
    def signatures(self) -> tuple[int, ...]:
        """The signatures that are listed."""
        return tuple(self._listings)

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return len(self._suspects) + len(self._others)

    def is_listed(self, signature: int) -> bool:
        """Tell whether requests of a signature come here."""
        return signature in self._listings

    def blame(self, signature: int, now: float) -> None:
        """List a signature: a worker died with a request of it, which is not tried any more."""
        listing = self._listings.pop(signature, None) or _Listing(0, 0, now)
        listing.deaths += 1
        listing.last_death = now
        while len(self._listings) >= MAX_SIGNATURES:
            del self._listings[next(iter(self._listings))]
        self._listings[signature] = listing  # At the end: the first one is the longest harmless.

    def enqueue_suspect(self, request: Request, signature: int, now: float, *, tells: bool) -> None:
        """Have a suspect wait for its trial.

        `tells` is False for one that no app is to be given again: that it survives tells nothing.
        """
        self._suspects.append(_Waiting(request, signature, now, is_suspect=True, tells=tells))

    def enqueue_listed(self, request: Request, signature: int, now: float) -> bool:
        """Have a request of a listed signature wait; False when too many do."""
        if len(self._others) >= MAX_WAITING:
            return False
        self._others.append(_Waiting(request, signature, now, is_suspect=False, tells=True))
        return True

    def take(self, worker: Worker, now: float) -> Request | None:
        """Return the next request for a worker that has none, and let its trial begin."""
        queue = self._suspects or self._others
        if not queue:
            return None
        waiting = queue.popleft()
        self._trials[worker] = _Trial(waiting, now)
        return waiting.request

    def put_back(self, worker: Worker) -> None:
        """Have the request of a worker wait again, as the next of its kind: it was not given it."""
        waiting = self._trials.pop(worker).waiting
        (self._suspects if waiting.is_suspect else self._others).appendleft(waiting)

    def is_busy(self, worker: Worker) -> bool:
        """Tell whether a worker has a request."""
        return worker in self._trials

    def survived(self, worker: Worker) -> list[Request]:
        """End the trial of a worker that is done with its request.

        Return the requests that need not wait, as their signature is listed no more.
        """
        trial = self._trials.pop(worker).waiting
        listing = self._listings.get(trial.signature) if trial.tells else None
        if listing is None:
            return []
        listing.survivals += 1
        if listing.survivals < SURVIVALS * listing.deaths:
            return []
        return self._clear([trial.signature])

    def died(self, worker: Worker, now: float) -> None:
        """End the trial of a worker that died while it was at work on its request."""
        trial = self._trials.pop(worker).waiting
        if trial.tells:
            self.blame(trial.signature, now)

    def abandon(self, worker: Worker) -> None:
        """End the trial of a worker, which tells nothing. Harmless when there is none."""
        self._trials.pop(worker, None)

    def look(self, now: float) -> tuple[list[Request], list[Request]]:
        """Forget what is long ago.

        Return the requests that are to be given to any worker, and those that are to be refused, as
        they have waited for too long.
        """
        overdue, refused = (
            [one.request for one in _overdue(queue, now)]
            for queue in (self._suspects, self._others)
        )
        old = [
            signature
            for signature, listing in self._listings.items()
            if now - listing.last_death >= FORGET_S
        ]
        return overdue + self._clear(old), refused

    def clear(self) -> list[Request]:
        """Forget all signatures: there is other code. Return the requests that need not wait."""
        return self._clear(list(self._listings))

    def _clear(self, signatures: list[int]) -> list[Request]:
        for signature in signatures:
            del self._listings[signature]
        freed = [one.request for one in self._others if not self.is_listed(one.signature)]
        self._others = deque(one for one in self._others if self.is_listed(one.signature))
        return freed

    def give_up(self) -> list[Request]:
        """Return all that waits, and forget all signatures: nothing is tried any more."""
        waiting = [one.request for one in (*self._suspects, *self._others)]
        self._suspects.clear()
        self._others.clear()
        self._listings.clear()
        return waiting

    def workers_wanted(self, now: float) -> int:
        """Return how many workers the quarantine needs: a free one, whatever takes long."""
        if not self.is_active:
            return 0
        slow = sum(now - trial.began >= PATIENCE_S for trial in self._trials.values())
        return min(1 + slow, MAX_WORKERS)


def _overdue(queue: deque[_Waiting[Request]], now: float) -> list[_Waiting[Request]]:
    """Take those out of a queue that have waited for too long."""
    found = []
    while queue and now - queue[0].since >= LONGEST_WAIT_S:
        found.append(queue.popleft())
    return found

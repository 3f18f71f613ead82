"""What happened: the only way for the world to reach the supervisor. Past tense."""

from dataclasses import dataclass
from typing import TypeAlias

from sdcluster.core.states import Generation, Policy, WorkerId


@dataclass(frozen=True, slots=True)
class StartRequested:
    """The cluster begins."""


@dataclass(frozen=True, slots=True)
class MoldStarted:
    """The config of the generation is valid and its mold is loading the app."""

    generation: Generation
    policy: Policy


@dataclass(frozen=True, slots=True)
class MoldReady:
    """The mold can fork workers."""

    generation: Generation


@dataclass(frozen=True, slots=True)
class MoldFailed:
    """The generation cannot be: its config is wrong, or its app does not load."""

    generation: Generation
    reason: str


@dataclass(frozen=True, slots=True)
class MoldExited:
    """The mold's process is gone."""

    generation: Generation
    status: str


@dataclass(frozen=True, slots=True)
class ForkFailed:
    """The worker never came to be."""

    worker: WorkerId
    reason: str


@dataclass(frozen=True, slots=True)
class WorkerReady:
    """The worker said READY=1."""

    worker: WorkerId


@dataclass(frozen=True, slots=True)
class WorkerFailed:
    """The worker said why it cannot become ready; it will exit."""

    worker: WorkerId
    reason: str


@dataclass(frozen=True, slots=True)
class WorkerStopping:
    """The worker takes no new connections; nobody here asked it to stop."""

    worker: WorkerId


@dataclass(frozen=True, slots=True)
class WorkerHung:
    """The worker's heartbeat stopped, or one of its requests takes too long."""

    worker: WorkerId
    reason: str


@dataclass(frozen=True, slots=True)
class WorkerOffended:
    """The worker broke the protocol: what it says makes no sense."""

    worker: WorkerId
    reason: str


@dataclass(frozen=True, slots=True)
class WorkerWorn:
    """The worker has served as many requests, as long or with as much memory as allowed.

    Or it was told to stop, by somebody other than the master.
    """

    worker: WorkerId
    reason: str


@dataclass(frozen=True, slots=True)
class WorkerExited:
    """The worker's process is gone. `status` is for people: `exit status 1`, `SIGSEGV`."""

    worker: WorkerId
    status: str
    had_requests: bool = False
    """Whether its app was ever given a request."""
    was_killed: bool = False
    """Whether a signal has ended it."""


@dataclass(frozen=True, slots=True)
class ReloadRequested:
    """Somebody wants the new code."""


@dataclass(frozen=True, slots=True)
class ScaleRequested:
    """Somebody wants another number of workers."""

    workers: int


@dataclass(frozen=True, slots=True)
class QuarantineResized:
    """The quarantine needs another number of workers."""

    workers: int


@dataclass(frozen=True, slots=True)
class StopRequested:
    """Somebody wants the cluster to end: after a drain, or at once."""

    at_once: bool = False


@dataclass(frozen=True, slots=True)
class TimePassed:
    """`Supervisor.deadline()` was reached."""


Event: TypeAlias = (
    StartRequested
    | MoldStarted
    | MoldReady
    | MoldFailed
    | MoldExited
    | ForkFailed
    | WorkerReady
    | WorkerFailed
    | WorkerStopping
    | WorkerHung
    | WorkerOffended
    | WorkerWorn
    | WorkerExited
    | ReloadRequested
    | ScaleRequested
    | QuarantineResized
    | StopRequested
    | TimePassed
)

"""The words and records of the decision core.

The theory of operation. The cluster is a row of *slots*. Each slot wants a *generation* of the
app and has, at most times, one worker that serves it. A worker moves through these states, and
only forwards:

    STARTING ──ready──▶ PROVING ──survived──▶ SERVING ──retired──▶ DRAINING ──▶ gone
        │ (slot empty: ready ──▶ SERVING)        │
        └──────── stuck ──▶ ABORTING ──▶ KILLED ─┴─ crash ──▶ gone

One that is DRAINING may be found stuck as well.

A slot holds one worker that serves, at most one *successor* (STARTING or PROVING) that will take
its place, and any number that are *leaving* (DRAINING, ABORTING, KILLED). A successor that proves
itself is admitted before the old worker is retired: new first. Everything the cluster does, from
boot to rollback, is to bring each slot to the generation it wants.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import NewType

from sdcluster.core.backoff import Backoff

WorkerId = NewType("WorkerId", int)
"""Counts up from 1 and is never used again."""
Slot = NewType("Slot", int)
AGENT = Slot(-1)
"""The place of the agent: brought to its generation as the others are, but it gets no connections.
"""
QUARANTINE = Slot(-2)
"""The first place of the quarantine; further ones count down from it. See `quarantine`."""
Generation = NewType("Generation", int)
"""Counts up from 1 with every attempt to load the app, and is never used again."""


def place(slot: Slot) -> str:
    """Return what people call a slot in a sentence."""
    return f"slot {slot}" if slot >= 0 else f"the {label(slot)}"


def label(slot: Slot) -> str:
    """Return what a slot is called in a table, or in a field of the journal."""
    if is_quarantine(slot):
        return "quarantine"
    return "agent" if slot == AGENT else str(slot)


def is_quarantine(slot: int) -> bool:
    """Tell whether a slot is one of the quarantine's."""
    return slot <= QUARANTINE


class WorkerState(StrEnum):
    """Where a worker is on its way, see the module's text."""

    STARTING = "starting"
    PROVING = "proving"
    SERVING = "serving"
    DRAINING = "draining"
    ABORTING = "aborting"
    KILLED = "killed"


class MoldState(StrEnum):
    """What can be had from a generation's mold."""

    STARTING = "starting"
    READY = "ready"
    ABORTING = "aborting"


class Phase(StrEnum):
    """What the cluster as a whole does."""

    BOOTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"


class ExitReason(StrEnum):
    """Why a worker is gone."""

    RELOAD = "reload"
    ROLLBACK = "rollback"
    SCALE = "scale"
    RECYCLE = "recycle"
    STOP = "stop"
    HUNG = "hung"
    CRASH = "crash"
    BOOT_FAILED = "boot-failed"
    ITSELF = "stopped-itself"
    KILLED = "killed"


EXPECTED = frozenset(
    {ExitReason.RELOAD, ExitReason.ROLLBACK, ExitReason.SCALE, ExitReason.RECYCLE, ExitReason.STOP}
)
"""The reasons that are the cluster's own choice."""


class ReloadCause(StrEnum):
    """Why a reload takes place."""

    REQUEST = "request"
    MOLD_DIED = "mold-died"


class ReloadPhase(StrEnum):
    """How far a reload is."""

    LOADING = "loading"
    ROLLING = "rolling"
    WATCHING = "watching"
    ROLLING_BACK = "rolling-back"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What a generation's config says to the supervisor. Times in seconds."""

    workers: int
    ready_workers: int
    ready_timeout_s: float
    drain_timeout_s: float
    probation_s: float
    agent: bool = False
    """Whether there is an agent beside the workers."""
    abort_grace_s: float = 2.0
    """From SIGABRT, which logs the stacks, to SIGKILL."""
    drain_grace_s: float = 3.0
    """From the drain deadline, at which a worker closes what is left, to SIGKILL."""


@dataclass(slots=True)
class Worker:
    """One worker process, from the order to fork it until it is reaped."""

    id: WorkerId
    slot: Slot
    generation: Generation
    state: WorkerState
    deadline: float | None
    """When the state it is in has lasted too long, or (PROVING) long enough."""
    reason: ExitReason | None = None
    """Why it leaves, once that is known."""
    failure: str = ""
    """What it said of itself before it exited."""
    entrusted: bool = False
    """An agent does what is to be done every so often."""


@dataclass(slots=True)
class SlotRecord:
    """A place for one serving worker."""

    number: Slot
    wanted: Generation
    serving: Worker | None = None
    successor: Worker | None = None
    leaving: list[Worker] = field(default_factory=list)
    backoff: Backoff = field(default_factory=Backoff)
    spawn_at: float = 0.0
    """No worker is spawned here earlier."""
    worn: bool = False
    """The serving worker is due to be recycled."""
    tried: bool = False
    """A worker here has failed to become ready, since the boot or the rollback began."""
    deaths: int = 0
    """Workers that were killed here while they started, one after the other."""
    is_eager: bool = False
    """The last worker here had been given requests: the slot is filled at once when few serve."""

    @property
    def in_transition(self) -> bool:
        """Whether a worker is being replaced or removed here by choice."""
        return self.is_replacing or any(worker.reason in EXPECTED for worker in self.leaving)

    @property
    def is_replacing(self) -> bool:
        """Whether a worker is about to take the place of one that serves."""
        return self.successor is not None and self.serving is not None

    @property
    def is_vacant(self) -> bool:
        """Whether nobody serves here or is about to."""
        return self.serving is None and self.successor is None

    @property
    def is_empty(self) -> bool:
        """Whether no process belongs to the slot."""
        return self.is_vacant and not self.leaving


@dataclass(slots=True)
class Mold:
    """The mold of a generation."""

    generation: Generation
    state: MoldState
    policy: Policy | None = None
    deadline: float | None = None


@dataclass(slots=True)
class Reload:
    """The reload under way."""

    target: Generation
    previous: Generation
    cause: ReloadCause
    phase: ReloadPhase = ReloadPhase.LOADING
    failure: str = ""
    watch_until: float = 0.0
    slots: int = 0
    """How many slots there are to be meanwhile, whatever is wanted; 0 says nothing."""

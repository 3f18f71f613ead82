"""What to do: the only way for the supervisor to reach the world. Imperative."""

from dataclasses import dataclass
from typing import TypeAlias

from sdcluster.core.states import ExitReason, Generation, ReloadCause, Slot, WorkerId


@dataclass(frozen=True, slots=True)
class LoadGeneration:
    """Read and check the config, start the mold. Answer with `MoldStarted` or `MoldFailed`."""

    generation: Generation


@dataclass(frozen=True, slots=True)
class StopMold:
    """Let the mold exit; its generation forks no more workers."""

    generation: Generation


@dataclass(frozen=True, slots=True)
class AbortMold:
    """The mold is stuck: make it log its stacks and die (SIGABRT)."""

    generation: Generation


@dataclass(frozen=True, slots=True)
class KillMold:
    """SIGKILL the mold."""

    generation: Generation


@dataclass(frozen=True, slots=True)
class SpawnWorker:
    """Have the mold of `generation` fork this worker."""

    worker: WorkerId
    slot: Slot
    generation: Generation


@dataclass(frozen=True, slots=True)
class AdmitWorker:
    """Give the worker connections from now on; an agent what is for the agent."""

    worker: WorkerId


@dataclass(frozen=True, slots=True)
class EntrustAgent:
    """Have the agent do what is to be done every so often: no other is alive that did it."""

    worker: WorkerId


@dataclass(frozen=True, slots=True)
class RetireWorker:
    """Give the worker no more connections; it answers those it has, then exits."""

    worker: WorkerId
    reason: ExitReason


@dataclass(frozen=True, slots=True)
class AbortWorker:
    """The worker is stuck: no more connections; make it log its stacks and die (SIGABRT)."""

    worker: WorkerId
    reason: str


@dataclass(frozen=True, slots=True)
class KillWorker:
    """SIGKILL the worker."""

    worker: WorkerId
    reason: str


@dataclass(frozen=True, slots=True)
class RecordExit:
    """Log and remember why a worker is gone."""

    worker: WorkerId
    slot: Slot
    generation: Generation
    reason: ExitReason
    status: str
    respawn_in_s: float | None
    """Seconds until its slot is filled again; None when it is, or is not to be."""


@dataclass(frozen=True, slots=True)
class AnnounceReady:
    """The cluster serves for the first time."""


@dataclass(frozen=True, slots=True)
class BeginReload:
    """A rolling reload towards `generation` begins; those who ask from now on get the next one."""

    generation: Generation
    cause: ReloadCause


@dataclass(frozen=True, slots=True)
class ReportProgress:
    """`done` of `total` slots serve the new generation; the worker just admitted there."""

    generation: Generation
    worker: WorkerId
    slot: Slot
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class BeginRollback:
    """The new generation failed; the replaced slots go back."""

    generation: Generation
    reason: str


@dataclass(frozen=True, slots=True)
class EndReload:
    """The reload is over. `failure` says why it did not succeed; empty when it did.

    After a failure the old generation serves on, or is about to. The one exception says so in
    `failure`: with slots moved and the old mold dead, the new generation stays.
    """

    generation: Generation
    cause: ReloadCause
    failure: str


@dataclass(frozen=True, slots=True)
class BeginStop:
    """No more connections are accepted; the workers drain."""


@dataclass(frozen=True, slots=True)
class Finish:
    """Every worker is gone. `failure` says why the cluster could not start; empty after a stop."""

    failure: str


Action: TypeAlias = (
    LoadGeneration
    | StopMold
    | AbortMold
    | KillMold
    | SpawnWorker
    | AdmitWorker
    | EntrustAgent
    | RetireWorker
    | AbortWorker
    | KillWorker
    | RecordExit
    | AnnounceReady
    | BeginReload
    | ReportProgress
    | BeginRollback
    | EndReload
    | BeginStop
    | Finish
)

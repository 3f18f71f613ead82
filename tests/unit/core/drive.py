"""Drives a supervisor by hand: facts go in, its orders come out, and the time is the test's."""

from typing import Any

from sdcluster.core import actions as act
from sdcluster.core import events as ev
from sdcluster.core.states import ExitReason, Generation, Phase, Policy, Slot, WorkerId
from sdcluster.core.supervisor import Supervisor

READY_TIMEOUT_S = 10.0
DRAIN_TIMEOUT_S = 5.0
DRAIN_LIMIT_S = DRAIN_TIMEOUT_S + 3.0
PROBATION_S = 1.0
ABORT_GRACE_S = 2.0


class Drive:
    """A supervisor and a clock."""

    def __init__(self, *, jitter: float = 0.0) -> None:
        self.supervisor = Supervisor(jitter=lambda: jitter)
        self.now = 100.0

    def tell(self, *events: ev.Event, after: float = 0.0) -> list[act.Action]:
        """Let `after` seconds pass, tell the facts one by one, and return all orders."""
        self.now += after
        return [one for event in events for one in self.supervisor.handle(event, self.now)]

    def wait(self, seconds: float) -> list[act.Action]:
        """Let time pass."""
        return self.tell(ev.TimePassed(), after=seconds)

    def deadline_in(self) -> float | None:
        """Return how many seconds from now the supervisor wants to be woken."""
        deadline = self.supervisor.deadline()
        return None if deadline is None else round(deadline - self.now, 6)

    def phase(self) -> Phase:
        """Return what the cluster as a whole does."""
        return self.supervisor.phase

    def serving(self) -> dict[int, int]:
        """Return the generation that serves in each slot that has a serving worker."""
        return {
            number: slot.serving.generation
            for number, slot in self.supervisor.slots.items()
            if slot.serving is not None
        }


def policy(workers: int = 2, **changes: Any) -> Policy:
    """Return the policy that the tests are written for."""
    values: dict[str, Any] = {
        "workers": workers,
        "ready_workers": workers,
        "ready_timeout_s": READY_TIMEOUT_S,
        "drain_timeout_s": DRAIN_TIMEOUT_S,
        "probation_s": PROBATION_S,
        "abort_grace_s": ABORT_GRACE_S,
    }
    return Policy(**{**values, **changes})


def loading(workers: int = 2, *, jitter: float = 0.0, **changes: Any) -> Drive:
    """Return a cluster whose first mold has started and loads the app."""
    drive = Drive(jitter=jitter)
    drive.tell(ev.StartRequested(), mold_started(1, policy(workers, **changes)))
    return drive


def booting(workers: int = 2, *, jitter: float = 0.0, **changes: Any) -> Drive:
    """Return a cluster whose workers, from 1 on, were just spawned in the slots from 0 on."""
    drive = loading(workers, jitter=jitter, **changes)
    drive.tell(mold_ready(1))
    return drive


def running(workers: int = 2, *, jitter: float = 0.0, **changes: Any) -> Drive:
    """Return a cluster whose workers, from 1 on, serve in the slots from 0 on, generation 1."""
    drive = booting(workers, jitter=jitter, **changes)
    drive.tell(*(ready(worker) for worker in range(1, workers + 1)))
    drive.wait(100)
    return drive


def rolling(workers: int = 2, *, jitter: float = 0.0, **changes: Any) -> Drive:
    """Return a running cluster in a reload, generation 2 being loaded: slot 0 has a successor."""
    drive = running(workers, jitter=jitter, **changes)
    drive.tell(ev.ReloadRequested(), mold_started(2, policy(workers, **changes)), mold_ready(2))
    return drive


# Facts and orders with plain numbers.


def mold_started(generation: int, policy: Policy) -> ev.MoldStarted:
    """Say that a mold loads the app."""
    return ev.MoldStarted(Generation(generation), policy)


def mold_ready(generation: int) -> ev.MoldReady:
    """Say that a mold can fork."""
    return ev.MoldReady(Generation(generation))


def mold_failed(generation: int, reason: str = "no module 'shop'") -> ev.MoldFailed:
    """Say that a generation does not load."""
    return ev.MoldFailed(Generation(generation), reason)


def mold_exited(generation: int, status: str = "SIGKILL") -> ev.MoldExited:
    """Say that a mold is gone."""
    return ev.MoldExited(Generation(generation), status)


def ready(worker: int) -> ev.WorkerReady:
    """Say that a worker is ready."""
    return ev.WorkerReady(WorkerId(worker))


def exited(worker: int, status: str = "SIGSEGV") -> ev.WorkerExited:
    """Say that a worker is gone."""
    return ev.WorkerExited(WorkerId(worker), status)


def stopping(worker: int) -> ev.WorkerStopping:
    """Say that a worker takes no new connections, by its own choice."""
    return ev.WorkerStopping(WorkerId(worker))


def hung(worker: int, reason: str = "gave no sign of life") -> ev.WorkerHung:
    """Say that a worker is stuck."""
    return ev.WorkerHung(WorkerId(worker), reason)


def offended(worker: int, reason: str = "broke the protocol: junk") -> ev.WorkerOffended:
    """Say that a worker broke the protocol."""
    return ev.WorkerOffended(WorkerId(worker), reason)


def worn(worker: int) -> ev.WorkerWorn:
    """Say that a worker is due to be recycled."""
    return ev.WorkerWorn(WorkerId(worker), "has answered 1000 requests")


def spawn(worker: int, slot: int, generation: int) -> act.SpawnWorker:
    """Order a worker."""
    return act.SpawnWorker(WorkerId(worker), Slot(slot), Generation(generation))


def entrust(worker: int) -> act.EntrustAgent:
    """Have the agent do what is to be done every so often."""
    return act.EntrustAgent(WorkerId(worker))


def admit(worker: int) -> act.AdmitWorker:
    """Order to give a worker connections."""
    return act.AdmitWorker(WorkerId(worker))


def retire(worker: int, reason: ExitReason) -> act.RetireWorker:
    """Order to let a worker go."""
    return act.RetireWorker(WorkerId(worker), reason)


def abort(worker: int, reason: str = "gave no sign of life") -> act.AbortWorker:
    """Order to abort a worker."""
    return act.AbortWorker(WorkerId(worker), reason)


def kill(worker: int, reason: str) -> act.KillWorker:
    """Order to kill a worker."""
    return act.KillWorker(WorkerId(worker), reason)


def record(
    worker: int,
    slot: int,
    generation: int,
    reason: ExitReason,
    status: str = "exit status 0",
    respawn_in_s: float | None = None,
) -> act.RecordExit:
    """Order to note why a worker is gone."""
    return act.RecordExit(
        WorkerId(worker), Slot(slot), Generation(generation), reason, status, respawn_in_s
    )


def progress(worker: int, slot: int, generation: int, done: int, total: int) -> act.ReportProgress:
    """Order to tell how far a reload is."""
    return act.ReportProgress(Generation(generation), WorkerId(worker), Slot(slot), done, total)

"""The policy of a program that decides for itself: workers are forked when it says so alone.

The counterpart of the supervisor for the library, in the same words: events go in through `handle`,
actions come out. Nothing is respawned here. What happens is announced to the program, each thing
once and in order: fork, online, disconnect, exit.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from sdcluster.core import actions as act
from sdcluster.core import events as ev
from sdcluster.core.states import ExitReason, Generation, MoldState, Slot, WorkerId

KILL_GRACE_S = 3.0
"""From the drain deadline to SIGKILL."""


class Stage(StrEnum):
    """What a program sees of a worker."""

    FORKED = "none"
    ONLINE = "online"
    DISCONNECTED = "disconnected"
    DEAD = "dead"


class Order(StrEnum):
    """What was last ordered for a worker."""

    NONE = "none"
    """It waits for a mold."""
    SPAWN = "spawn"
    RETIRE = "retire"
    KILL = "kill"


@dataclass(frozen=True, slots=True)
class ForkWanted:
    """The program wants another worker."""

    worker: WorkerId


@dataclass(frozen=True, slots=True)
class LeaveWanted:
    """The program wants a worker to take no more connections, and to exit when it is done."""

    worker: WorkerId


@dataclass(frozen=True, slots=True)
class KillWanted:
    """The program, or the worker itself, ends it by a signal, on purpose."""

    worker: WorkerId


@dataclass(frozen=True, slots=True)
class SettingsChanged:
    """Workers that are wanted from now on are to come from a mold of other settings."""

    drain_timeout_s: float | None = None
    """How long those that leave from now on have; None for as long as before."""


@dataclass(frozen=True, slots=True)
class Announce:
    """Tell the program what a worker has come to."""

    worker: WorkerId
    stage: Stage
    reason: ExitReason | None = None
    """Why it is dead."""
    detail: str = ""


Event: TypeAlias = ev.Event | ForkWanted | LeaveWanted | KillWanted | SettingsChanged
Action: TypeAlias = act.Action | Announce


@dataclass(slots=True)
class Record:
    """A worker, from the wish for it to its end."""

    id: WorkerId
    slot: Slot
    generation: Generation
    """Whose mold forks it: that of the settings there were when it was wanted."""
    stage: Stage = Stage.FORKED
    order: Order = Order.NONE
    reason: ExitReason | None = None
    """Why it leaves, when somebody wanted that."""
    deadline: float | None = None
    failure: str = ""


class Manual:
    """The workers of one program."""

    def __init__(self, *, drain_timeout_s: float) -> None:
        self.workers: dict[WorkerId, Record] = {}
        self.stopping = False
        self._finished = False
        self._drain_timeout_s = drain_timeout_s
        self._generation = Generation(0)
        self._molds: dict[Generation, MoldState] = {}
        """Those that were ordered and not stopped."""
        self._current: Generation | None = None
        """The one of the settings there are now; None when it is to be ordered yet."""
        self._actions: list[Action] = []
        self._now = 0.0

    def deadline(self) -> float | None:
        """Return when `TimePassed` is due; None for never."""
        times = [one.deadline for one in self.workers.values() if one.deadline is not None]
        return min(times, default=None)

    def handle(self, event: Event, now: float) -> list[Action]:
        """Take one event in and return what to do, in order."""
        self._now = now
        match event:
            case ForkWanted(worker):
                self._fork(worker)
            case LeaveWanted(worker):
                self._leave(worker, ExitReason.STOP)
            case KillWanted(worker):
                self._mark(worker, ExitReason.KILLED)
            case SettingsChanged(drain_timeout_s):
                if drain_timeout_s is not None:
                    self._drain_timeout_s = drain_timeout_s
                self._current = None
                self._stop_idle_molds()
            case ev.MoldReady(generation):
                self._mold_ready(generation)
            case ev.MoldFailed(generation, reason) | ev.MoldExited(generation, reason):
                self._mold_lost(generation, reason)
            case ev.WorkerReady(worker):
                self._online(worker)
            case ev.WorkerFailed(worker, reason) | ev.WorkerOffended(worker, reason):
                self._failed(worker, reason)
            case ev.WorkerStopping(worker):
                self._leave(worker, ExitReason.ITSELF)
            case ev.WorkerExited(worker, status) | ev.ForkFailed(worker, status):
                self._gone(worker, status)
            case ev.StopRequested(at_once):
                self._stop(at_once=at_once)
            case _:
                pass  # What the library leaves to the program: to see that one is stuck, or worn.
        self._expire()
        if self.stopping and not self.workers and not self._finished:
            self._finished = True
            self._actions.append(act.Finish(""))
        actions, self._actions = self._actions, []
        return actions

    def _fork(self, worker: WorkerId) -> None:
        taken = {one.slot for one in self.workers.values()}
        slot = next(number for number in range(len(taken) + 1) if Slot(number) not in taken)
        self._actions.append(Announce(worker, Stage.FORKED))
        generation = self._generation if self.stopping else self._current_generation()
        self.workers[worker] = Record(worker, Slot(slot), generation)
        if self.stopping:
            self._leave(worker, ExitReason.STOP)
        else:
            self._spawn_waiting(generation)

    def _current_generation(self) -> Generation:
        """Return the generation of the settings there are now, with its mold ordered."""
        if self._current is None:
            self._generation = self._current = Generation(self._generation + 1)
            self._molds[self._current] = MoldState.STARTING
            self._actions.append(act.LoadGeneration(self._current))
        return self._current

    def _waiting(self, generation: Generation) -> list[Record]:
        return [
            one
            for one in self.workers.values()
            if one.order is Order.NONE and one.generation == generation
        ]

    def _spawn_waiting(self, generation: Generation) -> None:
        if self._molds.get(generation) is MoldState.READY:
            for one in self._waiting(generation):
                one.order = Order.SPAWN
                self._actions.append(act.SpawnWorker(one.id, one.slot, generation))

    def _mold_ready(self, generation: Generation) -> None:
        if generation in self._molds:  # Else it was stopped before it could say so.
            self._molds[generation] = MoldState.READY
            self._spawn_waiting(generation)
            self._stop_idle_molds()

    def _stop_idle_molds(self) -> None:
        """Stop those of settings that are no more, once nobody waits for them."""
        for generation in list(self._molds):
            if generation != self._current and not self._waiting(generation):
                self._stop_mold(generation)

    def _stop_mold(self, generation: Generation) -> None:
        del self._molds[generation]
        self._actions.append(act.StopMold(generation))

    def _mold_lost(self, generation: Generation, reason: str) -> None:
        if generation not in self._molds:
            return
        # Whoever waits, waits for a mold that loads: the next would hardly do better. A mold that
        # could fork leaves nobody waiting, and the next is loaded for the next worker.
        self._stop_mold(generation)
        if generation == self._current:
            self._current = None
        for one in self._waiting(generation):
            self._gone(one.id, reason)

    def _online(self, worker: WorkerId) -> None:
        one = self.workers.get(worker)
        if one is not None and one.stage is Stage.FORKED:
            one.stage = Stage.ONLINE
            self._actions.append(Announce(worker, Stage.ONLINE))

    def _failed(self, worker: WorkerId, reason: str) -> None:
        if worker in self.workers:
            self.workers[worker].failure = reason

    def _mark(self, worker: WorkerId, reason: ExitReason) -> None:
        one = self.workers.get(worker)
        if one is not None and one.reason is None:
            one.reason = reason

    def _leave(self, worker: WorkerId, reason: ExitReason) -> None:
        one = self.workers.get(worker)
        if one is None or one.order in (Order.RETIRE, Order.KILL):
            return
        self._mark(worker, reason)
        if one.order is Order.NONE:
            self._gone(worker, "it was not wanted any more")
            self._stop_idle_molds()
            return
        one.order = Order.RETIRE
        one.deadline = self._now + self._drain_timeout_s + KILL_GRACE_S
        self._actions.append(act.RetireWorker(worker, ExitReason.STOP))
        self._disconnected(one)

    def _disconnected(self, one: Record) -> None:
        if one.stage in (Stage.FORKED, Stage.ONLINE):
            one.stage = Stage.DISCONNECTED
            self._actions.append(Announce(one.id, Stage.DISCONNECTED))

    def _gone(self, worker: WorkerId, status: str) -> None:
        one = self.workers.pop(worker, None)
        if one is None:
            return
        booting = one.stage is Stage.FORKED
        self._disconnected(one)
        reason = one.reason
        if reason is None and status == "exit status 0":
            reason = ExitReason.ITSELF
        if reason is None:
            reason = ExitReason.BOOT_FAILED if booting else ExitReason.CRASH
        self._actions.append(Announce(worker, Stage.DEAD, reason, one.failure or status))

    def _stop(self, *, at_once: bool) -> None:
        self.stopping = True
        for worker in list(self.workers):
            self._leave(worker, ExitReason.STOP)
        if at_once:
            for one in self.workers.values():
                if one.order is not Order.KILL:
                    one.deadline = self._now
        self._current = None
        self._stop_idle_molds()

    def _expire(self) -> None:
        for one in self._due():
            one.order, one.deadline = Order.KILL, None
            self._actions.append(act.KillWorker(one.id, "did not end within its drain time"))

    def _due(self) -> Iterator[Record]:
        for one in self.workers.values():
            if one.deadline is not None and one.deadline <= self._now:
                yield one

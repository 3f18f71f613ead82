"""The supervisor: makes each slot's actual worker match the generation that the slot wants.

Events go in through `handle`, actions come out; `states` tells the theory. The rules, in the order
in which `_settle` applies them after every event:

1. What has lasted too long is ended, what has lasted long enough is admitted (`_expire`).
2. A stopping cluster only waits for its workers.
3. A reload moves through its phases: load, roll, watch; or back (`_continue_reload`).
4. A dead mold is rebuilt by a reload of our own (`_rebuild_mold`).
5. Slots are added or removed (`_resize`).
6. Vacant slots are filled, all at once (`_fill`).
7. One slot, and never two, has its serving worker replaced by choice (`_replace_one`). Those that
   were replaced drain side by side, no more of them than there are slots.
8. The agent is entrusted with its work once the ones before it are dead (`_entrust`).

How a reload ends, and each one does (`_advance`, `_fail_reload`): with success once every wanted
slot, and then each one that the new config adds (`_grow`), has served the new generation for a
while; with a failure when nothing had moved; with a failure after the rollback, when each moved
slot is back or has tried to come back, and those added are gone; with a failure and the new
generation when the old one's mold is dead. Slots that do not serve what they want by then are
brought there by rules 6 and 7, outside of any reload.

The agent, if the config has one, has a slot as well. It differs in that workers may ask it: the
cluster has not started before its agent has, and in a stop the agent leaves last; a reload replaces
it first, has it come first when the new config adds it, and lets it go last when that drops it.

The quarantine has slots as well, as many as it says that it needs. Nothing waits for them: neither
the start nor a reload, which replaces their workers when it is over.

A slot whose worker is lost is filled at once, or after a wait that grows (`backoff`). One whose
worker had been given requests waits for half a second at the most, and not at all while fewer than
half of the wanted workers serve or are about to: it is requests that kill workers, and the others
are to be served. Workers that die without a request are told apart by that: their code is no good.
"""

from collections.abc import Callable, Iterator
from typing import assert_never

from sdcluster.core import actions as act
from sdcluster.core import events as ev
from sdcluster.core.backoff import Backoff
from sdcluster.core.states import (
    AGENT,
    EXPECTED,
    QUARANTINE,
    ExitReason,
    Generation,
    Mold,
    MoldState,
    Phase,
    Policy,
    Reload,
    ReloadCause,
    ReloadPhase,
    Slot,
    SlotRecord,
    Worker,
    WorkerId,
    WorkerState,
    is_quarantine,
)

MAX_BOOT_DEATHS = 3
"""Workers of a slot that may be killed while the cluster boots, before the slot counts as tried."""
_ALIVE = (Phase.BOOTING, Phase.RUNNING)
_COMING_OR_SERVING = (WorkerState.STARTING, WorkerState.PROVING, WorkerState.SERVING)


class Supervisor:
    """The state of one cluster. `jitter` returns a random number from 0 to 1."""

    def __init__(self, *, jitter: Callable[[], float]) -> None:
        self.phase = Phase.BOOTING
        self.slots: dict[Slot, SlotRecord] = {}
        self.workers: dict[WorkerId, Worker] = {}
        self.molds: dict[Generation, Mold] = {}
        self.current = Generation(1)
        """The generation that serves, or served last: a rollback's goal."""
        self.reload: Reload | None = None
        self.wanted = 0
        """The number of workers wanted."""
        self.restarts = 0
        """Workers lost without it being the cluster's choice."""
        self._policies: dict[Generation, Policy] = {}
        self._jitter = jitter
        self._reload_again = False
        self._quarantine = 0
        """How many slots the quarantine needs."""
        self._last_worker = 0
        self._last_generation = 1
        self._rebuild_backoff = Backoff()
        self._rebuild_at = 0.0
        self.failure = ""
        """Why the cluster could not start; empty while it may."""
        self._now = 0.0
        self._actions: list[act.Action] = []

    @property
    def ready(self) -> int:
        """How many slots have a worker that serves, the agent's aside."""
        return sum(slot.serving is not None for slot in self._worker_slots())

    def deadline(self) -> float | None:
        """When `TimePassed` is due, on the clock of `handle`'s `now`; None for never."""
        return min(self._deadlines(), default=None)

    def handle(self, event: ev.Event, now: float) -> list[act.Action]:
        """Take one event in and return what to do, in order."""
        self._now = now
        self._apply(event)
        self._settle()
        actions, self._actions = self._actions, []
        return actions

    # Events.

    def _apply(self, event: ev.Event) -> None:
        match event:
            case ev.StartRequested():
                self._load(self.current)
            case ev.MoldStarted(generation, policy):
                self._mold_started(generation, policy)
            case ev.MoldReady(generation):
                self._mold_ready(generation)
            case ev.MoldFailed(generation, reason):
                self._mold_lost(generation, reason)
            case ev.MoldExited(generation, status):
                self._mold_exited(generation, status)
            case ev.ForkFailed(worker_id, reason):
                self._worker_gone(worker_id, reason)
            case ev.WorkerReady(worker_id):
                self._worker_ready(worker_id)
            case ev.WorkerFailed(worker_id, reason):
                self._worker_failed(worker_id, reason)
            case ev.WorkerStopping(worker_id):
                self._worker_stopping(worker_id)
            case ev.WorkerHung(worker_id, reason):
                self._worker_hung(worker_id, reason)
            case ev.WorkerOffended(worker_id, reason):
                self._worker_offended(worker_id, reason)
            case ev.WorkerWorn(worker_id):
                self._worker_worn(worker_id)
            case ev.WorkerExited(worker_id, status):
                self._worker_gone(worker_id, status, event)
            case ev.ReloadRequested():
                self._reload_again = True
            case ev.ScaleRequested(workers):
                self.wanted = workers
            case ev.QuarantineResized(workers):
                self._quarantine = workers
            case ev.StopRequested(at_once):
                self._stop(at_once=at_once)
            case ev.TimePassed():
                pass
            case _:
                assert_never(event)

    def _mold_started(self, generation: Generation, policy: Policy) -> None:
        mold = self.molds.get(generation)
        if mold is None or mold.state is not MoldState.STARTING:
            return
        mold.policy = self._policies[generation] = policy
        mold.deadline = self._now + policy.ready_timeout_s
        if self.phase is Phase.BOOTING:
            self.wanted = policy.workers

    def _mold_ready(self, generation: Generation) -> None:
        mold = self.molds.get(generation)
        if mold is None or mold.state is not MoldState.STARTING:
            return
        mold.state = MoldState.READY
        mold.deadline = None

    def _mold_exited(self, generation: Generation, status: str) -> None:
        mold = self.molds.get(generation)
        if mold is None:
            return
        if mold.state is MoldState.ABORTING and mold.policy is not None:
            reason = f"the app did not load within {mold.policy.ready_timeout_s:g} s"
        else:
            reason = f"the mold died: {status}"
        self._mold_lost(generation, reason)

    def _mold_lost(self, generation: Generation, reason: str) -> None:
        mold = self.molds.pop(generation, None)
        if mold is None:
            return
        self._do(act.StopMold(generation))
        if self.phase is Phase.BOOTING:
            self._fail_boot(reason)
        elif self.reload is not None and generation == self.reload.target:
            self._fail_reload(reason)
        else:
            self._delay_rebuild()

    def _worker_ready(self, worker_id: WorkerId) -> None:
        worker = self.workers.get(worker_id)
        if worker is None or worker.state is not WorkerState.STARTING:
            return
        slot = self.slots[worker.slot]
        probation_s = self._policy(worker.generation).probation_s
        if slot.serving is None or probation_s <= 0:
            self._admit(slot, worker)
        else:
            worker.state = WorkerState.PROVING
            worker.deadline = self._now + probation_s

    def _worker_failed(self, worker_id: WorkerId, reason: str) -> None:
        worker = self.workers.get(worker_id)
        if worker is not None:
            worker.failure = reason

    def _worker_hung(self, worker_id: WorkerId, reason: str) -> None:
        worker = self.workers.get(worker_id)
        if worker is None:
            return
        if worker.state in (WorkerState.SERVING, WorkerState.PROVING):
            self._abort(worker, ExitReason.HUNG, reason)
        elif worker.state is WorkerState.DRAINING:
            self._begin_abort(worker, reason)

    def _worker_offended(self, worker_id: WorkerId, reason: str) -> None:
        worker = self.workers.get(worker_id)
        if worker is not None and worker.state in (WorkerState.STARTING, WorkerState.PROVING):
            self._abort(worker, ExitReason.BOOT_FAILED, reason)
        else:
            self._worker_worn(worker_id)

    def _worker_worn(self, worker_id: WorkerId) -> None:
        worker = self.workers.get(worker_id)
        if worker is not None and worker.state is WorkerState.SERVING:
            self.slots[worker.slot].worn = True

    def _worker_stopping(self, worker_id: WorkerId) -> None:
        worker = self.workers.get(worker_id)
        if worker is None or worker.state not in _COMING_OR_SERVING:
            return
        self._vacate(worker)
        self._retire(worker, ExitReason.ITSELF)
        self._unexpected(worker, f"worker {worker.id} stopped by itself")

    def _worker_gone(
        self, worker_id: WorkerId, status: str, ending: ev.WorkerExited | None = None
    ) -> None:
        worker = self.workers.pop(worker_id, None)
        if worker is None:
            return
        slot = self.slots[worker.slot]
        booting = worker.state is WorkerState.STARTING
        reason = worker.reason
        if worker in slot.leaving:
            slot.leaving.remove(worker)
        else:
            self._vacate(worker, ending)
        if reason is None:
            reason = ExitReason.BOOT_FAILED if booting else ExitReason.CRASH
        waits = slot.is_vacant and self._is_wanted(slot) and self.phase in _ALIVE
        self._do(
            act.RecordExit(
                worker.id,
                slot.number,
                worker.generation,
                reason,
                worker.failure or status,
                max(0.0, slot.spawn_at - self._now) if waits else None,
            )
        )
        if worker.reason is None:
            what = "did not become ready" if booting else "crashed"
            self._unexpected(worker, f"worker {worker.id} {what}: {worker.failure or status}")
        if reason not in EXPECTED:
            self.restarts += 1

    # Workers.

    def _spawn(self, slot: SlotRecord) -> None:
        self._last_worker += 1
        policy = self._policy(slot.wanted)
        worker = Worker(
            WorkerId(self._last_worker),
            slot.number,
            slot.wanted,
            WorkerState.STARTING,
            self._now + policy.ready_timeout_s,
        )
        self.workers[worker.id] = worker
        slot.successor = worker
        self._do(act.SpawnWorker(worker.id, slot.number, slot.wanted))

    def _admit(self, slot: SlotRecord, worker: Worker) -> None:
        old = slot.serving
        slot.serving, slot.successor = worker, None
        slot.worn = slot.tried = False
        slot.deaths = 0
        worker.state, worker.deadline = WorkerState.SERVING, None
        self._do(act.AdmitWorker(worker.id))
        if old is not None:
            self._retire(old, self._replacement_reason(old, worker))
        if self.reload is not None and self.reload.phase is ReloadPhase.ROLLING:
            self._report_progress(self.reload, slot)

    def _report_progress(self, reload: Reload, slot: SlotRecord) -> None:
        target, worker, wanted = reload.target, slot.serving, self._wanted_slots()
        if worker is not None and worker.generation == target and slot in wanted:
            done = sum(self._serves(one, target) for one in wanted)
            added = self._changed_workers(reload) + self._policy(target).agent
            total = max(len(wanted), added)
            self._do(act.ReportProgress(target, worker.id, slot.number, done, total))

    def _replacement_reason(self, old: Worker, new: Worker) -> ExitReason:
        if old.generation == new.generation:
            return ExitReason.RECYCLE
        return ExitReason.RELOAD if old.generation < new.generation else ExitReason.ROLLBACK

    def _retire(self, worker: Worker, reason: ExitReason) -> None:
        """Let a worker go that has left its place in the slot already."""
        policy = self._policy(worker.generation)
        limit_s = policy.drain_timeout_s + policy.drain_grace_s
        if worker.state is WorkerState.STARTING:
            limit_s = policy.abort_grace_s  # It has nothing to drain.
        worker.state, worker.reason = WorkerState.DRAINING, reason
        worker.deadline = self._now + limit_s
        self.slots[worker.slot].leaving.append(worker)
        self._do(act.RetireWorker(worker.id, reason))

    def _abort(self, worker: Worker, reason: ExitReason, text: str) -> None:
        self._vacate(worker)
        worker.reason = reason
        self.slots[worker.slot].leaving.append(worker)
        self._begin_abort(worker, text)
        self._unexpected(worker, f"worker {worker.id} {text}")

    def _begin_abort(self, worker: Worker, text: str) -> None:
        worker.state, worker.failure = WorkerState.ABORTING, text
        worker.deadline = self._now + self._policy(worker.generation).abort_grace_s
        self._do(act.AbortWorker(worker.id, text))

    def _kill(self, worker: Worker, reason: str) -> None:
        worker.state, worker.deadline = WorkerState.KILLED, None
        self._do(act.KillWorker(worker.id, reason))

    def _vacate(self, worker: Worker, ending: ev.WorkerExited | None = None) -> None:
        """Take a worker, lost against our will, out of its place, and put its slot on hold."""
        slot = self.slots[worker.slot]
        if slot.serving is worker:
            slot.serving, slot.worn = None, False
        if slot.successor is worker:
            slot.successor = None
            slot.deaths += 1
            was_killed = ending is not None and ending.was_killed and self.phase is Phase.BOOTING
            slot.tried = not was_killed or slot.deaths >= MAX_BOOT_DEATHS
        had_requests = slot.is_eager = ending is not None and ending.had_requests
        delay_s = slot.backoff.delay_s(self._now, jitter=self._jitter(), had_requests=had_requests)
        slot.spawn_at = self._now + (0.0 if self._is_urgent(slot) else delay_s)
        if slot.successor is not None and slot.successor.state is WorkerState.PROVING:
            self._admit(slot, slot.successor)  # The old one is gone: no time to prove anything.

    def _unexpected(self, worker: Worker, reason: str) -> None:
        """Draw the conclusions of a worker lost against our will."""
        if is_quarantine(worker.slot):
            return
        if self.phase is Phase.BOOTING:
            agent = self.slots.get(AGENT)
            has_no_agent = agent is not None and agent.serving is None and agent.tried
            if has_no_agent or (
                self.ready == 0 and all(slot.tried for slot in self._worker_slots())
            ):
                self._fail_boot(reason)
        elif self.reload is not None and worker.generation == self.reload.target:
            self._fail_reload(reason)

    # Settling.

    def _settle(self) -> None:
        self._expire()
        if self.phase not in _ALIVE:
            self._continue_stop()
            return
        self._continue_boot()
        self._continue_reload()
        self._rebuild_mold()
        self._resize()
        self._resize_quarantine()
        self._fill()
        self._replace_one()
        self._entrust()

    def _expire(self) -> None:
        for worker in list(self.workers.values()):
            if worker.deadline is None or worker.deadline > self._now:
                continue
            match worker.state:
                case WorkerState.STARTING:
                    timeout_s = self._policy(worker.generation).ready_timeout_s
                    text = f"was not ready within {timeout_s:g} s"
                    self._abort(worker, ExitReason.BOOT_FAILED, text)
                case WorkerState.PROVING:
                    self._admit(self.slots[worker.slot], worker)
                case WorkerState.DRAINING:
                    self._kill(worker, "did not end within its drain time")
                case _:  # ABORTING; the other states have no deadline.
                    self._kill(worker, "did not end when it was aborted")
        for mold in self.molds.values():
            if mold.deadline is None or mold.deadline > self._now or mold.policy is None:
                continue
            if mold.state is MoldState.STARTING:
                mold.state = MoldState.ABORTING
                mold.deadline = self._now + mold.policy.abort_grace_s
                self._do(act.AbortMold(mold.generation))
            else:
                mold.deadline = None
                self._do(act.KillMold(mold.generation))

    def _continue_boot(self) -> None:
        if self.phase is Phase.BOOTING and self.slots:
            policy = self._policy(self.current)
            has_agent = not policy.agent or self.slots[AGENT].serving is not None
            if has_agent and self.ready >= min(policy.ready_workers, self.wanted):
                self.phase = Phase.RUNNING
                self._do(act.AnnounceReady())

    def _continue_reload(self) -> None:
        if self.reload is not None:
            self._advance(self.reload)
        # After that: what was asked for during one reload begins when it ends.
        if self.reload is None and self._reload_again and self.phase is Phase.RUNNING:
            self._reload_again = False
            self._begin_reload(ReloadCause.REQUEST)

    def _advance(self, reload: Reload) -> None:
        if reload.phase is ReloadPhase.LOADING and self._can_fork(reload.target):
            reload.phase = ReloadPhase.ROLLING
            self._add_slots(0, reload.target)
        if reload.phase is ReloadPhase.ROLLING and self._all_serve(reload.target):
            self._grow(reload)
        if reload.phase is ReloadPhase.ROLLING and self._all_serve(reload.target):
            reload.phase = ReloadPhase.WATCHING
            reload.watch_until = self._now + self._policy(reload.target).probation_s
        if reload.phase is ReloadPhase.WATCHING and self._now >= reload.watch_until:
            if self._all_serve(reload.target):
                self._commit(reload)
            else:
                reload.phase = ReloadPhase.ROLLING  # Another slot is wanted by now.
        elif reload.phase is ReloadPhase.ROLLING_BACK and self._rolled_back(reload):
            self._end_reload(reload, reload.failure)

    def _grow(self, reload: Reload) -> None:
        """Add the slots that the new config has added, now that its code serves in all others."""
        reload.slots = self._changed_workers(reload)
        self._add_slots(reload.slots, reload.target)

    def _changed_workers(self, reload: Reload) -> int:
        """Return how many workers the new config says; 0 when that is what the old one said."""
        before, after = self._policy(reload.previous), self._policy(reload.target)
        return after.workers if after.workers != before.workers else 0

    def _begin_reload(self, cause: ReloadCause) -> None:
        self._last_generation += 1
        target = Generation(self._last_generation)
        self.reload = Reload(target, self.current, cause)
        self._do(act.BeginReload(target, cause))
        self._load(target)

    def _load(self, generation: Generation) -> None:
        self.molds[generation] = Mold(generation, MoldState.STARTING)
        self._do(act.LoadGeneration(generation))

    def _fail_reload(self, reason: str) -> None:
        reload = self.reload
        assert reload is not None
        if reload.phase is ReloadPhase.ROLLING_BACK:
            return
        if not any(slot.wanted == reload.target for slot in self.slots.values()):
            self._end_reload(reload, reason)
            return
        served = any(self._serves(slot, reload.target) for slot in self.slots.values())
        if served and not self._can_fork(reload.previous):
            # Only the new generation can fill the slots, if any can: it stays, and can be reloaded.
            self._commit(
                reload,
                f"{reason}; there is no way back, as the mold of generation {reload.previous} is "
                f"gone: generation {reload.target} stays",
            )
            return
        reload.phase, reload.failure, reload.slots = ReloadPhase.ROLLING_BACK, reason, 0
        self._do(act.BeginRollback(reload.target, reason))
        for slot in self.slots.values():
            slot.wanted = reload.previous
            slot.tried = False
            slot.backoff.forget()
            slot.spawn_at = self._now
            if slot.successor is not None and slot.successor.generation == reload.target:
                successor, slot.successor = slot.successor, None
                self._retire(successor, ExitReason.ROLLBACK)

    def _rolled_back(self, reload: Reload) -> bool:
        """Tell whether each slot is back, or has tried to and could not, or never can."""
        if not self._can_fork(reload.previous):
            return True
        return not any(
            (not slot.is_empty and not self._is_wanted(slot))
            or slot.in_transition
            or slot.successor is not None
            or (slot.serving is None and slot.spawn_at <= self._now and self._is_wanted(slot))
            or (self._serves(slot, reload.target) and not slot.tried)
            for slot in self._lasting_slots()
        )

    def _commit(self, reload: Reload, failure: str = "") -> None:
        self.current = reload.target
        for slot in self.slots.values():
            slot.wanted = reload.target  # Also those that are not wanted now, but may be again.
        self.wanted = self._changed_workers(reload) or self.wanted
        self._end_reload(reload, failure)

    def _end_reload(self, reload: Reload, failure: str) -> None:
        self.reload = None
        for generation in [one for one in self.molds if one != self.current]:
            self._forget_mold(generation)
        if failure and self.current not in self.molds:
            self._delay_rebuild()
        in_use = {self.current, *(worker.generation for worker in self.workers.values())}
        self._policies = {one: self._policies[one] for one in in_use}
        self._do(act.EndReload(reload.target, reload.cause, failure))

    def _forget_mold(self, generation: Generation) -> None:
        del self.molds[generation]
        self._do(act.StopMold(generation))

    def _delay_rebuild(self) -> None:
        delay_s = self._rebuild_backoff.delay_s(self._now, jitter=self._jitter())
        self._rebuild_at = self._now + delay_s

    def _needs_rebuild(self) -> bool:
        running = self.phase is Phase.RUNNING
        return running and self.reload is None and self.current not in self.molds

    def _rebuild_mold(self) -> None:
        if self._needs_rebuild() and self._now >= self._rebuild_at:
            self._begin_reload(ReloadCause.MOLD_DIED)

    def _resize(self) -> None:
        if self.reload is None:
            self._add_slots(self.wanted, self.current)
        if self.reload is None or self.reload.phase is ReloadPhase.ROLLING_BACK:
            self._remove_surplus()

    def _add_slots(self, count: int, wanted: Generation) -> None:
        """Have slots up to `count`, the new ones for the generation `wanted`, and its agent's."""
        has_agent = wanted in self._policies and self._policy(wanted).agent
        for slot in [AGENT] * has_agent + [Slot(number) for number in range(count)]:
            if slot not in self.slots:
                self.slots[slot] = SlotRecord(slot, wanted, spawn_at=self._now)

    def _remove_surplus(self) -> None:
        """Remove slots that are not wanted, from the highest on."""
        for number in sorted(self.slots, reverse=True):
            slot = self.slots[number]
            if self._is_wanted(slot) or is_quarantine(number):
                continue
            if not slot.is_vacant and self._may_replace():
                self._clear(slot, ExitReason.SCALE)
            elif slot.is_empty:
                del self.slots[number]

    def _resize_quarantine(self) -> None:
        for index in range(self._quarantine):
            number = Slot(QUARANTINE - index)
            if number not in self.slots:
                self.slots[number] = SlotRecord(number, self.current, spawn_at=self._now)
        for slot in list(self.slots.values()):
            if is_quarantine(slot.number) and not self._is_wanted(slot):
                self._clear(slot, ExitReason.SCALE)
                if slot.is_empty:
                    del self.slots[slot.number]

    def _fill(self) -> None:
        for slot in self.slots.values():
            if slot.spawn_at <= self._now:
                self._fill_one(slot)
        for slot in self.slots.values():
            if self._is_urgent(slot):
                self._fill_one(slot)

    def _fill_one(self, slot: SlotRecord) -> None:
        if slot.is_vacant and self._is_wanted(slot) and self._can_fork(slot.wanted):
            self._spawn(slot)

    def _is_urgent(self, slot: SlotRecord) -> bool:
        """Tell whether a slot is filled at once, as few serve, and it was requests that killed."""
        if not slot.is_eager:
            return False
        present = sum(not one.is_vacant for one in self._worker_slots())
        return is_quarantine(slot.number) or present < max(1, -(-self.wanted // 2))

    def _replace_one(self) -> None:
        if self.phase is not Phase.RUNNING or not self._may_replace():
            return
        reload = self.reload
        if reload is not None and reload.phase is ReloadPhase.ROLLING:
            self._want_next(reload.target)
        for slot in self.slots.values():
            if slot.serving is None or slot.successor is not None or slot.spawn_at > self._now:
                continue
            if not self._is_wanted(slot):
                continue
            recycle = slot.worn and reload is None
            stale = slot.serving.generation != slot.wanted
            if (stale or recycle) and self._can_fork(slot.wanted):
                self._spawn(slot)
                return

    def _want_next(self, target: Generation) -> None:
        """Have the next slot want `target`, once all that want it are served by it."""
        wanted = self._wanted_slots()
        if any(slot.wanted == target and not self._serves(slot, target) for slot in wanted):
            return
        rest = [slot for slot in wanted if slot.wanted != target]
        # Those that nobody serves come first: the old code may have no mold, or crash.
        for slot in sorted(rest, key=lambda slot: (slot.serving is not None, slot.number))[:1]:
            slot.wanted = target
            slot.backoff.forget()
            slot.spawn_at = self._now
            if slot.serving is None:
                if slot.successor is not None:
                    self._retire(slot.successor, ExitReason.RELOAD)
                self._spawn(slot)

    def _entrust(self) -> None:
        """Let the agent work that serves: one that leaves may still be at it until it is dead."""
        slot = self.slots.get(AGENT)
        if slot is None or slot.serving is None or slot.leaving or slot.serving.entrusted:
            return
        slot.serving.entrusted = True
        self._do(act.EntrustAgent(slot.serving.id))

    # The end.

    def _fail_boot(self, reason: str) -> None:
        self.failure = reason
        self._stop(at_once=False)

    def _stop(self, *, at_once: bool) -> None:
        if self.phase in _ALIVE:
            self.phase = Phase.STOPPING
            self._do(act.BeginStop())
            if self.reload is not None:
                reload, self.reload = self.reload, None
                self._do(act.EndReload(reload.target, reload.cause, "the cluster is stopping"))
            self._reload_again = False
            for slot in self.slots.values():
                if slot.number != AGENT:
                    self._clear(slot, ExitReason.STOP)
            for generation in list(self.molds):
                self._forget_mold(generation)
        if at_once:
            self._stop_agent()
            for worker in self.workers.values():
                if worker.state is not WorkerState.KILLED:
                    self._kill(worker, "is stopped at once")

    def _clear(self, slot: SlotRecord, reason: ExitReason) -> None:
        """Let those go that serve in a slot, or are about to."""
        for worker in (slot.serving, slot.successor):
            if worker is not None:
                self._retire(worker, reason)
        slot.serving = slot.successor = None

    def _stop_agent(self) -> None:
        if AGENT in self.slots:
            self._clear(self.slots[AGENT], ExitReason.STOP)

    def _continue_stop(self) -> None:
        if all(worker.slot == AGENT for worker in self.workers.values()):
            self._stop_agent()  # Workers that drain may ask it until they are gone.
        if self.phase is Phase.STOPPING and not self.workers:
            self.phase = Phase.STOPPED
            self._do(act.Finish(self.failure))

    # Questions.

    def _do(self, action: act.Action) -> None:
        self._actions.append(action)

    def _policy(self, generation: Generation) -> Policy:
        return self._policies[generation]

    def _can_fork(self, generation: Generation) -> bool:
        mold = self.molds.get(generation)
        return mold is not None and mold.state is MoldState.READY

    def _worker_slots(self) -> list[SlotRecord]:
        return [slot for slot in self.slots.values() if slot.number >= 0]

    def _is_wanted(self, slot: SlotRecord) -> bool:
        if is_quarantine(slot.number):
            return QUARANTINE - slot.number < self._quarantine
        if slot.number == AGENT:
            reload = self.reload
            moves = reload is not None and reload.phase in (
                ReloadPhase.ROLLING,
                ReloadPhase.WATCHING,
            )
            return self._policy(reload.target if reload and moves else self.current).agent
        added = self.reload.slots if self.reload is not None else 0
        return slot.number < max(self.wanted, added)

    def _wanted_slots(self) -> list[SlotRecord]:
        return [slot for slot in self._lasting_slots() if self._is_wanted(slot)]

    def _lasting_slots(self) -> list[SlotRecord]:
        """Return the slots of the workers and the agent."""
        return [slot for slot in self.slots.values() if not is_quarantine(slot.number)]

    def _in_transition(self) -> bool:
        return any(slot.in_transition for slot in self._lasting_slots())

    def _may_replace(self) -> bool:
        """Tell whether one more worker may be replaced, or removed, by choice."""
        slots = self._lasting_slots()
        leaving = sum(worker.reason in EXPECTED for slot in slots for worker in slot.leaving)
        return leaving < len(slots) and not any(slot.is_replacing for slot in slots)

    def _serves(self, slot: SlotRecord, generation: Generation) -> bool:
        return slot.serving is not None and slot.serving.generation == generation

    def _all_serve(self, generation: Generation) -> bool:
        return not self._in_transition() and all(
            self._serves(slot, generation) for slot in self._wanted_slots()
        )

    def _deadlines(self) -> Iterator[float]:
        for worker in self.workers.values():
            if worker.deadline is not None:
                yield worker.deadline
        for mold in self.molds.values():
            if mold.deadline is not None:
                yield mold.deadline
        if self.phase not in _ALIVE:
            return
        for slot in self.slots.values():
            if slot.spawn_at > self._now:
                yield slot.spawn_at
        if self.reload is not None and self.reload.phase is ReloadPhase.WATCHING:
            yield self.reload.watch_until
        if self._needs_rebuild():
            yield self._rebuild_at

"""A small world that carries a supervisor's orders out, badly, and watches that the rules hold.

Molds fail to load, hang and die; workers fail, crash, hang, ignore a drain; facts come late, twice
and about nobody. Everything is drawn from one seeded generator, so that a run can be repeated. The
rules are checked against what the world has seen, not against the supervisor's own books.
"""

import random
from collections import deque
from dataclasses import dataclass
from typing import assert_never

from sdcluster.core import actions as act
from sdcluster.core import events as ev
from sdcluster.core.states import (
    AGENT,
    EXPECTED,
    QUARANTINE,
    ExitReason,
    Generation,
    Policy,
    ReloadCause,
    WorkerId,
    is_quarantine,
)
from sdcluster.core.supervisor import Supervisor

MAX_WORKERS = 5
MAX_SLOTS = MAX_WORKERS + 1
"""With the agent's."""
MAX_RELOAD_S = 600.0
"""What no reload of that many workers can take, with the time limits of `World`."""


@dataclass(slots=True)
class WorkerProcess:
    """A worker as the world knows it."""

    id: WorkerId
    slot: int
    generation: Generation
    is_ready: bool = False
    is_admitted: bool = False
    retired: ExitReason | None = None
    is_struck: bool = False
    """Aborted, or killed."""
    is_killed: bool = False
    is_entrusted: bool = False
    """As an agent, with what is to be done every so often."""

    @property
    def serves(self) -> bool:
        """Whether it gets connections."""
        return self.is_admitted and self.retired is None and not self.is_struck

    @property
    def comes(self) -> bool:
        """Whether it is to serve and does not yet."""
        return not self.is_admitted and self.retired is None and not self.is_struck


class World:
    """The molds and workers of one cluster, and a clock."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.supervisor = Supervisor(jitter=self.random.random)
        self.now = 1000.0
        self._mishap_chance = self.random.choice((0.0, 0.02, 0.1))
        self.kind = False
        """Nothing fails any more."""
        self.workers: dict[WorkerId, WorkerProcess] = {}
        self.molds: dict[Generation, bool] = {}
        """Those that were not let go, and whether they can fork."""
        self.told: list[tuple[float, ev.Event | act.Action]] = []
        """What happened, for the message of a failed check."""
        self.is_announced = self.is_stopping = self.is_finished = False
        self.reload: Generation | None = None
        self.reload_began = 0.0
        self.cause = ReloadCause.REQUEST
        self.is_requested = False
        """A reload was asked for and has not begun."""
        self.wanted = 0
        """The number of workers, without the agent."""
        self.quarantine = 0
        """The number of workers that the quarantine needs."""
        self.policies: dict[Generation, Policy] = {}
        self.excused: set[int] = set()
        """Slots that have lost their worker against the cluster's will, or never had one."""
        self._spawned: set[WorkerId] = set()
        self._recorded: set[WorkerId] = set()
        self._admitted: set[WorkerId] = set()
        self._exited: set[WorkerId] = set()
        self._stuck_molds: set[Generation] = set()
        self._dead_molds: set[Generation] = set()
        self._previous = Generation(1)
        self._rolls_back = self._rollback_fails = False
        self._queue: deque[ev.Event] = deque()
        self._past: list[ev.Event] = []

    # Time and facts.

    def tell(self, event: ev.Event) -> None:
        """Tell the supervisor, carry its orders out, and check the rules."""
        self._queue.append(event)
        while self._queue:
            event = self._queue.popleft()
            self.told.append((self.now, event))
            self._note(event)
            for order in self.supervisor.handle(event, self.now):
                self.told.append((self.now, order))
                self._carry_out(order)
            self._check()
        self._past.append(event)

    def _note(self, event: ev.Event) -> None:
        match event:
            case ev.ReloadRequested() if not self.is_stopping:
                self.is_requested = True
            case ev.ScaleRequested(workers):
                self.wanted = workers
                self._excuse_all()
            case ev.QuarantineResized(workers):
                self.quarantine = workers
            case ev.WorkerExited(worker) | ev.ForkFailed(worker):
                process = self.workers.pop(worker, None)
                if process is not None:
                    self._exited.add(worker)
                    self._lose(process)
            case ev.WorkerStopping(worker) if worker in self.workers:
                self._lose(self.workers[worker])
            case ev.WorkerReady(worker) if worker in self.workers:
                self.workers[worker].is_ready = True
            case ev.MoldExited(generation) | ev.MoldFailed(generation):
                self.molds.pop(generation, None)
                self._dead_molds.add(generation)
            case ev.MoldReady(generation) if generation in self.molds:
                self.molds[generation] = True
            case ev.MoldStarted(generation, policy):
                self.policies[generation] = policy
                if not self.is_announced:
                    self.wanted = policy.workers
                    self._excuse_all()
            case _:
                pass

    def _lose(self, process: WorkerProcess) -> None:
        """A worker is lost, and unless it was to leave, against the cluster's will."""
        if process.serves:
            self.excused.add(process.slot)
        if process.comes and self._rolls_back:
            self._rollback_fails = True

    def _excuse_all(self) -> None:
        """Do not expect workers in slots that have none at this moment."""
        self.excused |= {AGENT, *range(MAX_WORKERS)} - self._served()

    def wanted_slots(self) -> set[int]:
        """Return the slots that are to be served, by what was asked for and what serves."""
        policy = self.policies.get(self.supervisor.current)
        agent = {AGENT} if policy is not None and policy.agent else set()
        return {*range(self.wanted), *agent}

    def quarantine_slots(self) -> set[int]:
        """Return the slots that the quarantine needs; nobody waits for their workers."""
        return {QUARANTINE - index for index in range(self.quarantine)}

    def _served(self) -> set[int]:
        return {process.slot for process in self.workers.values() if process.serves}

    # Orders.

    def _carry_out(self, order: act.Action) -> None:
        match order:
            case act.LoadGeneration(generation):
                self.molds[generation] = False
                if self._happens(0.1):
                    self._queue.append(ev.MoldFailed(generation, "the config is wrong"))
                else:
                    self._queue.append(ev.MoldStarted(generation, self._policy()))
                    if self._happens(0.1):
                        self._stuck_molds.add(generation)
            case act.StopMold(generation):
                self.molds.pop(generation, None)
            case act.AbortMold(generation):
                assert generation in self.molds
            case act.KillMold(generation):
                assert generation in self.molds
                self._queue.append(ev.MoldExited(generation, "SIGKILL"))
            case act.SpawnWorker(worker, slot, generation):
                self._spawn(WorkerProcess(worker, slot, generation))
            case act.AdmitWorker(worker):
                self._admit(self.workers[worker])
            case act.EntrustAgent(worker):
                self._entrust(self.workers[worker])
            case act.RetireWorker(worker, reason):
                self._retire(self.workers[worker], reason)
            case act.AbortWorker(worker) | act.KillWorker(worker):
                process = self.workers[worker]
                self._lose(process)
                process.is_struck = True
                assert not process.is_killed, "killed twice, or aborted after that"
                process.is_killed = isinstance(order, act.KillWorker)
            case act.RecordExit(worker):
                assert worker in self._exited, "an exit that never was"
                assert worker not in self._recorded, "an exit is recorded twice"
                self._recorded.add(worker)
            case act.AnnounceReady():
                assert not self.is_announced
                assert any(slot >= 0 for slot in self._served())
                assert AGENT in self._served() or AGENT not in self.wanted_slots()
                self.is_announced = True
            case act.BeginReload(generation, cause):
                self._begin_reload(generation, cause)
            case act.ReportProgress(generation, worker, _, done, total):
                assert generation == self.reload == self.workers[worker].generation
                assert 0 < done <= total
            case act.BeginRollback(generation):
                assert generation == self.reload
                self._rolls_back = True
            case act.EndReload(generation, cause, failure):
                self._end_reload(generation, cause, failure)
            case act.BeginStop():
                assert not self.is_stopping
                self.is_stopping, self.is_requested = True, False
            case act.Finish():
                assert self.is_stopping and not self.is_finished
                self.is_finished = True
            case _:
                assert_never(order)

    def _policy(self) -> Policy:
        draw = self.random
        workers = draw.randint(1, 4) if draw.random() < 0.3 else 3
        return Policy(
            workers=workers,
            ready_workers=draw.randint(1, workers),
            ready_timeout_s=10.0,
            drain_timeout_s=draw.choice((1.0, 30.0)),
            probation_s=draw.choice((0.0, 0.5)),
            agent=draw.random() < 0.5,
        )

    def _happens(self, chance: float) -> bool:
        return not self.kind and self.random.random() < chance

    def _spawn(self, process: WorkerProcess) -> None:
        assert process.id not in self._spawned
        assert self.molds.get(process.generation), f"nothing forks {process}"
        assert not self.is_stopping
        self._spawned.add(process.id)
        self.workers[process.id] = process
        if self._happens(0.05):
            self._queue.append(ev.ForkFailed(process.id, "no memory"))

    def _admit(self, process: WorkerProcess) -> None:
        assert process.is_ready and process.comes
        assert process.id not in self._admitted, "admitted twice"
        self._admitted.add(process.id)
        process.is_admitted = True
        self.excused.discard(process.slot)

    def _entrust(self, process: WorkerProcess) -> None:
        assert process.slot == AGENT and process.serves
        assert not any(one.is_entrusted for one in self.workers.values()), "two agents work"
        process.is_entrusted = True

    def _retire(self, process: WorkerProcess, reason: ExitReason) -> None:
        assert process.retired is None and not process.is_struck
        process.retired = reason
        if process.is_admitted and reason in EXPECTED - {ExitReason.STOP, ExitReason.SCALE}:
            assert process.slot in self._served(), "the old one leaves before the new one serves"
        if reason is ExitReason.SCALE:
            assert process.slot not in self.wanted_slots()
            self.excused.add(process.slot)

    def _begin_reload(self, generation: Generation, cause: ReloadCause) -> None:
        assert self.reload is None and self.is_announced and not self.is_stopping
        self.reload, self.cause, self.reload_began = generation, cause, self.now
        self._rolls_back = self._rollback_fails = False
        if cause is ReloadCause.REQUEST:
            assert self.is_requested, "nobody asked for it"
            self.is_requested = False

    def _end_reload(self, generation: Generation, cause: ReloadCause, failure: str) -> None:
        assert (self.reload, self.cause) == (generation, cause)
        self.reload = None
        self._rolls_back = False
        if self.is_stopping:
            assert failure
            return
        current = self.supervisor.current
        serving = {one.slot: one.generation for one in self.workers.values() if one.serves}
        if not failure:
            assert current == generation
            for slot in self.wanted_slots():
                assert slot in self.excused or serving[slot] == generation, "not complete"
        elif current == generation:
            assert self._previous in self._dead_molds, "there was a way back"
        elif self._previous not in self._dead_molds and not self._rollback_fails:
            assert generation not in serving.values(), "not back in the old generation"
        self._previous = current
        if self.supervisor.wanted != self.wanted:
            assert current == generation
            if not failure:
                added = set(range(self.supervisor.wanted))
                assert added <= set(serving), "not all that the config says are there"
            self.wanted = self.supervisor.wanted
            self._excuse_all()

    # Rules.

    def _check(self) -> None:
        deadline = self.supervisor.deadline()
        assert deadline is None or deadline > self.now, "a deadline that brings nothing about"
        passing = [one for one in self.workers.values() if not (one.serves or one.is_killed)]
        if not self._queue and (passing or not all(self.molds.values())):
            assert deadline is not None, "something is waited for without a time limit"
        if self.is_stopping:
            assert self.is_finished == (not self.workers)
            assert not self.is_finished or self._spawned == self._recorded, "a worker is leaked"
            return
        coming = {process.slot for process in self.workers.values() if self._replaces(process)}
        assert len(coming) <= 1, f"the workers of slots {coming} are replaced at once"
        leaving = [process for process in self.workers.values() if self._leaves(process)]
        assert len(leaving) <= MAX_SLOTS, "more workers drain than there are slots"
        missing = self.wanted_slots() - self._served() - self.excused
        assert not missing, f"slots {missing} are not served"
        assert self._spawned - self._recorded == set(self.workers), "a worker is leaked"

    def _replaces(self, process: WorkerProcess) -> bool:
        """Tell whether a worker is to take the place of one that serves."""
        if is_quarantine(process.slot):
            return False  # That keeps nobody waiting.
        return process.comes and process.slot in self._served()

    def _leaves(self, process: WorkerProcess) -> bool:
        """Tell whether a worker that has served drains by the cluster's choice."""
        has_served = process.is_admitted and not is_quarantine(process.slot)
        return has_served and process.retired in EXPECTED

    # What may happen.

    def step(self) -> None:
        """Let something happen, or time pass."""
        draw = self.random.random()
        if draw < (0.5 if self.is_announced else 0.8):
            facts = self._due()
        elif draw > 1 - self._mishap_chance:
            facts = self._mishaps()
        elif draw < 0.6:
            facts = [self._request()]
        elif draw < 0.65:
            facts = self._nonsense()
        else:
            facts = []
        if facts:
            self.tell(self.random.choice(facts))
        else:
            deadline = self.supervisor.deadline()
            if deadline is not None and self.random.random() < 0.7:
                self.now = deadline + self.random.choice((0.0, 0.0, 1.0))
            else:
                self.now += self.random.choice((0.0, 0.1, 3.0))
            self.tell(ev.TimePassed())

    def _due(self) -> list[ev.Event]:
        """Return what is expected to happen."""
        facts: list[ev.Event] = [
            ev.MoldReady(generation)
            for generation, can_fork in self.molds.items()
            if not can_fork and generation not in self._stuck_molds
        ]
        for process in self.workers.values():
            if process.retired is not None or process.is_struck:
                facts.append(ev.WorkerExited(process.id, "exit status 0"))
            elif not process.is_ready:
                facts.append(ev.WorkerReady(process.id))
        return facts

    def _mishaps(self) -> list[ev.Event]:
        """Return what goes wrong."""
        facts: list[ev.Event] = []
        for generation in self.molds:
            facts.append(ev.MoldExited(generation, "SIGSEGV"))
        for worker, process in self.workers.items():
            if not process.is_ready:
                facts.append(ev.ForkFailed(worker, "the mold died before it forked"))
            facts += [
                ev.WorkerExited(worker, "SIGSEGV", was_killed=True),
                ev.WorkerExited(worker, "SIGSEGV", had_requests=True, was_killed=True),
                ev.WorkerFailed(worker, "no database"),
                ev.WorkerStopping(worker),
                ev.WorkerHung(worker, "gave no sign of life"),
                ev.WorkerOffended(worker, "broke the protocol"),
                ev.WorkerWorn(worker, "has answered 1000 requests"),
                ev.WorkerWorn(worker, "has answered 1001 requests"),
            ]
        return facts

    def _request(self) -> ev.Event:
        draw = self.random.random()
        if draw < 0.6:
            return ev.ReloadRequested()
        if draw < 0.9:
            return ev.ScaleRequested(self.random.randint(1, MAX_WORKERS))
        if draw < 0.98:
            return ev.QuarantineResized(self.random.randint(0, 2))
        return ev.StopRequested(at_once=self.random.random() < 0.5)

    def _nonsense(self) -> list[ev.Event]:
        """Return facts that are none any more, and some about nobody."""
        facts: list[ev.Event] = [
            ev.WorkerReady(WorkerId(10**6)),
            ev.MoldReady(Generation(10**6)),
        ]
        for event in self._past[-30:]:
            match event:
                case ev.WorkerExited(worker) | ev.ForkFailed(worker) if worker in self.workers:
                    pass  # That would be true.
                case ev.StartRequested() | ev.StopRequested() | ev.MoldStarted():
                    pass
                case _:
                    facts.append(event)
        return facts

    # The way to an end.

    def settle(self) -> None:
        """Let everything succeed from now on, until nothing is left to happen."""
        self.kind = True
        for _ in range(10_000):
            deadline = self.supervisor.deadline()
            if facts := self._due():
                self.tell(self.random.choice(facts))
            elif deadline is not None:
                self.now = deadline
                self.tell(ev.TimePassed())
            else:
                return
        raise AssertionError("it goes on for ever")

    def fail(self, seconds: float) -> None:
        """Let no worker become ready for a while, and see that no reload hangs."""
        end = self.now + seconds
        self.kind = True
        while self.now < end and not self.is_finished:
            facts = self._due()
            for index, fact in enumerate(facts):
                if isinstance(fact, ev.WorkerReady):
                    facts[index] = ev.WorkerExited(fact.worker, "exit status 1")
            deadline = self.supervisor.deadline()
            if facts:
                self.tell(self.random.choice(facts))
            elif deadline is not None:
                self.now = deadline
                self.tell(ev.TimePassed())
            else:
                return
            lasted_s = self.now - self.reload_began
            assert self.reload is None or lasted_s < MAX_RELOAD_S, "a reload does not end"

    def stop(self) -> None:
        """Stop the cluster, with workers that end only when they are killed."""
        self.tell(ev.StopRequested())
        while not self.is_finished:
            deadline = self.supervisor.deadline()
            killed = [one.id for one in self.workers.values() if one.is_killed]
            if killed:
                self.tell(ev.WorkerExited(killed[0], "SIGKILL"))
            else:
                assert deadline is not None, "workers are waited for without a time limit"
                self.now = deadline
                self.tell(ev.TimePassed())

    def story(self) -> str:
        """Return the end of what happened, for people."""
        return "\n".join(f"{now:.2f} {what}" for now, what in self.told[-80:])

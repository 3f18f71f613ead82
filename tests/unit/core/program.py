"""A program that uses the library, badly, and what happens to its molds and workers.

The counterpart of `world`, for the policy of programs that decide for themselves. Everything is
drawn from one seeded generator; the rules are checked against what was ordered and announced, not
against the policy's own books.
"""

import random
from dataclasses import dataclass, field

from sdcluster.core import actions as act
from sdcluster.core import events as ev
from sdcluster.core.manual import (
    Action,
    Announce,
    Event,
    ForkWanted,
    KillWanted,
    LeaveWanted,
    Manual,
    SettingsChanged,
    Stage,
)
from sdcluster.core.states import Generation, WorkerId

MAX_WORKERS = 6

LIVES = (
    [Stage.FORKED, Stage.ONLINE, Stage.DISCONNECTED, Stage.DEAD],
    [Stage.FORKED, Stage.DISCONNECTED, Stage.DEAD],
)
"""What may be announced of a worker, in this order."""


@dataclass(slots=True)
class Life:
    """A worker, as the program and the system know it."""

    settings: int
    """Which settings there were when it was wanted."""
    announced: list[Stage] = field(default_factory=list)
    slot: int | None = None
    """None before it is spawned."""
    exited: bool = False
    retired: bool = False
    killed: bool = False


class Program:
    """A program, its molds and workers, and a clock."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.manual = Manual(drain_timeout_s=10.0)
        self.now = 0.0
        self.lives: dict[WorkerId, Life] = {}
        self.molds: dict[Generation, bool] = {}
        """Those that were loaded and not stopped, and whether they can fork."""
        self.stale: set[Generation] = set()
        """Those that were stopped, and may not have heard of it."""
        self.settings = 0
        self.settings_of: dict[Generation, int] = {}
        """Which settings there were when it was loaded."""
        self.finished = 0
        self.stops = False
        self.told: list[tuple[float, object]] = []

    def tell(self, event: Event) -> None:
        """Let something happen, and see that what is done about it is right."""
        self.told.append((self.now, event))
        self._note(event)
        for action in self.manual.handle(event, self.now):
            self.told.append((self.now, action))
            self._carry_out(action)
        self._check()

    def _note(self, event: Event) -> None:
        match event:
            case ForkWanted(worker):
                self.lives[worker] = Life(self.settings)
            case SettingsChanged():
                self.settings += 1
            case ev.MoldReady(generation) if generation in self.molds:
                self.molds[generation] = True
            case ev.WorkerExited(worker) | ev.ForkFailed(worker):
                self.lives[worker].exited = True
            case ev.StopRequested():
                self.stops = True

    def _carry_out(self, action: Action) -> None:
        match action:
            case act.LoadGeneration(generation):
                same = [one for one in self.molds if self.settings_of[one] == self.settings]
                assert not same, "two molds of the same settings"
                assert generation not in self.stale, "a generation is used again"
                assert not self.stops
                self.molds[generation] = False
                self.settings_of[generation] = self.settings
                assert self._waiting(generation), "a mold that nobody waits for"
            case act.StopMold(generation):
                del self.molds[generation]
                self.stale.add(generation)
            case act.SpawnWorker(worker, slot, generation):
                assert self.molds.get(generation), "nothing forks it"
                settings = self.lives[worker].settings
                assert self.settings_of[generation] == settings, "it has the settings of others"
                assert self.lives[worker].slot is None, "spawned twice"
                self.lives[worker].slot = slot
            case act.RetireWorker(worker):
                assert not self.lives[worker].retired and not self.lives[worker].killed
                self.lives[worker].retired = True
            case act.KillWorker(worker):
                assert self.lives[worker].retired and not self.lives[worker].killed
                self.lives[worker].killed = True
            case Announce():
                self._announced(action)
            case act.Finish(""):
                self.finished += 1
            case _:
                raise AssertionError(f"nobody carries out {action}")

    def _announced(self, told: Announce) -> None:
        life = self.lives[told.worker]
        life.announced.append(told.stage)
        so_far = len(life.announced)
        assert any(one[:so_far] == life.announced for one in LIVES), life.announced
        assert (told.reason is not None) == (told.stage is Stage.DEAD)
        if told.stage is Stage.DEAD:
            assert life.exited or life.slot is None, "it runs"

    def _check(self) -> None:
        there = self._there()
        assert set(self.manual.workers) == set(there), "a worker is forgotten"
        slots = [life.slot for life in there.values() if life.slot is not None]
        assert len(slots) == len(set(slots)), "two workers in a slot"
        loading = {self.settings_of[one] for one, is_ready in self.molds.items() if not is_ready}
        waiting = {life.settings for life in there.values() if life.slot is None}
        assert waiting <= loading, "they wait for nothing"
        kept = {self.settings_of[one] for one in self.molds}
        assert kept <= waiting | {self.settings}, "a mold is kept for nobody"
        leaving = [one for one in there.values() if one.retired and not one.killed]
        deadline = self.manual.deadline()
        assert (deadline is not None) == bool(leaving), "a deadline for those who leave alone"
        assert deadline is None or deadline > self.now, "a deadline that brings nothing about"
        assert self.finished == int(self.stops and (self.finished > 0 or not there))

    def _there(self) -> dict[WorkerId, Life]:
        return {
            worker: life for worker, life in self.lives.items() if Stage.DEAD not in life.announced
        }

    def _waiting(self, generation: Generation) -> list[WorkerId]:
        """Return who is to be forked by a mold."""
        return [
            worker
            for worker, life in self._there().items()
            if life.slot is None and life.settings == self.settings_of[generation]
        ]

    def step(self) -> None:
        """Let something happen, or time pass."""
        draw = self.random.random()
        deadline = self.manual.deadline()
        if draw < 0.15:
            if deadline is not None and self.random.random() < 0.7:
                self.now = max(self.now, deadline)
            else:
                self.now += self.random.choice((0.0, 0.1, 3.0))
            self.tell(ev.TimePassed())
        elif draw < 0.5:
            self.tell(self.random.choice(self._wishes()))
        else:
            self.tell(self.random.choice(self._facts()))

    def _wishes(self) -> list[Event]:
        """Return what the program may want."""
        wishes: list[Event] = [SettingsChanged()]
        if len(self._there()) < MAX_WORKERS:
            wishes += [ForkWanted(WorkerId(len(self.lives) + 1))] * 4
        for worker in self.lives:
            wishes += [LeaveWanted(worker), KillWanted(worker)]
        if self.random.random() < 0.02:
            wishes = [ev.StopRequested(at_once=self.random.random() < 0.5)]
        return wishes

    def _facts(self) -> list[Event]:
        """Return what may happen, late facts included."""
        facts: list[Event] = [ev.TimePassed()]
        for generation in [*self.molds, *self.stale]:
            facts += [
                ev.MoldReady(generation),
                ev.MoldExited(generation, "SIGSEGV"),
                ev.MoldFailed(generation, "no module 'shop'"),
            ]
        facts += [ev.MoldReady(generation) for generation in self.molds] * 4
        for worker, life in self.lives.items():
            facts += [ev.WorkerReady(worker), ev.WorkerStopping(worker)] * (life.slot is not None)
            facts += [ev.WorkerFailed(worker, "no"), ev.WorkerOffended(worker, "junk")]
            if life.slot is not None and not life.exited:
                facts += [
                    ev.WorkerExited(worker, self.random.choice(("SIGSEGV", "exit status 0"))),
                    ev.ForkFailed(worker, "no memory"),
                ]
        return facts

    def stop(self) -> None:
        """Stop the program, with workers that end only when they are killed."""
        self.tell(ev.StopRequested())
        for _ in range(10_000):
            if self.finished:
                break
            killed = [worker for worker, life in self._there().items() if life.killed]
            if killed:
                self.tell(ev.WorkerExited(killed[0], "SIGKILL"))
            else:
                deadline = self.manual.deadline()
                assert deadline is not None, "workers are waited for without a time limit"
                self.now = deadline
                self.tell(ev.TimePassed())
        self.tell(ForkWanted(WorkerId(len(self.lives) + 1)))
        self.tell(ev.TimePassed())
        assert self.finished == 1 and not self.molds
        assert all(life.announced in LIVES for life in self.lives.values())

    def story(self) -> str:
        """Return the end of what happened, for people."""
        return "\n".join(f"{now:.2f} {what}" for now, what in self.told[-80:])

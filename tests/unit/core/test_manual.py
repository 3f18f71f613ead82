"""The policy of a program that decides for itself: facts go in, orders and news come out."""

import pytest

from sdcluster.core import actions as act
from sdcluster.core import events as ev
from sdcluster.core.manual import (
    KILL_GRACE_S,
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
from sdcluster.core.states import ExitReason, Generation, WorkerId
from unit.core.drive import (
    exited,
    kill,
    mold_exited,
    mold_failed,
    mold_ready,
    offended,
    ready,
    retire,
    spawn,
    stopping,
)
from unit.core.program import Program

DRAIN_TIMEOUT_S = 5.0
DRAIN_LIMIT_S = DRAIN_TIMEOUT_S + KILL_GRACE_S
KILL_TEXT = "did not end within its drain time"

WALKS = 200
STEPS = 150


class Drive:
    """A policy and a clock."""

    def __init__(self) -> None:
        self.manual = Manual(drain_timeout_s=DRAIN_TIMEOUT_S)
        self.now = 100.0

    def tell(self, *events: Event, after: float = 0.0) -> list[Action]:
        """Let `after` seconds pass, tell the facts one by one, and return what is to be done."""
        self.now += after
        return [one for event in events for one in self.manual.handle(event, self.now)]

    def wait(self, seconds: float) -> list[Action]:
        """Let time pass."""
        return self.tell(ev.TimePassed(), after=seconds)

    def deadline_in(self) -> float | None:
        """Return how many seconds from now the policy wants to be woken."""
        deadline = self.manual.deadline()
        return None if deadline is None else round(deadline - self.now, 6)


def fork(worker: int) -> ForkWanted:
    """Want a worker."""
    return ForkWanted(WorkerId(worker))


def leave(worker: int) -> LeaveWanted:
    """Want a worker to leave."""
    return LeaveWanted(WorkerId(worker))


def load(generation: int) -> act.LoadGeneration:
    """Order a mold."""
    return act.LoadGeneration(Generation(generation))


def stop_mold(generation: int) -> act.StopMold:
    """Order a mold to go."""
    return act.StopMold(Generation(generation))


def forked(worker: int) -> Announce:
    """Announce a worker."""
    return Announce(WorkerId(worker), Stage.FORKED)


def online(worker: int) -> Announce:
    """Announce that a worker runs."""
    return Announce(WorkerId(worker), Stage.ONLINE)


def disconnected(worker: int) -> Announce:
    """Announce that a worker gets nothing more."""
    return Announce(WorkerId(worker), Stage.DISCONNECTED)


def dead(worker: int, reason: ExitReason, detail: str) -> Announce:
    """Announce the end of a worker."""
    return Announce(WorkerId(worker), Stage.DEAD, reason, detail)


def running(workers: int = 1) -> Drive:
    """Return a program whose workers, from 1 on, run, and came from generation 1."""
    drive = Drive()
    drive.tell(*(fork(worker) for worker in range(1, workers + 1)), mold_ready(1))
    drive.tell(*(ready(worker) for worker in range(1, workers + 1)))
    return drive


# Forks.


def test_first_worker_is_announced_and_has_a_mold_loaded() -> None:
    """Nothing is spawned before the mold is ready; the second worker waits for the same mold."""
    drive = Drive()
    assert drive.tell(fork(1)) == [forked(1), load(1)]
    assert drive.tell(fork(2)) == [forked(2)]
    assert drive.tell(mold_ready(1)) == [spawn(1, 0, 1), spawn(2, 1, 1)]


def test_mold_that_is_ready_forks_at_once() -> None:
    """The next worker takes a millisecond."""
    assert running().tell(fork(2)) == [forked(2), spawn(2, 1, 1)]


def test_slot_of_a_dead_worker_is_used_again() -> None:
    """The lowest that is free, though a worker's id never is."""
    drive = running(workers=3)
    drive.tell(exited(2))
    assert drive.tell(fork(4), fork(5)) == [forked(4), spawn(4, 1, 1), forked(5), spawn(5, 3, 1)]


def test_worker_is_announced_online_once() -> None:
    """However often it says that it is ready, and not once it leaves."""
    drive = Drive()
    drive.tell(fork(1), fork(2), mold_ready(1))
    assert drive.tell(ready(1), ready(1)) == [online(1)]
    drive.tell(leave(2))
    assert drive.tell(ready(2)) == []


def test_nothing_is_respawned() -> None:
    """The program hears of the end, and does what it wants."""
    drive = running()
    gone = [disconnected(1), dead(1, ExitReason.CRASH, "SIGSEGV")]
    assert drive.tell(exited(1)) == gone
    assert drive.manual.workers == {}


@pytest.mark.parametrize("event", [ready(7), exited(7), offended(7), stopping(7), leave(7)])
def test_facts_about_nobody_change_nothing(event: Event) -> None:
    """They may come late."""
    assert running().tell(event, KillWanted(WorkerId(7))) == []


@pytest.mark.parametrize("event", [ev.StartRequested(), ev.ReloadRequested(), mold_ready(9)])
def test_facts_for_the_service_change_nothing(event: Event) -> None:
    """Nobody tells them here."""
    assert running().tell(event) == []


# Ends and their reasons.


def test_worker_that_ends_well_by_itself_is_no_crash() -> None:
    """Its program has come to its end."""
    end = running().tell(exited(1, "exit status 0"))
    assert end[-1] == dead(1, ExitReason.ITSELF, "exit status 0")


def test_worker_that_ends_before_it_is_online_has_failed_to_boot() -> None:
    """Whether it exits or was never forked."""
    drive = Drive()
    drive.tell(fork(1), fork(2), mold_ready(1))
    failed = dead(1, ExitReason.BOOT_FAILED, "exit status 1")
    assert drive.tell(exited(1, "exit status 1")) == [disconnected(1), failed]
    assert drive.tell(ev.ForkFailed(WorkerId(2), "no memory")) == [
        disconnected(2),
        dead(2, ExitReason.BOOT_FAILED, "no memory"),
    ]


@pytest.mark.parametrize("event", [ev.WorkerFailed(WorkerId(1), "no database"), offended(1, "no")])
def test_what_is_known_of_a_worker_is_told_at_its_end(event: Event) -> None:
    """It says more than an exit status."""
    drive = running()
    assert drive.tell(event) == []
    told = drive.tell(exited(1, "exit status 1"))[-1]
    assert isinstance(told, Announce) and told.detail in ("no database", "no")


def test_worker_that_is_killed_on_purpose_is_no_crash() -> None:
    """Also when it is to leave after that."""
    drive = running(workers=2)
    assert drive.tell(KillWanted(WorkerId(1)), KillWanted(WorkerId(2))) == []
    assert drive.tell(exited(1, "SIGTERM"))[-1] == dead(1, ExitReason.KILLED, "SIGTERM")
    drive.tell(leave(2))
    assert drive.tell(exited(2, "SIGTERM")) == [dead(2, ExitReason.KILLED, "SIGTERM")]


def test_worker_leaves_when_it_is_wanted_to() -> None:
    """It is retired once, announced at once, and its end is no crash whatever its status."""
    drive = running()
    assert drive.tell(leave(1)) == [retire(1, ExitReason.STOP), disconnected(1)]
    assert drive.tell(leave(1), stopping(1)) == []
    assert drive.tell(exited(1, "SIGINT")) == [dead(1, ExitReason.STOP, "SIGINT")]
    assert drive.deadline_in() is None


def test_worker_leaves_by_itself() -> None:
    """It is answered as if the program had wanted it, and has the same time."""
    drive = running()
    assert drive.tell(stopping(1)) == [retire(1, ExitReason.STOP), disconnected(1)]
    assert drive.deadline_in() == DRAIN_LIMIT_S
    assert drive.tell(exited(1, "exit status 0"))[-1] == dead(1, ExitReason.ITSELF, "exit status 0")


def test_worker_that_waits_for_its_mold_leaves_at_once() -> None:
    """It is never spawned."""
    drive = Drive()
    drive.tell(fork(1))
    assert drive.tell(leave(1)) == [
        disconnected(1),
        dead(1, ExitReason.STOP, "it was not wanted any more"),
    ]
    assert drive.tell(mold_ready(1)) == []


def test_worker_that_does_not_leave_in_time_is_killed_once() -> None:
    """And is neither retired nor killed again when it is wanted to leave again."""
    drive = running()
    drive.tell(leave(1))
    assert drive.deadline_in() == DRAIN_LIMIT_S
    assert drive.wait(DRAIN_LIMIT_S - 0.1) == []
    assert drive.wait(0.1) == [kill(1, KILL_TEXT)]
    assert drive.deadline_in() is None
    assert drive.tell(leave(1), stopping(1), ev.StopRequested(at_once=True)) == [stop_mold(1)]
    assert drive.tell(exited(1, "SIGKILL")) == [
        dead(1, ExitReason.STOP, "SIGKILL"),
        act.Finish(""),
    ]


# Molds.


@pytest.mark.parametrize("event", [mold_failed(1, "SIGSEGV"), mold_exited(1, "SIGSEGV")])
def test_mold_that_dies_while_it_loads_fails_those_who_wait(event: Event) -> None:
    """It is not loaded again before the program wants another worker."""
    drive = Drive()
    drive.tell(fork(1), fork(2))
    assert drive.tell(event) == [
        stop_mold(1),
        disconnected(1),
        dead(1, ExitReason.BOOT_FAILED, "SIGSEGV"),
        disconnected(2),
        dead(2, ExitReason.BOOT_FAILED, "SIGSEGV"),
    ]
    assert drive.tell(event) == []
    assert drive.tell(fork(3)) == [forked(3), load(2)]


def test_mold_that_dies_later_is_loaded_again_for_the_next_worker() -> None:
    """The workers that came from it are well."""
    drive = running()
    assert drive.tell(mold_exited(1)) == [stop_mold(1)]
    assert drive.tell(fork(2)) == [forked(2), load(2)]
    assert drive.tell(mold_exited(1), mold_ready(1)) == []
    assert drive.tell(mold_ready(2)) == [spawn(2, 1, 2)]


# Settings.


def test_settings_that_change_concern_later_workers() -> None:
    """The old mold goes at once, the new one is loaded when somebody wants a worker."""
    drive = running()
    assert drive.tell(SettingsChanged()) == [stop_mold(1)]
    assert drive.tell(SettingsChanged()) == []
    assert drive.tell(fork(2)) == [forked(2), load(2)]


def test_settings_that_change_before_the_first_fork_change_nothing() -> None:
    """There is no mold yet."""
    assert Drive().tell(SettingsChanged()) == []


def test_settings_that_change_while_a_mold_loads_are_not_for_those_who_wait() -> None:
    """They are spawned by the old mold, which goes then; the next worker has one of its own."""
    drive = Drive()
    drive.tell(fork(1))
    assert drive.tell(SettingsChanged(), SettingsChanged()) == []
    assert drive.tell(fork(2)) == [forked(2), load(2)]
    assert drive.tell(mold_ready(2)) == [spawn(2, 1, 2)]
    assert drive.tell(mold_ready(1)) == [spawn(1, 0, 1), stop_mold(1)]
    assert drive.tell(fork(3)) == [forked(3), spawn(3, 2, 2)]


@pytest.mark.parametrize("event", [mold_failed(1, "SIGSEGV"), mold_exited(1, "SIGSEGV")])
def test_mold_of_old_settings_that_dies_fails_those_who_wait_for_it(event: Event) -> None:
    """The others wait on."""
    drive = Drive()
    drive.tell(fork(1), SettingsChanged(), fork(2))
    failed = dead(1, ExitReason.BOOT_FAILED, "SIGSEGV")
    assert drive.tell(event) == [stop_mold(1), disconnected(1), failed]
    assert drive.tell(mold_ready(2)) == [spawn(2, 1, 2)]


def test_mold_of_old_settings_goes_when_nobody_waits_for_it_any_more() -> None:
    """Its last one has left before it was spawned."""
    drive = Drive()
    drive.tell(fork(1), SettingsChanged())
    assert drive.tell(leave(1))[-1] == stop_mold(1)
    assert drive.tell(mold_ready(1), mold_exited(1)) == []


def test_mold_that_was_stopped_is_not_ready_for_anybody() -> None:
    """What it says comes too late, also when no other mold has followed it."""
    drive = Drive()
    drive.tell(fork(1), leave(1), SettingsChanged())
    assert drive.tell(mold_ready(1), mold_exited(1)) == []
    assert drive.tell(fork(2)) == [forked(2), load(2)]


# The end.


def test_stop_has_every_worker_leave() -> None:
    """With the last one it is over, once."""
    drive = running(workers=2)
    assert drive.tell(ev.StopRequested()) == [
        retire(1, ExitReason.STOP),
        disconnected(1),
        retire(2, ExitReason.STOP),
        disconnected(2),
        stop_mold(1),
    ]
    assert drive.tell(exited(2, "SIGINT")) == [dead(2, ExitReason.STOP, "SIGINT")]
    end = [dead(1, ExitReason.STOP, "SIGINT"), act.Finish("")]
    assert drive.tell(exited(1, "SIGINT")) == end
    assert drive.tell(exited(1), ev.TimePassed(), ev.StopRequested()) == []


def test_stop_at_once_kills_those_who_are_there() -> None:
    """After a first stop, or without one; whoever was killed is not killed again."""
    drive = running(workers=2)
    drive.tell(ev.StopRequested())
    killed = [kill(1, KILL_TEXT), kill(2, KILL_TEXT)]
    assert drive.tell(ev.StopRequested(at_once=True)) == killed
    assert drive.tell(ev.StopRequested(at_once=True)) == []
    assert running().tell(ev.StopRequested(at_once=True))[-1] == kill(1, KILL_TEXT)


def test_stop_without_workers_is_the_end() -> None:
    """Also before the first fork, and while a mold loads."""
    assert Drive().tell(ev.StopRequested()) == [act.Finish("")]
    drive = Drive()
    drive.tell(fork(1))
    assert drive.tell(ev.StopRequested()) == [
        disconnected(1),
        dead(1, ExitReason.STOP, "it was not wanted any more"),
        stop_mold(1),
        act.Finish(""),
    ]
    assert drive.tell(mold_ready(1)) == []


def test_worker_wanted_after_the_stop_never_comes_to_be() -> None:
    """It is announced and gone, so that nobody waits for it; no mold is loaded."""
    drive = running()
    drive.tell(ev.StopRequested())
    never = dead(2, ExitReason.STOP, "it was not wanted any more")
    assert drive.tell(fork(2)) == [forked(2), disconnected(2), never]
    drive.tell(exited(1))
    assert act.Finish("") not in drive.tell(fork(3))


# Whatever happens.


def test_rules_hold_whatever_happens() -> None:
    """After each event of a walk all rules of `Program` hold; and it ends when it is to."""
    for seed in range(WALKS):
        program = Program(seed)
        try:
            for _ in range(seed * 7 % STEPS + 1):
                program.step()
            program.stop()
        except (AssertionError, KeyError) as error:
            pytest.fail(f"seed {seed}: {error!r}\n{program.story()}")


def test_changed_drain_time_counts_for_who_leaves_next() -> None:
    """A new drain time-out is for those who are told to leave after it."""
    drive = Drive()
    drive.tell(ForkWanted(WorkerId(1)), mold_ready(1), ready(1))
    drive.tell(SettingsChanged(drain_timeout_s=1.0), LeaveWanted(WorkerId(1)))
    assert drive.deadline_in() == 1.0 + KILL_GRACE_S


def test_what_is_said_of_a_worker_that_is_gone_is_passed_over() -> None:
    """Its last words may be read after its end."""
    drive = Drive()
    assert drive.tell(offended(1)) == []
    assert drive.manual.workers == {}

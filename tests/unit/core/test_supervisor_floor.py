"""Slots whose workers are killed by requests, by others, or in the quarantine."""

import pytest

from sdcluster.core import actions as act
from sdcluster.core import events as ev
from sdcluster.core.states import QUARANTINE, ExitReason, WorkerId
from sdcluster.core.supervisor import MAX_BOOT_DEATHS
from unit.core.drive import (
    DRAIN_LIMIT_S,
    Drive,
    admit,
    booting,
    exited,
    mold_exited,
    mold_ready,
    mold_started,
    policy,
    ready,
    record,
    retire,
    rolling,
    running,
    spawn,
)

CRASH = ExitReason.CRASH


def died(worker: int) -> ev.WorkerExited:
    """Say that a worker died that had been given requests."""
    return ev.WorkerExited(WorkerId(worker), "SIGSEGV", had_requests=True)


def killed(worker: int) -> ev.WorkerExited:
    """Say that a worker was killed by a signal."""
    return ev.WorkerExited(WorkerId(worker), "SIGKILL", was_killed=True)


def crash(drive: Drive, worker: int) -> list[act.Action]:
    """Have a worker die with requests, and its slot wait; return what is ordered."""
    return drive.tell(died(worker))


# Requests that kill.


def test_slot_is_filled_at_once_while_few_serve() -> None:
    """However often it was filled before: nobody else would serve."""
    drive = running(workers=1)
    for worker in range(1, 50):
        assert crash(drive, worker)[1:] == [spawn(worker + 1, 0, 1)]
        assert drive.tell(ready(worker + 1)) == [admit(worker + 1)]


def test_slot_waits_for_half_a_second_at_the_most_while_others_serve() -> None:
    """After an attack all are back soon."""
    drive = running(workers=4)
    worker, waits = 1, []
    for _ in range(6):
        actions = crash(drive, worker)
        waits.append(drive.deadline_in() or 0.0)
        if waits[-1]:
            actions += drive.wait(waits[-1])
        (spawned,) = (one for one in actions if isinstance(one, act.SpawnWorker))
        worker = spawned.worker
        drive.tell(ready(worker))
    assert waits == [10.0, 0.25, 0.5, 0.5, 0.5, 0.5]  # The first: until it has to be ready.


def test_slots_that_wait_are_filled_when_too_few_serve() -> None:
    """Of four workers two are to serve, or to be about to, at any time."""
    drive = running(workers=4)
    for slot in range(4):  # The next crash of each has to wait.
        crash(drive, slot + 1)
        drive.tell(ready(slot + 5))
    assert crash(drive, 5) == [record(5, 0, 1, CRASH, "SIGSEGV", 0.25)]
    assert crash(drive, 6) == [record(6, 1, 1, CRASH, "SIGSEGV", 0.25)]
    assert crash(drive, 7) == [record(7, 2, 1, CRASH, "SIGSEGV", 0.0), spawn(9, 2, 1)]
    assert drive.tell(exited(9)) == [
        record(9, 2, 1, ExitReason.BOOT_FAILED, "SIGSEGV", 0.5),
        spawn(10, 0, 1),
    ]


def test_workers_that_die_without_a_request_wait_though_nobody_serves() -> None:
    """Their code is no good: it is tried again and again, ever more seldom."""
    drive = running(workers=1)
    drive.tell(exited(1))
    drive.tell(ready(2))
    assert drive.tell(exited(2)) == [record(2, 0, 1, CRASH, "SIGSEGV", 0.25)]
    drive.wait(0.25)
    drive.tell(ready(3), exited(3))
    assert drive.deadline_in() == 0.5


# Others that kill, in the boot.


def test_worker_that_is_killed_in_the_boot_is_tried_again() -> None:
    """Also when no other serves yet."""
    drive = booting(workers=1)
    assert drive.tell(killed(1))[1:] == [spawn(2, 0, 1)]
    drive.tell(killed(2))
    assert drive.wait(0.25) == [spawn(3, 0, 1)]
    assert drive.tell(ready(3)) == [admit(3), act.AnnounceReady()]


def test_boot_fails_when_a_slot_is_killed_again_and_again() -> None:
    """It may be the app that is killed for what it does."""
    drive = booting(workers=1)
    actions: list[act.Action] = []
    for worker in range(1, MAX_BOOT_DEATHS + 1):
        assert act.BeginStop() not in actions
        actions = drive.tell(killed(worker))
        drive.wait(1)
    assert act.BeginStop() in actions


# The quarantine.


def test_quarantine_has_as_many_workers_as_it_needs() -> None:
    """They come at once, are admitted like others, and leave when they are not needed."""
    drive = running(workers=2)
    assert drive.tell(ev.QuarantineResized(2)) == [
        spawn(3, QUARANTINE, 1),
        spawn(4, QUARANTINE - 1, 1),
    ]
    assert drive.tell(ready(3), ready(4)) == [admit(3), admit(4)]
    assert drive.tell(ev.QuarantineResized(1)) == [retire(4, ExitReason.SCALE)]
    assert drive.tell(ev.QuarantineResized(0)) == [retire(3, ExitReason.SCALE)]
    drive.tell(exited(3), exited(4))
    assert set(drive.supervisor.slots) == {0, 1}
    assert drive.supervisor.ready == 2


def test_worker_of_the_quarantine_that_dies_is_replaced_at_once() -> None:
    """That is what it is for."""
    drive = running(workers=2)
    drive.tell(ev.QuarantineResized(1))
    for worker in range(3, 20):
        drive.tell(ready(worker))
        assert crash(drive, worker)[-1] == spawn(worker + 1, QUARANTINE, 1)


def test_worker_of_the_quarantine_that_does_not_start_waits() -> None:
    """As any other; the cluster serves on."""
    drive = running(workers=1)
    drive.tell(ev.QuarantineResized(1))
    assert drive.tell(exited(2))[1:] == [spawn(3, QUARANTINE, 1)]
    drive.tell(exited(3))
    assert drive.wait(0.25) == [spawn(4, QUARANTINE, 1)]
    assert drive.serving() == {0: 1}


def test_quarantine_does_not_end_a_boot() -> None:
    """Neither well nor badly."""
    drive = booting(workers=2)
    drive.tell(ready(1), ev.QuarantineResized(1))
    drive.tell(exited(3, "exit status 1"), ready(4))
    assert act.AnnounceReady() in drive.tell(ready(2))


def test_reload_does_not_wait_for_the_quarantine() -> None:
    """Its worker is replaced when the reload is over."""
    drive = running(workers=1)
    drive.tell(ev.QuarantineResized(1), ready(2))
    drive.tell(ev.ReloadRequested(), mold_started(2, policy(1, probation_s=0)), mold_ready(2))
    actions = drive.tell(ready(3))
    assert act.BeginRollback not in [type(one) for one in actions]
    actions = drive.tell(exited(1))
    assert act.EndReload in [type(one) for one in actions]
    assert actions[-1] == spawn(4, QUARANTINE, 2)
    assert drive.tell(ready(4)) == [admit(4), retire(2, ExitReason.RELOAD)]


def test_worker_of_the_quarantine_that_fails_fails_no_reload() -> None:
    """It was not the reload's."""
    drive = rolling(workers=2)
    drive.tell(ev.QuarantineResized(1))
    (worker,) = (one.id for one in drive.supervisor.workers.values() if one.slot == QUARANTINE)
    actions = drive.tell(exited(worker))
    assert {type(one) for one in actions} == {act.RecordExit, act.SpawnWorker}


def test_quarantine_leaves_with_the_others_in_a_stop() -> None:
    """And is killed when it does not drain."""
    drive = running(workers=1)
    drive.tell(ev.QuarantineResized(1), ready(2))
    assert retire(2, ExitReason.STOP) in drive.tell(ev.StopRequested())
    drive.tell(exited(1))
    assert act.KillWorker in [type(one) for one in drive.wait(DRAIN_LIMIT_S)]
    assert drive.tell(exited(2))[-1] == act.Finish("")


@pytest.mark.parametrize("fails", [False, True])
def test_quarantine_has_no_worker_while_there_is_no_mold(fails: bool) -> None:
    """It gets one when the mold is rebuilt."""
    drive = running(workers=1)
    drive.tell(mold_exited(1))
    assert drive.tell(ev.QuarantineResized(1)) == []
    drive.tell(mold_started(2, policy(1, probation_s=0)), mold_ready(2))
    worker = drive.supervisor.slots[next(iter(drive.supervisor.slots))].successor
    assert worker is not None
    if fails:
        drive.tell(ev.QuarantineResized(0))
        assert set(drive.supervisor.slots) == {0}
        return
    drive.tell(ready(worker.id))
    assert drive.tell(exited(1))[-1] == spawn(worker.id + 1, QUARANTINE, 2)

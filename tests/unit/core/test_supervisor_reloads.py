"""The supervisor in a reload: load, roll, watch, and the ways back."""

import pytest

from sdcluster.core import actions as act
from sdcluster.core import events as ev
from sdcluster.core.states import ExitReason, Generation, ReloadCause, ReloadPhase
from unit.core.drive import (
    ABORT_GRACE_S,
    DRAIN_LIMIT_S,
    PROBATION_S,
    READY_TIMEOUT_S,
    Drive,
    abort,
    admit,
    booting,
    exited,
    hung,
    mold_exited,
    mold_failed,
    mold_ready,
    mold_started,
    offended,
    policy,
    progress,
    ready,
    record,
    retire,
    rolling,
    running,
    spawn,
    stopping,
    worn,
)

GEN1, GEN2, GEN3 = Generation(1), Generation(2), Generation(3)
REQUEST, MOLD_DIED = ReloadCause.REQUEST, ReloadCause.MOLD_DIED


def done(generation: int) -> act.EndReload:
    """Order to tell that a requested reload has succeeded."""
    return act.EndReload(Generation(generation), REQUEST, "")


def failed(
    generation: int, failure: str, cause: ReloadCause = ReloadCause.REQUEST
) -> act.EndReload:
    """Order to tell that a reload has failed."""
    return act.EndReload(Generation(generation), cause, failure)


def crash(worker: int) -> str:
    """Return how the crash of a worker is told."""
    return f"worker {worker} crashed: SIGSEGV"


def halfway() -> Drive:
    """Return a cluster in a reload: worker 3 serves slot 0 with generation 2, worker 4 starts."""
    drive = rolling(workers=2)
    drive.tell(ready(3))
    drive.wait(PROBATION_S)
    drive.tell(exited(1, "exit status 0"))
    return drive


def watching() -> Drive:
    """Return a cluster whose workers 3 and 4 serve with generation 2, still watched."""
    drive = halfway()
    drive.tell(ready(4))
    drive.wait(PROBATION_S)
    drive.tell(exited(2, "exit status 0"))
    reload = drive.supervisor.reload
    assert reload is not None and reload.phase is ReloadPhase.WATCHING
    return drive


# The way forward.


def test_reload_loads_the_next_generation_first() -> None:
    """No worker is touched before the new code is loaded."""
    drive = running(workers=2)
    assert drive.tell(ev.ReloadRequested()) == [
        act.BeginReload(GEN2, REQUEST),
        act.LoadGeneration(GEN2),
    ]
    assert drive.tell(mold_started(2, policy(2))) == []
    assert drive.serving() == {0: 1, 1: 1}


def test_reload_replaces_one_slot_after_the_other_and_new_first() -> None:
    """The whole course of a reload of two slots."""
    drive = running(workers=2)
    drive.tell(ev.ReloadRequested(), mold_started(2, policy(2)))
    assert drive.tell(mold_ready(2)) == [spawn(3, 0, 2)]
    assert drive.tell(ready(3)) == []
    assert drive.wait(PROBATION_S) == [
        admit(3),
        retire(1, ExitReason.RELOAD),
        progress(3, 0, 2, 1, 2),
        spawn(4, 1, 2),
    ]
    assert drive.tell(exited(1, "exit status 0")) == [record(1, 0, 1, ExitReason.RELOAD)]
    assert drive.tell(ready(4)) == []
    assert drive.wait(PROBATION_S) == [
        admit(4),
        retire(2, ExitReason.RELOAD),
        progress(4, 1, 2, 2, 2),
    ]
    assert drive.tell(exited(2, "exit status 0")) == [record(2, 1, 1, ExitReason.RELOAD)]
    assert drive.deadline_in() == PROBATION_S
    assert drive.wait(PROBATION_S) == [act.StopMold(GEN1), done(2)]
    assert drive.supervisor.current == GEN2
    assert drive.supervisor.restarts == 0
    assert drive.deadline_in() is None


def test_reload_without_probation_ends_when_the_last_old_worker_is_gone() -> None:
    """reload_probation_s = 0 watches nothing."""
    drive = rolling(workers=1, probation_s=0.0)
    drive.tell(ready(2))
    assert drive.tell(exited(1))[1:] == [act.StopMold(GEN1), done(2)]


def test_reload_waits_for_a_recycle_under_way() -> None:
    """Never are two slots about to be served by another worker, whoever began."""
    drive = running(workers=2)
    drive.tell(worn(2), ev.ReloadRequested(), mold_started(2, policy(2)))
    assert drive.tell(mold_ready(2)) == []
    drive.tell(ready(3))
    assert drive.wait(PROBATION_S)[-1] == spawn(4, 0, 2)


def test_reload_takes_one_drain() -> None:
    """The old workers drain side by side; it is over when all have ended, and not before."""
    drive = rolling(workers=3)
    for worker in (4, 5, 6):
        drive.tell(ready(worker))
        drive.wait(PROBATION_S)
    assert drive.serving() == {0: 2, 1: 2, 2: 2}
    drive.tell(exited(1), exited(2))
    assert drive.wait(PROBATION_S) == []
    drive.tell(exited(3))
    assert done(2) in drive.wait(PROBATION_S)


def test_reload_requested_during_boot_begins_when_the_cluster_is_ready() -> None:
    """The request is remembered."""
    drive = booting(workers=1)
    assert drive.tell(ev.ReloadRequested()) == []
    assert drive.tell(ready(1)) == [
        admit(1),
        act.AnnounceReady(),
        act.BeginReload(GEN2, REQUEST),
        act.LoadGeneration(GEN2),
    ]


def test_requests_during_a_reload_become_one_more_reload() -> None:
    """Those who ask during a reload may have newer code: they get the next one, together."""
    drive = watching()
    assert drive.tell(ev.ReloadRequested(), ev.ReloadRequested()) == []
    assert drive.wait(PROBATION_S) == [
        act.StopMold(GEN1),
        done(2),
        act.BeginReload(GEN3, REQUEST),
        act.LoadGeneration(GEN3),
    ]
    assert drive.tell(mold_failed(3))[-1] == failed(3, "no module 'shop'")
    assert drive.supervisor.reload is None


def test_request_during_a_rollback_is_carried_out_after_it() -> None:
    """The mended code is loaded as soon as the broken one is gone."""
    drive = rolling(workers=1)
    drive.tell(ready(2), ev.ReloadRequested())
    assert drive.tell(exited(2)) == [
        record(2, 0, 2, ExitReason.CRASH, "SIGSEGV"),
        act.BeginRollback(GEN2, crash(2)),
        act.StopMold(GEN2),
        failed(2, crash(2)),
        act.BeginReload(GEN3, REQUEST),
        act.LoadGeneration(GEN3),
    ]


def test_reload_takes_on_the_number_of_workers_when_the_file_has_changed_it() -> None:
    """The number changes when the reload has succeeded, one surplus worker after the other."""
    drive = running(workers=2)
    drive.tell(ev.ReloadRequested(), mold_started(2, policy(1)), mold_ready(2))
    drive.tell(ready(3))
    drive.wait(PROBATION_S)
    drive.tell(exited(1), ready(4))
    drive.wait(PROBATION_S)
    drive.tell(exited(2))
    assert drive.wait(PROBATION_S) == [
        act.StopMold(GEN1),
        done(2),
        retire(4, ExitReason.SCALE),
    ]


def test_reload_keeps_the_number_that_was_scaled_to_when_the_file_is_the_same() -> None:
    """`sdcluster scale` holds until the file says otherwise."""
    drive = running(workers=1)
    drive.tell(ev.ScaleRequested(2), ready(2))
    drive.tell(ev.ReloadRequested(), mold_started(2, policy(1)), mold_ready(2), ready(3))
    drive.wait(PROBATION_S)
    drive.tell(exited(1), ready(4))
    drive.wait(PROBATION_S)
    drive.tell(exited(2))
    assert drive.wait(PROBATION_S)[-1] == done(2)
    assert drive.supervisor.wanted == 2


def test_crash_of_an_old_worker_during_a_reload_is_answered_with_the_old_generation() -> None:
    """A slot whose turn has not come stays with the code that works; it is no progress."""
    drive = rolling(workers=2)
    assert drive.tell(exited(2))[-1] == spawn(4, 1, 1)
    assert drive.tell(ready(4)) == [admit(4)]


def test_empty_slots_get_the_new_generation_first() -> None:
    """A slot that the old code cannot keep filled comes before those that serve."""
    drive = running(workers=2)
    drive.tell(exited(2), ready(3))
    drive.tell(exited(3))
    drive.tell(ev.ReloadRequested(), mold_started(2, policy(2)))
    assert drive.tell(mold_ready(2)) == [spawn(4, 1, 2)]
    assert drive.tell(ready(4)) == [admit(4), progress(4, 1, 2, 1, 2), spawn(5, 0, 2)]


def test_old_worker_still_starting_in_an_empty_slot_makes_way() -> None:
    """A worker of the old code that has not served is let go for one of the new code."""
    drive = running(workers=1)
    drive.tell(exited(1))
    drive.tell(ev.ReloadRequested(), mold_started(2, policy(1)))
    assert drive.tell(mold_ready(2)) == [retire(2, ExitReason.RELOAD), spawn(3, 0, 2)]
    assert drive.tell(ready(2)) == []
    assert drive.tell(exited(2), ready(3)) == [
        record(2, 0, 1, ExitReason.RELOAD, "SIGSEGV"),
        admit(3),
        progress(3, 0, 2, 1, 1),
    ]


def test_crash_of_the_old_worker_lets_the_new_one_serve_at_once() -> None:
    """A new worker on probation is needed now."""
    drive = rolling(workers=1)
    drive.tell(ready(2))
    assert drive.tell(exited(1)) == [
        admit(2),
        progress(2, 0, 2, 1, 1),
        record(1, 0, 1, ExitReason.CRASH, "SIGSEGV"),
    ]


# More workers than before.


def growing(workers: int = 3) -> Drive:
    """Return a cluster of one worker whose new config says more, just moved: the rest starts."""
    drive = running(workers=1)
    drive.tell(ev.ReloadRequested(), mold_started(2, policy(workers)), mold_ready(2), ready(2))
    assert drive.wait(PROBATION_S)[-1] == progress(2, 0, 2, 1, workers)
    spawned = [spawn(slot + 2, slot, 2) for slot in range(1, workers)]
    assert drive.tell(exited(1))[1:] == spawned
    return drive


def test_reload_adds_the_workers_that_the_file_has_added_once_all_others_have_moved() -> None:
    """It is over when these have served for a while as well."""
    drive = growing(3)
    assert drive.tell(ready(4)) == [admit(4), progress(4, 2, 2, 2, 3)]
    assert drive.wait(2 * PROBATION_S) == []
    assert drive.tell(ready(3)) == [admit(3), progress(3, 1, 2, 3, 3)]
    assert drive.deadline_in() == PROBATION_S
    assert drive.supervisor.wanted == 1
    assert drive.wait(PROBATION_S) == [act.StopMold(GEN1), done(2)]
    assert drive.supervisor.wanted == 3


def test_reload_rolls_back_when_an_added_worker_fails() -> None:
    """Those added leave, the others go back, and there are as many as before."""
    drive = growing(4)
    drive.tell(ready(3), ready(4))
    assert drive.tell(exited(5, "exit status 1"))[1:] == [
        act.BeginRollback(GEN2, "worker 5 did not become ready: exit status 1"),
        retire(4, ExitReason.SCALE),
        retire(3, ExitReason.SCALE),
        spawn(6, 0, 1),
    ]
    drive.tell(exited(4), exited(3), ready(6))
    drive.wait(PROBATION_S)
    assert drive.tell(exited(2))[1:] == [
        act.StopMold(GEN2),
        failed(2, "worker 5 did not become ready: exit status 1"),
    ]
    assert drive.supervisor.wanted == 1
    assert drive.serving() == {0: 1}
    assert list(drive.supervisor.slots) == [0]


def test_rollback_waits_for_an_added_worker_that_is_aborted() -> None:
    """And nothing is started in its place meanwhile."""
    drive = growing(3)
    drive.tell(ready(3))
    assert drive.wait(READY_TIMEOUT_S)[-1] == spawn(5, 0, 1)
    drive.tell(ready(5))
    drive.wait(PROBATION_S)
    drive.tell(exited(2))
    drive.tell(exited(3))
    assert drive.serving() == {0: 1}
    assert isinstance(drive.tell(exited(4, "SIGABRT"))[-1], act.EndReload)


def test_added_workers_stay_when_there_is_no_way_back() -> None:
    """The new generation stays, and with it its number of workers."""
    drive = growing(2)
    drive.tell(mold_exited(1))
    _, end, respawn = drive.tell(exited(3))
    assert isinstance(end, act.EndReload) and "generation 2 stays" in end.failure
    assert respawn == spawn(4, 1, 2)
    assert drive.supervisor.wanted == 2


def test_number_of_the_file_holds_against_one_scaled_to_meanwhile() -> None:
    """Slots that scaling would add after the reload are added during it, if the file has them."""
    drive = running(workers=1)
    drive.tell(ev.ReloadRequested(), mold_started(2, policy(2)), mold_ready(2))
    drive.tell(ev.ScaleRequested(4), ready(2))
    drive.wait(PROBATION_S)
    assert drive.tell(exited(1))[-1] == spawn(3, 1, 2)
    drive.tell(ready(3))
    assert drive.wait(PROBATION_S) == [act.StopMold(GEN1), done(2)]
    assert drive.supervisor.wanted == 2


# Scaling meanwhile.


def test_scale_up_during_a_reload_adds_slots_after_it() -> None:
    """The new slots begin with the generation that has won."""
    drive = watching()
    assert drive.tell(ev.ScaleRequested(3)) == []
    assert drive.wait(PROBATION_S) == [act.StopMold(GEN1), done(2), spawn(5, 2, 2)]


def test_scale_down_during_a_reload_removes_slots_after_it() -> None:
    """Surplus slots are not rolled, do not count, and leave at the end."""
    drive = halfway()
    drive.tell(ev.ScaleRequested(1))
    drive.tell(ready(4))
    drive.wait(PROBATION_S)
    drive.tell(exited(2))
    assert drive.wait(PROBATION_S) == [act.StopMold(GEN1), done(2), retire(4, ExitReason.SCALE)]


def test_surplus_slots_are_not_rolled() -> None:
    """A slot that is to be removed gets no new worker first, and progress counts without it."""
    drive = rolling(workers=2)
    drive.tell(ev.ScaleRequested(1), ready(3))
    assert drive.wait(PROBATION_S)[-1] == progress(3, 0, 2, 1, 1)
    drive.tell(exited(1))
    assert drive.wait(PROBATION_S) == [act.StopMold(GEN1), done(2), retire(2, ExitReason.SCALE)]


def test_worker_admitted_in_a_surplus_slot_is_no_progress() -> None:
    """What is about to be removed does not count, even if it was rolled before that was known."""
    drive = halfway()
    drive.tell(ev.ScaleRequested(1), ready(4))
    assert drive.wait(PROBATION_S) == [admit(4), retire(2, ExitReason.RELOAD)]


def test_slot_that_is_wanted_again_after_a_reload_gets_the_new_generation() -> None:
    """A slot that a reload has passed over does not keep old code for ever."""
    drive = rolling(workers=3)
    drive.tell(ev.ScaleRequested(1), ready(4))
    drive.wait(PROBATION_S)
    drive.tell(exited(1))
    assert drive.wait(PROBATION_S)[-2:] == [
        retire(3, ExitReason.SCALE),
        retire(2, ExitReason.SCALE),
    ]
    assert drive.tell(ev.ScaleRequested(3)) == [spawn(5, 1, 2), spawn(6, 2, 2)]
    drive.tell(ready(5), ready(6))
    assert drive.serving() == {0: 2, 1: 2, 2: 2}


def test_slot_that_is_wanted_again_while_the_reload_is_watched_is_rolled_too() -> None:
    """A reload has not succeeded while a wanted slot serves old code."""
    drive = rolling(workers=2)
    drive.tell(ev.ScaleRequested(1), ready(3))
    drive.wait(PROBATION_S)
    drive.tell(exited(1), ev.ScaleRequested(2))
    assert drive.wait(PROBATION_S) == [spawn(4, 1, 2)]


# The new generation does not load.


def test_generation_that_does_not_load_ends_the_reload_and_nothing_else() -> None:
    """No worker is touched, and the cluster can be reloaded again."""
    drive = running(workers=2)
    drive.tell(ev.ReloadRequested())
    assert drive.tell(mold_failed(2)) == [act.StopMold(GEN2), failed(2, "no module 'shop'")]
    assert drive.serving() == {0: 1, 1: 1}
    assert drive.tell(ev.ReloadRequested())[0] == act.BeginReload(GEN3, REQUEST)


def test_mold_that_dies_while_it_loads_ends_the_reload() -> None:
    """A crash in the import is told as such."""
    drive = running(workers=1)
    drive.tell(ev.ReloadRequested(), mold_started(2, policy(1)))
    assert drive.tell(mold_exited(2, "SIGSEGV"))[-1] == failed(2, "the mold died: SIGSEGV")


def test_mold_that_does_not_load_in_time_is_aborted_and_ends_the_reload() -> None:
    """An import that hangs is a failure like any other."""
    drive = running(workers=1)
    drive.tell(ev.ReloadRequested(), mold_started(2, policy(1)))
    assert drive.wait(READY_TIMEOUT_S) == [act.AbortMold(GEN2)]
    assert drive.tell(mold_exited(2, "SIGABRT"))[-1] == failed(
        2, "the app did not load within 10 s"
    )


def test_mold_that_dies_before_any_slot_has_moved_ends_the_reload() -> None:
    """With nothing moved there is nothing to roll back."""
    drive = running(workers=2)
    drive.tell(worn(2), ev.ReloadRequested(), mold_started(2, policy(2)), mold_ready(2))
    assert drive.tell(mold_exited(2))[-1] == failed(2, "the mold died: SIGKILL")


# Rollback.


def test_reload_rolls_back_when_a_new_worker_never_becomes_ready() -> None:
    """The first new worker is aborted, its slot never loses the old one, and the reload fails."""
    drive = rolling(workers=2)
    text = "was not ready within 10 s"
    assert drive.wait(READY_TIMEOUT_S) == [
        abort(3, text),
        act.BeginRollback(GEN2, f"worker 3 {text}"),
        act.StopMold(GEN2),
        failed(2, f"worker 3 {text}"),
    ]
    assert drive.serving() == {0: 1, 1: 1}
    assert drive.tell(exited(3)) == [record(3, 0, 2, ExitReason.BOOT_FAILED, text)]


def test_reload_rolls_back_when_a_new_worker_exits_before_it_is_ready() -> None:
    """What the worker said is why the reload failed."""
    drive = rolling(workers=2)
    reason = "worker 3 did not become ready: no database"
    assert drive.tell(ev.WorkerFailed(worker=ready(3).worker, reason="no database"), exited(3)) == [
        record(3, 0, 2, ExitReason.BOOT_FAILED, "no database"),
        act.BeginRollback(GEN2, reason),
        act.StopMold(GEN2),
        failed(2, reason),
    ]


@pytest.mark.parametrize(
    ("event", "order", "reason"),
    [
        (exited(3), record(3, 0, 2, ExitReason.CRASH, "SIGSEGV"), crash(3)),
        (hung(3), abort(3), "worker 3 gave no sign of life"),
        (stopping(3), retire(3, ExitReason.ITSELF), "worker 3 stopped by itself"),
    ],
    ids=["crash", "hang", "stop"],
)
def test_reload_rolls_back_when_a_new_worker_fails_on_probation(
    event: ev.Event, order: act.Action, reason: str
) -> None:
    """Being ready once is not enough."""
    drive = rolling(workers=2)
    drive.tell(ready(3))
    assert drive.tell(event) == [
        order,
        act.BeginRollback(GEN2, reason),
        act.StopMold(GEN2),
        failed(2, reason),
    ]


def test_reload_rolls_back_when_a_new_worker_breaks_the_protocol() -> None:
    """Before it serves, that is a worker that does not become ready."""
    drive = rolling(workers=1)
    reason = "worker 2 broke the protocol: junk"
    assert act.BeginRollback(GEN2, reason) in drive.tell(offended(2))


def test_rollback_replaces_the_moved_slots_with_the_old_generation_and_new_first() -> None:
    """A failure in the second slot sends the first one back, and only then the reload ends."""
    drive = halfway()
    reason = "worker 4 did not become ready: SIGSEGV"
    assert drive.tell(exited(4)) == [
        record(4, 1, 2, ExitReason.BOOT_FAILED, "SIGSEGV"),
        act.BeginRollback(GEN2, reason),
        spawn(5, 0, 1),
    ]
    drive.tell(ready(5))
    assert drive.wait(PROBATION_S) == [admit(5), retire(3, ExitReason.ROLLBACK)]
    assert drive.tell(exited(3, "exit status 0")) == [
        record(3, 0, 2, ExitReason.ROLLBACK),
        act.StopMold(GEN2),
        failed(2, reason),
    ]
    assert drive.serving() == {0: 1, 1: 1}
    assert drive.supervisor.current == GEN1


def test_rollback_while_another_worker_of_the_new_generation_starts() -> None:
    """A new worker that serves crashes; the one that starts elsewhere is let go."""
    drive = halfway()
    assert drive.tell(exited(3)) == [
        record(3, 0, 2, ExitReason.CRASH, "SIGSEGV", respawn_in_s=0.0),
        act.BeginRollback(GEN2, crash(3)),
        retire(4, ExitReason.ROLLBACK),
        spawn(5, 0, 1),
    ]
    assert drive.tell(exited(4, "exit status 0"), ready(5)) == [
        record(4, 1, 2, ExitReason.ROLLBACK),
        admit(5),
        act.StopMold(GEN2),
        failed(2, crash(3)),
    ]


def test_rollback_of_a_crash_while_it_is_watched() -> None:
    """The last moment to go back is the end of the last probation."""
    drive = watching()
    assert drive.tell(exited(4))[1:] == [
        act.BeginRollback(GEN2, crash(4)),
        spawn(5, 1, 1),
        spawn(6, 0, 1),
    ]
    assert drive.tell(ready(5), ready(6)) == [admit(5)]
    drive.wait(PROBATION_S)
    assert drive.tell(exited(3))[-1] == failed(2, crash(4))


def test_reload_rolls_back_when_the_new_mold_dies() -> None:
    """A generation that cannot be forked from is none."""
    drive = halfway()
    assert drive.tell(mold_exited(2)) == [
        act.StopMold(GEN2),
        act.BeginRollback(GEN2, "the mold died: SIGKILL"),
        retire(4, ExitReason.ROLLBACK),
        spawn(5, 0, 1),
    ]


def test_second_failure_during_a_rollback_changes_nothing() -> None:
    """The new generation has failed already; its crashed slot goes back at once."""
    drive = halfway()
    drive.tell(exited(4))
    assert drive.tell(mold_exited(2)) == [act.StopMold(GEN2)]
    assert drive.tell(exited(3)) == [record(3, 0, 2, ExitReason.CRASH, "SIGSEGV")]
    assert drive.tell(ready(5))[-1] == failed(2, "worker 4 did not become ready: SIGSEGV")


def test_crash_of_a_worker_of_the_old_generation_fails_no_reload() -> None:
    """The new code is not to blame for the old."""
    drive = rolling(workers=2)
    drive.tell(exited(2))
    reload = drive.supervisor.reload
    assert reload is not None and reload.phase is ReloadPhase.ROLLING


def test_rollback_waits_for_an_empty_slot_but_not_for_a_back_off() -> None:
    """A slot that crashes with the old code as well does not hold the reload for long."""
    drive = halfway()
    drive.tell(exited(3))
    drive.tell(exited(4))
    drive.tell(exited(5))
    assert drive.tell(exited(6))[-1] == failed(2, crash(3))
    assert drive.deadline_in() == 0.25


def test_rollback_ends_when_the_old_generation_does_not_come_back() -> None:
    """Each slot gets a try; then the reload has failed, and the slots go on trying."""
    drive = halfway()
    reason = "worker 4 did not become ready: SIGSEGV"
    drive.tell(exited(4))
    assert drive.tell(exited(5)) == [
        record(5, 0, 1, ExitReason.BOOT_FAILED, "SIGSEGV"),
        act.StopMold(GEN2),
        failed(2, reason),
        spawn(6, 0, 1),
    ]
    drive.tell(ready(6))
    assert drive.wait(PROBATION_S) == [admit(6), retire(3, ExitReason.ROLLBACK)]


# Molds that die.


def test_mold_that_dies_is_rebuilt_by_a_reload() -> None:
    """The code on disk may have changed, so the new mold is a new generation."""
    drive = running(workers=1)
    assert drive.tell(mold_exited(1)) == [
        act.StopMold(GEN1),
        act.BeginReload(GEN2, MOLD_DIED),
        act.LoadGeneration(GEN2),
    ]
    assert drive.tell(mold_started(2, policy(1)), mold_ready(2)) == [spawn(2, 0, 2)]
    drive.tell(ready(2))
    drive.wait(PROBATION_S)
    drive.tell(exited(1))
    assert drive.wait(PROBATION_S) == [act.EndReload(GEN2, MOLD_DIED, "")]


def test_rebuild_that_fails_is_tried_again_after_a_growing_wait() -> None:
    """Broken code on disk costs an import now and then, and no worker."""
    drive = running(workers=1)
    drive.tell(mold_exited(1))
    generation = 2
    for wait_s in (0.25, 0.5, 1.0):
        assert drive.tell(mold_failed(generation)) == [
            act.StopMold(Generation(generation)),
            failed(generation, "no module 'shop'", MOLD_DIED),
        ]
        generation += 1
        assert drive.deadline_in() == wait_s
        assert drive.wait(wait_s)[-1] == act.LoadGeneration(Generation(generation))


def test_request_does_not_wait_for_the_next_rebuild() -> None:
    """Whoever has mended the code gets it loaded now."""
    drive = running(workers=1)
    drive.tell(mold_exited(1), mold_failed(2))
    assert drive.tell(ev.ReloadRequested())[0] == act.BeginReload(GEN3, REQUEST)


def test_crashed_slot_waits_for_the_rebuilt_mold() -> None:
    """Without a mold nobody can be spawned; then the empty slot comes first."""
    drive = running(workers=2)
    drive.tell(mold_exited(1))
    assert drive.tell(exited(2)) == [record(2, 1, 1, ExitReason.CRASH, "SIGSEGV", respawn_in_s=0.0)]
    assert drive.tell(mold_started(2, policy(2)), mold_ready(2)) == [spawn(3, 1, 2)]


def test_mold_that_dies_while_another_one_loads_is_replaced_by_that() -> None:
    """A reload under way rebuilds the mold as well."""
    drive = running(workers=1)
    drive.tell(ev.ReloadRequested(), mold_started(2, policy(1)))
    assert drive.tell(mold_exited(1)) == [act.StopMold(GEN1)]
    drive.tell(mold_ready(2), ready(2))
    drive.wait(PROBATION_S)
    drive.tell(exited(1))
    assert drive.wait(PROBATION_S) == [done(2)]


def test_mold_that_died_during_a_failed_reload_is_rebuilt_after_it() -> None:
    """A request that fails does not leave the cluster without a mold."""
    drive = running(workers=1)
    drive.tell(ev.ReloadRequested(), mold_exited(1))
    assert drive.tell(mold_failed(2)) == [act.StopMold(GEN2), failed(2, "no module 'shop'")]
    assert drive.deadline_in() == 0.25
    assert drive.wait(0.25)[0] == act.BeginReload(GEN3, MOLD_DIED)


def test_first_new_worker_that_fails_ends_a_reload_that_cannot_go_back() -> None:
    """With nothing moved the workers of the dead mold serve on, and a mold is rebuilt."""
    drive = rolling(workers=2)
    drive.tell(mold_exited(1))
    assert drive.tell(exited(3))[1:] == [
        act.BeginRollback(GEN2, "worker 3 did not become ready: SIGSEGV"),
        act.StopMold(GEN2),
        failed(2, "worker 3 did not become ready: SIGSEGV"),
    ]
    assert drive.serving() == {0: 1, 1: 1}
    assert drive.wait(0.25)[0] == act.BeginReload(GEN3, MOLD_DIED)


def test_reload_without_a_way_back_fails_and_leaves_the_new_generation() -> None:
    """When a slot has moved and the old mold is dead, only the new mold can fill the slots."""
    drive = halfway()
    drive.tell(mold_exited(1))
    reason = (
        "worker 4 did not become ready: SIGSEGV; there is no way back, as the mold of "
        "generation 1 is gone: generation 2 stays"
    )
    assert drive.tell(exited(4)) == [
        record(4, 1, 2, ExitReason.BOOT_FAILED, "SIGSEGV"),
        failed(2, reason),
        spawn(5, 1, 2),
    ]
    assert drive.supervisor.current == GEN2
    drive.tell(ready(5))
    assert drive.wait(PROBATION_S) == [admit(5), retire(2, ExitReason.RELOAD)]


def test_mold_that_dies_twice_in_a_reload_is_rebuilt() -> None:
    """With both molds dead the reload fails, everybody serves on, and a third one is built."""
    drive = halfway()
    drive.tell(mold_exited(1))
    orders = drive.tell(mold_exited(2))
    assert orders[0] == act.StopMold(GEN2)
    assert isinstance(orders[1], act.EndReload) and orders[1].failure
    assert drive.deadline_in() == 0.25
    assert drive.serving() == {0: 2, 1: 1}
    assert drive.wait(0.25) == [act.BeginReload(GEN3, MOLD_DIED), act.LoadGeneration(GEN3)]
    drive.tell(mold_started(3, policy(2)), mold_ready(3))
    assert drive.supervisor.reload is not None


def test_empty_slot_is_not_filled_from_a_dead_mold() -> None:
    """No worker is ordered from a mold that is gone, whichever slot is empty."""
    drive = halfway()
    drive.tell(mold_exited(1), exited(2), exited(4), ready(5))
    orders = drive.tell(mold_exited(2), exited(5), exited(3))
    assert not [one for one in orders if isinstance(one, act.SpawnWorker)]


def test_both_molds_dead_while_it_is_watched() -> None:
    """All slots serve the new code; the reload is told to have failed and a mold is rebuilt."""
    drive = watching()
    drive.tell(mold_exited(1))
    orders = drive.tell(mold_exited(2))
    assert isinstance(orders[-1], act.EndReload) and orders[-1].failure
    assert drive.supervisor.current == GEN2
    assert drive.wait(0.25)[0] == act.BeginReload(GEN3, MOLD_DIED)


def test_old_mold_that_dies_in_a_rollback_ends_it() -> None:
    """What has moved stays until the next generation is built; nothing waits for the impossible."""
    drive = halfway()
    drive.tell(exited(4))
    orders = drive.tell(mold_exited(1))
    assert orders[-1] == failed(2, "worker 4 did not become ready: SIGSEGV")
    assert drive.wait(0.25)[0] == act.BeginReload(GEN3, MOLD_DIED)


# Stops meanwhile.


@pytest.mark.parametrize("phase", list(ReloadPhase))
def test_stop_during_a_reload_ends_it_as_failed(phase: ReloadPhase) -> None:
    """Whoever waits for the reload is told; all workers of both generations drain."""
    if phase is ReloadPhase.LOADING:
        drive = running(workers=2)
        drive.tell(ev.ReloadRequested(), mold_started(2, policy(2)))
    elif phase is ReloadPhase.WATCHING:
        drive = watching()
    else:
        drive = halfway()
        if phase is ReloadPhase.ROLLING_BACK:
            drive.tell(exited(4))
    reload = drive.supervisor.reload
    assert reload is not None and reload.phase is phase
    workers = sorted(drive.supervisor.workers)
    drive.tell(ev.ReloadRequested())
    orders = drive.tell(ev.StopRequested())
    assert orders[:2] == [act.BeginStop(), failed(2, "the cluster is stopping")]
    retired = [one.worker for one in orders if isinstance(one, act.RetireWorker)]
    assert sorted(retired) == workers
    assert orders[-2:] == [act.StopMold(GEN1), act.StopMold(GEN2)]
    assert drive.tell(*(exited(worker) for worker in workers))[-1] == act.Finish("")


def test_stop_leaves_a_worker_that_drains_alone() -> None:
    """Who was retired before the stop is not retired again, and is waited for."""
    drive = rolling(workers=1)
    drive.tell(ready(2))
    drive.wait(PROBATION_S)
    assert retire(2, ExitReason.STOP) in drive.tell(ev.StopRequested())
    assert drive.tell(exited(2))[-1] == record(2, 0, 2, ExitReason.STOP, "SIGSEGV")
    assert drive.wait(DRAIN_LIMIT_S - 1) == []
    assert drive.tell(exited(1))[-1] == act.Finish("")


def test_worker_aborted_in_a_failed_reload_is_killed_when_it_does_not_end() -> None:
    """A reload that is over leaves nobody behind."""
    drive = rolling(workers=1)
    drive.tell(ready(2), hung(2))
    assert drive.deadline_in() == ABORT_GRACE_S
    assert isinstance(drive.wait(ABORT_GRACE_S)[0], act.KillWorker)


def test_generations_are_counted_on_after_a_failure() -> None:
    """A number that has failed is never used again."""
    drive = running(workers=1)
    drive.tell(ev.ReloadRequested(), mold_failed(2))
    drive.tell(ev.ReloadRequested(), mold_started(3, policy(1)), mold_ready(3), ready(2))
    drive.wait(PROBATION_S)
    drive.tell(exited(1))
    assert drive.wait(PROBATION_S)[-1] == done(3)


def test_each_slot_begins_its_back_off_anew_with_new_code() -> None:
    """Crashes of the old code are not held against the new."""
    drive = running(workers=1)
    drive.tell(exited(1), ready(2))
    drive.tell(ev.ReloadRequested(), mold_started(2, policy(1)), mold_ready(2), ready(3))
    drive.wait(PROBATION_S)
    drive.tell(exited(2))
    drive.wait(PROBATION_S)
    assert drive.tell(exited(3))[0] == record(
        3, 0, 2, ExitReason.CRASH, "SIGSEGV", respawn_in_s=0.0
    )

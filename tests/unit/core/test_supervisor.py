"""The supervisor outside of reloads: boot, crashes, scaling, recycling, hangs and the end."""

import pytest

from sdcluster.core import actions as act
from sdcluster.core import events as ev
from sdcluster.core.states import ExitReason, Generation, Phase, Slot, WorkerId
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
    kill,
    loading,
    mold_exited,
    mold_failed,
    mold_ready,
    mold_started,
    offended,
    policy,
    ready,
    record,
    retire,
    rolling,
    running,
    spawn,
    stopping,
    worn,
)

GEN1 = Generation(1)

# Boot.


def test_start_loads_the_first_generation() -> None:
    """The cluster begins by loading generation 1, and spawns nothing before that."""
    assert Drive().tell(ev.StartRequested()) == [act.LoadGeneration(GEN1)]


def test_ready_mold_forks_all_workers_at_once() -> None:
    """At boot there is nobody to spare: all slots are filled together."""
    assert loading(workers=3).tell(mold_ready(1)) == [
        spawn(1, 0, 1),
        spawn(2, 1, 1),
        spawn(3, 2, 1),
    ]


def test_cluster_is_announced_when_all_workers_are_ready() -> None:
    """Each worker gets connections as soon as it is ready; the last one makes the cluster ready."""
    drive = booting(workers=2)
    assert drive.tell(ready(2)) == [admit(2)]
    assert drive.phase() is Phase.BOOTING
    assert drive.tell(ready(1)) == [admit(1), act.AnnounceReady()]
    assert drive.phase() is Phase.RUNNING
    assert drive.deadline_in() is None


def test_ready_workers_says_how_many_make_the_cluster_ready() -> None:
    """With ready_workers = 1 the first of three workers is enough, and the rest follow quietly."""
    drive = booting(workers=3, ready_workers=1)
    assert drive.tell(ready(3)) == [admit(3), act.AnnounceReady()]
    assert drive.tell(ready(1), ready(2)) == [admit(1), admit(2)]


def test_scaling_below_ready_workers_during_boot_does_not_block_the_boot() -> None:
    """No more workers are asked to be ready than are wanted."""
    drive = booting(workers=2)
    drive.tell(ready(1))
    assert drive.tell(ev.ScaleRequested(1))[0] == act.AnnounceReady()


def test_boot_fails_when_the_generation_does_not_load() -> None:
    """A mold that fails ends the cluster, and the reason goes along."""
    drive = loading()
    assert drive.tell(mold_failed(1, "no module 'shop'")) == [
        act.StopMold(GEN1),
        act.BeginStop(),
        act.Finish("no module 'shop'"),
    ]
    assert drive.phase() is Phase.STOPPED


def test_boot_fails_when_the_mold_dies() -> None:
    """A mold that is gone before the cluster was ready ends it, after its workers have left."""
    drive = booting(workers=1)
    assert drive.tell(mold_exited(1, "SIGSEGV")) == [
        act.StopMold(GEN1),
        act.BeginStop(),
        retire(1, ExitReason.STOP),
    ]
    assert drive.tell(exited(1, "exit status 0")) == [
        record(1, 0, 1, ExitReason.STOP),
        act.Finish("the mold died: SIGSEGV"),
    ]


def test_boot_fails_when_the_mold_does_not_get_ready_in_time() -> None:
    """A mold that is stuck is aborted, then killed, and the message tells the time-out."""
    drive = loading()
    assert drive.deadline_in() == READY_TIMEOUT_S
    assert drive.wait(READY_TIMEOUT_S) == [act.AbortMold(GEN1)]
    assert drive.tell(mold_ready(1)) == []
    assert drive.wait(ABORT_GRACE_S) == [act.KillMold(GEN1)]
    assert drive.deadline_in() is None
    assert drive.tell(mold_exited(1))[-1] == act.Finish("the app did not load within 10 s")


def test_boot_fails_once_every_slot_had_a_worker_that_failed() -> None:
    """One failed worker is tried again; when no slot has any luck the cluster gives up."""
    drive = booting(workers=2)
    assert drive.tell(ev.WorkerFailed(WorkerId(1), "no database"), exited(1, "exit status 1")) == [
        record(1, 0, 1, ExitReason.BOOT_FAILED, "no database", respawn_in_s=0.0),
        spawn(3, 0, 1),
    ]
    assert drive.tell(exited(2, "exit status 1")) == [
        record(2, 1, 1, ExitReason.BOOT_FAILED, "exit status 1", respawn_in_s=0.0),
        act.BeginStop(),
        retire(3, ExitReason.STOP),
        act.StopMold(GEN1),
    ]
    assert drive.tell(exited(3))[-1] == act.Finish("worker 2 did not become ready: exit status 1")


def test_boot_goes_on_while_one_worker_serves() -> None:
    """A worker that fails does not end the boot of a cluster that another one serves."""
    drive = booting(workers=2)
    drive.tell(ready(1))
    assert drive.tell(exited(2)) == [
        record(2, 1, 1, ExitReason.BOOT_FAILED, "SIGSEGV", respawn_in_s=0.0),
        spawn(3, 1, 1),
    ]
    assert drive.tell(ready(3)) == [admit(3), act.AnnounceReady()]


def test_boot_fails_when_no_worker_is_ready_in_time() -> None:
    """Workers that are never ready are aborted together, and the boot has failed."""
    drive = booting(workers=2)
    assert drive.deadline_in() == READY_TIMEOUT_S
    text = "was not ready within 10 s"
    assert drive.wait(READY_TIMEOUT_S) == [
        abort(1, text),
        abort(2, text),
        act.BeginStop(),
        act.StopMold(GEN1),
    ]
    drive.tell(exited(1))
    assert drive.tell(exited(2))[-1] == act.Finish("worker 2 was not ready within 10 s")


def test_boot_fails_when_workers_stop_themselves() -> None:
    """A worker that says STOPPING=1 before it was ready has failed as well."""
    drive = booting(workers=1)
    assert drive.tell(stopping(1)) == [
        retire(1, ExitReason.ITSELF),
        act.BeginStop(),
        act.StopMold(GEN1),
    ]
    assert drive.tell(exited(1))[-1] == act.Finish("worker 1 stopped by itself")


def test_worker_that_cannot_be_forked_has_failed() -> None:
    """A fork that fails is an exit like any other, and its slot is filled again."""
    drive = booting(workers=2)
    assert drive.tell(ev.ForkFailed(WorkerId(1), "no memory")) == [
        record(1, 0, 1, ExitReason.BOOT_FAILED, "no memory", respawn_in_s=0.0),
        spawn(3, 0, 1),
    ]


def test_config_that_arrives_twice_restarts_the_time_out_only() -> None:
    """A second MoldStarted is harmless."""
    drive = loading(workers=2)
    assert drive.tell(mold_started(1, policy(2)), after=1) == []
    assert drive.deadline_in() == READY_TIMEOUT_S


# Crashes.


def test_first_crash_is_answered_at_once() -> None:
    """A worker that crashes is replaced in the same breath, and admitted without probation."""
    drive = running(workers=2)
    assert drive.tell(exited(1)) == [
        record(1, 0, 1, ExitReason.CRASH, "SIGSEGV", respawn_in_s=0.0),
        spawn(3, 0, 1),
    ]
    assert drive.tell(ready(3)) == [admit(3)]
    assert drive.supervisor.restarts == 1


def test_further_crashes_of_a_slot_wait_twice_as_long_each_time() -> None:
    """The second crash within the window waits for 0.25 s, the third for 0.5 s, and so on."""
    drive = running(workers=1)
    worker = 1
    for delay_s in (0.0, 0.25, 0.5, 1.0):
        orders = drive.tell(exited(worker))
        assert orders[0] == record(worker, 0, 1, ExitReason.CRASH, "SIGSEGV", respawn_in_s=delay_s)
        worker += 1
        if delay_s:
            assert drive.deadline_in() == delay_s
            orders = drive.wait(delay_s)
        assert orders[-1] == spawn(worker, 0, 1)
        drive.tell(ready(worker), after=1)


def test_crashes_count_however_long_the_worker_had_lived() -> None:
    """A worker that crashes every five seconds is in a crash loop: its slot waits."""
    drive = running(workers=1)
    drive.tell(exited(1), ready(2))
    assert drive.tell(exited(2), after=5)[0] == record(
        2, 0, 1, ExitReason.CRASH, "SIGSEGV", respawn_in_s=0.25
    )


def test_wait_is_shortened_by_jitter() -> None:
    """Slots that crash together do not come back together."""
    drive = running(workers=1, jitter=1.0)
    drive.tell(exited(1), ready(2))
    drive.tell(exited(2))
    assert drive.deadline_in() == 0.25 * 0.75


def test_slots_back_off_each_for_itself() -> None:
    """The crash loop of one slot does not delay another."""
    drive = running(workers=2)
    drive.tell(exited(1), ready(3), exited(3))
    assert drive.tell(exited(2))[-1] == spawn(4, 1, 1)


def test_crash_before_readiness_tells_what_the_worker_said() -> None:
    """What a worker says of itself is worth more than its exit status."""
    drive = running(workers=1)
    drive.tell(exited(1))
    assert drive.tell(ev.WorkerFailed(WorkerId(2), "no database"), exited(2))[0] == record(
        2, 0, 1, ExitReason.BOOT_FAILED, "no database", respawn_in_s=0.25
    )


def test_worker_that_stops_by_itself_is_replaced_while_it_drains() -> None:
    """STOPPING=1 that nobody asked for leaves the slot empty, and it is filled at once."""
    drive = running(workers=1)
    assert drive.tell(stopping(1)) == [retire(1, ExitReason.ITSELF), spawn(2, 0, 1)]
    assert drive.tell(ready(2), exited(1, "exit status 0")) == [
        admit(2),
        record(1, 0, 1, ExitReason.ITSELF),
    ]
    assert drive.supervisor.restarts == 1


@pytest.mark.parametrize("state", ["draining", "aborting", "killed"])
def test_worker_that_leaves_already_may_say_stopping(state: str) -> None:
    """STOPPING=1 from a worker that is on its way out changes nothing."""
    drive = running(workers=1)
    if state == "draining":
        drive.tell(stopping(1))
    else:
        drive.tell(hung(1))
    if state == "killed":
        drive.wait(ABORT_GRACE_S)
    assert drive.tell(stopping(1)) == []


def test_facts_about_workers_and_molds_that_are_gone_change_nothing() -> None:
    """What arrives late, or is about nobody, is ignored."""
    drive = running(workers=1)
    drive.tell(exited(1), ready(2))
    late: list[ev.Event] = [
        ready(1),
        exited(1),
        stopping(1),
        hung(1),
        worn(1),
        offended(1),
        ev.WorkerFailed(WorkerId(1), "late"),
        ev.ForkFailed(WorkerId(1), "late"),
        mold_started(7, policy()),
        mold_ready(7),
        mold_failed(7),
        mold_exited(7),
        mold_started(1, policy(5)),
        mold_ready(1),
        ready(2),
    ]
    for event in late:
        assert drive.tell(event) == [], event
    assert drive.supervisor.wanted == 1


# Scaling.


def test_scale_up_fills_the_new_slots_together() -> None:
    """New slots are filled at once, as nobody is replaced."""
    drive = running(workers=1)
    assert drive.tell(ev.ScaleRequested(3)) == [spawn(2, 1, 1), spawn(3, 2, 1)]
    assert drive.tell(ready(3)) == [admit(3)]


def test_scale_down_removes_the_highest_slots() -> None:
    """Their workers drain side by side."""
    drive = running(workers=3)
    assert drive.tell(ev.ScaleRequested(1)) == [
        retire(3, ExitReason.SCALE),
        retire(2, ExitReason.SCALE),
    ]
    assert drive.wait(1) == []
    assert drive.tell(exited(3, "exit status 0")) == [record(3, 2, 1, ExitReason.SCALE)]
    assert drive.tell(exited(2, "exit status 0")) == [record(2, 1, 1, ExitReason.SCALE)]
    assert list(drive.supervisor.slots) == [0]
    assert drive.supervisor.restarts == 0


def test_scale_down_removes_a_worker_that_is_still_starting() -> None:
    """A worker without connections has nothing to drain: it gets a moment to end."""
    drive = running(workers=1)
    drive.tell(ev.ScaleRequested(2))
    assert drive.tell(ev.ScaleRequested(1)) == [retire(2, ExitReason.SCALE)]
    assert drive.deadline_in() == ABORT_GRACE_S


def test_scale_down_waits_until_a_crashed_worker_is_reaped() -> None:
    """A slot is removed when no process belongs to it any more."""
    drive = running(workers=2)
    drive.tell(hung(2))
    drive.tell(ev.ScaleRequested(1))
    assert Slot(1) in drive.supervisor.slots
    drive.tell(exited(2), exited(3))
    assert list(drive.supervisor.slots) == [0]


def test_scaling_up_again_fills_a_slot_whose_worker_is_still_leaving() -> None:
    """Whoever changes their mind does not wait for the drain."""
    drive = running(workers=2)
    drive.tell(ev.ScaleRequested(1))
    assert drive.tell(ev.ScaleRequested(2)) == [spawn(3, 1, 1)]


def test_scale_down_needs_no_mold() -> None:
    """Workers can leave although none could be forked."""
    drive = running(workers=2)
    drive.tell(mold_exited(1), mold_failed(2))
    assert drive.tell(ev.ScaleRequested(1)) == [retire(2, ExitReason.SCALE)]


def test_crashed_slot_that_is_no_longer_wanted_is_not_filled() -> None:
    """A crash in a surplus slot ends it."""
    drive = running(workers=3)
    drive.tell(worn(1), ev.ScaleRequested(1))  # Surplus workers leave after the recycling.
    assert drive.tell(exited(2)) == [record(2, 1, 1, ExitReason.CRASH, "SIGSEGV")]


# Recycling.


def test_worn_workers_are_recycled_one_at_a_time_and_new_first() -> None:
    """The successor is admitted before the worn worker leaves, and the next one has its turn."""
    drive = running(workers=2)
    assert drive.tell(worn(1), worn(2)) == [spawn(3, 0, 1)]
    assert drive.tell(ready(3)) == []
    assert drive.deadline_in() == PROBATION_S
    assert drive.wait(PROBATION_S) == [admit(3), retire(1, ExitReason.RECYCLE), spawn(4, 1, 1)]
    assert drive.tell(exited(1, "exit status 0")) == [record(1, 0, 1, ExitReason.RECYCLE)]
    assert drive.supervisor.restarts == 0


def test_no_more_workers_drain_than_there_are_slots() -> None:
    """However many are worn, and however long each takes to drain."""
    drive = running(workers=2)
    spawned = 2
    for serving in (1, 2, 3):
        (order,) = drive.tell(worn(serving))
        spawned += 1
        assert order == spawn(spawned, (serving - 1) % 2, 1)
        drive.tell(ready(spawned))
        assert retire(serving, ExitReason.RECYCLE) in drive.wait(PROBATION_S)
        if serving == 2:
            assert drive.tell(worn(3)) == []
            drive.tell(exited(1))
            spawned += 1
            drive.tell(ready(spawned))
            break
    assert retire(3, ExitReason.RECYCLE) in drive.wait(PROBATION_S)


def test_worker_found_worn_twice_is_recycled_once() -> None:
    """What is said of a worker every second has its effect once."""
    drive = running(workers=1)
    assert drive.tell(worn(1), worn(1)) == [spawn(2, 0, 1)]
    drive.tell(worn(1), ready(2))
    drive.wait(PROBATION_S)
    assert drive.tell(worn(1), exited(1)) == [record(1, 0, 1, ExitReason.RECYCLE, "SIGSEGV")]


def test_worn_worker_serves_on_when_its_successor_fails() -> None:
    """A successor that crashes on probation is tried again after a wait; nobody has left."""
    drive = running(workers=1)
    drive.tell(worn(1), ready(2))
    assert drive.tell(exited(2)) == [
        record(2, 0, 1, ExitReason.CRASH, "SIGSEGV"),
        spawn(3, 0, 1),
    ]
    assert drive.tell(exited(3)) == [record(3, 0, 1, ExitReason.BOOT_FAILED, "SIGSEGV")]
    assert drive.deadline_in() == 0.25
    assert drive.wait(0.25) == [spawn(4, 0, 1)]
    assert drive.serving() == {0: 1}


def test_successor_on_probation_is_admitted_when_the_old_worker_crashes() -> None:
    """With nobody else in the slot there is no time to prove anything."""
    drive = running(workers=1)
    drive.tell(worn(1), ready(2))
    assert drive.tell(exited(1)) == [admit(2), record(1, 0, 1, ExitReason.CRASH, "SIGSEGV")]


def test_successor_that_starts_takes_the_place_of_a_crashed_worker() -> None:
    """No third worker is spawned, and the successor serves as soon as it is ready."""
    drive = running(workers=1)
    drive.tell(worn(1))
    assert drive.tell(exited(1)) == [record(1, 0, 1, ExitReason.CRASH, "SIGSEGV")]
    assert drive.tell(ready(2)) == [admit(2)]


def test_worker_on_probation_can_stop_by_itself() -> None:
    """Its slot is served by the old worker, and another successor is spawned."""
    drive = running(workers=1)
    drive.tell(worn(1), ready(2))
    assert drive.tell(stopping(2)) == [retire(2, ExitReason.ITSELF), spawn(3, 0, 1)]
    assert drive.deadline_in() == DRAIN_LIMIT_S


def test_without_probation_a_successor_is_admitted_when_it_is_ready() -> None:
    """reload_probation_s = 0 means no waiting."""
    drive = running(workers=1, probation_s=0.0)
    drive.tell(worn(1))
    assert drive.tell(ready(2)) == [admit(2), retire(1, ExitReason.RECYCLE)]


def test_nobody_is_recycled_before_the_cluster_is_ready() -> None:
    """A boot has one job."""
    drive = booting(workers=2)
    drive.tell(ready(1))
    assert drive.tell(worn(1)) == []
    assert drive.tell(ready(2)) == [admit(2), act.AnnounceReady(), spawn(3, 0, 1)]


def test_nobody_is_recycled_during_a_reload() -> None:
    """A reload replaces everybody anyway."""
    drive = rolling(workers=2)
    assert drive.tell(worn(2)) == []
    assert drive.tell(ready(3)) == []
    assert drive.wait(PROBATION_S)[-1] == spawn(4, 1, 2)
    assert drive.tell(exited(1)) == [record(1, 0, 1, ExitReason.RELOAD, "SIGSEGV")]


def test_a_crash_elsewhere_is_answered_during_a_recycle() -> None:
    """One at a time holds for what is done by choice only."""
    drive = running(workers=2)
    drive.tell(worn(1))
    assert drive.tell(exited(2))[-1] == spawn(4, 1, 1)


# Stuck workers.


def test_stuck_worker_is_aborted_then_killed_and_replaced_at_once() -> None:
    """SIGABRT for the stacks, SIGKILL for the end; the slot does not wait for either."""
    drive = running(workers=1)
    assert drive.tell(hung(1)) == [abort(1), spawn(2, 0, 1)]
    assert drive.deadline_in() == ABORT_GRACE_S
    assert drive.wait(ABORT_GRACE_S) == [kill(1, "did not end when it was aborted")]
    assert drive.tell(ready(2), exited(1, "SIGKILL")) == [
        admit(2),
        record(1, 0, 1, ExitReason.HUNG, "gave no sign of life"),
    ]
    assert drive.supervisor.restarts == 1


def test_worker_that_starts_or_is_aborted_is_not_found_stuck() -> None:
    """Those have time limits of their own."""
    drive = booting(workers=1)
    assert drive.tell(hung(1)) == []
    drive.tell(ready(1), hung(1))
    assert drive.tell(hung(1)) == []


def test_worker_that_is_stuck_while_it_drains_is_aborted() -> None:
    """Who waits for its answers would wait until the drain deadline; nothing else changes."""
    drive = running(workers=2)
    drive.tell(ev.ScaleRequested(1))
    assert drive.tell(hung(2)) == [abort(2)]
    assert drive.tell(hung(2)) == []
    assert drive.wait(ABORT_GRACE_S) == [kill(2, "did not end when it was aborted")]
    gone = record(2, 1, 1, ExitReason.SCALE, "gave no sign of life")
    assert drive.tell(exited(2, "SIGKILL")) == [gone]
    assert drive.supervisor.restarts == 0


def test_stuck_successor_is_aborted_and_the_old_worker_serves_on() -> None:
    """A worker that gets stuck on probation never served."""
    drive = running(workers=1)
    drive.tell(worn(1), ready(2))
    assert drive.tell(hung(2)) == [abort(2), spawn(3, 0, 1)]
    assert drive.serving() == {0: 1}


def test_worker_that_breaks_the_protocol_while_it_serves_is_recycled() -> None:
    """New first, as its requests are answered well for all that is known."""
    drive = running(workers=1)
    assert drive.tell(offended(1)) == [spawn(2, 0, 1)]


def test_worker_that_breaks_the_protocol_before_it_serves_has_failed_to_boot() -> None:
    """It never gets a connection, whatever it says next, and the reason is kept."""
    drive = booting(workers=2)
    drive.tell(ready(2))
    reason = "broke the protocol: junk"
    assert drive.tell(offended(1), ready(1), offended(1)) == [abort(1, reason), spawn(3, 0, 1)]
    assert drive.tell(exited(1)) == [record(1, 0, 1, ExitReason.BOOT_FAILED, reason)]
    assert drive.serving() == {1: 1}


def test_successor_that_breaks_the_protocol_on_probation_is_not_admitted() -> None:
    """The old worker serves on."""
    drive = running(workers=1)
    drive.tell(worn(1), ready(2))
    assert drive.tell(offended(2))[0] == abort(2, "broke the protocol: junk")
    assert drive.tell(offended(2)) == []
    assert drive.serving() == {0: 1}


def test_worker_that_is_not_ready_in_time_is_aborted() -> None:
    """A readiness time-out is a failure: the new worker goes, and the next one waits its turn."""
    drive = running(workers=1)
    drive.tell(exited(1))
    assert drive.wait(READY_TIMEOUT_S) == [abort(2, "was not ready within 10 s")]
    assert drive.wait(0.25) == [spawn(3, 0, 1)]


def test_worker_that_does_not_end_within_its_drain_time_is_killed() -> None:
    """The drain has a limit, after which the worker has some seconds to close what is left."""
    drive = running(workers=2)
    drive.tell(ev.ScaleRequested(1))
    assert drive.deadline_in() == DRAIN_LIMIT_S
    assert drive.wait(DRAIN_LIMIT_S) == [kill(2, "did not end within its drain time")]
    assert drive.deadline_in() is None


# The end.


def test_stop_drains_the_workers_and_finishes_when_they_are_gone() -> None:
    """All leave together, and nothing is spawned any more."""
    drive = running(workers=2)
    assert drive.tell(ev.StopRequested()) == [
        act.BeginStop(),
        retire(1, ExitReason.STOP),
        retire(2, ExitReason.STOP),
        act.StopMold(GEN1),
    ]
    assert drive.deadline_in() == DRAIN_LIMIT_S
    assert drive.tell(exited(1, "exit status 0")) == [record(1, 0, 1, ExitReason.STOP)]
    assert drive.tell(exited(2, "exit status 0")) == [
        record(2, 1, 1, ExitReason.STOP),
        act.Finish(""),
    ]


def test_stopping_cluster_kills_workers_that_do_not_drain() -> None:
    """A stop ends, whatever the workers do."""
    drive = running(workers=1)
    drive.tell(ev.StopRequested())
    assert drive.wait(DRAIN_LIMIT_S) == [kill(1, "did not end within its drain time")]


def test_second_stop_kills_at_once_and_each_worker_once() -> None:
    """Whoever asks twice does not want to wait."""
    drive = running(workers=2)
    drive.tell(ev.StopRequested())
    assert drive.tell(ev.StopRequested(at_once=True)) == [
        kill(1, "is stopped at once"),
        kill(2, "is stopped at once"),
    ]
    assert drive.tell(ev.StopRequested(at_once=True)) == []


def test_stop_at_once_needs_no_stop_before() -> None:
    """The workers are told to leave, and killed in the same breath."""
    drive = running(workers=1)
    assert drive.tell(ev.StopRequested(at_once=True)) == [
        act.BeginStop(),
        retire(1, ExitReason.STOP),
        act.StopMold(GEN1),
        kill(1, "is stopped at once"),
    ]


def test_stop_during_the_load_finishes_at_once() -> None:
    """No worker, no wait; a mold that is still starting is let go and not listened to."""
    drive = loading()
    assert drive.tell(ev.StopRequested()) == [
        act.BeginStop(),
        act.StopMold(GEN1),
        act.Finish(""),
    ]
    assert drive.tell(mold_ready(1), mold_exited(1), ev.StopRequested()) == []


def test_stop_during_boot_lets_the_starting_workers_go() -> None:
    """They have nothing to drain: a short grace, then SIGKILL."""
    drive = booting(workers=1)
    assert drive.tell(ev.StopRequested())[1] == retire(1, ExitReason.STOP)
    assert drive.tell(ready(1)) == []
    assert drive.wait(ABORT_GRACE_S) == [kill(1, "did not end within its drain time")]
    assert drive.tell(exited(1, "SIGKILL")) == [
        record(1, 0, 1, ExitReason.STOP, "SIGKILL"),
        act.Finish(""),
    ]


def test_stopping_cluster_does_nothing_else() -> None:
    """Requests and facts that would otherwise matter are ignored."""
    drive = running(workers=2)
    drive.tell(ev.StopRequested())
    assert drive.tell(ev.ReloadRequested(), ev.ScaleRequested(5), mold_exited(1), worn(1)) == []


def test_exit_during_a_stop_promises_no_successor() -> None:
    """No slot is filled again in a stopping cluster, and no record says that it would be."""
    drive = running(workers=2)
    drive.tell(ev.StopRequested())
    (order,) = drive.tell(exited(1))
    assert isinstance(order, act.RecordExit)
    assert order.respawn_in_s is None


# The clock.


def test_time_that_passes_without_a_deadline_changes_nothing() -> None:
    """TimePassed may come early, late and for no reason."""
    drive = running(workers=2)
    assert drive.wait(0) == drive.wait(1e6) == []


def test_supervisor_that_was_not_started_waits_for_nothing() -> None:
    """Before the start there is no deadline."""
    assert Drive().deadline_in() is None


def test_earliest_of_several_deadlines_counts() -> None:
    """A back-off, a drain and a time-out run at the same time."""
    drive = running(workers=2)
    drive.tell(ev.ScaleRequested(1))
    drive.tell(exited(1), exited(3))
    assert drive.deadline_in() == 0.25
    drive.wait(0.25)
    assert drive.deadline_in() == DRAIN_LIMIT_S - 0.25


def test_ready_counts_the_slots_that_are_served() -> None:
    """`ready` and `wanted` are what the status line says."""
    drive = booting(workers=2)
    drive.tell(ready(2))
    assert (drive.supervisor.ready, drive.supervisor.wanted) == (1, 2)

"""The agent: a slot among the others, with a few rules of its own."""

from sdcluster.core import actions as act
from sdcluster.core import events as ev
from sdcluster.core.states import AGENT, ExitReason, Generation, Phase, ReloadCause
from unit.core.drive import (
    Drive,
    admit,
    booting,
    entrust,
    exited,
    hung,
    mold_ready,
    mold_started,
    policy,
    progress,
    ready,
    record,
    retire,
    running,
    spawn,
)


def started(workers: int = 1) -> Drive:
    """Return a running cluster whose agent is worker 1; its workers are those from 2 on."""
    drive = booting(workers, agent=True)
    drive.tell(*(ready(worker) for worker in range(1, workers + 2)))
    drive.wait(100)
    return drive


def test_agent_is_started_with_the_workers() -> None:
    """Its slot is filled as every vacant one is."""
    drive = booting(1, agent=True)
    assert set(drive.supervisor.workers) == {1, 2}
    assert drive.supervisor.workers[min(drive.supervisor.workers)].slot == AGENT


def test_cluster_is_ready_when_its_agent_is() -> None:
    """Workers alone do not make it so, as they may ask the agent."""
    drive = booting(1, agent=True)
    assert drive.tell(ready(2)) == [admit(2)]
    assert drive.tell(ready(1)) == [admit(1), act.AnnounceReady(), entrust(1)]


def test_agent_is_no_worker_in_what_is_counted() -> None:
    """It makes nobody think that a worker serves."""
    drive = booting(2, agent=True)
    assert drive.tell(ready(1)) == [admit(1), entrust(1)]
    assert drive.supervisor.ready == 0


def test_cluster_whose_agent_does_not_start_cannot_start() -> None:
    """However well its workers do."""
    drive = booting(1, agent=True)
    drive.tell(ready(2))
    assert act.BeginStop() in drive.tell(exited(1, "exit status 1"))
    assert drive.tell(exited(2)) == [
        record(2, 0, 1, ExitReason.STOP, "SIGSEGV"),
        act.Finish("worker 1 did not become ready: exit status 1"),
    ]


def test_cluster_whose_workers_do_not_start_cannot_start() -> None:
    """However well its agent does."""
    drive = booting(1, agent=True)
    drive.tell(ready(1))
    told = drive.tell(exited(2, "exit status 1"))
    assert act.BeginStop() in told and told[-1] == retire(1, ExitReason.STOP)


def test_agent_that_crashes_is_replaced() -> None:
    """At once, as a worker is."""
    drive = started()
    assert drive.tell(exited(1)) == [
        record(1, AGENT, 1, ExitReason.CRASH, "SIGSEGV", 0.0),
        spawn(3, AGENT, 1),
    ]
    assert drive.phase() is Phase.RUNNING


def test_reload_replaces_the_agent_first() -> None:
    """The new workers may ask it."""
    drive = started()
    drive.tell(ev.ReloadRequested(), mold_started(2, policy(1, agent=True)))
    assert drive.tell(mold_ready(2)) == [spawn(3, AGENT, 2)]
    drive.tell(ready(3))
    assert drive.wait(1) == [
        admit(3),
        retire(1, ExitReason.RELOAD),
        progress(3, AGENT, 2, 1, 2),
        spawn(4, 0, 2),
    ]
    assert drive.tell(exited(1))[1:] == [entrust(3)]


def test_agent_works_once_the_one_before_is_dead() -> None:
    """What that one is still at is not done by another beside it."""
    drive = started()
    drive.tell(ev.ReloadRequested(), mold_started(2, policy(1, agent=True)), mold_ready(2))
    drive.tell(ready(3))
    assert entrust(3) not in drive.wait(1)
    assert drive.tell(exited(1))[-1] == entrust(3)


def test_agent_that_hangs_keeps_the_next_one_from_its_work() -> None:
    """Until it is dead: it may come to itself."""
    drive = started()
    assert drive.tell(hung(1))[-1] == spawn(3, AGENT, 1)
    assert drive.tell(ready(3)) == [admit(3)]
    assert drive.tell(exited(1))[-1] == entrust(3)


def test_agent_that_does_not_start_fails_the_reload() -> None:
    """Before any worker was replaced."""
    drive = started()
    drive.tell(ev.ReloadRequested(), mold_started(2, policy(1, agent=True)), mold_ready(2))
    drive.tell(exited(3, "exit status 1"))
    assert drive.serving() == {AGENT: 1, 0: 1}
    assert drive.supervisor.reload is None


def test_agent_that_the_new_config_adds_comes_first() -> None:
    """And counts in what is left to do."""
    drive = running(1)
    drive.tell(ev.ReloadRequested(), mold_started(2, policy(1, agent=True)))
    assert drive.tell(mold_ready(2)) == [spawn(2, AGENT, 2)]
    told = drive.tell(ready(2))
    assert told == [admit(2), progress(2, AGENT, 2, 1, 2), spawn(3, 0, 2), entrust(2)]


def test_agent_that_was_added_goes_with_a_rollback() -> None:
    """The old config has none."""
    drive = running(1)
    drive.tell(ev.ReloadRequested(), mold_started(2, policy(1, agent=True)), mold_ready(2))
    drive.tell(ready(2))
    told = drive.tell(exited(3, "exit status 1"))
    assert retire(2, ExitReason.SCALE) in told
    assert isinstance(drive.tell(exited(2, "exit status 0"))[-1], act.EndReload)
    assert drive.serving() == {0: 1}


def test_agent_that_the_new_config_drops_goes_last() -> None:
    """Until the reload has succeeded the old workers may ask it."""
    drive = started()
    drive.tell(ev.ReloadRequested(), mold_started(2, policy(1)))
    assert drive.tell(mold_ready(2)) == [spawn(3, 0, 2)]
    drive.tell(ready(3))
    drive.wait(1)
    drive.tell(exited(2))
    assert drive.serving() == {AGENT: 1, 0: 2}
    assert drive.wait(1) == [
        act.StopMold(Generation(1)),
        act.EndReload(Generation(2), ReloadCause.REQUEST, ""),
        retire(1, ExitReason.SCALE),
    ]


def test_scaling_leaves_the_agent_alone() -> None:
    """It is no matter of how many workers there are."""
    drive = started(2)
    assert drive.tell(ev.ScaleRequested(1)) == [retire(3, ExitReason.SCALE)]
    assert drive.serving() == {AGENT: 1, 0: 1}


def test_agent_leaves_when_the_workers_are_gone() -> None:
    """Those that drain may ask it."""
    drive = started()
    assert drive.tell(ev.StopRequested())[1] == retire(2, ExitReason.STOP)
    assert drive.serving() == {AGENT: 1}
    assert drive.tell(exited(2, "exit status 0"))[-1] == retire(1, ExitReason.STOP)
    assert drive.tell(exited(1, "exit status 0"))[-1] == act.Finish("")


def test_agent_is_killed_with_the_workers() -> None:
    """When the cluster is to stop at once."""
    drive = started()
    told = drive.tell(ev.StopRequested(at_once=True))
    assert {one.worker for one in told if isinstance(one, act.KillWorker)} == {1, 2}

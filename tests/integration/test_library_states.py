"""What a program's master knows of a worker while its handlers are told of it, as in Node."""

import pytest
from conftest import Play

ENDS = {
    "exits": ("", "sys.exit(3)"),
    "returns": ("", "pass"),
    "is killed": ("worker.kill(signal.SIGKILL)", "time.sleep(60)"),
    "is killed later": (
        'worker.on("online")(lambda: worker.kill(signal.SIGKILL))',
        "time.sleep(60)",
    ),
    "dies while it listens": (
        "",
        'cluster.listen("127.0.0.1:0"); os.kill(os.getpid(), signal.SIGSEGV)',
    ),
    "has no program": ("", "os._exit(3)"),
}
"""What the master does, and what the worker does."""


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("hears", ["cluster", "worker"])
def test_worker_that_died_is_disconnected_and_then_dead(play: Play, end: str, hears: str) -> None:
    """In the first of the two handlers it is still known, and not dead yet."""
    master, worker = ENDS[end]
    if hears == "worker":
        on = "worker.on"
        arguments = "*rest"
    else:
        on = "cluster.on"
        arguments = "worker, *rest"
    program = play(
        f"""
if cluster.is_master:
    {"cluster.setup_master(script='missing.py')" if end == "has no program" else ""}
    worker = cluster.fork()

    @{on}("disconnect")
    def disconnected({arguments}):
        say("disconnected", worker.state, worker.is_connected, worker.is_dead, [*cluster.workers])

    @{on}("exit")
    def ended({arguments}):
        say("ended", worker.state, worker.is_connected, worker.is_dead, [*cluster.workers])

    {master}
    cluster.run()
else:
    {worker}
"""
    )
    assert program.wait() == 0
    assert program.lines("disconnected") == ["disconnected False False [1]"]
    assert program.lines("ended") == ["dead False True []"]


def test_state_is_the_one_that_the_handler_is_told_of(play: Play) -> None:
    """Though the worker has ended by then: the handlers are told one thing after the other."""
    program = play(
        """
if cluster.is_master:
    for event in EVENTS:
        cluster.on(event)(lambda worker, *rest, event=event: say("told", event, worker.state))

    @cluster.once("fork")
    def slow(worker):
        time.sleep(1)  # The worker comes and goes meanwhile: all of it is told afterwards.

    cluster.fork()
    cluster.run()
else:
    cluster.listen("127.0.0.1:0")
"""
    )
    assert program.wait() == 0
    assert program.lines("told") == [
        "fork none",
        "online online",
        "listening listening",
        "disconnect disconnected",
        "exit dead",
    ]


def test_handler_of_disconnect_forks_in_the_place_of_a_dead_worker(play: Play) -> None:
    """The cluster goes on, as if it had been done in the handler of `exit`."""
    program = play(
        """
if cluster.is_master:
    narrate()
    cluster.fork()

    @cluster.on("disconnect")
    def refork(worker):
        if worker.id == 1:
            cluster.fork()

    cluster.run()
else:
    sys.exit(cluster.worker.id)
"""
    )
    assert program.wait() == 0
    assert [program.wait_event("exit", one) for one in (1, 2)] == ["1 None", "2 None"]

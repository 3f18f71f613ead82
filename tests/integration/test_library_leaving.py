"""Workers of a program that are to leave: they hear of it, and nothing holds them up."""

import os
import signal

import pytest
from conftest import Play
from instance import wait_until
from processes import is_running

both = pytest.mark.parametrize("scheduling", ["round-robin", "shared"])

HOLDS = """
if cluster.is_master:
    narrate()
    cluster.setup_master(scheduling=sys.argv[1], drain_timeout_s=60)
    cluster.fork()

    @cluster.every(0.01)
    def leave():
        if os.path.exists("leave"):
            cluster.disconnect()

    cluster.run()
else:
    listener = cluster.listen("127.0.0.1:0"{options})
    say("pid", os.getpid())
    {waits}
"""
"""A worker that has a listener and never accepts; it has a minute to leave."""

WAITS = {
    "sleep": "time.sleep(600)",
    "loop": "asyncio.run(asyncio.sleep(600))",
    "thread": "import threading; threading.Event().wait(600)",
}


@both
@pytest.mark.parametrize("order", ["SIGKILL", "SIGTERM", "disconnect"])
@pytest.mark.parametrize(
    ("options", "waits"),
    [
        *(("", way) for way in WAITS),
        (", exclusive=True", "sleep"),
        (", datagrams=True", "sleep"),
    ],
)
def test_worker_that_does_not_accept_ends(
    play: Play, scheduling: str, order: str, options: str, waits: str
) -> None:
    """At once: that nobody hands connections over any more is no connection."""
    program = play(HOLDS.format(options=options, waits=WAITS[waits]), scheduling)
    (pid,) = wait_until(lambda: program.lines("pid"), "its pid")
    program.wait_event("listening", 1)
    if order == "disconnect":
        (program.folder / "leave").touch()
    else:
        program.signal(signal.Signals[order])
    wait_until(lambda: not is_running(int(pid)), "its end", timeout_s=10)


REGISTERS = """
if cluster.is_master:
    narrate()
    cluster.setup_master(drain_timeout_s=20)
    cluster.fork()
    cluster.on("message")(lambda worker, message: {order})
    cluster.run()
else:
    def told():
        say("told", "disconnect")

    {worker}
"""

LATE = {
    "without a loop": """
    cluster.worker.send("ready")
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        cluster.on("disconnect")(told)
        while not os.path.exists("go"):
            time.sleep(0.01)
""",
    "once": """
    cluster.worker.send("ready")
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        cluster.once("disconnect")(told)
        while not os.path.exists("go"):
            time.sleep(0.01)
""",
    "on a loop": """
    async def main():
        async def told():
            say("told", "disconnect")
        while not cluster.worker.is_leaving:
            await asyncio.sleep(0.01)
        cluster.on("disconnect")(told)
        while not os.path.exists("go"):
            await asyncio.sleep(0.01)

    cluster.worker.send("ready")
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        asyncio.run(main())
""",
    "beside another": """
    cluster.on("disconnect")(lambda: say("other"))
    cluster.worker.send("ready")
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        cluster.on("disconnect")(told)
        while not os.path.exists("go"):
            time.sleep(0.01)
""",
    "by itself": """
    cluster.worker.disconnect()
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        cluster.on("disconnect")(told)
        while not os.path.exists("go"):
            time.sleep(0.01)
""",
}


@pytest.mark.parametrize("way", LATE)
@pytest.mark.parametrize("order", ["worker.disconnect()", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_order_to_leave_waits_for_its_handler(play: Play, way: str, order: str) -> None:
    """One that is registered later is called all the same, and once."""
    program = play(REGISTERS.format(order=order, worker=LATE[way]))
    wait_until(lambda: program.lines("told"), "the handler")
    (program.folder / "go").touch()
    wait_until(lambda: [one for one in program.processes() if one != os.getpid()] == [], "the end")
    assert program.lines("told") == ["disconnect"]
    assert program.lines("other") == ([""] if way == "beside another" else [])

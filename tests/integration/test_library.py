"""The life of a program's workers, after the tests of Node's cluster: each event once, in order."""

import os
import signal
from pathlib import Path
from threading import Thread

import pytest
from conftest import Play
from instance import wait_until
from processes import is_running
from web import Answer, dial, fetch

SERVE = """
if cluster.is_master:
    narrate()
    cluster.fork()
    cluster.run()
    say("returned")
else:
    serve_at("127.0.0.1:0")
"""

ONE_EXIT = """
if cluster.is_master:
    narrate()
    worker = cluster.fork()

    @cluster.on("exit")
    def ended(worker, code, signal):
        say("ended", code, signal, worker.exit_reason, worker.exited_after_disconnect)

    @worker.on("exit")
    def own(code, signal):
        say("own", code, signal)

    {master}
    cluster.run()
    say("returned")
else:
    {worker}
"""
"""A master that tells how its worker ended."""


class Slow:
    """A request whose answer comes when the file `go` is there."""

    def __init__(self, address: str) -> None:
        self.answers: list[Answer] = []
        self._thread = Thread(target=lambda: self.answers.append(fetch(address, "/slow")))
        self._thread.start()

    def finish(self, folder: Path) -> Answer:
        """Let it be answered and return the answer."""
        (folder / "go").touch()
        self._thread.join()
        return self.answers[0]


def test_each_event_comes_once_and_in_order(play: Play) -> None:
    """From the fork to the exit."""
    program = play(SERVE)
    program.wait_event("listening", 1)
    assert program.stop() == 0
    assert program.events(1) == ["fork", "online", "listening", "disconnect", "exit"]
    assert program.lines("returned") == [""]
    assert program.processes() == []


def test_fork_gives_the_worker_an_environment(play: Play) -> None:
    """What is named is added for that worker alone, and replaces what the master has."""
    program = play(
        """
if cluster.is_master:
    cluster.fork({"N": "one", "OLD": "new"})
    cluster.fork()
    cluster.run()
else:
    say("worker", cluster.worker.id, os.environ.get("N"), os.environ["OLD"])
""",
        env={"OLD": "old"},
    )
    assert program.wait() == 0
    assert sorted(program.lines("worker")) == ["1 one new", "2 None old"]


def test_exit_code_is_seen_by_all_handlers(play: Play) -> None:
    """Those of the cluster and those of the worker."""
    program = play(ONE_EXIT.format(master="", worker="sys.exit(42)"))
    assert program.wait() == 0
    assert program.events(1) == ["fork", "online", "disconnect", "exit"]
    assert program.lines("ended") == ["42 None crash False"]
    assert program.lines("own") == ["42 None"]


@pytest.mark.parametrize(
    ("master", "worker", "ended"),
    [
        (
            'worker.on("online")(lambda: worker.kill())',
            "time.sleep(60)",
            "None SIGTERM killed False",
        ),
        ("worker.kill()", "time.sleep(60)", "None SIGTERM killed False"),
        ("worker.kill(signal.SIGKILL)", "time.sleep(60)", "None SIGKILL killed False"),
        ('worker.on("online")(lambda: worker.disconnect())', "time.sleep(60)", "0 None stop True"),
        ("", "cluster.worker.kill(); time.sleep(60)", "None SIGTERM killed True"),
        ("", "cluster.worker.disconnect(); time.sleep(60)", "0 None stopped-itself True"),
        ("", "os.kill(os.getpid(), signal.SIGSEGV)", "None SIGSEGV crash False"),
        ("", "pass", "0 None stopped-itself False"),
        ("", "1 / 0", "1 None crash False"),
        ("", "os._exit(3)", "3 None crash False"),
    ],
)
def test_exit_tells_who_wanted_it(play: Play, master: str, worker: str, ended: str) -> None:
    """A kill by the master is no wish to leave; a disconnect, and a worker's own kill, are."""
    program = play(ONE_EXIT.format(master=master, worker=worker))
    assert program.wait() == 0
    assert program.lines("ended") == [ended]
    assert program.lines("returned") == [""]


def test_worker_that_is_disconnected_before_it_runs_exits(play: Play) -> None:
    """It never was, and each event that there is comes once."""
    program = play(ONE_EXIT.format(master="worker.disconnect()", worker="time.sleep(60)"))
    assert program.wait() == 0
    assert program.events(1) == ["fork", "disconnect", "exit"]
    assert program.lines("ended") == ["None None stop True"]


def test_traceback_of_a_worker_is_that_of_its_program(play: Play) -> None:
    """Nothing of ours is in it, and there is one."""
    program = play(ONE_EXIT.format(master="", worker="1 / 0"))
    assert program.wait() == 0
    log = program.log()
    assert log.count("ZeroDivisionError") == 1
    assert log.count("Traceback") == 1 and "1 / 0" in log
    assert "runpy" not in log and "script.py" not in log


def test_exit_handler_forks_again(play: Play) -> None:
    """Respawning is the program's business, and takes one line."""
    program = play(
        """
if cluster.is_master:
    narrate()
    cluster.fork()

    @cluster.on("exit")
    def refork(worker, code, signal):
        if code != 0 and not worker.exited_after_disconnect:
            cluster.fork()

    cluster.run()
else:
    serve_at("127.0.0.1:0")
"""
    )
    address = program.web()
    for number in (1, 2):
        program.wait_event("listening", number)
        with pytest.raises(OSError):  # noqa: PT011 - reset or ended without an answer
            fetch(address, "/exit")
    assert fetch(address).text.startswith("3 ")
    assert program.stop() == 0
    assert program.events(4) == []


def test_async_exit_handler_may_fork_after_a_while(play: Play) -> None:
    """The cluster has not ended before its handlers have."""
    program = play(
        """
if cluster.is_master:
    narrate()
    cluster.fork({"N": "1"})

    @cluster.once("exit")
    async def refork(worker, code, signal):
        await asyncio.sleep(0.1)
        cluster.fork({"N": "2"})

    cluster.run()
else:
    say("worker", os.environ["N"])
"""
    )
    assert program.wait() == 0
    assert program.lines("worker") == ["1", "2"]


def test_fork_while_the_cluster_stops_is_no_loop(play: Play) -> None:
    """A handler that always forks does not keep it from ending."""
    program = play(
        """
if cluster.is_master:
    narrate()
    cluster.fork()

    @cluster.on("exit")
    def refork(worker, code, signal):
        say("forked", cluster.fork().is_dead)

    cluster.run()
else:
    time.sleep(60)
"""
    )
    program.wait_event("online", 1)
    assert program.stop() == 0
    assert program.lines("forked") == ["True"]


def test_worker_that_does_not_end_is_killed_at_the_deadline(play: Play) -> None:
    """It has the drain time-out, and a grace of three seconds."""
    program = play(
        """
if cluster.is_master:
    narrate()
    cluster.setup_master(drain_timeout_s=0.1)
    worker = cluster.fork()
    cluster.on("message")(lambda worker, message: worker.disconnect())
    cluster.run()
else:
    async def main():
        cluster.worker.send("busy")
        while True:
            try:
                while True:
                    pass
            except KeyboardInterrupt:
                say("interrupted")
    asyncio.run(main())
"""
    )
    assert program.wait_event("exit", 1) == "None SIGKILL"
    assert program.wait() == 0


def test_connection_that_stays_open_ends_at_the_deadline(play: Play) -> None:
    """The program is interrupted then, and has time to end in its own way."""
    program = play(
        SERVE.replace(
            "cluster.fork()", "cluster.setup_master(drain_timeout_s=0.3)\n    cluster.fork()"
        )
    )
    with dial(program.web()) as client:
        client.sendall(b"GET /slow HTTP/1.1\r\n\r\n")
        wait_until(lambda: program.lines("slow"), "a request")
        assert program.stop() == 0
        assert program.wait_event("exit", 1) == "0 None"


def test_mold_that_dies_is_started_again(play: Play) -> None:
    """Workers that are there stay, and later forks are as ever."""
    program = play(
        """
if cluster.is_master:
    narrate()
    cluster.fork()

    @cluster.every(0.01)
    def more():
        if os.path.exists("go"):
            os.unlink("go")
            cluster.fork()

    cluster.run()
else:
    serve_at("127.0.0.1:0")
"""
    )
    address = program.web()
    (mold,) = program.mold_pids()
    os.kill(mold, signal.SIGKILL)
    wait_until(lambda: not is_running(mold), "its end")
    assert fetch(address).text.startswith("1 ")
    (program.folder / "go").touch()
    program.wait_event("listening", 2)
    assert program.stop() == 0


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_worker_may_have_processes_of_its_own(play: Play, method: str) -> None:
    """They are no workers, and say so."""
    program = play(
        f"""
def work(number):
    try:
        cluster.worker and cluster.worker.send("mine")
    except ClusterError as error:
        say("error", error)
    return number * 2

if __name__ == "__main__":
    if cluster.is_master:
        cluster.fork()
        cluster.on("message")(lambda worker, message: say("got", message))
        cluster.run()
    else:
        import multiprocessing
        with multiprocessing.get_context("{method}").Pool(1) as pool:
            say("result", pool.map(work, [1, 2]))
        cluster.worker.send("done")
"""
    )
    assert program.wait() == 0
    assert program.lines("result") == ["[2, 4]"]
    assert program.lines("got") == ["done"]
    errors = program.lines("error")
    assert errors == (["this process is not worker 1, but was forked by it"] * 2)[: len(errors)]
    assert bool(errors) == (method == "fork")


def test_workers_end_when_the_master_is_killed(play: Play, tmp_path: Path) -> None:
    """An idle one at once, one with a request when that is answered."""
    program = play(SERVE.replace("cluster.fork()", "cluster.fork(); cluster.fork()"))
    address = program.web()
    program.wait_event("listening", 2)
    slow = Slow(address)
    (busy,) = wait_until(lambda: program.lines("slow"), "a request")
    program.signal(signal.SIGKILL)
    program.wait()
    wait_until(lambda: program.processes() == [int(busy)], "the end of all but one")
    assert slow.finish(tmp_path).status == 200
    wait_until(lambda: program.processes() == [], "the end of the last")


def test_worker_that_hangs_ends_after_the_master(play: Play) -> None:
    """Nobody else is there to end it."""
    program = play(
        """
if cluster.is_master:
    narrate()
    cluster.setup_master(drain_timeout_s=0.1)
    worker = cluster.fork()
    cluster.run()
else:
    say("pid", os.getpid())
    while True:
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            say("interrupted")
"""
    )
    (pid,) = wait_until(lambda: program.lines("pid"), "its pid")
    program.wait_event("online", 1)
    program.signal(signal.SIGKILL)
    program.wait_log("interrupted")
    wait_until(lambda: not is_running(int(pid)), "its end")


@pytest.mark.parametrize("scheduling", ["round-robin", "shared"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_lets_requests_finish(
    play: Play, tmp_path: Path, scheduling: str, number: signal.Signals
) -> None:
    """SIGTERM to the master, and Ctrl-C, have the workers answer what they have."""
    program = play(SERVE, env={"SDCLUSTER_SCHEDULING": scheduling})
    slow = Slow(program.web())
    wait_until(lambda: program.lines("slow"), "a request")
    program.signal(number)
    program.wait_event("disconnect", 1)
    assert slow.finish(tmp_path).status == 200
    assert program.wait() == 0
    assert program.wait_event("exit", 1) == "0 None"
    assert program.lines("returned") == [""]


def test_second_stop_is_at_once(play: Play) -> None:
    """As a second Ctrl-C is meant."""
    program = play(SERVE)
    with dial(program.web()) as client:
        client.sendall(b"GET /slow HTTP/1.1\r\n\r\n")
        wait_until(lambda: program.lines("slow"), "a request")
        program.signal(signal.SIGINT)
        program.wait_event("disconnect", 1)
        program.signal(signal.SIGINT)
        assert program.wait() == 0
    assert program.wait_event("exit", 1) == "None SIGKILL"


def test_handler_that_raises_takes_nobody_with_it(play: Play) -> None:
    """It is logged with its traceback, and the others are called."""
    program = play(
        """
if cluster.is_master:
    @cluster.on("online")
    def broken(worker):
        raise RuntimeError("sync handler")

    @cluster.on("online")
    async def also_broken(worker):
        raise RuntimeError("async handler")

    narrate()
    cluster.fork()
    cluster.run()
else:
    serve_at("127.0.0.1:0")
"""
    )
    assert fetch(program.web()).status == 200
    assert program.stop() == 0
    log = program.log()
    assert log.count("RuntimeError: sync handler") == 1
    assert log.count("RuntimeError: async handler") == 1
    assert log.count("Traceback") == 2


def test_main_module_is_as_ever(play: Play) -> None:
    """A worker is `__main__` with its own arguments, folder and file."""
    program = play(
        """
if __name__ == "__main__":
    if cluster.is_master:
        cluster.fork()
        cluster.run()
    else:
        import __main__
        say("is", __main__.say is say, sys.modules["__main__"] is __main__)
        say("argv", os.path.basename(sys.argv[0]), *sys.argv[1:])
        say("cwd", os.getcwd() == sys.path[0] == os.path.dirname(__file__))
""",
        "--name",
        "value",
    )
    assert program.wait() == 0
    assert program.lines("is") == ["True True"]
    assert program.lines("argv") == ["program.py --name value"]
    assert program.lines("cwd") == ["True"]


@pytest.mark.parametrize(
    "options",
    [
        "-O",
        "-OO",
        "-u",
        "-B",
        "-E",
        "-I",
        "-P",
        "-X dev",
        "-X utf8=0 -b",
        "-W error::UserWarning -W ignore::DeprecationWarning",
        "-I -OO -X dev -W error",
    ],
)
def test_options_of_the_interpreter_are_those_of_the_workers(play: Play, options: str) -> None:
    """As the program was started with them, it may count on them; they bring no noise."""
    program = play(
        """
def show():
    stream = sys.__stdout__.write_through
    say("flags", sys.flags, sys.warnoptions, sorted(sys._xoptions), stream)
    say("doc", show.__doc__, sys.dont_write_bytecode, os.path.dirname(__file__) in sys.path)

show()
if cluster.is_master:
    cluster.fork()
    cluster.on("online")(lambda worker: worker.send("x"))
    cluster.run()
else:
    cluster.on("message")(lambda message: say("got", message))
    cluster.listen("127.0.0.1:0").close()
    while not sys.stdout.closed and not os.path.exists("go"):
        time.sleep(0.01)
""",
        command=[*options.split(), "program.py"],
        env={"PYTHONUNBUFFERED": "", "PYTHONDONTWRITEBYTECODE": ""},
    )
    wait_until(lambda: program.lines("got"), "a message")
    (program.folder / "go").touch()
    assert program.wait() == 0
    for what in ("flags", "doc"):
        master, worker = program.lines(what)
        assert master == worker
    assert len(program.log().splitlines()) == 5, program.log()


def test_package_can_be_the_program(play: Play, tmp_path: Path) -> None:
    """`python -m package` has workers that run the package."""
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "name.py").write_text("NAME = 'sibling'")
    (folder / "__main__.py").write_text(
        """
import sys
from sdcluster import cluster
from .name import NAME
if cluster.is_master:
    cluster.fork()
    cluster.run()
else:
    print("worker", NAME, __name__, __package__, sys.argv[1:], sys.argv[0] == __file__)
"""
    )
    program = play("", "a", command=["-m", "package"])
    assert program.wait() == 0
    assert program.lines("worker") == ["sibling __main__ package ['a'] True"]


def test_setup_master_names_another_program(play: Play, tmp_path: Path) -> None:
    """With arguments and a folder of its own; the settings are those of later forks."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "other.py").write_text(
        "import os, sys\nfrom sdcluster import cluster\n"
        "print('other', cluster.worker.id, sys.argv[1:], os.path.basename(os.getcwd()))"
    )
    program = play(
        """
if cluster.is_master:
    cluster.setup_master(args=["x"])
    cluster.fork()

    @cluster.on("setup")
    def tell(settings):
        say("setup", sorted(settings))

    @cluster.once("exit")
    def other(worker, code, signal):
        cluster.setup_master(script="other.py", cwd="sub")
        cluster.fork()

    cluster.run()
else:
    say("first", sys.argv[1:])
"""
    )
    assert program.wait() == 0
    assert program.lines("first") == ["['x']"]
    assert program.lines("other") == ["2 ['x'] sub"]
    assert program.lines("setup") == ["['args']", "['args', 'cwd', 'script']"]


def test_settings_are_those_of_the_time_of_the_fork(play: Play) -> None:
    """A worker that waits for its mold does not get those that have come since."""
    program = play(
        """
if cluster.is_master:
    for number in range(3):
        cluster.setup_master(args=[str(number)])
        cluster.fork()
    cluster.run()
else:
    say("worker", cluster.worker.id, sys.argv[1:])
"""
    )
    assert program.wait() == 0
    assert sorted(program.lines("worker")) == ["1 ['0']", "2 ['1']", "3 ['2']"]


@pytest.mark.parametrize("given", ["", "cluster.setup_master(args=[])"])
def test_setup_is_told_once_before_the_first_fork(play: Play, given: str) -> None:
    """Also when the program has never called setup_master; not again at later forks."""
    program = play(
        f"""
if cluster.is_master:
    cluster.on("setup")(lambda settings: say("told", "setup", sorted(settings)))
    cluster.on("fork")(lambda worker: say("told", "fork", worker.id))
    {given}
    cluster.fork()
    cluster.fork()
    cluster.run()
"""
    )
    assert program.wait() == 0
    assert program.lines("told") == [f"setup {['args'] * bool(given)}", "fork 1", "fork 2"]


def test_end_of_a_worker_is_that_of_a_program(play: Play) -> None:
    """Threads that are no daemons are waited for, atexit runs, and what was printed comes out."""
    program = play(
        """
if cluster.is_master:
    cluster.fork()
    cluster.run()
else:
    import atexit
    import threading

    def work():
        threading.main_thread().join()
        print("thread")

    atexit.register(lambda: print("atexit"))
    threading.Thread(target=work).start()
    print("main", flush=False)
""",
        env={"PYTHONUNBUFFERED": ""},
    )
    assert program.wait() == 0
    lines = program.log().splitlines()
    assert lines == ["main", "thread", "atexit"]


def test_thread_that_serves_ends_with_the_worker(play: Play) -> None:
    """So does a program whose main thread has ended and only waits for others."""
    program = play(
        ONE_EXIT.format(
            master='cluster.on("message")(lambda worker, message: worker.disconnect())',
            worker="""
    import atexit
    import threading
    atexit.register(lambda: say("atexit"))
    threading.Thread(target=lambda: time.sleep(60)).start()
    cluster.worker.send("up")
""",
        )
    )
    assert program.wait() == 0
    assert program.lines("ended") == ["0 None stop True"]
    assert program.lines("atexit") == [""]
    assert "Traceback" not in program.log()


def test_sys_exit_takes_a_text(play: Play) -> None:
    """It is printed, and the status is 1."""
    program = play(ONE_EXIT.format(master="", worker='sys.exit("the end")'))
    assert program.wait() == 0
    assert program.lines("the end") == [""]
    assert program.lines("ended") == ["1 None crash False"]


def test_handler_of_the_master_may_run_programs(play: Play) -> None:
    """Their exit status is theirs to collect."""
    program = play(
        """
if cluster.is_master:
    import subprocess
    narrate()
    cluster.fork()
    cluster.fork()

    @cluster.on("exit")
    async def run(worker, code, signal):
        status = subprocess.run(["sh", "-c", "exit 3"]).returncode
        process = await asyncio.create_subprocess_exec("sh", "-c", "exit 4")
        say("statuses", status, await process.wait())

    cluster.run()
else:
    pass
"""
    )
    assert program.wait() == 0
    assert program.lines("statuses") == ["3 4", "3 4"]


def test_disconnect_of_the_cluster_can_be_awaited(play: Play) -> None:
    """It is done when all workers are gone, also when there is none."""
    program = play(
        """
if cluster.is_master:
    narrate()
    cluster.fork()
    cluster.fork()
    seen = 0

    @cluster.on("online")
    async def leave(worker):
        global seen
        seen += 1
        if seen == 2:
            await cluster.disconnect()
            say("left", len(cluster.workers))
            await cluster.disconnect()
            say("again")

    cluster.run()
else:
    time.sleep(60)
"""
    )
    assert program.wait() == 0
    assert program.lines("left") == ["0"]
    assert program.lines("again") == [""]
    assert program.events(1).count("exit") == program.events(2).count("exit") == 1


def test_disconnect_from_both_sides_is_one(play: Play) -> None:
    """At the same time, several times, and with a kill after it: each event comes once."""
    program = play(
        """
if cluster.is_master:
    narrate()

    @cluster.on("message")
    def leave(worker, message):
        worker.disconnect()
        cluster.disconnect()
        worker.disconnect()

    @cluster.on("exit")
    def late(worker, code, signal):
        worker.disconnect()
        worker.kill()
        if worker.id < 10:
            cluster.fork()

    cluster.fork()
    cluster.run()
else:
    cluster.worker.send("now")
    cluster.worker.disconnect()
    cluster.worker.disconnect()
    time.sleep(60)
"""
    )
    assert program.wait() == 0
    for number in range(1, 11):
        assert program.events(number) == ["fork", "online", "disconnect", "exit"]
        assert program.wait_event("exit", number) == "0 None"


def test_orphans_of_workers_are_reaped(play: Play) -> None:
    """A worker's own children become the master's when it ends, and leave no zombies."""
    program = play(
        """
if cluster.is_master:
    narrate()
    cluster.fork()
    keep = cluster.fork()
    cluster.run()
else:
    import subprocess
    if cluster.worker.id == 1:
        print("orphan", subprocess.Popen(["sleep", "0.5"]).pid)
        os._exit(0)
    time.sleep(60)
"""
    )
    program.wait_event("exit", 1)
    (orphan,) = program.lines("orphan")
    wait_until(lambda: not Path(f"/proc/{orphan}").exists(), "the end of the orphan")
    assert program.stop() == 0


def test_worker_hears_that_it_is_to_leave(play: Play) -> None:
    """Its own `disconnect` event comes before it ends."""
    program = play(
        ONE_EXIT.format(
            master='cluster.on("message")(lambda worker, message: worker.disconnect())',
            worker="""
    cluster.on("disconnect")(lambda: say("told"))
    cluster.worker.send("ready")
    time.sleep(60)
""",
        )
    )
    assert program.wait() == 0
    assert program.lines("told") == [""]


def test_workers_are_reaped_and_forgotten(play: Play) -> None:
    """A hundred come and go, and the master keeps nothing of them."""
    program = play(
        """
if cluster.is_master:
    def descriptors():
        return len(os.listdir("/proc/self/fd"))

    started = []

    @cluster.on("exit")
    def refork(worker, code, signal):
        if worker.id == 20:
            started.append(descriptors())
        if worker.id < 100:
            cluster.fork()
        else:
            late = time.monotonic() + 5
            while descriptors() > started[0] and time.monotonic() < late:
                time.sleep(0.01)  # A thread closes those that came from workers.
            say("descriptors", descriptors() <= started[0], len(cluster.workers))

    cluster.fork()
    cluster.run()
    say("children", os.path.exists(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
        and open(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read())
else:
    pass
"""
    )
    assert program.wait() == 0
    assert program.lines("descriptors") == ["True 0"]
    assert program.lines("children") == [""]


def test_master_hears_a_signal(play: Play) -> None:
    """Its handler runs where those of events do, and may be a coroutine."""
    program = play(
        """
if cluster.is_master:
    narrate()
    cluster.fork()

    @cluster.on_signal(signal.SIGUSR2)
    async def another():
        await asyncio.sleep(0)
        cluster.fork()

    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            cluster.on_signal(number)(print)
        except ValueError as error:
            say("refused", error)
    cluster.run()
else:
    try:
        cluster.on_signal(signal.SIGUSR2)(print)
    except ClusterError as error:
        say("refused", error)
    serve_at("127.0.0.1:0")
"""
    )
    for number in (2, 3):
        program.wait_event("listening", number - 1)
        program.signal(signal.SIGUSR2)
        program.wait_event("listening", number)
    assert program.stop() == 0
    assert program.lines("refused") == [
        "SIGTERM ends the cluster",
        "SIGINT ends the cluster",
        *(f"on_signal is for the master, and this is worker {number}" for number in (1, 2, 3)),
    ]


def test_ctrl_c_is_for_the_master_alone(play: Play) -> None:
    """Workers are in a session of their own, which a terminal does not reach."""
    program = play(SERVE)
    program.port()
    pids = [pid for pid in program.processes() if pid != program.pid]
    assert len(pids) == 2
    assert {os.getsid(pid) for pid in pids}.isdisjoint({os.getsid(program.pid)})


def test_master_and_workers_share_a_cache(play: Play, tmp_path: Path) -> None:
    """The cache of the program, whatever its workers run."""
    source = """
from sdcluster import cache

if cluster.is_master:
    cache.set("from", "the master")
    cluster.fork()
    cluster.on("exit")(lambda worker, code, signal: say("count", cache.get("count")))
    cluster.run()
else:
    say("from", cache.get("from"))
    cache.incr("count")
"""
    program = play(source, env={"SDCLUSTER_CACHE": f"lmdb://{tmp_path}/cache"})
    assert program.wait() == 0
    assert program.lines("from") == ["the master"] and program.lines("count") == ["1"]

"""What goes wrong around a program's workers, after the tests of Node's cluster."""

import contextlib
import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import Play
from instance import wait_until
from processes import descriptors, stop
from web import dial, fetch, fetch_many

both = pytest.mark.parametrize("scheduling", ["round-robin", "shared"])

SERVE = """
if cluster.is_master:
    narrate()
    cluster.setup_master(scheduling=sys.argv[1])
    for _ in range(int(sys.argv[2])):
        cluster.fork()

    async def told(name):
        while not os.path.exists(name):
            await asyncio.sleep(0.01)
"""
"""A master of some workers; what else it does follows."""


def sockets(pid: int) -> int:
    """Return how many sockets a process has open."""
    return sum(one.startswith("socket:") for one in descriptors(pid))


def test_each_side_knows_what_it_is(play: Play) -> None:
    """By the names that Node has; the ids of workers are never used again."""
    program = play(
        """
say("sides", cluster.is_master, cluster.is_primary, cluster.is_worker)
if cluster.is_master:
    say("master", cluster.worker, cluster.workers)
    first = cluster.fork()

    @cluster.on("exit")
    def refork(worker, code, signal):
        say("known", list(cluster.workers), worker.is_dead, worker.is_connected, worker.state)
        if worker.id < 3:
            cluster.fork()

    say("known", list(cluster.workers), cluster.workers[1] is first, first.is_connected)
    cluster.run()
else:
    say("worker", cluster.worker.id, cluster.worker.pid == os.getpid())
"""
    )
    assert program.wait() == 0
    assert program.lines("sides") == ["True True False", *["False False True"] * 3]
    assert program.lines("master") == ["None {}"]
    assert program.lines("worker") == ["1 True", "2 True", "3 True"]
    assert program.lines("known") == ["[1] True True", *["[] True False dead"] * 3]


def test_state_of_a_worker_is_that_of_its_life(play: Play) -> None:
    """It has changed when the handlers are told."""
    program = play(
        """
if cluster.is_master:
    worker = cluster.fork()
    say("state", "made", worker.state, worker.pid)
    for event in EVENTS:
        def tell(worker, *rest, event=event):
            say("state", event, worker.state, worker.is_dead, worker.pid > 0)
        cluster.on(event)(tell)
    cluster.on("online")(lambda worker: worker.send("serve"))
    cluster.on("message")(lambda worker, message: worker.disconnect())
    cluster.run()
else:
    async def main():
        told = asyncio.Event()
        cluster.on("message")(lambda message: told.set())
        await told.wait()
        await asyncio.start_server(answer, sock=cluster.listen("127.0.0.1:0"))
        cluster.worker.send("serves")
        await asyncio.Event().wait()
    asyncio.run(main())
"""
    )
    assert program.wait() == 0
    assert program.lines("state") == [
        "made none 0",
        "fork none False False",
        "online online False True",
        "listening listening False True",
        "disconnect disconnected False True",
        "exit dead True True",
    ]


def test_processes_of_a_worker_are_no_workers(play: Play) -> None:
    """Nothing in its environment says so, and nothing is left of what systemd gave the master."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0sdcluster-test-" + str(os.getpid()))
        program = play(
            """
if cluster.is_master:
    if sys.argv[1:] == ["child"]:
        say("child", cluster.is_master, cluster.is_worker)
        sys.exit()
    cluster.fork()
    cluster.run()
else:
    import subprocess
    private = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID")
    say("left", [name for name in private if name in os.environ])
    subprocess.run([sys.executable, __file__, "child"], check=True)
""",
            env={
                "NOTIFY_SOCKET": f"@sdcluster-test-{os.getpid()}",
                "WATCHDOG_USEC": "60000000",
                "LISTEN_FDS": "1",
                "LISTEN_PID": "1",
            },
        )
        assert program.wait() == 0
    assert program.lines("child") == ["True False"]
    assert program.lines("left") == ["[]"]


@pytest.mark.parametrize(
    ("variable", "given", "kind"),
    [
        ("shared", "", "HeldListener"),
        ("round-robin", "", "HandedListener"),
        ("", "", "HandedListener"),
        ("shared", 'cluster.setup_master(scheduling="round-robin")', "HandedListener"),
    ],
)
def test_scheduling_can_come_from_the_environment(
    play: Play, variable: str, given: str, kind: str
) -> None:
    """What the program says comes first."""
    program = play(
        f"""
if cluster.is_master:
    {given}
    cluster.fork()
    cluster.run()
else:
    say("kind", type(cluster.listen("127.0.0.1:0")).__name__)
""",
        env={"SDCLUSTER_SCHEDULING": variable},
    )
    assert program.wait() == 0
    assert program.lines("kind") == [kind]


@both
def test_disconnects_in_cycles_with_several_servers_leave_nothing_behind(
    play: Play, scheduling: str
) -> None:
    """Each time all workers leave, with three servers each, and as many are forked."""
    program = play(
        SERVE
        + """
    @cluster.once("listening")
    async def cycle(worker, address):
        from sdcluster.master.host import closing
        for number in range(8):
            while sum(one.state == "listening" for one in cluster.workers.values()) < 2:
                await asyncio.sleep(0.005)
            await cluster.disconnect()
            while closing.unclosed():  # A thread closes what workers have had.
                await asyncio.sleep(0.001)
            say("descriptors", len(os.listdir("/proc/self/fd")))
            cluster.fork()
            cluster.fork()
        await cluster.disconnect()
        await cluster.disconnect()
    cluster.run()
else:
    serve_at("127.0.0.1:0", "127.0.0.1:0", "@test-" + str(os.getppid()))
""",
        scheduling,
        "2",
    )
    assert program.wait() == 0
    for number in range(1, 17):
        events = program.events(number)
        assert events[:2] == ["fork", "online"] and events[-2:] == ["disconnect", "exit"]
        assert events.count("disconnect") == events.count("exit") == 1
    counts = [int(one) for one in program.lines("descriptors")]
    # A worker of the first cycle may leave before it has opened its second and third listener.
    assert len(counts) == 8 and max(counts) <= counts[0] + 3


@pytest.mark.parametrize("code", [0, 7])
def test_disconnect_that_races_with_an_exit_is_one_end(play: Play, code: int) -> None:
    """Whichever comes first: each event is told once, and the exit code is the worker's."""
    program = play(
        f"""
if cluster.is_master:
    narrate()
    cluster.on("message")(lambda worker, message: worker.disconnect())
    for _ in range(8):
        cluster.fork()
    cluster.run()
else:
    cluster.worker.send("now")
    if cluster.worker.id % 2:
        cluster.worker.disconnect()
    os._exit({code})
"""
    )
    assert program.wait() == 0
    for number in range(1, 9):
        assert program.events(number) == ["fork", "online", "disconnect", "exit"]
        assert program.wait_event("exit", number) == f"{code} None"


@both
@pytest.mark.parametrize("by", ["address", "name"])
def test_inherited_socket_is_served_and_stays(play: Play, scheduling: str, by: str) -> None:
    """It is systemd's: clients that come when the cluster has ended wait for the next one."""
    with socket.create_server(("127.0.0.1", 0)) as web, socket.create_server(("127.0.0.1", 0)) as o:
        address = f"127.0.0.1:{web.getsockname()[1]}"
        where = f'"{address}"' if by == "address" else 'name="web"'
        source = f"    cluster.run()\nelse:\n    asyncio.run(serve(cluster.listen({where})))"
        for _ in range(2):
            with ThreadPoolExecutor() as pool:
                early = pool.submit(fetch, address)
                program = play(SERVE + source, scheduling, "2", sockets={"other": o, "web": web})
                assert early.result().status == 200
            assert {one.status for one in fetch_many(address, 20)} == {200}
            assert program.stop() == 0


@both
def test_unknown_name_of_a_socket_is_told(play: Play, scheduling: str) -> None:
    """As an OSError."""
    program = play(
        SERVE
        + """
    cluster.run()
else:
    try:
        cluster.listen(name="web")
    except FileNotFoundError as error:
        say("error", error.strerror)
""",
        scheduling,
        "1",
    )
    assert program.wait() == 0
    assert program.lines("error") == ["systemd has passed no socket named web"]


def test_port_can_be_shared_with_other_programs(play: Play) -> None:
    """With `reuse_port`, by which the kernel spreads connections over all of them."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        program = play(
            SERVE
            + f"""
    cluster.run()
else:
    where = "127.0.0.1:{other.getsockname()[1]}"
    try:
        cluster.listen(where)
    except OSError as error:
        say("error", error.errno)
    asyncio.run(serve(cluster.listen(where, reuse_port=True)))
""",
            "round-robin",
            "1",
        )
        assert fetch(program.web()).status == 200
        assert program.lines("error") == ["98"]


@both
def test_clients_wait_while_there_is_no_worker(play: Play, scheduling: str) -> None:
    """The backlog holds them; the next worker answers."""
    program = play(
        SERVE
        + """
    @cluster.once("exit")
    async def refork(worker, code, signal):
        await told("go")
        cluster.fork()
    cluster.run()
else:
    say("pid", os.getpid())
    serve_at("127.0.0.1:0")
""",
        scheduling,
        "1",
    )
    address = program.web()
    os.kill(int(program.lines("pid")[0]), signal.SIGKILL)
    program.wait_event("exit", 1)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(dial(address)) for _ in range(20)]
        for client in clients:
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        (program.folder / "go").touch()
        for client in clients:
            assert client.recv(100).startswith(b"HTTP/1.1 200 ")
    assert program.stop() == 0


def test_connections_that_a_worker_did_not_take_are_given_to_another(play: Play) -> None:
    """It was stopped, and then it died."""
    program = play(
        SERVE
        + """
    cluster.run()
else:
    say("pid", cluster.worker.id, os.getpid())
    serve_at("127.0.0.1:0")
""",
        "round-robin",
        "2",
    )
    address = program.web()
    program.wait_event("listening", 2)
    pids = dict(line.split() for line in program.lines("pid"))
    stop(int(pids["1"]))
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(dial(address)) for _ in range(10)]
        for client in clients:
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        os.kill(int(pids["1"]), signal.SIGKILL)
        for client in clients:
            head = client.recv(1000)
            assert head.startswith(b"HTTP/1.1 200 ")
    assert program.wait_event("exit", 1) == "None SIGKILL"
    assert program.stop() == 0


def test_master_that_is_out_of_descriptors_accepts_later(play: Play) -> None:
    """It does not crash and does not burn the processor; it says so, and nobody is refused."""
    program = play(
        SERVE
        + """
    @cluster.on("listening")
    async def starve(worker, address):
        import resource
        number = len(os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
        taken = []
        try:
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            say("starved")
        await told("go")
        for fd in taken:
            os.close(fd)
        worker.send("still heard")
    cluster.run()
else:
    cluster.on("message")(lambda message: say("got", message))
    serve_at("127.0.0.1:0")
""",
        "round-robin",
        "1",
    )
    address = program.web()
    wait_until(lambda: program.lines("starved"), "a master without descriptors")
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(dial(address)) for _ in range(5)]
        for client in clients:
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        program.wait_log("cannot accept: ")
        (program.folder / "go").touch()
        for client in clients:
            assert client.recv(100).startswith(b"HTTP/1.1 200 ")
    wait_until(lambda: program.lines("got"), "a message")
    assert program.log().count("cannot accept: ") == 1
    assert program.stop() == 0


def test_message_to_a_master_that_is_gone_is_an_error(play: Play) -> None:
    """Of the worker that sends it, with a connection or without; nothing hangs."""
    program = play(
        """
import socket
if cluster.is_master:
    cluster.on("message")(lambda worker, message: os.kill(os.getpid(), signal.SIGKILL))
    cluster.fork()
    cluster.run()
else:
    async def main():
        cluster.worker.send("die")
        ours, theirs = socket.socketpair()
        for connection in (None, theirs):
            while True:
                try:
                    cluster.worker.send("more", connection=connection)
                except ClusterError as error:
                    say("error", error)
                    break
                await asyncio.sleep(0.001)
        await cluster.worker.drain()
        theirs.close()
        ours.settimeout(10)
        say("end", ours.recv(10))
    asyncio.run(main())
"""
    )
    program.wait()
    wait_until(lambda: program.lines("end"), "the end of the worker")
    assert program.lines("error") == ["cannot send to the master: the other end is gone"] * 2
    assert program.lines("end") == ["b''"]


def test_handlers_are_called_once_or_no_more_as_they_are_told(play: Play) -> None:
    """On both sides, functions and coroutine functions."""
    handlers = """
    @cluster.once("message")
    async def first(*words):
        say("once", *words[-1:])

    def never(*words):
        say("never", words)

    cluster.on("message")(never)
    cluster.off("message", never)
    cluster.off("message", never)
"""
    program = play(
        f"""
if cluster.is_master:
{handlers}
    cluster.on("online")(lambda worker: (worker.send("to the worker"), worker.send("again")))

    @cluster.on("message")
    def leave(worker, message):
        say("master", message)
        if message == "again":
            worker.disconnect()

    cluster.fork()
    cluster.run()
else:
    async def main():
        {handlers.replace(chr(10), chr(10) + "    ")}
        cluster.on("message")(lambda message: say("worker", message))
        cluster.worker.send("to the master")
        cluster.worker.send("again")
        await asyncio.Event().wait()
    asyncio.run(main())
"""
    )
    assert program.wait() == 0
    assert sorted(program.lines("once")) == ["to the master", "to the worker"]
    assert program.lines("master") == ["to the master", "again"]
    assert program.lines("worker") == ["to the worker", "again"]
    assert program.lines("never") == []


@pytest.mark.parametrize("way", ["asyncio.run(ask())", "ask_now()"])
def test_worker_that_leaves_while_it_asks_to_listen_is_interrupted(play: Play, way: str) -> None:
    """It does not wait for an answer that nobody may give."""
    source = """
def ask_now():
    cluster.worker.send("asks")
    while not cluster.worker.is_leaving:
        time.sleep(0.001)
    say("port", cluster.listen("127.0.0.1:{taken}"))

async def ask():
    ask_now()

if cluster.is_master:
    cluster.on("message")(lambda worker, message: worker.disconnect())
    cluster.on("exit")(lambda worker, code, signal: say("exit", code, signal))
    cluster.fork()
    cluster.run()
else:
    {way}
""".replace("{way}", way)
    with socket.create_server(("127.0.0.1", 0)) as other:
        program = play(source.replace("{taken}", str(other.getsockname()[1])))
        assert program.wait() == 0
        assert program.lines("exit") == ["0 None"] and not program.lines("port")

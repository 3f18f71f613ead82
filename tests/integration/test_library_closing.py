"""Listeners of a program's workers that are closed: the address is free, as it is in Node."""

import socket
from pathlib import Path

import pytest
from conftest import Play
from instance import wait_until
from web import dial, fetch, workers_that_answer

both = pytest.mark.parametrize("scheduling", ["round-robin", "shared"])

BIND = """
import socket

def bind(where, kind, reuse=False):
    with socket.socket(socket.AF_UNIX if where.startswith("/") else socket.AF_INET, kind) as mine:
        if where.startswith("/"):
            mine.bind(where)
            os.unlink(where)
        else:
            host, port = where.split(":")
            mine.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
            mine.bind((host, int(port)))

def text(listener):
    name = listener.getsockname()
    return name if isinstance(name, str) else f"{name[0]}:{name[1]}"
"""
"""Unless it is to `reuse` it nothing may be left there: not connections either, socket(7)."""

CLOSES = {
    "close": "listener.close()",
    "with": "with listener: pass",
    "detach": "os.close(listener.detach())",
    "asyncio": """
    async def main():
        server = await asyncio.start_server(answer, sock=listener)
        server.close()
        bind(where, kind)
        say("free", cluster.worker.id)

    asyncio.run(main())
""",
    "uvloop": """
    import uvloop

    async def main():
        server = await asyncio.start_server(answer, sock=listener)
        server.close()
        bind(where, kind)
        say("free", cluster.worker.id)

    uvloop.run(main())
""",
    "thread": """
    import threading
    thread = threading.Thread(target=listener.close)
    thread.start()
    thread.join()
""",
}
"""Ways to close a listener."""

WAYS = [
    *(("'127.0.0.1:0'", way) for way in CLOSES),
    ("'127.0.0.1:0', exclusive=True", "close"),
    ("'127.0.0.1:0', datagrams=True", "close"),
    ("os.getcwd() + '/app.sock'", "close"),
    ("os.getcwd() + '/app.sock', datagrams=True", "close"),
]


@both
@pytest.mark.parametrize(("options", "way"), WAYS)
def test_closed_listener_is_free_at_once(
    play: Play, scheduling: str, options: str, way: str
) -> None:
    """When `close` has returned anybody can bind the address, this worker too."""
    if way == "uvloop":
        pytest.importorskip(way)
    program = play(
        BIND
        + f"""
if cluster.is_master:
    narrate()
    cluster.setup_master(scheduling=sys.argv[1])
    cluster.fork()
    cluster.run()
else:
    listener = cluster.listen({options})
    kind, where = listener.type, text(listener)
    {CLOSES[way].strip()}
    bind(where, kind)
    say("free", cluster.worker.id)
""",
        scheduling,
    )
    wait_until(lambda: program.lines("free") or program.process.poll() is not None, "an end")
    assert program.lines("free")[:1] == ["1"]


@both
def test_last_of_several_to_close_frees_the_address(play: Play, scheduling: str) -> None:
    """Until then the others have its connections; a worker that is to leave does not count."""
    program = play(
        BIND
        + """
if cluster.is_master:
    narrate()
    cluster.setup_master(scheduling=sys.argv[1])
    for _ in range(3):
        cluster.fork()

    @cluster.every(0.01)
    def order():
        for name in ("leave", "2", "3"):
            if os.path.exists(name):
                os.unlink(name)
                if name == "leave":
                    cluster.workers[1].disconnect()
                else:
                    cluster.workers[int(name)].send("close")
    cluster.run()
else:
    async def main():
        listener = cluster.listen("127.0.0.1:0")
        where = text(listener)

        async def hold(reader, writer):
            say("holds", cluster.worker.id)
            await answer(reader, writer)

        server = await asyncio.start_server(hold, sock=listener)

        @cluster.on("message")
        def close(message):
            server.close()
            try:
                bind(where, socket.SOCK_STREAM, reuse=True)
            except OSError as error:
                say("taken", cluster.worker.id, error.errno)
            else:
                say("free", cluster.worker.id)

        await asyncio.Event().wait()
    asyncio.run(main())
""",
        scheduling,
    )
    address = program.web(1)
    for one in (2, 3):
        program.wait_event("listening", one)
    clients: list[socket.socket] = []
    while "1" not in program.lines("holds"):  # The first worker is to have something to do.
        clients.append(dial(address))
        clients[-1].sendall(b"GET /slow HTTP/1.1\r\n\r\n")
        wait_until(lambda: len(program.lines("holds")) == len(clients), "a request")
    (program.folder / "leave").touch()
    program.wait_event("disconnect", 1)
    (program.folder / "2").touch()
    wait_until(lambda: program.lines("taken"), "the second to close")
    assert program.lines("taken") == ["2 98"]
    assert fetch(address).text.startswith("3 ")
    (program.folder / "3").touch()
    wait_until(lambda: program.lines("free"), "the third to close")
    (program.folder / "go").touch()
    for client in clients:
        assert client.recv(100).startswith(b"HTTP/1.1 200 ")
        client.close()
    assert program.stop() == 0


@both
def test_closed_address_can_be_opened_in_another_way(play: Play, scheduling: str) -> None:
    """By the cluster itself, again and again, with what would not fit what there was."""
    program = play(
        """
if cluster.is_master:
    narrate()
    cluster.setup_master(scheduling=sys.argv[1])
    cluster.fork()
    cluster.run()
else:
    listener = cluster.listen("[::1]:0")
    where = listener.getsockname()[:2]
    for _ in range(20):
        for options in ({"ipv6_only": True}, {"exclusive": True}, {"backlog": 5}):
            listener.close()
            listener = cluster.listen(where, **options)
    asyncio.run(serve(listener))
""",
        scheduling,
    )
    wait_until(lambda: len(program.lines("listening 1")) == 61, "all of them")
    port = program.lines("listening 1")[-1].split(", ")[1]
    assert fetch(f"[::1]:{port}").status == 200


@both
@pytest.mark.parametrize("end", ["raise SystemExit(3)", "1 / 0", "sys.exit()", "os._exit(3)"])
def test_listener_of_a_worker_that_ends_is_kept(play: Play, scheduling: str, end: str) -> None:
    """What closes as the program ends by an exception was not closed on purpose: clients wait."""
    program = play(
        f"""
if cluster.is_master:
    narrate()
    cluster.setup_master(scheduling=sys.argv[1])
    cluster.fork()

    @cluster.on("exit")
    async def refork(worker, code, signal):
        say("gone", worker.id)
        while not os.path.exists("go"):
            await asyncio.sleep(0.01)
        cluster.fork()

    cluster.run()
else:
    async def main():
        async with await asyncio.start_server(answer, sock=cluster.listen("127.0.0.1:0")):
            while cluster.worker.id > 1 or not os.path.exists("end"):
                await asyncio.sleep(0.01)
            {end}

    asyncio.run(main())
""",
        scheduling,
    )
    address = program.web()
    (program.folder / "end").touch()
    wait_until(lambda: program.lines("gone"), "its end")
    with dial(address) as client:
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        (program.folder / "go").touch()
        assert b"200 OK" in client.recv(100)


def test_close_does_not_wait_for_a_master_that_is_busy(play: Play) -> None:
    """For long: it returns, and the address is free later."""
    program = play(
        """
if cluster.is_master:
    cluster.fork()
    cluster.on("message")(lambda worker, message: time.sleep(5))
    cluster.run()
else:
    listener = cluster.listen("127.0.0.1:0")
    cluster.worker.send("be busy")
    time.sleep(0.2)
    began = time.monotonic()
    listener.close()
    say("took", time.monotonic() - began < 3)
"""
    )
    wait_until(lambda: program.lines("took"), "its return")
    assert program.lines("took") == ["True"]


def test_copies_of_a_worker_close_nothing(play: Play) -> None:
    """A process that a worker has forked has a copy of the listener, and waits for nobody."""
    program = play(
        """
if cluster.is_master:
    narrate()
    cluster.fork()
    cluster.run()
else:
    listener = cluster.listen("127.0.0.1:0")
    if os.fork() == 0:
        listener.close()
        say("closed")
        os._exit(0)
    os.wait()
    asyncio.run(serve(listener))
"""
    )
    address = program.web()
    wait_until(lambda: program.lines("closed"), "the copy")
    assert workers_that_answer(address, 1) == {"1"}


def test_port_is_anothers_once_it_is_closed(play: Play, tmp_path: Path) -> None:
    """Also another program's."""
    program = play(
        """
if cluster.is_master:
    narrate()
    cluster.fork()
    cluster.run()
else:
    listener = cluster.listen("127.0.0.1:0")
    while not os.path.exists("close"):
        time.sleep(0.01)
    listener.close()
    say("closed")
    time.sleep(60)
"""
    )
    port = program.port()
    (tmp_path / "close").touch()
    wait_until(lambda: program.lines("closed"), "it to be closed")
    with socket.socket() as mine:
        mine.bind(("127.0.0.1", port))


def test_handler_that_closes_without_a_loop_goes_on(play: Play) -> None:
    """The answer is not waited for in the thread that would read it; the address is soon free."""
    program = play(
        BIND
        + """
if cluster.is_master:
    cluster.fork()
    cluster.on("message")(lambda worker, message: worker.send("close"))
    cluster.run()
else:
    listener = cluster.listen("127.0.0.1:0")
    where = text(listener)

    @cluster.on("message")
    def close(message):
        listener.close()
        began = time.monotonic()
        while True:
            try:
                bind(where, socket.SOCK_STREAM)
            except OSError:
                time.sleep(0.001)
            else:
                break
        say("free", time.monotonic() - began < 0.5)

    cluster.worker.send("ready")
    time.sleep(60)
"""
    )
    wait_until(lambda: program.lines("free"), "the address")
    assert program.lines("free") == ["True"]


@both
def test_listener_of_a_worker_that_is_killed_politely_is_kept(play: Play, scheduling: str) -> None:
    """Its program closes it in its own time, as it ends; clients wait for the next one."""
    program = play(
        """
if cluster.is_master:
    narrate()
    cluster.setup_master(scheduling=sys.argv[1])
    cluster.fork()

    @cluster.every(0.01)
    def kill():
        if os.path.exists("kill"):
            os.unlink("kill")
            cluster.workers[1].kill(signal.SIGTERM)

    @cluster.on("exit")
    async def refork(worker, code, signal):
        say("gone", worker.id)
        while not os.path.exists("go"):
            await asyncio.sleep(0.01)
        cluster.fork()

    cluster.run()
else:
    async def main():
        ended = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
        server = await asyncio.start_server(answer, sock=cluster.listen("127.0.0.1:0"))
        cluster.worker.send("ready")
        await ended.wait()
        server.close()

    asyncio.run(main())
""",
        scheduling,
    )
    address = program.web()
    assert workers_that_answer(address, 1) == {"1"}
    (program.folder / "kill").touch()
    wait_until(lambda: program.lines("gone"), "its end")
    with dial(address) as client:
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        (program.folder / "go").touch()
        assert b"200 OK" in client.recv(100)

"""Listeners of a program's workers, after the tests of Node's cluster: one address, all workers."""

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest
from conftest import Play
from instance import wait_until
from processes import cpu_s
from web import dial, fetch, fetch_many, workers_that_answer

both = pytest.mark.parametrize("scheduling", ["round-robin", "shared"])

TWO = """
if cluster.is_master:
    narrate()
    cluster.setup_master(scheduling=sys.argv[1])
    cluster.fork()
    cluster.fork()
    cluster.run()
else:
"""
"""A master of two workers; what they do follows."""

THREADS = """
    import socketserver
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            body = f"{cluster.worker.id} {os.getpid()}\\n".encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    class Lines(socketserver.StreamRequestHandler):
        def handle(self):
            Handler(self.request, self.client_address, None)

    def with_socket(kind, handler):
        server = kind(("127.0.0.1", 0), handler, bind_and_activate=False)
        server.socket.close()
        server.socket = cluster.listen("127.0.0.1:0")
        server.server_name, server.server_port = "test", 0
        return server

    def accept_forever(listener):
        while True:
            connection, address = listener.accept()
            with connection:
                Handler(connection, address, None)
"""
"""Ways to serve without asyncio."""

WAYS = {
    "start_server": 'serve_at("127.0.0.1:0")',
    "create_server": """
    class Protocol(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport
        def data_received(self, data):
            body = f"{cluster.worker.id} {os.getpid()}\\n".encode()
            head = b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n"
            self.transport.write(head % len(body) + body)
            self.transport.close()
    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Protocol, sock=cluster.listen("127.0.0.1:0"))
        await server.serve_forever()
    asyncio.run(main())
""",
    "uvicorn": """
    import uvicorn
    async def app(scope, receive, send):
        body = f"{cluster.worker.id} {os.getpid()}\\n".encode()
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
    config = uvicorn.Config(app, loop="asyncio", lifespan="off", log_level="warning")
    asyncio.run(uvicorn.Server(config).serve(sockets=[cluster.listen("127.0.0.1:0")]))
""",
    "uvloop": """
    import uvloop
    uvloop.run(serve(cluster.listen("127.0.0.1:0")))
""",
    "ThreadingHTTPServer": THREADS
    + "    with_socket(ThreadingHTTPServer, Handler).serve_forever()",
    "HTTPServer": THREADS + "    with_socket(HTTPServer, Handler).serve_forever()",
    "socketserver": THREADS
    + "    with_socket(socketserver.ThreadingTCPServer, Lines).serve_forever()",
    "accept": THREADS + '    accept_forever(cluster.listen("127.0.0.1:0"))',
    "accept in a thread": THREADS
    + """
    thread = threading.Thread(
        target=accept_forever, args=[cluster.listen("127.0.0.1:0")], daemon=True
    )
    thread.start()
    signal.pause()
""",
}


@both
@pytest.mark.parametrize("way", WAYS)
def test_every_kind_of_server_takes_the_listener(play: Play, scheduling: str, way: str) -> None:
    """It serves from both workers, loses nothing under load, and leaves when it is told to."""
    if way in ("uvicorn", "uvloop"):
        pytest.importorskip(way)
    program = play(TWO + "    " + WAYS[way], scheduling)
    address = program.web(1)
    assert program.web(2) == address
    workers_that_answer(address, 2)
    with program.under_load(close=True, clients=4, url=f"http://{address}/") as load:
        fetch_many(address, 50)
    assert load.requests > 0
    assert (load.lost, load.errors) == (0, {})
    assert program.stop() == 0
    assert [program.wait_event("exit", one) for one in (1, 2)] == ["0 None", "0 None"]
    assert "Traceback" not in program.log()


def test_round_robin_takes_turns(play: Play) -> None:
    """One after the other, as in Node."""
    program = play(TWO + "    " + WAYS["start_server"], "round-robin")
    address = program.web(1)
    program.wait_event("listening", 2)
    answers = [fetch(address).text.split()[0] for _ in range(10)]
    assert sorted(answers) == ["1"] * 5 + ["2"] * 5


def test_scheduling_is_taken_from_the_environment(play: Play) -> None:
    """What is not known there is an error."""
    program = play(
        TWO.replace("cluster.setup", "#") + "    pass", env={"SDCLUSTER_SCHEDULING": "random"}
    )
    assert program.wait() == 1
    assert "there is no scheduling 'random'" in program.log()


@both
def test_nth_listener_on_port_0_is_the_same_in_each_worker(play: Play, scheduling: str) -> None:
    """And another one than the one before it."""
    program = play(
        TWO
        + """
    names = [cluster.listen(0).getsockname()[1] for _ in range(2)]
    names += [cluster.listen("127.0.0.1:0").getsockname()[1] for _ in range(2)]
    say("ports", *names)
    time.sleep(60)
""",
        scheduling,
    )
    wait_until(lambda: len(program.lines("ports")) == 2, "the ports")
    first, second = program.lines("ports")
    assert first == second
    assert len(set(first.split())) == 4


@both
def test_exclusive_listener_is_for_one_worker(play: Play, scheduling: str) -> None:
    """Each gets a port of its own, and another worker's is in use."""
    program = play(
        TWO
        + """
    listener = cluster.listen("127.0.0.1:0", exclusive=True)
    say("own", listener.getsockname()[1])
    asyncio.run(serve(listener))
""",
        scheduling,
    )
    wait_until(lambda: len(program.lines("own")) == 2, "the ports")
    ports = program.lines("own")
    assert len(set(ports)) == 2
    answers = {fetch(f"127.0.0.1:{one}").text.split()[0] for one in ports}
    assert answers == {"1", "2"}
    (first,) = [one for one in ports if fetch(f"127.0.0.1:{one}").text.startswith("1 ")]
    os.kill(int(fetch(f"127.0.0.1:{first}").text.split()[1]), signal.SIGKILL)
    program.wait_event("exit", 1)
    with pytest.raises(ConnectionRefusedError):
        fetch(f"127.0.0.1:{first}")


@both
def test_address_in_use_is_an_error_of_the_worker(
    play: Play, tmp_path: Path, scheduling: str
) -> None:
    """An OSError with its number; when it is free, the same worker gets it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        program = play(
            TWO
            + f"""
    try:
        cluster.listen("127.0.0.1:{port}")
    except OSError as error:
        say("error", error.errno, error)
    while not os.path.exists("free"):
        time.sleep(0.01)
    serve_at("127.0.0.1:{port}")
""",
            scheduling,
        )
        wait_until(lambda: len(program.lines("error")) == 2, "the errors")
        assert program.lines("error")[0].startswith("98 [Errno 98] cannot listen on 127.0.0.1:")
    (tmp_path / "free").touch()
    assert program.port(1) == program.port(2) == port
    assert fetch(f"127.0.0.1:{port}").status == 200


@both
def test_listening_twice_is_an_address_in_use(play: Play, scheduling: str) -> None:
    """For the worker that has it; what it has goes on."""
    program = play(
        TWO
        + """
    listener = cluster.listen("127.0.0.1:0", exclusive=True)
    host, port = listener.getsockname()
    listener.close()
    if cluster.worker.id == 1:
        listener = cluster.listen((host, port))
        try:
            cluster.listen((host, port))
        except OSError as error:
            say("error", error.errno)
        asyncio.run(serve(listener))
""",
        scheduling,
    )
    wait_until(lambda: program.lines("error"), "the error")
    assert program.lines("error") == ["98"]


def test_privileged_port_is_refused(play: Play) -> None:
    """EACCES reaches the worker as a PermissionError."""
    first = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    if shutil.which("setpriv") is None or first < 80:
        pytest.skip("there is no port that takes a right, or no way to go without it")
    program = play(
        """
if cluster.is_master:
    if "prepared" not in sys.argv:
        right = "-net_bind_service"
        rights = [f"--inh-caps={right}", f"--bounding-set={right}"]
        os.execvp("setpriv", ["setpriv", *rights, sys.executable, __file__, "prepared"])
    cluster.fork()
    cluster.run()
else:
    try:
        cluster.listen("127.0.0.1:79")
    except PermissionError as error:
        say("error", error.errno)
"""
    )
    assert program.wait() == 0
    assert program.lines("error") == ["13"]


@both
def test_ipv6_can_be_alone_or_with_ipv4(play: Play, scheduling: str) -> None:
    """A port alone is both; `ipv6_only` leaves the same port of IPv4 to others."""
    program = play(
        TWO
        + """
    asyncio.run(serve(cluster.listen(0), cluster.listen("[::]:0", ipv6_only=True)))
""",
        scheduling,
    )
    program.wait_event("listening", 2)
    wait_until(lambda: len(program.lines("listening 1")) == 2, "both listeners")
    dual, only = [int(one.split(", ")[1]) for one in program.lines("listening 1")]
    for host in ("127.0.0.1", "[::1]"):
        assert fetch(f"{host}:{dual}").status == 200
    assert fetch(f"[::1]:{only}").status == 200
    with pytest.raises(ConnectionRefusedError):
        fetch(f"127.0.0.1:{only}")


@both
def test_unix_socket_is_shared_and_removed(play: Play, tmp_path: Path, scheduling: str) -> None:
    """Also where one is left of a master that was killed; its length is limited with an error."""
    path = tmp_path / "app.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    program = play(
        TWO
        + f"""
    try:
        cluster.listen("/" + "x" * 200)
    except ValueError as error:
        say("long", error)
    import pathlib
    asyncio.run(serve(cluster.listen(pathlib.Path("{path}"))))
""",
        scheduling,
    )
    program.wait_event("listening", 1)
    program.wait_event("listening", 2)
    workers_that_answer(str(path), 2)
    assert len(program.lines("long")) == 2
    assert program.stop() == 0
    assert not path.exists()


@both
def test_listener_can_be_closed_and_opened_again(play: Play, scheduling: str) -> None:
    """Many times, with the same address, by both workers; the last one serves."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    program = play(
        TWO
        + f"""
    for _ in range(20):
        cluster.listen("127.0.0.1:{port}").close()
    say("closed")
    serve_at("127.0.0.1:{port}")
""",
        scheduling,
    )
    wait_until(lambda: len(program.lines("closed")) == 2, "both")
    workers_that_answer(f"127.0.0.1:{port}", 2)


@both
def test_closed_listener_refuses(play: Play, tmp_path: Path, scheduling: str) -> None:
    """When the last worker that has it closes it, it is gone."""
    program = play(
        TWO
        + """
    listener = cluster.listen("127.0.0.1:0")
    while not os.path.exists("go"):
        time.sleep(0.01)
    listener.close()
    time.sleep(60)
""",
        scheduling,
    )
    address = program.web(1)
    program.wait_event("listening", 2)
    (tmp_path / "go").touch()

    def refused() -> bool:
        with contextlib.suppress(ConnectionRefusedError):
            dial(address).close()
            return False
        return True

    wait_until(refused, "a refusal")


REFORK = """
if cluster.is_master:
    narrate()
    cluster.setup_master(scheduling=sys.argv[1])
    for _ in range(int(sys.argv[2])):
        cluster.fork()

    @cluster.on("exit")
    def refork(worker, code, signal):
        if not worker.exited_after_disconnect:
            cluster.fork()

    cluster.run()
else:
    serve_at("127.0.0.1:0")
"""


def kill_workers(address: str, times: int) -> None:
    """Have workers kill themselves, one after the other, each after it has been forked anew."""
    for _ in range(times):
        with contextlib.suppress(OSError):
            fetch(address, "/exit")


@both
@pytest.mark.parametrize("count", [1, 2])
def test_nothing_is_refused_when_workers_crash(play: Play, scheduling: str, count: int) -> None:
    """The listener stays, its backlog holds until there is a worker; requests in hand are lost."""
    program = play(REFORK, scheduling, str(count))
    address = program.web()
    program.wait_event("listening", count)
    with program.under_load(close=True, clients=8, url=f"http://{address}/") as load:
        kill_workers(address, 10)
    assert load.requests > 0
    assert not [error for error in load.errors if error.startswith(("connect", "time"))]
    assert load.lost <= 10 * 8
    assert program.stop() == 0


@both
@pytest.mark.parametrize("end", ["cluster.worker.disconnect()", "raise SystemExit(3)"])
def test_only_worker_that_ends_does_not_close_its_listener(
    play: Play, scheduling: str, end: str
) -> None:
    """Its program closes it, as it ends; that is for the worker, and clients wait for the next."""
    program = play(
        REFORK.replace("if not worker.exited_after_disconnect", "if True").replace(
            '    serve_at("127.0.0.1:0")',
            f"""
    listener = cluster.listen("127.0.0.1:0")

    async def main():
        async with await asyncio.start_server(answer, sock=listener):
            await asyncio.sleep(0.1)
            {end}
            await asyncio.Event().wait()

    asyncio.run(main())
""",
        ),
        scheduling,
        "1",
    )
    address = program.web()
    with program.under_load(close=True, clients=4, url=f"http://{address}/") as load:
        program.wait_event("exit", 6)
    assert not [error for error in load.errors if error.startswith(("connect", "time"))]
    if end.startswith("cluster"):
        assert (load.lost, load.errors) == (0, {})


@both
def test_nothing_is_lost_when_workers_are_disconnected(
    play: Play, tmp_path: Path, scheduling: str
) -> None:
    """A program's own rolling restart, under load: each worker leaves when another is there."""
    program = play(
        """
if cluster.is_master:
    narrate()
    cluster.setup_master(scheduling=sys.argv[1])
    cluster.fork()
    cluster.fork()

    @cluster.every(0.01)
    def begin():
        if os.path.exists("go") and not os.path.exists("gone"):
            os.rename("go", "gone")
            cluster.fork()

    @cluster.on("listening")
    def replace(worker, address):
        if 2 < worker.id:
            cluster.workers[worker.id - 2].disconnect()
        if 2 < worker.id < 12:
            cluster.fork()

    cluster.run()
else:
    serve_at("127.0.0.1:0")
""",
        scheduling,
    )
    address = program.web()
    program.wait_event("listening", 2)
    with program.under_load(close=True, clients=8, url=f"http://{address}/") as load:
        (tmp_path / "go").touch()
        program.wait_event("exit", 10)
    assert (load.lost, load.errors) == (0, {})
    assert program.stop() == 0
    assert program.wait_event("exit", 10) == "0 None"


@both
def test_worker_lives_on_until_its_connections_close(
    play: Play, tmp_path: Path, scheduling: str
) -> None:
    """It takes no other, and does not burn the processor while it waits."""
    program = play(REFORK.replace("def refork", "def other"), scheduling, "2")
    address = program.web()
    program.wait_event("listening", 2)
    with dial(address) as client:
        client.sendall(b"GET /slow HTTP/1.1\r\n\r\n")
        (pid,) = wait_until(lambda: program.lines("slow"), "a request")
        program.signal(signal.SIGTERM)
        wait_until(lambda: len(program.processes()) <= 2, "the end of the other")
        before = cpu_s(int(pid))
        with pytest.raises(subprocess.TimeoutExpired):
            program.wait(0.5)
        assert cpu_s(int(pid)) - before < 0.3
        (tmp_path / "go").touch()
        assert client.recv(100).startswith(b"HTTP/1.1 200 ")
    assert program.wait() == 0


def test_backlog_is_that_of_the_worker(play: Play) -> None:
    """What it asks for is what the listener has."""
    program = play(
        """
if cluster.is_master:
    narrate()
    cluster.setup_master(scheduling="shared")
    cluster.fork()
    cluster.run()
else:
    import socket
    import struct
    listener = cluster.listen("127.0.0.1:0", backlog=7)
    info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    say("backlog", struct.unpack_from("2I", info, 8 + 4 * 4)[1])
"""
    )
    assert program.wait() == 0
    assert program.lines("backlog") == ["7"]


STANDS = """
    def stand(reader, writer):
        say("stands", cluster.worker.id)
        while not os.path.exists("go"):
            time.sleep(0.01)
        return answer(reader, writer)

    async def main(**options):
        listener = cluster.listen("127.0.0.1:0", **options)
        # asyncio accepts as many in a turn as it is told that the backlog has.
        server = await asyncio.start_server(stand, sock=listener, backlog=1)
        await server.serve_forever()
"""
"""A worker that takes few connections, and then nothing before it may go on."""


@both
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("count", [1, 2])
def test_what_waits_at_a_stop_is_answered(
    play: Play, tmp_path: Path, scheduling: str, loop: str, count: int
) -> None:
    """Connections that the worker had no time to take are not reset."""
    pytest.importorskip(loop)
    forks = "    cluster.fork()\n"
    program = play(
        TWO.replace(forks * 2, forks * count) + STANDS + f"    import {loop}; {loop}.run(main())",
        scheduling,
    )
    address = program.web()
    program.wait_event("listening", count)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(dial(address)) for _ in range(30)]
        for client in clients:
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        wait_until(lambda: program.lines("stands"), "a request")
        program.signal(signal.SIGTERM)
        program.wait_event("disconnect", count)
        (tmp_path / "go").touch()
        for client in clients:
            assert client.recv(100).startswith(b"HTTP/1.1 200 ")
    assert program.wait() == 0


@pytest.mark.parametrize("way", ["asyncio", "threads"])
def test_what_waits_for_the_only_worker_of_a_listener_is_answered(
    play: Play, tmp_path: Path, way: str
) -> None:
    """A listener that is exclusive ends with its worker, whenever that leaves."""
    serve = "asyncio.run(main(exclusive=True))"
    if way == "threads":
        serve = """
    listener = cluster.listen("127.0.0.1:0", exclusive=True)
    while True:
        connection, _ = listener.accept()
        with connection:
            say("stands", cluster.worker.id)
            while not os.path.exists("go"):
                time.sleep(0.01)
            connection.recv(1000)
            connection.sendall(b"HTTP/1.1 200 OK\\r\\n\\r\\n")
"""
    program = play(
        TWO.replace("    cluster.fork()\n", "", 1).replace(
            "    cluster.run()",
            """
    @cluster.every(0.01)
    def leave():
        if os.path.exists("leave"):
            cluster.disconnect()
    cluster.run()
""",
        )
        + STANDS
        + f"    {serve}",
        "shared",
    )
    address = program.web()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(dial(address)) for _ in range(30)]
        for client in clients:
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        wait_until(lambda: program.lines("stands"), "a request")
        (tmp_path / "leave").touch()
        program.wait_event("disconnect", 1)
        (tmp_path / "go").touch()
        for client in clients:
            assert client.recv(100).startswith(b"HTTP/1.1 200 ")
    assert program.wait() == 0


@both
def test_clients_are_refused_while_the_cluster_stops(
    play: Play, tmp_path: Path, scheduling: str
) -> None:
    """Though a worker answers yet: nobody would take what they ask."""
    program = play(TWO + STANDS + "    asyncio.run(main())", scheduling)
    address = program.web()
    program.wait_event("listening", 2)
    with dial(address) as client:
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        wait_until(lambda: program.lines("stands"), "a request")
        program.signal(signal.SIGTERM)

        def refused() -> bool:
            try:
                dial(address).close()
            except ConnectionRefusedError:
                return True
            return False

        wait_until(refused, "a refusal")
        (tmp_path / "go").touch()
        assert client.recv(100).startswith(b"HTTP/1.1 200 ")
    assert program.wait() == 0


@both
def test_full_workers_leave_clients_in_the_backlog(play: Play, scheduling: str) -> None:
    """Each gets as many as it may have; who waits gets in when one has left."""
    source = """
async def hold(reader, writer):
    writer.write(b"in %d\\n" % cluster.worker.id)
    await reader.read()
    writer.close()

async def main():
    listener = cluster.listen("127.0.0.1:0", max_connections=2)
    async with await asyncio.start_server(hold, sock=listener) as server:
        await server.serve_forever()

if cluster.is_master:
    narrate()
    cluster.fork()
    cluster.fork()
    cluster.run()
else:
    asyncio.run(main())
"""
    program = play(source, env={"SDCLUSTER_SCHEDULING": scheduling})
    web = program.web()
    program.wait_event("listening", 2)
    clients = [dial(web) for _ in range(6)]
    greeted: dict[socket.socket, bytes] = {}

    def greet() -> int:
        for client in select.select([one for one in clients if one not in greeted], [], [], 0)[0]:
            greeted[client] = client.recv(100)
        return len(greeted)

    wait_until(lambda: greet() == 4, "four are in")
    assert sorted(greeted.values()) == [b"in 1\n"] * 2 + [b"in 2\n"] * 2
    for left in range(2):
        next(iter(greeted)).close()
        clients.remove(gone := next(iter(greeted)))
        del greeted[gone]
        wait_until(lambda: greet() == 4, f"number {5 + left} is in")
        assert sorted(greeted.values()) == [b"in 1\n"] * 2 + [b"in 2\n"] * 2
    for client in clients:
        client.close()


@both
@pytest.mark.parametrize("address", ["127.0.0.1:0", "app.sock"])
@pytest.mark.parametrize("order", ["small first", "small last"])
def test_limit_of_a_worker_is_its_own(
    play: Play, tmp_path: Path, scheduling: str, address: str, order: str
) -> None:
    """Of ten clients the one with a limit of nine has nine, and the other has one."""
    if address == "app.sock":
        address = str(tmp_path / address)
    source = f"""
async def hold(reader, writer):
    writer.write(b"%d\\n" % cluster.worker.id)
    await reader.read()
    writer.close()

async def main():
    limit = int(os.environ["LIMIT"])
    listener = cluster.listen({address!r}, max_connections=limit)
    async with await asyncio.start_server(hold, sock=listener) as server:
        await server.serve_forever()

if cluster.is_master:
    narrate()
    for worker in sys.argv[1]:
        cluster.fork({{"LIMIT": {{"1": "1", "2": "9"}}[worker]}})
    cluster.run()
else:
    asyncio.run(main())
"""
    limits = "12" if order == "small first" else "21"
    program = play(source, limits, env={"SDCLUSTER_SCHEDULING": scheduling})
    web = address if address.startswith("/") else program.web()
    program.wait_event("listening", 1)
    program.wait_event("listening", 2)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(dial(web)) for _ in range(10)]
        served = [client.recv(10).decode().strip() for client in clients]
        assert {one: served.count(one) for one in "12"} == (
            {"1": 1, "2": 9} if order == "small first" else {"1": 9, "2": 1}
        )
        late = stack.enter_context(dial(web))
        late.settimeout(0.2)
        with pytest.raises(TimeoutError):
            late.recv(10)
        clients[served.index("1")].close()
        late.settimeout(20)
        assert late.recv(10) == b"1\n"


@both
def test_later_limit_of_a_worker_changes_no_other(play: Play, scheduling: str) -> None:
    """Nor does a listener of the same worker on another port have it."""
    program = play(
        TWO
        + """
    async def hold(reader, writer):
        writer.write(b"in\\n")
        await reader.read()
        writer.close()

    async def main():
        few = await asyncio.start_server(hold, sock=cluster.listen(0, max_connections=1))
        many = await asyncio.start_server(hold, sock=cluster.listen(0))
        await asyncio.gather(few.serve_forever(), many.serve_forever())

    if cluster.worker.id == 1:
        asyncio.run(main())
""",
        scheduling,
    )
    wait_until(lambda: len(program.lines("listening 1")) == 2, "both listeners")
    few, many = [int(one.split(", ")[1]) for one in program.lines("listening 1")]
    with contextlib.ExitStack() as stack:
        for port, count in ((few, 1), (many, 5)):
            for _ in range(count):
                client = stack.enter_context(dial(f"127.0.0.1:{port}"))
                assert client.recv(10) == b"in\n"
        waits = stack.enter_context(dial(f"127.0.0.1:{few}"))
        waits.settimeout(0.2)
        with pytest.raises(TimeoutError):
            waits.recv(10)

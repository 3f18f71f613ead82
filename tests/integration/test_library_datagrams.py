"""Sockets for datagrams that a program's workers share."""

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Play
from instance import wait_until
from program import Program

TWO = """
if cluster.is_master:
    narrate()
    cluster.fork()
    cluster.fork()
    cluster.run()
else:
    import socket
    import socketserver
    import threading

    class Protocol(asyncio.DatagramProtocol):
        def connection_made(self, transport):
            self.transport = transport
        def datagram_received(self, data, address):
            self.transport.sendto(b"%d " % cluster.worker.id + data, address)

    async def endpoint(sock):
        await asyncio.get_running_loop().create_datagram_endpoint(Protocol, sock=sock)
        await asyncio.Event().wait()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            data, sock = self.request
            sock.sendto(b"%d " % cluster.worker.id + data, self.client_address)

    def receive(sock):
        while True:
            data, address = sock.recvfrom(100)
            sock.sendto(b"%d " % cluster.worker.id + data, address)
"""
"""A master of two workers, and ways to answer; what they do follows."""

WAYS = {
    "asyncio": 'asyncio.run(endpoint(cluster.listen("127.0.0.1:0", datagrams=True)))',
    "uvloop": """
    import uvloop
    uvloop.run(endpoint(cluster.listen("127.0.0.1:0", datagrams=True)))
""",
    "recvfrom": 'receive(cluster.listen("127.0.0.1:0", datagrams=True))',
    "socketserver": """
    server = socketserver.UDPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = cluster.listen("127.0.0.1:0", datagrams=True)
    server.serve_forever()
""",
    "each in its own way": """
    sock = cluster.listen("127.0.0.1:0", datagrams=True)
    if cluster.worker.id == 1:
        receive(sock)
    asyncio.run(endpoint(sock))
""",
}


def ask(client: socket.socket, text: bytes = b"hello") -> str:
    """Send a datagram, and return which worker has answered."""
    client.send(text)
    worker, _, rest = client.recv(100).partition(b" ")
    assert rest == text
    return worker.decode()


@contextlib.contextmanager
def udp(port: int, host: str = "127.0.0.1") -> Iterator[socket.socket]:
    """Open a client's socket."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        client.settimeout(10)
        client.connect((host, port))
        yield client


def ask_until_both_answer(port: int) -> None:
    """Send datagrams, many at a time, until each of the two workers has answered one."""
    seen: set[str] = set()
    with udp(port) as client:

        def both() -> bool:
            for _ in range(20):
                client.send(b"x")
            seen.update(client.recv(100).split()[0].decode() for _ in range(20))
            return seen == {"1", "2"}

        wait_until(both, "answers from both")


@pytest.mark.parametrize("scheduling", ["round-robin", "shared"])
@pytest.mark.parametrize("way", WAYS)
def test_workers_share_a_socket_for_datagrams(play: Play, scheduling: str, way: str) -> None:
    """Whatever the scheduling is: each datagram comes to one of them."""
    if way == "uvloop":
        pytest.importorskip(way)
    program = play(TWO + "    " + WAYS[way], env={"SDCLUSTER_SCHEDULING": scheduling})
    assert program.port(1) == program.port(2)
    ask_until_both_answer(program.port())
    assert program.stop() == 0
    assert [program.wait_event("exit", one) for one in (1, 2)] == ["0 None", "0 None"]
    assert "Traceback" not in program.log()


def test_nth_socket_on_port_0_is_the_same_in_each_worker(play: Play) -> None:
    """Ports for datagrams are counted by themselves."""
    program = play(
        TWO
        + """
    if cluster.worker.id == 2:
        cluster.listen("127.0.0.1:0").close()
    names = [cluster.listen("127.0.0.1:0", datagrams=True).getsockname()[1] for _ in range(2)]
    say("ports", *names)
    time.sleep(60)
"""
    )
    wait_until(lambda: len(program.lines("ports")) == 2, "the ports")
    first, second = program.lines("ports")
    assert first == second and len(set(first.split())) == 2


def test_same_port_may_be_for_streams_as_well(play: Play) -> None:
    """They are two addresses."""
    program = play(
        TWO
        + """
    for _ in range(20):
        sock = cluster.listen("127.0.0.1:0", datagrams=True)
        try:
            listener = cluster.listen(sock.getsockname())
        except OSError:
            continue  # Somebody else has that one.
        break
    say("types", listener.type == socket.SOCK_STREAM, sock.type == socket.SOCK_DGRAM)
"""
    )
    assert program.wait() == 0
    assert program.lines("types") == ["True True"] * 2


def test_exclusive_socket_is_for_one_worker(play: Play) -> None:
    """Each has a port of its own."""
    program = play(
        TWO
        + """
    sock = cluster.listen("127.0.0.1:0", exclusive=True, datagrams=True)
    say("own", cluster.worker.id, sock.getsockname()[1])
    receive(sock)
"""
    )
    wait_until(lambda: len(program.lines("own")) == 2, "the ports")
    for line in program.lines("own"):
        worker, port = line.split()
        with udp(int(port)) as client:
            assert ask(client) == worker


def test_ipv6_can_be_alone_or_with_ipv4(play: Play) -> None:
    """As for streams."""
    program = play(
        TWO
        + """
    if cluster.worker.id == 2:
        sys.exit()
    both, only = cluster.listen(0, datagrams=True), cluster.listen("[::1]:0", datagrams=True)
    say("ports", both.getsockname()[1], only.getsockname()[1])
    threading.Thread(target=receive, args=[both], daemon=True).start()
    receive(only)
"""
    )
    wait_until(lambda: program.lines("ports"), "the ports")
    both, only = map(int, program.lines("ports")[0].split())
    for host, port in (("127.0.0.1", both), ("::1", both), ("::1", only)):
        with udp(port, host) as client:
            assert ask(client) == "1"


def test_path_is_shared_and_removed(play: Play, tmp_path: Path) -> None:
    """Also where one is left of a master that was killed; one that is in use is an error."""
    path = tmp_path / "app.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as left:
        left.bind(str(path))
    program = play(
        TWO
        + f"""
    sock = cluster.listen("{path}", datagrams=True)
    try:
        cluster.listen("{path}")
    except OSError as error:
        say("error", error.errno)
    receive(sock)
"""
    )
    wait_until(lambda: len(program.lines("error")) == 2, "the errors")
    assert program.lines("error") == ["98", "98"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
        client.settimeout(10)
        client.bind(str(tmp_path / "client.sock"))
        client.connect(str(path))
        assert ask(client) in ("1", "2")
    assert program.stop() == 0
    assert not path.exists()


@pytest.mark.parametrize("by", ["address", "name"])
def test_socket_of_systemds_is_taken(play: Play, by: str) -> None:
    """By its address or its name; it stays bound when the cluster has ended."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as given,
        socket.create_server(("127.0.0.1", 0)) as other,
    ):
        given.bind(("127.0.0.1", 0))
        port = given.getsockname()[1]
        where = f'"127.0.0.1:{port}"' if by == "address" else 'name="app"'
        program = play(
            TWO
            + f"""
    sock = cluster.listen({where}, datagrams=True)
    say("name", sock.getsockname()[1])
    receive(sock)
""",
            sockets={"other": other, "app": given},
        )
        wait_until(lambda: len(program.lines("name")) == 2, "the names")
        assert program.lines("name") == [str(port)] * 2
        ask_until_both_answer(port)
        assert program.stop() == 0
        with udp(port) as client:
            client.send(b"kept")
        assert given.recv(10) == b"kept"


def test_address_in_use_is_an_error_of_the_worker(play: Play) -> None:
    """Nobody else gets the same datagrams by binding the address again."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", 0))
        program = play(
            TWO
            + f"""
    try:
        cluster.listen("127.0.0.1:{taken.getsockname()[1]}", datagrams=True)
    except OSError as error:
        say("error", error.errno)
"""
        )
        assert program.wait() == 0
    assert program.lines("error") == ["98", "98"]


def test_timeout_is_that_of_the_worker(play: Play) -> None:
    """It is as with any socket, though all of them have the same file."""
    program = play(
        TWO
        + """
    sock = cluster.listen("127.0.0.1:0", datagrams=True)
    for timeout in (0.05, 0):
        sock.settimeout(timeout)
        for receive in (
            lambda: sock.recv(10),
            lambda: sock.recv_into(bytearray(10)),
            lambda: sock.recvfrom(10),
            lambda: sock.recvfrom_into(bytearray(10)),
            lambda: sock.recvmsg(10),
            lambda: sock.recvmsg_into([bytearray(10)]),
        ):
            try:
                receive()
            except (TimeoutError, BlockingIOError) as error:
                say(cluster.worker.id, type(error).__name__)
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.bind(("127.0.0.1", 0))
    sock.sendmsg([b"by sendmsg"], [], 0, client.getsockname())
    say("got", client.recv(100).decode())
"""
    )
    assert program.wait() == 0
    for worker in ("1", "2"):
        assert program.lines(worker) == ["TimeoutError"] * 6 + ["BlockingIOError"] * 6
    assert program.lines("got") == ["by sendmsg"] * 2


def test_datagrams_wait_while_no_worker_is_there(play: Play) -> None:
    """The socket is the master's: what comes after a crash is the next worker's."""
    program: Program = play(
        TWO.replace(
            "    cluster.fork()\n    cluster.fork()",
            """
    cluster.fork()

    @cluster.once("exit")
    async def refork(worker, code, signal):
        while not os.path.exists("go"):
            await asyncio.sleep(0.01)
        cluster.fork()
""",
        )
        + """
    say("pid", os.getpid())
    receive(cluster.listen("127.0.0.1:0", datagrams=True))
"""
    )
    with udp(program.port()) as client:
        assert ask(client) == "1"
        os.kill(int(program.lines("pid")[0]), signal.SIGKILL)
        program.wait_event("exit", 1)
        client.send(b"late")
        (program.folder / "go").touch()
        assert client.recv(100) == b"2 late"
    assert program.stop() == 0


def test_socket_that_all_have_closed_is_gone(play: Play) -> None:
    """Its port is free."""
    program = play(
        TWO
        + """
    sock = cluster.listen("127.0.0.1:0", datagrams=True)
    while not os.path.exists("go"):
        time.sleep(0.01)
    sock.close()
    time.sleep(60)
"""
    )
    port = program.port(1)
    program.wait_event("listening", 2)
    (program.folder / "go").touch()

    def is_free() -> bool:
        mine = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with mine, contextlib.suppress(OSError):
            mine.bind(("127.0.0.1", port))
            return True
        return False

    wait_until(is_free, "its end")


REUSE = ", datagrams=True, reuse_port=True"
"""How a socket is asked for of which each worker has its own."""


def flows(port: int, count: int = 40) -> list[str]:
    """Return which workers answer so many clients, of which each asks three times."""
    seen: list[str] = []
    for _ in range(count):
        with udp(port) as client:
            answers = {ask(client) for _ in range(3)}
            assert len(answers) == 1
            seen += answers
    return seen


@pytest.mark.parametrize("where", ["0", '"127.0.0.1:0"'])
def test_client_stays_with_a_worker_where_the_port_is_reused(play: Play, where: str) -> None:
    """Each worker has a socket of its own, on the same port; the kernel tells clients apart."""
    program = play(TWO + f"    receive(cluster.listen({where}{REUSE}))")
    assert program.port(1) == program.port(2)
    assert set(flows(program.port())) == {"1", "2"}
    assert program.stop() == 0


def test_worker_binds_a_port_twice_where_it_is_reused(play: Play) -> None:
    """As with any socket of the kind; without `reuse_port` it is in use."""
    program = play(
        TWO
        + f"""
    first = cluster.listen("127.0.0.1:0"{REUSE})
    second = cluster.listen(first.getsockname(){REUSE})
    say("both", first.getsockname() == second.getsockname(), first.fileno() != second.fileno())
    for options in ({{}}, {{"exclusive": True}}):
        try:
            cluster.listen(first.getsockname(), datagrams=True, **options)
        except OSError as error:
            say("error", error.errno)
    while not os.path.exists("go"):
        time.sleep(0.01)  # A port that all have closed is not the one that the next one gets.
    first.close()
    say("closed")
    receive(second)
"""
    )
    wait_until(lambda: len(program.lines("error")) == 4, "the errors")
    assert program.lines("error") == ["98"] * 4
    assert program.lines("both") == ["True True"] * 2
    (program.folder / "go").touch()
    wait_until(lambda: len(program.lines("closed")) == 2, "what comes is read by all")
    assert set(flows(program.port())) == {"1", "2"}


def test_other_programs_may_reuse_the_port(play: Play) -> None:
    """And have the datagrams of some of the clients."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        program = play(TWO + f'    receive(cluster.listen("127.0.0.1:{port}"{REUSE}))')
        program.wait_event("listening", 1)
        program.wait_event("listening", 2)
        other.close()
        assert set(flows(port)) == {"1", "2"}


def test_socket_of_a_worker_that_ended_takes_nothing(play: Play) -> None:
    """Its clients come to the others; the last one's wait for the next worker."""
    program = play(
        TWO.replace(
            "    cluster.run()",
            """
    @cluster.every(0.01)
    def fork():
        if os.path.exists("go"):
            os.unlink("go")
            cluster.fork()

    @cluster.on("exit")
    async def wait(worker, code, signal):
        await asyncio.sleep(30)
    cluster.run()
""",
        )
        + f"""
    say("pid", cluster.worker.id, os.getpid())
    receive(cluster.listen("127.0.0.1:0"{REUSE}))
"""
    )
    port = program.port(1)
    program.wait_event("listening", 2)
    pids = dict(line.split() for line in program.lines("pid"))
    os.kill(int(pids["1"]), signal.SIGKILL)
    program.wait_event("exit", 1)
    assert set(flows(port, 20)) == {"2"}
    os.kill(int(pids["2"]), signal.SIGKILL)
    program.wait_event("exit", 2)
    with udp(port) as client:
        client.send(b"late")
        (program.folder / "go").touch()
        assert client.recv(100) == b"3 late"


def test_path_cannot_be_reused_and_is_shared(play: Play) -> None:
    """Unix sockets know no such thing: what is asked for makes no difference."""
    program = play(
        TWO
        + f"""    say("name", cluster.listen("./app.sock"{REUSE}).getsockname()); time.sleep(60)"""
    )
    wait_until(lambda: len(program.lines("name")) == 2, "the names")
    assert program.lines("name") == [str(program.folder / "app.sock")] * 2

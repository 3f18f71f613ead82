"""Connections that go with messages between a program's master and its workers."""

import contextlib
import os
import signal
import socket

import pytest
from conftest import Play
from instance import wait_until
from processes import descriptors
from program import Program
from web import dial

SOCKETS = """
import socket

def greet(connection):
    with connection:
        connection.setblocking(True)
        connection.sendall(b"hello")

if cluster.is_master:
    narrate()
    FRONT = socket.create_server(("127.0.0.1", 0))
    FRONT.setblocking(False)
    say("front", FRONT.getsockname()[1])

    async def accepted():
        return (await asyncio.get_running_loop().sock_accept(FRONT))[0]
"""
"""A master that accepts by itself."""

PARK = """
    async def main():
        await asyncio.Event().wait()
    asyncio.run(main())
"""


def played(play: Play, master: str, worker: str) -> Program:
    """Start a program of one worker; both sources are indented as in a function."""
    return play(f"{SOCKETS}{master}\n    cluster.fork()\n    cluster.run()\nelse:\n{worker}")


def call(program: Program) -> socket.socket:
    """Return a client of the master's."""
    (port,) = wait_until(lambda: program.lines("front"), "the port")
    return dial(f"127.0.0.1:{port}")


def read_all(client: socket.socket) -> bytes:
    """Return what comes until the other end closes."""
    data = b""
    while some := client.recv(4096):
        data += some
    return data


def sockets(pid: int) -> int:
    """Return how many sockets a process has open."""
    return sum(one.startswith("socket:") for one in descriptors(pid))


SEND_EACH = """
    @cluster.on("message")
    async def send_each(worker, message):
        while True:
            with await accepted() as connection:
                worker.send({message}, connection=connection)
"""
"""A master that sends each connection to the worker that has said something."""


@pytest.mark.parametrize("size", [0, 800_000])
def test_connection_goes_to_a_worker_with_its_message(play: Play, size: int) -> None:
    """However large that is; the master closes its own at once, and the client sees nothing."""
    program = played(
        play,
        SEND_EACH.format(message=f'"x" * {size}'),
        """
    @cluster.on("message")
    def take(message, connection):
        say("got", len(message), connection.family == socket.AF_INET, connection.getsockname()[0])
        greet(connection)
    cluster.worker.send("ready")
    time.sleep(60)
""",
    )
    for _ in range(3):
        with call(program) as client:
            assert read_all(client) == b"hello"
    assert program.lines("got") == [f"{size} True 127.0.0.1"] * 3
    assert program.stop() == 0


def test_connection_goes_to_the_master(play: Play) -> None:
    """From a worker that has read of it; all handlers there get the same socket."""
    program = played(
        play,
        """
    taken = []

    @cluster.on("online")
    def hear(worker):
        worker.on("message")(lambda message, connection: taken.append(connection))

    @cluster.on("message")
    def take(worker, message, connection):
        say("got", message, taken == [connection], connection.getsockname()[0])
        greet(connection)
""",
        """
    async def hand_over(reader, writer):
        head = await reader.readexactly(5)
        cluster.worker.send(head.decode(), connection=writer.get_extra_info("socket"))
        writer.close()

    async def main():
        server = await asyncio.start_server(hand_over, sock=cluster.listen("127.0.0.1:0"))
        await server.serve_forever()
    asyncio.run(main())
""",
    )
    with dial(program.web()) as client:
        client.sendall(b"first")
        assert read_all(client) == b"hello"
    assert program.lines("got") == ["first True 127.0.0.1"]
    assert program.stop() == 0


COUNT = 300

FLOOD = f"""
    async def flood(end):
        for number in range({COUNT}):
            ours, theirs = socket.socketpair()
            with ours, theirs:
                if not end.send(number, connection=theirs):
                    await end.drain()
                ours.sendall(b"%d" % number)
        end.send("end")

    got = []

    def take(message, connection):
        if connection is not None:
            with connection:
                connection.setblocking(True)
                got.append((message, int(connection.recv(10))))
        return message == "end"
"""


def test_many_connections_from_both_sides_at_once_stay_with_their_messages(play: Play) -> None:
    """None is lost or mixed up, and nothing is left of them."""
    program = played(
        play,
        FLOOD
        + f"""
    @cluster.on("message")
    async def receive(worker, message, connection):
        if message == "begin":
            await flood(worker)
        elif take(message, connection):
            say("master", got == [(one, one) for one in range({COUNT})])
""",
        FLOOD
        + f"""
    async def main():
        @cluster.on("message")
        def receive(message, connection):
            if take(message, connection):
                say("worker", got == [(one, one) for one in range({COUNT})])
        cluster.worker.send("begin")
        await flood(cluster.worker)
        await asyncio.Event().wait()
    asyncio.run(main())
""",
    )
    for side in ("master", "worker"):
        wait_until(lambda: program.lines(side), f"all of them at the {side}")
        assert program.lines(side) == ["True"]
    for pid in set(program.processes()) - set(program.mold_pids()):
        assert len(descriptors(pid)) < 25
    assert program.stop() == 0


@pytest.mark.parametrize(
    ("made", "used"),
    [
        ('socket.create_server(("127.0.0.1", 0))', "connection.accept()"),
        ("bound(socket.AF_INET, socket.SOCK_DGRAM)", "connection.recv(10)"),
        ("bound(socket.AF_INET6, socket.SOCK_DGRAM)", "connection.recv(10)"),
        ("socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)", "connection.recv(10)"),
    ],
)
def test_sockets_of_all_kinds_can_be_sent(play: Play, made: str, used: str) -> None:
    """They have the family, the type and the address of what was sent, and its way to wait."""
    program = played(
        play,
        f"""
    def bound(family, kind):
        sock = socket.socket(family, kind)
        sock.bind(("127.0.0.1" if family == socket.AF_INET else "::1", 0))
        return sock

    @cluster.on("online")
    def send(worker):
        for blocks in (True, False):
            with {made} as sock:
                sock.setblocking(blocks)
                kind = [sock.family, sock.type, list(sock.getsockname()), blocks]
                worker.send(kind, connection=sock)

    cluster.on("message")(lambda worker, message: worker.disconnect())
""",
        f"""
    @cluster.on("message")
    def take(message, connection):
        c = connection
        name = list(c.getsockname())
        say("same", message == [c.family, c.type, name, c.getblocking()])
        if not message[-1]:
            try:
                {used}
            except BlockingIOError:
                pass
            cluster.worker.send("done")
        connection.close()
    time.sleep(60)
""",
    )
    assert program.wait() == 0
    assert program.lines("same") == ["True", "True"]


def test_handler_that_takes_the_message_alone_is_called_as_ever(play: Play) -> None:
    """One that has to have a connection gets None for a message without; one that may, nothing."""
    program = played(
        play,
        """
    @cluster.on("online")
    def send(worker):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            worker.send("plain")
            worker.send("with", connection=theirs)

    cluster.on("message")(lambda worker, message: worker.disconnect())
""",
        """
    def show(name, message, *rest):
        say("got", name, message, *(one and "socket" for one in rest))

    async def main():
        cluster.on("message")(lambda message: show("alone", message))
        cluster.on("message")(lambda message, connection: show("has to", message, connection))
        cluster.on("message")(lambda message, connection="": show("may", message, connection))
        cluster.on("message")(lambda *words: show("any", *words))
        cluster.on("message")(print)

        @cluster.on("message")
        async def last(message):
            if message == "with":
                cluster.worker.send("done")
        await asyncio.Event().wait()
    asyncio.run(main())
""",
    )
    assert program.wait() == 0
    plain = ["alone plain", "has to plain None", "may plain ", "any plain"]
    given = ["alone with", "has to with socket", "may with socket", "any with socket"]
    assert program.lines("got") == plain + given
    assert "Traceback" not in program.log()


@pytest.mark.parametrize("handler", ["", 'cluster.on("message")(lambda *, key=1: 0)', "alone"])
def test_connection_that_no_handler_takes_is_closed(play: Play, handler: str) -> None:
    """By the master, whether it has no handler or one for messages alone."""
    if handler == "alone":
        handler = 'cluster.on("message")(lambda worker, message: say("heard"))'
    program = played(
        play,
        f"    {handler}\n",
        """
    ours, theirs = socket.socketpair()
    say("sockets", cluster.worker.send("x", connection=theirs))
    theirs.close()
    say("end", ours.recv(10))
    time.sleep(60)
""",
    )
    wait_until(lambda: program.lines("end"), "the end of the connection")
    assert program.lines("end") == ["b''"]
    assert program.stop() == 0


def test_connections_for_a_worker_without_handlers_are_few(play: Play) -> None:
    """The oldest are closed when there are too many; it gets the last of them."""
    program = played(
        play,
        """
    @cluster.on("message")
    async def send(worker, message):
        if message == "begin":
            pairs = [socket.socketpair() for _ in range(200)]
            for number, (_, theirs) in enumerate(pairs):
                if not worker.send(number, connection=theirs):
                    await worker.drain()
                theirs.close()
            await worker.request("whether all has come")
            say("closed", pairs[0][0].recv(10))
            worker.send("end")
""",
        """
    before = len(os.listdir("/proc/self/fd"))
    cluster.on_request(lambda message: True)
    cluster.worker.send("begin")
    while not os.path.exists("go"):
        time.sleep(0.01)
    say("early", len(os.listdir("/proc/self/fd")) - before)
    got = []

    @cluster.on("message")
    def take(message, connection):
        if connection is not None:
            got.append(message)
            connection.close()
        if message == "end":
            say("got", got == [*range(200 - len(got), 200)], len(got))
            say("left", len(os.listdir("/proc/self/fd")) - before)
    time.sleep(60)
""",
    )
    wait_until(lambda: program.lines("closed"), "the first to be closed")
    (program.folder / "go").touch()
    wait_until(lambda: program.lines("left"), "the rest")
    assert program.lines("closed") == ["b''"]
    assert program.lines("early") == ["64"]
    assert program.lines("got") == ["True 64"]
    assert program.lines("left") == ["0"]
    assert program.stop() == 0


FILL = """
    @cluster.on("message")
    async def fill(worker, message):
        worker.kill(signal.SIGSTOP)
        while open(f"/proc/{worker.pid}/stat").read().split()[2] != "T":
            await asyncio.sleep(0.01)
        sent = 0
        while True:
            with await accepted() as connection:
                sent += 1
                if not worker.send("", connection=connection):
                    break
        say("slow", sent)
        drained = asyncio.ensure_future(worker.drain())
        await asyncio.sleep(0.1)
        say("waits", not drained.done())
        await drained
        say("drained")
"""
"""A master that sends connections to a worker that is stopped until it is to slow down."""


@pytest.mark.parametrize("end", [signal.SIGCONT, signal.SIGKILL])
def test_connections_that_wait_slow_the_sender_down(play: Play, end: signal.Signals) -> None:
    """Few bytes are many descriptors; `drain` waits for them too; a dead worker's are closed."""
    program = played(
        play,
        FILL,
        """
    cluster.on("message")(lambda message, connection: greet(connection))
    cluster.worker.send("ready")
    time.sleep(60)
""",
    )
    program.wait_event("online", 1)
    (pid,) = [one for one in program.processes() if one not in (program.pid, *program.mold_pids())]
    with contextlib.ExitStack() as stack:
        clients = []
        before = sockets(program.pid)
        while not program.lines("slow"):
            clients.append(stack.enter_context(call(program)))
        wait_until(lambda: program.lines("waits"), "a sender that waits")
        assert program.lines("waits") == ["True"]
        assert sockets(program.pid) > before + 32
        os.kill(pid, end)
        wait_until(lambda: program.lines("drained"), "the end of that")
        sent = int(program.lines("slow")[0])
        for client in clients[:sent]:
            if end is signal.SIGCONT:
                assert read_all(client) == b"hello"
            else:
                with contextlib.suppress(ConnectionResetError):
                    assert client.recv(1) == b""
        wait_until(lambda: sockets(program.pid) <= before, "the end of them all")
    if end is signal.SIGCONT:
        assert program.stop() == 0
    else:
        assert program.wait() == 0


def test_connections_that_cannot_be_sent_are_errors(play: Play) -> None:
    """The caller keeps what it has, and nothing is left of the attempt."""
    tries = """
    def attempt(*arguments):
        try:
            say("sent", end.send(*arguments))
        except ClusterError as error:
            say("error", error)

    def attempt_all():
        import ssl
        from sdcluster.master.host import closing
        ours, theirs = socket.socketpair()
        while closing.unclosed():  # What came before this: a thread closes it.
            time.sleep(0.001)
        before = len(os.listdir("/proc/self/fd"))
        attempt(object(), theirs)
        attempt("x" * 2_000_000, theirs)
        attempt("", 17)
        attempt("", open(__file__))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls = context.wrap_socket(theirs.dup(), server_side=True, do_handshake_on_connect=False)
        attempt("", tls)
        tls.close()
        attempt("", tls)
        say("left", len(os.listdir("/proc/self/fd")) - before)
        theirs.close()
        attempt("", theirs)
        ours.close()
"""
    program = played(
        play,
        tries
        + """
    @cluster.on("exit")
    def ended(worker, code, signal):
        global end
        end = worker
        ours, theirs = socket.socketpair()
        attempt("late", ours)

    @cluster.on("message")
    def begin(worker, message):
        global end
        end = worker
        attempt_all()
        worker.disconnect()
""",
        tries
        + """
    end = cluster.worker
    attempt_all()
    attempt("", cluster.listen("127.0.0.1:0"))
    end.send("done")
    time.sleep(60)
""",
    )
    assert program.wait() == 0
    assert program.lines("left") == ["0", "0"]
    errors = program.lines("error")
    assert program.lines("sent") == []
    texts = [
        ("a message has to be JSON", 2),
        ("1048576 are the most", 2),
        ("a int is no connection; send a socket", 2),
        ("only sockets can be sent", 3),
        ("a TLS connection cannot be sent: its keys stay in this process", 4),
        ("cannot send this connection: Bad file descriptor", 2),
        ("cannot send to worker 1: the other end is gone", 1),
    ]
    for text, count in texts:
        assert sum(text in one for one in errors) == count, (text, errors)
    assert len(errors) == sum(count for _, count in texts)


def test_worker_lives_until_connections_that_it_was_sent_are_closed(play: Play) -> None:
    """As until those that it has accepted are; one that it sends on in its last moment arrives."""
    program = played(
        play,
        """
    @cluster.on("message")
    async def send(worker, message, connection):
        if message == "ready":
            with await accepted() as client:
                worker.send("", connection=client)
        elif message == "got":
            worker.disconnect()
        else:
            greet(connection)
""",
        """
    @cluster.on("message")
    def take(message, connection):
        global kept
        kept = connection
        cluster.worker.send("got")

    @cluster.on("disconnect")
    def go_on():
        while not os.path.exists("go"):
            say("waits")
            time.sleep(0.05)
        cluster.worker.send("back", connection=kept)
        kept.close()

    async def main():
        cluster.worker.send("ready")
        await asyncio.Event().wait()
    asyncio.run(main())
""",
    )
    with call(program) as client:
        wait_until(lambda: len(program.lines("waits")) > 5, "a worker that waits")
        assert program.events(1)[-1] == "disconnect"
        (program.folder / "go").touch()
        assert read_all(client) == b"hello"
    assert program.wait() == 0
    assert program.wait_event("exit", 1) == "0 None"


@pytest.mark.parametrize("what", ["file", "two sockets"])
def test_garbage_with_a_message_ends_its_worker_alone(play: Play, what: str) -> None:
    """It is told, what came is closed, and the master goes on."""
    program = played(
        play,
        """
    @cluster.on("exit")
    def ended(worker, code, signal):
        if worker.id == 1:
            cluster.fork()

    @cluster.on("message")
    def take(worker, message, connection):
        say("got", worker.id, message, connection is not None)
        worker.disconnect()
""",
        f"""
    ours, theirs = socket.socketpair()
    if cluster.worker.id == 1:
        from sdcluster.wire.messages import Frame, Kind, encode
        fds = [os.open("/dev/null", os.O_RDONLY)] if {what!r} == "file" else [
            ours.fileno(), theirs.fileno()
        ]
        frame = encode(Frame(Kind.MESSAGE, b"1", attached=len(fds)))
        socket.send_fds(cluster.worker._channel, [frame], fds)
    else:
        cluster.worker.send("hello", connection=ours)
    time.sleep(60)
""",
    )
    assert program.wait_event("exit", 1) == "None SIGKILL"
    program.wait_log("sdcluster: worker 1 broke the protocol: a message with what is not one conn")
    assert program.wait() == 0
    assert program.lines("got") == ["2 hello True"]

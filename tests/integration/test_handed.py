"""A listener whose connections the master hands over, in all the ways a listener is used."""

import array
import asyncio
import http.client
import os
import selectors
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from handing import Master
from unit.descriptors import none_leaked
from unit.master.connections.test_channels import room_for
from waiting import wait_until

from sdcluster.wire import channel
from sdcluster.wire.notify import Notification
from sdcluster.wire.scoreboard import Field
from sdcluster.worker.sockets.dispatch_listener import HandedListener

DEADLINE_S = 10.0


@pytest.fixture
def master() -> Iterator[Master]:
    """Make a master's side, and see that nothing is left of it."""
    with none_leaked():
        made = Master()
        yield made
        made.close()
        assert made.closed == 1 and made.open == 0


def is_ready(master: Master) -> bool:
    """Tell whether the listener is ready, by each kind of selector."""
    answers = set()
    for kind in (selectors.EpollSelector, selectors.PollSelector, selectors.SelectSelector):
        with kind() as selector:
            selector.register(master.listener, selectors.EVENT_READ)
            answers.add(bool(selector.select(0)))
    (answer,) = answers
    return answer


# What it is.


def test_listener_looks_like_one(master: Master) -> None:
    """Family, type and name are those of the master's; `listen` is harmless."""
    listener = master.listener
    assert (listener.family, listener.type) == (socket.AF_INET, socket.SOCK_STREAM)
    assert listener.getsockname() == master.real.getsockname()
    assert listener.getblocking() and listener.gettimeout() is None
    assert not listener.get_inheritable()
    assert str(listener.getsockname()) in repr(listener)
    listener.listen()
    listener.listen(5)


def test_listener_on_a_path_and_on_ipv6(tmp_path: Path) -> None:
    """Their addresses are as those of any socket."""
    path = str(tmp_path / "web.sock")
    for family, address in ((socket.AF_UNIX, path), (socket.AF_INET6, ("::1", 0))):
        with none_leaked():
            master = Master(family, address)
            client = master.connect()
            connection, peer = master.listener.accept()
            assert master.listener.family == connection.family == family
            assert master.listener.getsockname() == connection.getsockname()
            assert peer == client.getsockname()
            connection.close()
            master.close()


# Accepting.


def test_connection_is_accepted_and_counted_until_it_is_closed(master: Master) -> None:
    """Its address is the client's, it blocks, and no program that is executed gets it."""
    client = master.connect()
    assert master.counts() == (0, 0, 1)
    connection, address = master.listener.accept()
    assert master.counts() == (1, 1, 0)
    assert address == client.getsockname()
    assert connection.gettimeout() is None and not connection.get_inheritable()
    client.sendall(b"hello")
    assert connection.recv(100) == b"hello"
    connection.close()
    connection.close()
    assert client.recv(1) == b""
    assert master.counts() == (0, 0, 0)


def test_listener_is_ready_while_there_are_connections(master: Master) -> None:
    """Select, poll and epoll say the same."""
    assert not is_ready(master)
    master.connect()
    master.connect()
    for _ in range(2):
        assert is_ready(master)
        master.listener.accept()[0].close()
    assert not is_ready(master)


def test_listener_that_does_not_block_has_a_connection_or_none(master: Master) -> None:
    """Connections block all the same, as those of any listener."""
    master.listener.setblocking(False)
    with pytest.raises(BlockingIOError):
        master.listener.accept()
    master.connect()
    connection, _ = master.listener.accept()
    assert connection.getblocking()
    connection.close()
    master.listener.setblocking(True)
    assert master.listener.gettimeout() is None


def test_listener_with_a_timeout_waits_as_long(master: Master) -> None:
    """And returns a connection that has come."""
    master.listener.settimeout(0.02)
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        master.listener.accept()
    assert time.monotonic() - began >= 0.02
    master.listener.settimeout(20.0)
    master.connect()
    master.listener.accept()[0].close()


def test_listener_that_blocks_waits_in_its_thread(master: Master) -> None:
    """In several at once; each connection is one's alone."""
    accepted: list[socket.socket] = []

    def accept() -> None:
        accepted.append(master.listener.accept()[0])

    threads = [threading.Thread(target=accept) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in threads:
        master.connect()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert master.counts() == (3, 3, 0)
    assert len({one.getpeername() for one in accepted}) == 3
    for one in accepted:
        one.close()


def test_many_threads_count_right(master: Master) -> None:
    """Connections that are accepted and closed at the same time come to nothing in the end."""
    clients = 60
    master.listener.settimeout(DEADLINE_S)

    def serve() -> None:
        for _ in range(clients // 4):
            master.listener.accept()[0].close()

    threads = [threading.Thread(target=serve) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(clients):
        master.connect().close()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert master.counts() == (0, 0, 0)


def test_client_that_has_gone_is_passed_over(master: Master) -> None:
    """Nobody is there to be answered; it is taken and not open."""
    gone = master.connect()
    gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    gone.close()
    client = master.connect()
    connection, address = master.listener.accept()
    assert address == client.getsockname()
    assert master.counts() == (1, 1, 0)
    connection.close()


def test_master_is_told_of_room_when_it_has_asked(master: Master) -> None:
    """Once."""
    master.channel.ask_for_room(True)
    for _ in range(2):
        master.connect()
        master.listener.accept()[0].close()
    told = master.channel.read()
    assert isinstance(told, Notification) and told.taken
    assert master.channel.read() is None


def test_what_is_no_connection_is_passed_over(master: Master) -> None:
    """With descriptors that nobody can use."""
    with socket.socket(fileno=os.dup(master.channel.fileno())) as ours:
        with open(os.devnull) as file:
            rights = array.array("i", [file.fileno()])
            ours.sendmsg([b"a"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
            ours.send(b"a")
        master.connect()
    master.listener.accept()[0].close()
    assert master.counts() == (0, 0, 0)


def test_connection_waits_when_descriptors_are_used_up(master: Master) -> None:
    """As in the backlog of any listener."""
    client = master.connect()
    with room_for(0), pytest.raises(OSError, match="Too many open files"):
        master.listener.accept()
    assert is_ready(master)
    connection, _ = master.listener.accept()
    connection.close()
    assert client.recv(1) == b""


def test_connection_that_was_lost_is_counted_as_taken(
    master: Master, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread had the last descriptor."""
    monkeypatch.setattr("sdcluster.system.descriptors.require", lambda *_, **__: None)
    client = master.connect()
    with room_for(0), pytest.raises(OSError, match="a connection was lost"):
        master.listener.accept()
    assert client.recv(1) == b""
    assert master.counts() == (0, 0, 0)


# Connections.


def test_file_made_of_a_connection_keeps_it_open(master: Master) -> None:
    """As with any socket."""
    client = master.connect()
    connection, _ = master.listener.accept()
    file = connection.makefile("rwb")
    connection.close()
    assert master.counts() == (1, 1, 0)
    file.write(b"hello")
    file.close()
    assert client.recv(100) == b"hello" and client.recv(1) == b""
    assert master.counts() == (0, 0, 0)


def test_duplicate_of_a_connection_counts_until_it_is_closed(master: Master) -> None:
    """It has the same timeout."""
    client = master.connect()
    connection, _ = master.listener.accept()
    connection.settimeout(5)
    copy = connection.dup()
    assert copy.gettimeout() == 5 and copy.getpeername() == client.getsockname()
    connection.close()
    assert master.counts() == (1, 1, 0)
    with pytest.raises(OSError, match="Bad file descriptor"):
        connection.dup()
    copy.sendall(b"x")
    copy.close()
    assert client.recv(1) == b"x"
    assert master.counts() == (0, 0, 0)


def test_detached_connection_is_not_counted(master: Master) -> None:
    """What becomes of it cannot be seen."""
    client = master.connect()
    connection, _ = master.listener.accept()
    fd = connection.detach()
    assert master.counts() == (0, 0, 0)
    connection.close()
    os.write(fd, b"x")
    os.close(fd)
    assert client.recv(1) == b"x"
    assert master.counts() == (0, 0, 0)


def test_connection_that_nobody_has_is_closed_with_a_warning(master: Master) -> None:
    """As any socket, and counted as closed."""
    client = master.connect()
    connection, _ = master.listener.accept()
    kept = [connection]
    del connection
    with pytest.warns(ResourceWarning, match="unclosed"):
        kept.clear()
    assert client.recv(1) == b""
    assert master.counts() == (0, 0, 0)


def test_copy_of_the_process_counts_nothing(master: Master) -> None:
    """It closes copies of the connections, which are open here."""
    master.connect()
    connection, _ = master.listener.accept()
    pid = os.fork()
    if pid == 0:
        connection.close()
        master.listener.close()
        os._exit(0)
    os.waitpid(pid, 0)
    assert master.counts() == (1, 1, 0)
    connection.close()
    assert master.counts() == (0, 0, 0)


# The end of the master.


def test_master_that_has_no_more_makes_the_listener_silent(master: Master) -> None:
    """What it had given is accepted yet; then nothing is ready, and nobody is woken."""
    master.connect()
    master.channel.retire()
    master.listener.setblocking(False)
    with selectors.EpollSelector() as selector:
        selector.register(master.listener, selectors.EVENT_READ)
        assert selector.select(0)
        master.listener.accept()[0].close()
        assert selector.select(0)
        for _ in range(2):
            with pytest.raises(BlockingIOError):
                master.listener.accept()
            assert not selector.select(0)
    assert not is_ready(master)


def test_silent_listener_has_the_timeouts_of_any(master: Master) -> None:
    """Those that it had, and others."""
    master.channel.retire()
    master.listener.settimeout(0.01)
    with pytest.raises(TimeoutError):
        master.listener.accept()
    master.listener.setblocking(False)
    with pytest.raises(BlockingIOError):
        master.listener.accept()
    master.listener.settimeout(0.02)
    with pytest.raises(TimeoutError):
        master.listener.accept()


@pytest.mark.parametrize("end", ["retire", "close"])
def test_who_waits_for_a_connection_waits_on(master: Master, end: str) -> None:
    """All threads, and none of them is busy."""
    master.channel.ask_for_room(True)
    master.connect()
    master.listener.accept()[0].close()  # And says so, which nobody reads.

    def accept() -> None:
        while True:
            try:
                master.listener.accept()
            except ConnectionAbortedError:
                pass  # It came too late to wait.
            except OSError:
                return

    threads = [threading.Thread(target=accept) for _ in range(3)]
    for thread in threads:
        thread.start()
    getattr(master.channel, end)()
    wait_until(lambda: master.listener._silence, "the end was found")
    used_s = time.process_time()
    for thread in threads:
        thread.join(0.05)
    assert all(thread.is_alive() for thread in threads)
    assert time.process_time() - used_s < 0.05
    wake(master.listener, len(threads))
    for thread in threads:
        thread.join(DEADLINE_S)


def wake(listener: HandedListener, threads: int) -> None:
    """Have `accept` fail in threads that wait for what never comes."""
    silence = listener._silence
    assert silence is not None
    silence.bind("")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        for _ in range(threads):
            sender.sendto(channel.CONNECTION, silence.getsockname())


def test_server_that_was_told_that_the_listener_is_ready_is_not_kept(master: Master) -> None:
    """It does not wait in `accept` for what never comes."""
    master.channel.retire()
    assert is_ready(master)
    with pytest.raises(ConnectionAbortedError):
        master.listener.accept()
    assert not is_ready(master)


def test_death_of_the_master_makes_the_listener_silent(master: Master) -> None:
    """Also when something is unread at its end."""
    master.channel.ask_for_room(True)
    master.connect()
    master.listener.accept()[0].close()
    master.channel.close()
    master.listener.setblocking(False)
    with selectors.DefaultSelector() as selector:
        selector.register(master.listener, selectors.EVENT_READ)
        assert selector.select(DEADLINE_S)
    with pytest.raises(BlockingIOError):
        master.listener.accept()
    assert not is_ready(master)


# The end of the listener.


def leave(listener: HandedListener) -> None:
    """Leave a `with` block."""
    with listener:
        pass


ENDS: dict[str, Callable[[HandedListener], object]] = {
    "close": HandedListener.close,
    "with": leave,
    "detach": lambda listener: os.close(listener.detach()),
}


@pytest.mark.parametrize("end", ENDS)
def test_closing_is_told_once(master: Master, end: str) -> None:
    """However it is closed, and however often."""
    ENDS[end](master.listener)
    assert master.closed == 1 and master.listener.fileno() == -1
    master.listener.close()
    assert master.closed == 1


def test_listener_that_nobody_has_is_closed_with_a_warning() -> None:
    """As any socket; the master is to give it nothing more."""
    with none_leaked():
        master = Master()
        with pytest.warns(ResourceWarning, match="unclosed"):
            del master.listener
        assert master.closed == 1
        master.real.close()
        master.channel.close()


def test_connections_outlive_their_listener(master: Master) -> None:
    """They are counted, though the scoreboard is not written any more."""
    client = master.connect()
    connection, _ = master.listener.accept()
    master.listener.close()
    assert master.closed == 1
    connection.sendall(b"x")
    assert client.recv(1) == b"x"
    connection.close()
    assert master.open == 0 and master.channel.board[Field.CONNECTIONS] == 1


def test_closed_listener_accepts_nothing(master: Master) -> None:
    """As any socket; and there is no second one."""
    with pytest.raises(OSError, match="cannot be duplicated"):
        master.listener.dup()
    master.listener.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        master.listener.accept()


# Servers.


def ask(master: Master, text: bytes = b"hello") -> bytes:
    """Return what a server answers to a text that it is to repeat."""
    client = master.connect()
    client.sendall(text)
    client.shutdown(socket.SHUT_WR)
    answer = b"".join(iter(lambda: client.recv(100), b""))
    client.close()
    return answer


class Handler(socketserver.StreamRequestHandler):
    """Repeats what it reads."""

    def handle(self) -> None:
        """Do so."""
        self.wfile.write(self.rfile.read())


class Hello(BaseHTTPRequestHandler):
    """Greets its client."""

    def do_GET(self) -> None:  # As http.server wants it.
        """Answer."""
        body = f"hello {self.client_address[0]}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Be quiet."""


class Served:
    """A server of the standard library's, in a thread, on a listener."""

    def __init__(
        self, kind: type[socketserver.TCPServer], handler: Any, listener: socket.socket
    ) -> None:
        self.server = kind(("127.0.0.1", 0), handler, bind_and_activate=False)
        self.server.socket.close()
        self.server.socket = listener
        self.server.server_activate()
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self._thread.start()

    def stop(self) -> None:
        """Stop it and close its listener."""
        self.server.shutdown()
        self._thread.join(DEADLINE_S)
        self.server.server_close()
        assert not self._thread.is_alive()


@pytest.mark.parametrize(
    "kind",
    [socketserver.TCPServer, socketserver.ThreadingTCPServer, socketserver.ForkingTCPServer],
)
def test_socketserver_serves(master: Master, kind: type[socketserver.TCPServer]) -> None:
    """With threads, processes or none of both, and can be stopped though the master has gone."""
    served = Served(kind, Handler, master.listener)
    for number in range(5):
        text = b"%d" % number
        assert ask(master, text) == text
    wait_until(lambda: master.counts() == (0, 0, 0), "all connections closed")
    master.channel.retire()
    wait_until(lambda: master.listener._silence, "the end was found")
    served.stop()
    assert master.closed == 1


def test_http_server_serves_keep_alive_connections(master: Master) -> None:
    """And many at a time."""
    Hello.protocol_version = "HTTP/1.1"
    served = Served(ThreadingHTTPServer, Hello, master.listener)
    clients = []
    for _ in range(5):
        client = http.client.HTTPConnection("127.0.0.1")
        client.sock = master.connect()
        clients.append(client)
    for _ in range(2):
        for client in clients:
            client.request("GET", "/")
            assert client.getresponse().read() == b"hello 127.0.0.1"
    assert master.counts() == (5, 5, 0)
    for client in clients:
        client.close()
    wait_until(lambda: master.counts() == (0, 0, 0), "all connections closed")
    served.stop()


async def repeat(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer with what was read."""
    writer.write(await reader.read())
    await writer.drain()
    writer.close()
    await writer.wait_closed()


def test_asyncio_serves(master: Master) -> None:
    """And goes to sleep when no more connections will come."""

    async def main() -> None:
        server = await asyncio.start_server(repeat, sock=master.listener)
        assert server.sockets[0].getsockname() == master.real.getsockname()
        for number in range(5):
            text = b"%d" % number
            assert await asyncio.to_thread(ask, master, text) == text
        master.channel.retire()
        while master.listener._silence is None:
            await asyncio.sleep(0)
        loop: Any = asyncio.get_running_loop()
        assert not loop._selector.select(0)
        server.close()
        await server.wait_closed()

    asyncio.run(main())
    assert master.counts()[1:] == (0, 0) and master.closed == 1


def test_asyncio_accepts_without_a_server(master: Master) -> None:
    """`loop.sock_accept`."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        master.listener.setblocking(False)
        waiting = loop.create_task(loop.sock_accept(master.listener))
        await asyncio.sleep(0)
        client = master.connect()
        connection, address = await waiting
        assert address == client.getsockname() and not connection.getblocking()
        connection.close()

    asyncio.run(main())
    assert master.counts() == (0, 0, 0)

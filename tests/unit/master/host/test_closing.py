"""Descriptors that are closed where nothing waits for it."""

import os
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from waiting import wait_until

from sdcluster.errors import ProtocolError
from sdcluster.master.host import closing
from sdcluster.master.host.closing import MAX_THREADS, PATIENCE_S, Closing
from sdcluster.system.descriptors import look
from unit.descriptors import none_leaked, settle
from unit.master.connections.test_channels import room_for

LINGER = struct.Struct("ii")

FORKING = """
import os
import socket
import sys
import threading

from sdcluster.master.host import closing

sys.path.append(sys.argv[1])
from waiting import wait_until

closer = closing._closing
if sys.argv[2] == "idle":
    closing.close([os.dup(0)])
    wait_until(lambda: closer._waiting, "a thread waits for more to do")
else:
    held, done = threading.Event(), threading.Event()

    def hold():
        with closer._changed:
            held.set()
            done.wait()

    threading.Thread(target=hold, daemon=True).start()
    held.wait()
one, other = socket.socketpair()
reading, writing = os.pipe()
child = os.fork()
if child == 0:
    os.close(writing)
    other.close()
    closing.close_socket(one)
    os.read(reading, 1)  # Until the parent has seen what there is to see.
    os._exit(0)
one.close()
other.settimeout(5)
try:
    print(other.recv(1))
except TimeoutError:
    print("it is not closed")
    os.kill(child, 9)
os.close(writing)
os.waitpid(child, 0)
os._exit(0)
"""
"""A process whose child closes a socket when the parent's lock is held, or its thread is idle."""


class Gate:
    """Has `close` wait for some descriptors, as the kernel may."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.slow: set[int] = set()
        self.reached: list[int] = []
        self.closed: list[int] = []
        self._open = threading.Event()
        monkeypatch.setattr(closing, "_close", self._close)

    def _close(self, fd: int) -> None:
        self.reached.append(fd)
        if fd in self.slow:
            assert self._open.wait(10)
        os.close(fd)
        self.closed.append(fd)

    def open(self) -> None:
        """Let all of them be closed."""
        self._open.set()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """Make one, which is open at the end."""
    with none_leaked():
        made = Gate(monkeypatch)
        yield made
        made.open()


def lingering() -> tuple[socket.socket, socket.socket]:
    """Return a connection that lingers for 30 s, and its peer, which reads nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    server.setblocking(False)
    while select.select([], [server], [], 0.05)[1]:
        server.send(bytes(65536))
    server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER.pack(1, 30))
    return server, client


def test_connection_that_lingers_is_closed_at_once() -> None:
    """Nobody waits for its peer, whoever has wanted that."""
    with none_leaked():
        server, client = lingering()
        begun = time.monotonic()
        closing.release(server.detach())
        settle()
        assert time.monotonic() - begun < 5
        client.close()


def test_connection_of_ours_is_closed_before_anything_else() -> None:
    """Its client is told of the end by then."""
    one, other = socket.socketpair()
    other.setblocking(False)
    closing.release(one.detach())
    assert other.recv(1) == b""
    other.close()


def test_those_that_take_long_hold_up_no_others(gate: Gate) -> None:
    """Another thread goes on, and they are still closed when their time has come."""
    closer = Closing()
    fds = [os.dup(0) for _ in range(6)]
    gate.slow |= {fds[0], fds[3]}
    closer.close(list(fds))
    wait_until(lambda: gate.reached == fds, "all have had their turn")
    gate.open()
    wait_until(lambda: sorted(gate.closed) == sorted(fds), "all are closed")


def test_one_that_takes_long_counts_as_open_until_it_is_closed(gate: Gate) -> None:
    """Also when nothing comes after it, and when all that came after it are closed."""
    closer = Closing()
    slow, quick = os.dup(0), os.dup(0)
    gate.slow.add(slow)
    closer.close([slow])
    wait_until(lambda: gate.reached == [slow], "a thread is stuck")
    assert closer.unclosed == 1
    closer.close([quick])
    wait_until(lambda: gate.closed == [quick], "the other is closed")
    wait_until(lambda: closer.unclosed == 1, "and counted")
    gate.open()
    wait_until(lambda: not closer.unclosed, "both are closed")


def test_threads_that_are_stuck_are_not_many(gate: Gate) -> None:
    """What is left waits for one of them."""
    closer = Closing()
    fds = [os.dup(0) for _ in range(MAX_THREADS + 3)]
    gate.slow |= set(fds)
    before = threading.active_count()
    closer.close(list(fds))
    wait_until(lambda: len(gate.reached) >= MAX_THREADS, "threads are stuck")
    with pytest.raises(AssertionError, match="all are closed"):
        wait_until(lambda: not closer.unclosed, "all are closed", 3 * PATIENCE_S)
    assert threading.active_count() - before <= MAX_THREADS
    assert len(gate.reached) == MAX_THREADS
    gate.open()
    wait_until(lambda: len(gate.closed) == len(fds), "all are closed")


def test_threads_end_when_there_is_nothing_to_do(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An idle master has one; and begins another when it is to."""
    monkeypatch.setattr(closing, "IDLE_S", 0.01)
    before = threading.active_count()
    closer = Closing()
    for times in (1, 2):
        closer.close([os.dup(0)])
        wait_until(lambda: threading.active_count() == before, "no thread is left")
        assert len(gate.reached) == times


def test_threads_that_cannot_be_started_are_started_later(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit of tasks may be reached: nothing fails, and nothing is left open for good."""
    closer = Closing()

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        closer.close([os.dup(0)])
        assert closer.unclosed == 1
    closer.close([os.dup(0)])
    wait_until(lambda: not closer.unclosed, "both are closed")
    assert len(gate.reached) == 2


@pytest.mark.parametrize("state", ["idle", "held"])
def test_child_of_the_process_has_threads_of_its_own(state: str) -> None:
    """A program may fork: the child has neither the threads nor those who hold the lock."""
    folder = str(Path(__file__).parents[3])
    script = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKING, folder, state]
    done = subprocess.run(script, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "b''\n"


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET])
def test_descriptors_are_looked_at_before_they_are_taken(kind: int) -> None:
    """The kernel closes in the receiver those that do not fit, or for which there is no room."""
    with none_leaked():
        one, other = socket.socketpair(socket.AF_UNIX, kind)
        other.setblocking(False)
        with pytest.raises(BlockingIOError):
            look(other, 100, most=2)
        socket.send_fds(one, [b"two"], [0, 1])
        with room_for(1), pytest.raises(OSError, match="Too many open files"):
            look(other, 100, most=2)
        for _ in range(2):
            found = look(other, 100, most=2)
            assert (found.data, len(found.fds), found.is_cut) == (b"two", 2, False)
            closing.close(found.fds)
        other.recv(100)
        socket.send_fds(one, [b"three"], [0, 1, 2])
        for _ in range(2):
            with pytest.raises(ProtocolError, match="more than 2 descriptors"):
                look(other, 100, most=2)
        one.close()
        other.close()

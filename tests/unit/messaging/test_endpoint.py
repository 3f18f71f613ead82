"""Message channels, on real sockets and on each kind of loop."""

import array
import asyncio
import contextlib
import errno
import os
import socket
import struct
import threading
import time
import tracemalloc
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sdcluster.errors import ProtocolError
from sdcluster.master.host.loop import Loop
from sdcluster.messaging import endpoint
from sdcluster.messaging.endpoint import (
    HIGH_WATER_BYTES,
    HIGH_WATER_DESCRIPTORS,
    LIMIT_BYTES,
    LIMIT_DESCRIPTORS,
    Messenger,
)
from sdcluster.system.descriptors import Received, look
from sdcluster.system.event_loop import AsyncLoop, EventLoop
from sdcluster.wire.messages import Frame, Kind, Splitter, encode
from unit.descriptors import count, none_leaked

DEADLINE_S = 10.0


class OurLoop:
    """The master's loop, turned by hand."""

    def __init__(self) -> None:
        self._loop = Loop()
        self.events: EventLoop = self._loop

    def turn(self) -> None:
        """Run what is ready."""
        self._loop.call_later(0.001, lambda: None)
        self._loop._turn()

    def close(self) -> None:
        """Close it."""
        self._loop.close()


class Asyncio:
    """A loop of asyncio's kind, turned by hand."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.events: EventLoop = AsyncLoop(loop)

    def turn(self) -> None:
        """Run what is ready."""
        self._loop.run_until_complete(asyncio.sleep(0))

    def close(self) -> None:
        """Close it."""
        self._loop.close()


def asyncios() -> Asyncio:
    """Return a loop of asyncio's own."""
    return Asyncio(asyncio.new_event_loop())


def uvloops() -> Asyncio:
    """Return a loop of uvloop's."""
    return Asyncio(pytest.importorskip("uvloop").new_event_loop())


class End:
    """One end of a channel, and what it was told."""

    def __init__(self, sock: socket.socket, loop: EventLoop) -> None:
        self.frames: list[Frame] = []
        self.descriptors: list[list[int]] = []
        self.ends: list[str] = []
        self.drained = 0
        self.on_frame: Callable[[Frame], None] = lambda _: None
        self.on_drained: Callable[[], None] = lambda: None
        self.messenger = Messenger(
            sock, loop, on_frame=self._told, on_end=self.ends.append, on_drained=self._drained
        )

    def _told(self, frame: Frame, descriptors: list[int]) -> None:
        self.frames.append(frame)
        self.descriptors.append(descriptors)
        self.on_frame(frame)

    def _drained(self) -> None:
        self.drained += 1
        self.on_drained()

    def say(self, body: bytes = b"", *descriptors: int) -> bool:
        """Send a message."""
        frame = Frame(Kind.MESSAGE, body, attached=len(descriptors))
        return self.messenger.send(frame, descriptors)

    def say_until_full(self, body: bytes) -> int:
        """Send messages until one is not taken; return how many were."""
        for sent in range(10**6):
            try:
                self.say(body)
            except BlockingIOError:
                return sent
        raise AssertionError("everything is taken")

    def bodies(self) -> list[bytes]:
        """Return what came."""
        return [frame.body for frame in self.frames]

    def close(self) -> None:
        """Close it, and what it was given."""
        self.messenger.close()
        for fd in [fd for some in self.descriptors for fd in some]:
            os.close(fd)


class Scene:
    """Two ends of a channel, or one and a bare socket, on one loop."""

    def __init__(self, loop: OurLoop | Asyncio) -> None:
        self.loop = loop
        self.ends: list[End] = []
        self.sockets: list[socket.socket] = []

    def pair(self) -> tuple[End, End]:
        """Return two ends."""
        one, other = self._sockets()
        return self._end(one), self._end(other)

    def single(self, kind: Any = socket.socket) -> tuple[End, socket.socket]:
        """Return an end, and the socket at the other one, which waits for nothing."""
        one, other = self._sockets()
        other.setblocking(False)
        return self._end(kind(fileno=one.detach())), other

    def _sockets(self) -> tuple[socket.socket, socket.socket]:
        pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sockets += pair
        return pair

    def _end(self, sock: socket.socket) -> End:
        self.ends.append(End(sock, self.loop.events))
        return self.ends[-1]

    def until(self, condition: Callable[[], object]) -> None:
        """Turn the loop until something is so."""
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline
            self.loop.turn()

    def turns(self) -> None:
        """Turn the loop as often as it takes for all that is ready to be told."""
        for _ in range(10):
            self.loop.turn()

    def close(self) -> None:
        """Close everything."""
        for end in self.ends:
            end.close()
        for sock in self.sockets:
            sock.close()
        self.loop.close()


@pytest.fixture(autouse=True)
def _impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have nobody wait long for room."""
    monkeypatch.setattr(endpoint, "NO_ROOM_RETRY_S", 0.005)


@pytest.fixture(params=[OurLoop, asyncios, uvloops])
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    """Make a scene, and see that it leaves no descriptor behind."""
    request.param().close()  # The first of a kind may open something for all of them.
    with none_leaked():
        made = Scene(request.param())
        yield made
        made.close()


def memfd(text: str) -> int:
    """Return a descriptor that can be told from others."""
    fd = os.memfd_create(text)
    os.write(fd, text.encode())
    return fd


def content(fd: int) -> str:
    """Return what tells it."""
    return os.pread(fd, 100, 0).decode()


def attach(sock: socket.socket, data: bytes, *descriptors: int) -> None:
    """Send data and descriptors as somebody else would."""
    rights = array.array("i", descriptors)
    sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])


def read_all(scene: Scene, sock: socket.socket, end: End) -> bytes:
    """Return all that is sent, until nothing waits and nothing comes."""
    data = bytearray()
    while not end.messenger.closed:
        try:
            data += sock.recv(1 << 20)
        except BlockingIOError:
            if not end.messenger.waiting_bytes:
                break
            scene.loop.turn()
    return bytes(data)


# Frames.


def test_frames_arrive_in_order_both_ways(scene: Scene) -> None:
    """Those that fit are sent at once."""
    one, other = scene.pair()
    for number in range(100):
        assert one.say(b"%d" % number) and other.say(b"-%d" % number)
    assert one.messenger.waiting_bytes == 0
    scene.until(lambda: len(one.frames) == len(other.frames) == 100)
    assert other.bodies() == [b"%d" % number for number in range(100)]
    assert one.bodies() == [b"-%d" % number for number in range(100)]


def test_large_message_arrives_with_its_descriptor(scene: Scene) -> None:
    """However many pieces it takes; the sender keeps its own."""
    one, other = scene.pair()
    body = os.urandom(800_000)
    fd = memfd("connection")
    assert not one.say(body, fd)
    assert one.say(b"x") is False
    os.close(fd)
    scene.until(lambda: len(other.frames) == 2)
    assert other.bodies() == [body, b"x"]
    assert [[content(fd) for fd in some] for some in other.descriptors] == [["connection"], []]
    scene.until(lambda: one.drained)
    assert one.drained == 1


def test_many_descriptors_from_both_sides_at_once_stay_with_their_frames(scene: Scene) -> None:
    """Between frames of all sizes, with and without any."""
    pair = scene.pair()
    for number in range(90):
        for end in pair:
            fds = [memfd(f"{number}.{index}") for index in range(number % 3)]
            end.say(b"x" * (number * 577 % 40_000), *fds)
            for fd in fds:
                os.close(fd)
    scene.until(lambda: all(len(end.frames) == 90 for end in pair))
    for end in pair:
        for number, fds in enumerate(end.descriptors):
            assert [content(fd) for fd in fds] == [f"{number}.{at}" for at in range(number % 3)]
            assert not any(os.get_inheritable(fd) for fd in fds)
        assert [len(body) for body in end.bodies()] == [n * 577 % 40_000 for n in range(90)]


def test_frame_may_be_sent_while_one_is_told(scene: Scene) -> None:
    """An answer from within, and an answer to that."""
    one, other = scene.pair()
    for end in (one, other):
        end.on_frame = lambda frame, end=end: end.say(b"%d" % (int(frame.body) + 1))  # type: ignore[misc]
    one.say(b"0")
    scene.until(lambda: one.frames and int(one.frames[-1].body) > 500)


# Threads and signals.


def test_any_thread_may_send(scene: Scene) -> None:
    """Frames stay whole, those of a thread in order; none is left behind when the channel fills."""
    one, other = scene.single()
    calls: deque[Callable[[], None]] = deque()
    own = threading.get_ident()
    one.messenger._in_loop = lambda call: (
        call() if threading.get_ident() == own else calls.append(call)
    )

    def pour(name: bytes) -> None:
        for number in range(200):
            one.say(b"%s %d " % (name, number) + b"x" * 1000)

    threads = [threading.Thread(target=pour, args=(b"%d" % name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    found: list[Frame] = []
    splitter = Splitter()

    def read() -> bool:
        while calls:
            calls.popleft()()
        with contextlib.suppress(BlockingIOError):
            found.extend(splitter.feed(other.recv(1 << 20)))
        return len(found) == 800

    scene.until(read)
    for thread in threads:
        thread.join()
    told = [frame.body.split()[:2] for frame in found]
    for name in range(4):
        numbers = [int(number) for who, number in told if int(who) == name]
        assert numbers == list(range(200))


class Interrupted(socket.socket):
    """A socket during whose first call a signal handler runs."""

    handler: Callable[[], object] | None = None

    def sendmsg(self, *arguments: Any) -> int:
        """Send, and be interrupted."""
        sent = super().sendmsg(*arguments)
        handler, self.handler = self.handler, None
        if handler is not None:
            handler()
        return sent


def test_signal_handler_may_send_amid_a_send(scene: Scene) -> None:
    """Its frame follows the one that it interrupts, of which the kernel has taken a part."""
    one, other = scene.single(Interrupted)
    sock = one.messenger._sock
    assert isinstance(sock, Interrupted)
    sock.handler = lambda: one.say(b"signal")
    one.say(b"x" * 1_000_000)
    data = read_all(scene, other, one)
    bodies = [frame.body for frame in Splitter().feed(data)]
    assert bodies == [b"x" * 1_000_000, b"signal"]


# In numbers.


def bodies(data: bytes) -> list[bytes]:
    """Return what the frames say that have been sent."""
    return [frame.body for frame in Splitter().feed(data)]


def dialogue(scene: Scene) -> tuple[End, socket.socket]:
    """Return an end that has just been told two frames at once, and the other one."""
    one, other = scene.single()
    other.sendall(2 * encode(Frame(Kind.REQUEST)))
    scene.until(lambda: len(one.frames) == 2)
    return one, other


def test_gathered_frames_go_when_they_are_flushed(scene: Scene) -> None:
    """Only the first one asks for that."""
    one, other = dialogue(scene)
    asked = [one.messenger.gather(Frame(Kind.REPLY, b"%d" % number)) for number in range(3)]
    assert asked == [True, False, False]
    with pytest.raises(BlockingIOError):
        other.recv(1, socket.MSG_DONTWAIT)
    assert one.messenger.waiting_bytes == 3 * 17
    one.messenger.flush()
    assert bodies(other.recv(1000)) == [b"0", b"1", b"2"]
    assert one.messenger.waiting_bytes == 0
    one.messenger.flush()
    assert one.messenger.gather(Frame(Kind.REPLY))


def test_gathered_frames_go_before_what_is_sent(scene: Scene) -> None:
    """The order stays, and they do not wait any longer."""
    one, other = dialogue(scene)
    one.messenger.gather(Frame(Kind.REPLY, b"first"))
    one.say(b"second")
    assert bodies(other.recv(1000)) == [b"first", b"second"]


def test_frame_is_not_gathered_where_frames_come_one_by_one(scene: Scene) -> None:
    """It would only come later."""
    one, other = scene.single()
    assert not one.messenger.gather(Frame(Kind.REPLY, b"at once"))
    assert bodies(other.recv(1000)) == [b"at once"]


def test_gathered_frames_are_few(scene: Scene) -> None:
    """What is more than the kernel is given at a time goes at once."""
    one, other = dialogue(scene)
    asked = [one.messenger.gather(Frame(Kind.REPLY, b"x" * 40_000)) for _ in range(2)]
    assert asked == [True, False]
    assert len(other.recv(100_000)) == 2 * 40_016


def test_frame_is_not_gathered_for_nobody(scene: Scene) -> None:
    """Its sender is told."""
    one, _ = dialogue(scene)
    one.messenger.close()
    with pytest.raises(BrokenPipeError):
        one.messenger.gather(Frame(Kind.REPLY))


# Too much.


def test_sender_is_told_to_slow_down_and_when_it_may_go_on(scene: Scene) -> None:
    """Once each time; not when it was never told to."""
    one, other = scene.single()
    one.say(b"x" * 1000)
    scene.turns()
    assert one.drained == 0
    for expected in (1, 2):
        while one.say(b"x" * 1000):
            assert one.messenger.waiting_bytes <= HIGH_WATER_BYTES
        assert one.messenger.waiting_bytes > HIGH_WATER_BYTES
        read_all(scene, other, one)
        scene.turns()
        assert one.drained == expected


def test_sender_that_does_not_slow_down_is_stopped(scene: Scene) -> None:
    """What waits is bounded; what was taken arrives as a whole, and then more is taken."""
    one, other = scene.single()
    sent = one.say_until_full(b"x" * 100_000)
    assert LIMIT_BYTES - 100_016 < one.messenger.waiting_bytes <= LIMIT_BYTES
    assert len(read_all(scene, other, one)) == sent * 100_016
    assert one.say(b"x")
    assert one.messenger.waiting_bytes == 0


def test_memory_is_bounded_also_when_messages_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message of one byte costs no more than what is sent of it."""
    limit_bytes = 256 * 1024
    monkeypatch.setattr(endpoint, "LIMIT_BYTES", limit_bytes)
    scene = Scene(OurLoop())
    one, _ = scene.single()
    tracemalloc.start()
    one.say_until_full(b"x")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    scene.close()
    assert peak < 3 * limit_bytes


def test_descriptors_that_wait_are_bounded(scene: Scene) -> None:
    """Each of them is a duplicate of the sender's process."""
    one, other = scene.single()
    assert not one.say(b"x" * 500_000)
    read_all(scene, other, one)
    assert one.say()
    while one.messenger.waiting_bytes == 0:
        one.say(b"x" * 10_000)
    fds = [memfd("a"), memfd("b")]
    before = count()
    answers = [one.say(b"", *fds) for _ in range(LIMIT_DESCRIPTORS // 2)]
    assert answers.index(False) == HIGH_WATER_DESCRIPTORS // 2
    assert count() == before + LIMIT_DESCRIPTORS
    with pytest.raises(BlockingIOError, match="256 descriptors wait already"):
        one.say(b"", *fds)
    one.say(b"no descriptor")
    for fd in fds:
        os.close(fd)


def test_descriptor_that_is_none_is_not_sent(scene: Scene) -> None:
    """The caller is told, and the channel goes on."""
    one, other = scene.pair()
    fd = memfd("a")
    with none_leaked(), pytest.raises(OSError, match="Bad file descriptor"):
        one.say(b"", fd, 10**6)
    os.close(fd)
    one.say(b"x")
    scene.until(lambda: other.frames)
    assert other.bodies() == [b"x"]


def test_message_that_is_too_large_is_not_sent(scene: Scene) -> None:
    """The caller is told, and the channel goes on."""
    one, other = scene.pair()
    with pytest.raises(ProtocolError, match="are the most"):
        one.say(b"x" * (1 << 21))
    one.say(b"x")
    scene.until(lambda: other.frames)


class Cramped(socket.socket):
    """A socket that finds no room in the kernel, some times."""

    failures = 2

    def sendmsg(self, *arguments: Any) -> int:
        """Fail, or send."""
        if self.failures:
            self.failures -= 1
            raise OSError(errno.ETOOMANYREFS, "Too many references: cannot splice")
        return super().sendmsg(*arguments)


def test_lack_of_room_in_the_kernel_is_waited_out(scene: Scene) -> None:
    """Too many descriptors of this user may be on their way, see unix(7)."""
    one, other = scene.single(Cramped)
    fd = memfd("a")
    assert one.say(b"first", fd)
    os.close(fd)
    assert not one.say(b"x" * 1_000_000)
    received = bytearray()

    def read() -> bool:
        try:
            received.extend(other.recv(1 << 20))
        except BlockingIOError:
            pass  # Not yet.
        return one.drained > 0

    scene.until(read)
    assert received.startswith(encode(Frame(Kind.MESSAGE, b"first", attached=1)))


def test_channel_may_be_closed_while_it_waits_for_room(scene: Scene) -> None:
    """Nothing is tried after that."""
    one, other = scene.single(Cramped)
    one.say(b"x")
    one.messenger.close()
    time_is_over: list[int] = []
    scene.loop.events.call_later(0.1, lambda: time_is_over.append(1))
    scene.until(lambda: time_is_over)
    assert other.recv(100) == b""


# The end.


def test_end_is_told_once_after_what_came_before(scene: Scene) -> None:
    """Half a frame is no offence: its sender has died."""
    one, other = scene.single()
    other.sendall(encode(Frame(Kind.MESSAGE, b"last")) + encode(Frame(Kind.MESSAGE, b"x"))[:-1])
    other.close()
    scene.until(lambda: one.ends)
    scene.turns()
    assert one.ends == [""] and one.bodies() == [b"last"]
    assert one.messenger.closed
    with pytest.raises(BrokenPipeError, match="the other end is gone"):
        one.say()


def test_other_end_may_close_with_things_queued(scene: Scene) -> None:
    """They are dropped, with their descriptors; nobody is told that they were passed on."""
    one, other = scene.single()
    fd = memfd("a")
    one.say_until_full(b"x" * 100_000)
    one.say(b"", fd)
    os.close(fd)
    other.sendall(encode(Frame(Kind.MESSAGE, b"last")))
    other.close()
    scene.until(lambda: one.ends)
    assert one.ends == [""] and one.bodies() == [b"last"] and one.drained == 0
    assert one.messenger.waiting_bytes == 0


def test_sender_hears_at_once_that_nobody_is_there(scene: Scene) -> None:
    """What the other end had sent is read all the same."""
    one, other = scene.single()
    other.sendall(encode(Frame(Kind.MESSAGE, b"last")))
    other.close()
    for _ in range(2):
        with pytest.raises(BrokenPipeError):
            one.say()
    scene.until(lambda: one.ends)
    assert one.bodies() == [b"last"]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "a message of 542393671 bytes; 1048576 are the most"),
        (struct.pack("<IBBHII", 0, 77, 0, 0, 0, 0), "a message of kind 77"),
        (encode(Frame(Kind.REPLY, attached=1)), "descriptors are missing"),
    ],
)
def test_garbage_ends_the_channel_and_says_why(scene: Scene, data: bytes, reason: str) -> None:
    """What came before it counts, nothing after it does."""
    one, other = scene.single()
    good = encode(Frame(Kind.MESSAGE, b"good"))
    other.sendall(good + data + good)
    scene.until(lambda: one.ends)
    scene.turns()
    assert one.ends == [reason] and one.bodies() == [b"good"]
    assert other.recv(1) == b"" or other.recv(1) == b""


def test_what_the_receiver_finds_wrong_ends_the_channel_too(scene: Scene) -> None:
    """It raises `ProtocolError`."""
    one, other = scene.single()

    def refuse(_: Frame) -> None:
        raise ProtocolError("not JSON")

    one.on_frame = refuse
    other.sendall(encode(Frame(Kind.MESSAGE)) * 2)
    scene.until(lambda: one.ends)
    assert one.ends == ["not JSON"] and len(one.frames) == 1


@pytest.mark.parametrize("end", ["close", "close and refuse"])
def test_channel_may_be_closed_while_a_frame_is_told(scene: Scene, end: str) -> None:
    """No other frame is told, nor the end; descriptors of later frames are closed."""
    one, other = scene.single()
    fds = [memfd("a"), memfd("b")]
    data = encode(Frame(Kind.MESSAGE, attached=1))
    attach(other, data + data + data[:3], *fds)
    for fd in fds:
        os.close(fd)

    def close(_: Frame) -> None:
        one.messenger.close()
        if end != "close":
            raise ProtocolError("and it makes no sense")

    one.on_frame = close
    scene.until(lambda: one.messenger.closed)
    scene.turns()
    assert len(one.frames) == 1 and one.ends == []
    one.messenger.close()


def test_channel_may_be_closed_when_it_is_drained(scene: Scene) -> None:
    """Nothing is read after that."""
    one, other = scene.single()

    def close() -> None:
        other.sendall(encode(Frame(Kind.MESSAGE)))
        one.messenger.close()

    one.on_drained = close
    while one.say(b"x" * 10_000):
        pass
    read_all(scene, other, one)
    scene.turns()
    assert one.messenger.closed and one.frames == []


# Descriptors that do not fit.


def test_descriptors_may_come_before_the_whole_of_their_frame(scene: Scene) -> None:
    """They come with its first byte."""
    one, other = scene.single()
    data = encode(Frame(Kind.MESSAGE, b"x" * 10, attached=2))
    fds = [memfd("a"), memfd("b")]
    attach(other, data[:1], *fds)
    for fd in fds:
        os.close(fd)
    scene.turns()
    for byte in data[1:]:
        other.send(bytes([byte]))
        scene.loop.turn()
    scene.until(lambda: one.frames)
    assert [content(fd) for fd in one.descriptors[0]] == ["a", "b"]


@pytest.mark.parametrize(
    ("data", "number", "reason"),
    [
        (encode(Frame(Kind.MESSAGE)), 1, "descriptors that no message announces"),
        (encode(Frame(Kind.REPLY, attached=1)), 2, "descriptors that no message announces"),
        (encode(Frame(Kind.REPLY, attached=2)), 1, "descriptors are missing"),
        (encode(Frame(Kind.REPLY, attached=2))[:9], 3, "more than 2 descriptors at a time"),
        (encode(Frame(Kind.REPLY, attached=2)), 100, "more than 2 descriptors at a time"),
    ],
)
def test_descriptors_that_are_not_announced_end_the_channel(
    scene: Scene, data: bytes, number: int, reason: str
) -> None:
    """Or the next frame would be given those of another; all are closed."""
    one, other = scene.single()
    fd = memfd("a")
    attach(other, data, *[fd] * number)
    os.close(fd)
    scene.until(lambda: one.ends)
    assert one.ends == [reason]


def test_descriptors_for_which_there_is_no_room_wait(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This process has too many: read now, they would be lost. It may send meanwhile."""
    one, other = scene.pair()
    lacking = [OSError(errno.EMFILE, "Too many open files")] * 3

    def lack(sock: socket.socket, size: int, *, most: int) -> Received:
        if lacking and sock.fileno() == other.messenger.fileno():
            raise lacking.pop()
        return look(sock, size, most=most)

    monkeypatch.setattr(endpoint, "look", lack)
    fd = memfd("connection")
    one.say(b"x", fd)
    os.close(fd)
    scene.until(lambda: len(lacking) < 3)
    assert other.frames == []
    assert not other.say(b"x" * 1_000_000)
    scene.until(lambda: other.frames and one.frames)
    assert [content(fd) for fd in other.descriptors[0]] == ["connection"]
    assert not lacking
    other.messenger.close()


def test_channel_may_be_closed_while_it_waits_for_descriptors(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is read after that."""
    one, other = scene.pair()

    def lack(sock: socket.socket, _size: int, *, most: int) -> Received:
        assert most == 2
        tried.append(sock.fileno())
        raise OSError(errno.EMFILE, "Too many open files")

    tried: list[int] = []
    monkeypatch.setattr(endpoint, "look", lack)
    one.say(b"x")
    scene.until(lambda: tried)
    (fd,) = set(tried)
    times = len(tried)
    other.messenger.close()
    time_is_over: list[int] = []
    scene.loop.events.call_later(0.05, lambda: time_is_over.append(1))
    scene.until(lambda: time_is_over)
    assert other.frames == [] and tried.count(fd) == times


def test_descriptors_of_a_message_that_breaks_the_protocol_are_closed(scene: Scene) -> None:
    """Those that the one who found it has not taken out."""
    one, other = scene.pair()

    def refuse(frame: Frame) -> None:
        del other.descriptors[-1]  # The channel's.
        raise ProtocolError(f"no {frame.body.decode()}")

    other.on_frame = refuse
    fd = memfd("connection")
    one.say(b"jokes", fd)
    os.close(fd)
    scene.until(lambda: other.ends)
    assert other.ends == ["no jokes"]

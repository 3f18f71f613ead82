"""The relay, with real channels whose other ends are the test's."""

import contextlib
import errno
import json
import os
import socket
from collections.abc import Callable, Iterator

import pytest
from waiting import at_once

from sdcluster.master.host.loop import Loop
from sdcluster.master.service import relay
from sdcluster.master.service.relay import Relay
from sdcluster.wire.messages import ALL, MASTER, Frame, Kind, Splitter, encode
from unit.descriptors import none_leaked

AGENT = 1


class Scene:
    """A relay, the processes at its channels, and what they were told."""

    def __init__(self) -> None:
        self.offences: list[tuple[int, str]] = []
        self.dropped: list[int] = []
        self._loop = Loop()
        self.relay = Relay(
            self._loop,
            on_offence=lambda *told: self.offences.append(told),
            on_dropped=self.dropped.append,
        )
        self._ends: dict[int, socket.socket] = {}
        self._splitters: dict[int, Splitter] = {}

    def add(self, *workers: int) -> None:
        """Have processes with a channel; the first one that there is, is the agent."""
        for worker in workers:
            fd = self.relay.open(worker, is_agent=worker % 10 == AGENT)
            self._ends[worker] = end = socket.socket(fileno=os.dup(fd))
            end.setblocking(False)
            self._splitters[worker] = Splitter()
            self.relay.given(worker)

    def join(self, *workers: int) -> None:
        """Have them serve."""
        for worker in workers:
            self.relay.joins(worker, slot=worker - 2, generation=1, pid=1000 + worker)

    def remove(self, worker: int) -> None:
        """Have one die."""
        self._ends.pop(worker).close()
        self.relay.leaves(worker)

    def send(self, worker: int, *frames: Frame) -> None:
        """Have one say something, and the relay hear it."""
        for frame in frames:
            data = encode(frame)
            while data:
                with contextlib.suppress(BlockingIOError):
                    data = data[self._ends[worker].send(data) :]
                self.turn()

    def send_raw(self, worker: int, data: bytes) -> None:
        """Have one say something that is no frame."""
        self._ends[worker].sendall(data)
        self.turn()

    def turn(self) -> None:
        """Let the relay do what there is to do."""
        self._loop.call_later(0, lambda: None)
        self._loop._turn()

    def told(self, worker: int) -> list[Frame]:
        """Return what one was told since the last time."""
        frames: list[Frame] = []
        for _ in range(1000):
            self.turn()
            try:
                data = self._ends[worker].recv(1 << 20)
            except BlockingIOError:
                return frames
            frames += self._splitters[worker].feed(data)
        raise AssertionError("it is told things for ever")

    def close(self) -> None:
        """Close everything."""
        self.relay.close()
        for end in self._ends.values():
            end.close()
        self._loop.close()


@pytest.fixture
def scene() -> Iterator[Scene]:
    """An agent, 1, and the workers 2 and 3; all serve."""
    with none_leaked():
        one = Scene()
        one.add(1, 2, 3)
        one.join(1, 2, 3)
        one.told(1)
        yield one
        one.close()


@pytest.fixture
def empty() -> Iterator[Scene]:
    """Nobody yet."""
    with none_leaked():
        one = Scene()
        yield one
        one.close()


def message(body: bytes = b'"hello"', peer: int = MASTER) -> Frame:
    """Return a message."""
    return Frame(Kind.MESSAGE, body, peer)


def request(number: int, peer: int = MASTER) -> Frame:
    """Return a request."""
    return Frame(Kind.REQUEST, b'"?"', peer, number)


def reply(number: int, peer: int = MASTER) -> Frame:
    """Return an answer."""
    return Frame(Kind.REPLY, b'"!"', peer, number)


def reasons(frames: list[Frame]) -> list[tuple[int, str]]:
    """Return which requests have no answer, and why."""
    return [(one.number, json.loads(one.body)) for one in frames if one.kind is Kind.ERROR]


def test_message_of_a_worker_goes_to_the_agent(scene: Scene) -> None:
    """And says whose it is."""
    scene.send(2, message())
    assert scene.told(1) == [message(peer=2)]
    assert not scene.told(3)


def test_message_of_the_agent_goes_to_its_worker(scene: Scene) -> None:
    """And to no other."""
    scene.send(1, message(peer=3))
    assert scene.told(3) == [message(peer=MASTER)]
    assert not scene.told(2)


@pytest.mark.parametrize("sender", [1, 2])
def test_message_for_all_goes_to_every_worker(scene: Scene, sender: int) -> None:
    """Also to one that does not serve yet, and to the sender; not to the agent."""
    scene.add(4)
    scene.send(sender, message(peer=ALL))
    peer = MASTER if sender == 1 else sender
    assert [scene.told(worker) for worker in (2, 3, 4)] == [[message(peer=peer)]] * 3
    assert not scene.told(1)


def test_request_and_answer_find_each_other(scene: Scene) -> None:
    """Whoever else has used the number, and in whatever order they come."""
    scene.send(2, request(7))
    scene.send(3, request(7))
    first, second = scene.told(1)
    assert (first.peer, second.peer) == (2, 3)
    scene.send(1, reply(second.number, peer=3), reply(first.number, peer=2))
    assert scene.told(2) == [reply(7)]
    assert scene.told(3) == [reply(7)]


def test_agent_asks_a_worker(scene: Scene) -> None:
    """And learns from which one the answer is."""
    scene.send(1, request(5, peer=3))
    (asked,) = scene.told(3)
    scene.send(3, reply(asked.number))
    assert scene.told(1) == [reply(5, peer=3)]


def test_answer_that_nobody_waits_for_goes_nowhere(scene: Scene) -> None:
    """A second one, or one to what was never asked."""
    scene.send(2, request(7))
    (asked,) = scene.told(1)
    scene.send(1, reply(asked.number), reply(asked.number), reply(99, peer=3))
    assert scene.told(2) == [reply(7)]
    assert not scene.told(3)


def test_death_of_who_is_asked_is_told(scene: Scene) -> None:
    """After what it has answered still."""
    scene.send(2, request(7), request(8))
    first, _ = scene.told(1)
    scene._ends[1].sendall(encode(reply(first.number)))
    scene.remove(1)
    answered, refused = scene.told(2)
    assert answered == reply(7)
    assert reasons([refused]) == [(8, "the agent ended before it answered")]


def test_child_of_the_dead_that_writes_on_holds_nobody_up(scene: Scene) -> None:
    """It has the channel too, and is as quick as the relay is."""
    read = scene.relay._ends[2].messenger._on_frame
    written = 0

    def write(frame: Frame, descriptors: list[int]) -> None:
        nonlocal written
        written += 1
        assert written < 5000, "it is read for ever"
        read(frame, descriptors)
        scene._ends[2].sendall(encode(message()))

    scene.relay._ends[2].messenger._on_frame = write
    scene._ends[2].sendall(encode(message()))
    with at_once():
        scene.relay.leaves(2)
    assert scene.told(1)[-1].kind is Kind.LEFT


def test_request_to_a_worker_that_is_gone_fails(scene: Scene) -> None:
    """At once, and so does one to somebody who is no worker."""
    scene.remove(3)
    scene.told(1)
    scene.send(1, request(5, peer=3), request(6, peer=1), message(peer=3))
    assert reasons(scene.told(1)) == [(5, "worker 3 is gone"), (6, "worker 1 is gone")]


def test_death_of_who_asks_is_no_matter(scene: Scene) -> None:
    """Its answer goes nowhere."""
    scene.send(2, request(7))
    (asked,) = scene.told(1)
    scene.remove(2)
    scene.send(1, reply(asked.number, peer=2))
    assert [frame.kind for frame in scene.told(1)] == [Kind.LEFT]


def test_agent_learns_who_comes_and_goes(empty: Scene) -> None:
    """Those that serve, whether it came before them or after."""
    empty.add(2, 1, 3)
    empty.join(2)
    empty.join(1)
    empty.join(3)
    came = empty.told(1)
    assert [(one.kind, one.peer) for one in came] == [(Kind.JOINED, 2), (Kind.JOINED, 3)]
    assert json.loads(came[0].body) == {"slot": 0, "generation": 1, "pid": 1002}
    empty.remove(2)
    assert [(one.kind, one.peer) for one in empty.told(1)] == [(Kind.LEFT, 2)]


def test_what_the_agent_is_sent_waits_for_it(empty: Scene) -> None:
    """In order, and until it serves."""
    empty.add(2)
    empty.send(2, message(), request(7))
    empty.add(1)
    assert not empty.told(1)
    empty.join(1)
    assert [one.kind for one in empty.told(1)] == [Kind.MESSAGE, Kind.REQUEST]


@pytest.mark.parametrize("seen", [True, False])
def test_what_a_dead_agent_has_not_got_waits_for_the_next(scene: Scene, seen: bool) -> None:
    """Its channel has ended, whether that was seen or not; its exit is yet to be told."""
    scene._ends[1].close()
    if seen:
        scene.turn()
    scene._ends[2].sendall(encode(message()) + encode(request(7)))
    scene.relay._ends[2].messenger._turn()
    scene.turn()
    scene.relay.leaves(1)
    assert not scene.told(2)
    scene.add(11)
    scene.join(11)
    told = [one for one in scene.told(11) if one.kind is not Kind.JOINED]
    assert [one.kind for one in told] == [Kind.MESSAGE, Kind.REQUEST]
    scene.send(11, reply(told[-1].number, peer=2))
    assert scene.told(2) == [reply(7)]


def test_answer_to_a_dead_agent_is_not_the_next_ones(scene: Scene) -> None:
    """Which may have asked something else with that number."""
    scene.send(1, request(5, peer=3))
    (asked,) = scene.told(3)
    scene._ends[1].close()
    scene._ends[3].sendall(encode(reply(asked.number)))
    scene.relay._ends[3].messenger._turn()
    scene.relay.leaves(1)
    scene.add(11)
    scene.join(11)
    assert [one.kind for one in scene.told(11)] == [Kind.JOINED] * 2


def test_what_waits_goes_on_waiting_when_the_agent_dies_at_once(empty: Scene) -> None:
    """In order."""
    empty.add(2, 1)
    empty.send(2, message(b"1"), message(b"2"))
    empty._ends[1].close()
    empty.relay.joins(1, slot=-1, generation=1, pid=1)
    empty.relay.leaves(1)
    empty.add(11)
    empty.join(11)
    assert [one.body for one in empty.told(11)] == [b"1", b"2"]


def test_no_more_waits_for_an_agent_than_there_is_room_for(
    empty: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests beyond that fail at once."""
    monkeypatch.setattr(relay, "MAX_WAITING", 2)
    empty.add(2)
    empty.send(2, request(1), request(2), request(3), message())
    assert reasons(empty.told(2)) == [(3, "the agent is not there")]
    monkeypatch.setattr(relay, "MAX_WAITING_BYTES", 1)
    empty.add(1)
    empty.join(1)
    assert len(empty.told(1)) == 2


def test_few_descriptors_wait_for_an_agent(empty: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """The master has to have some left to start it with; what comes without one waits still."""
    monkeypatch.setattr(relay, "MAX_WAITING_DESCRIPTORS", 2)
    empty.add(2)
    ours, theirs = socket.socketpair()
    for number in range(4):
        data = encode(Frame(Kind.MESSAGE, str(number).encode(), MASTER, 0, 1))
        socket.send_fds(empty._ends[2], [data], [theirs.fileno()])
        empty.turn()
    empty.send(2, message(b"4"))
    theirs.close()
    empty.add(1)
    empty.join(1)
    assert [one.body for one in empty.told(1)] == [b"0", b"1", b"4"]
    assert ours.recv(1) == b""
    ours.close()


def test_descriptor_that_cannot_be_kept_is_dropped(
    empty: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The master has no more of them, and goes on."""

    def fail(_: list[int]) -> list[int]:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    empty.add(2)
    monkeypatch.setattr(relay, "duplicates", fail)
    empty.send(2, message(), request(7))
    assert reasons(empty.told(2)) == [(7, "the agent is not there")]


def test_next_agent_is_asked_while_the_last_one_answers(scene: Scene) -> None:
    """Each answer finds who asked, also when both agents ask with the same number."""
    scene.send(2, request(7))
    (old,) = scene.told(1)
    scene.add(11)
    scene.join(11)
    scene.told(11)
    scene.send(2, request(8))
    (new,) = scene.told(11)
    scene.send(1, reply(old.number, peer=2), request(5, peer=3))
    scene.send(11, reply(new.number, peer=2), request(5, peer=3))
    assert scene.told(2) == [reply(7), reply(8)]
    for asked, agent in zip(scene.told(3), (1, 11), strict=True):
        scene.send(3, reply(asked.number))
        assert scene.told(agent) == [reply(5, peer=3)]


def test_agent_that_is_to_end_is_told_that_it_has_all(scene: Scene) -> None:
    """After what it was sent; what comes then waits for the next one."""
    scene.send(2, message(b"1"))
    scene.relay.retires(1)
    scene.send(2, message(b"2"))
    assert [one.kind for one in scene.told(1)] == [Kind.MESSAGE, Kind.FINISH]
    scene.add(11)
    scene.join(11)
    assert scene.told(11)[-1] == message(b"2", peer=2)
    scene.relay.retires(1)
    scene.send(2, message(b"3"))
    assert scene.told(11) == [message(b"3", peer=2)]


def test_worker_that_is_to_end_is_told_nothing(scene: Scene) -> None:
    """Nor is a process that has no channel."""
    scene.relay.retires(2)
    scene.relay.retires(5)
    assert not scene.told(2)


def test_agent_that_ends_leaves_the_next_one_alone(scene: Scene) -> None:
    """Only what it was asked itself fails."""
    scene.add(11)
    scene.join(11)
    scene.told(11)
    scene.send(2, request(8))
    scene.remove(1)
    (asked,) = scene.told(11)
    scene.send(11, reply(asked.number, peer=2))
    assert scene.told(2) == [reply(8)]


def test_oldest_requests_are_forgotten(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that never answers costs no more and more memory."""
    monkeypatch.setattr(relay, "MAX_REQUESTS", 2)
    scene.send(2, request(1), request(2), request(3))
    for asked in scene.told(1):
        scene.send(1, reply(asked.number, peer=2))
    assert scene.told(2) == [reply(2), reply(3)]


def fill(scene: Scene, sender: int, frame: Callable[[int], Frame], *, until: Kind) -> None:
    """Have one send until it is told so."""
    for number in range(2000):
        scene.send(sender, frame(number))
        if any(one.kind is until for one in scene.told(sender)):
            return
    raise AssertionError("it is never told")


def test_sender_learns_that_the_receiver_is_slow(scene: Scene) -> None:
    """And when that has caught up; a third one hears nothing of it."""
    fill(scene, 2, lambda _: message(b"x" * 10_000), until=Kind.PAUSE)
    assert len(scene.told(1)) > 20
    assert scene.told(2) == [Frame(Kind.RESUME, b"", MASTER)]
    fill(scene, 1, lambda _: message(b"x" * 10_000, peer=3), until=Kind.PAUSE)
    scene.told(3)
    assert scene.told(1) == [Frame(Kind.RESUME, b"", 3)]
    assert not scene.told(2)


def test_death_of_a_slow_receiver_lets_the_sender_go_on(scene: Scene) -> None:
    """There is nothing to wait for any more."""
    fill(scene, 1, lambda _: message(b"x" * 10_000, peer=3), until=Kind.PAUSE)
    scene.remove(3)
    assert [(one.kind, one.peer) for one in scene.told(1)] == [(Kind.RESUME, 3), (Kind.LEFT, 3)]


def test_what_a_stuck_receiver_cannot_take_is_dropped(scene: Scene) -> None:
    """That is told once, requests fail, and the others are served."""
    body = b"x" * 500_000
    for _ in range(20):
        scene.send(1, message(body, peer=ALL))
        assert len(scene.told(2)) == 1
    assert scene.dropped == [3]
    scene.told(1)
    scene.send(1, Frame(Kind.REQUEST, body, 3, 9))
    ((number, reason),) = reasons(scene.told(1))
    assert number == 9 and "bytes wait to be read already" in reason
    assert len(scene.told(3)) >= 8
    scene.send(1, message(peer=3))
    assert scene.told(3) == [message()]


def stick(scene: Scene, sender: int, stuck: int) -> None:
    """Have so much wait for one that nothing more is taken for it."""
    peer = MASTER if stuck == AGENT else stuck
    for size in (500_000, 50_000, 5_000, 500, 50, 0):
        for _ in range(12):
            scene.send(sender, message(b"x" * size, peer))


def test_stuck_sender_learns_that_the_receiver_has_caught_up(scene: Scene) -> None:
    """Once it reads again; else it would wait for that for ever."""
    fill(scene, 3, lambda _: message(b"x" * 10_000), until=Kind.PAUSE)
    stick(scene, 1, 3)
    assert scene.told(1)[-1].kind is Kind.PAUSE
    for _ in range(3):
        scene.send(3, message(b"x" * 400_000))
        scene.told(1)
    last = [one for one in scene.told(3) if one.kind is not Kind.MESSAGE]
    assert last == [Frame(Kind.RESUME, b"", MASTER)]


def test_stuck_agent_learns_who_came_and_went(scene: Scene) -> None:
    """Once it reads again; else it would write to the dead, and never to the new."""
    stick(scene, 2, 1)
    scene.remove(3)
    scene.add(4)
    scene.join(4)
    told = [(one.kind, one.peer) for one in scene.told(1) if one.kind is not Kind.MESSAGE]
    assert told == [(Kind.LEFT, 3), (Kind.JOINED, 4)]


def test_stuck_process_that_dies_is_told_nothing(scene: Scene) -> None:
    """What it was to be told goes with it."""
    stick(scene, 2, 1)
    scene.remove(3)
    scene.remove(1)
    assert Frame(Kind.RESUME, b"", MASTER) in scene.told(2)


@pytest.mark.parametrize(
    ("frame", "offence"),
    [
        (Frame(Kind.LISTEN), "a message of kind LISTEN"),
        (Frame(Kind.JOINED, b"{}"), "a message of kind JOINED"),
        (message(peer=3), "a message for 3"),
        (request(1, peer=ALL), "a request for all"),
        (Frame(Kind.REPLY, b"1", MASTER, 0), "an answer to 0, which it was not asked"),
        (Frame(Kind.ERROR, b"1", MASTER, 9), "an answer to 9, which it was not asked"),
    ],
)
def test_what_a_worker_must_not_say_is_its_offence(
    scene: Scene, frame: Frame, offence: str
) -> None:
    """Nobody is told, and its channel is closed."""
    scene.send(2, frame)
    assert scene.offences == [(2, offence)]
    assert not scene.told(1) and not scene.told(3)


def test_garbage_is_an_offence_of_that_process_alone(scene: Scene) -> None:
    """The others go on."""
    scene.send_raw(2, b"\xff" * 64)
    assert [worker for worker, _ in scene.offences] == [2]
    scene.send(3, message())
    assert scene.told(1) == [message(peer=3)]


def test_descriptor_is_passed_on(scene: Scene) -> None:
    """The relay keeps none."""
    reader, writer = socket.socketpair()
    reader.settimeout(5)
    data = encode(Frame(Kind.MESSAGE, b"1", MASTER, 0, 1))
    socket.send_fds(scene._ends[2], [data], [writer.fileno()])
    writer.close()
    scene.turn()
    _, fds, _, _ = socket.recv_fds(scene._ends[1], 1000, 4)
    os.write(fds[0], b"through")
    os.close(fds[0])
    assert reader.recv(100) == b"through"
    assert reader.recv(100) == b""
    reader.close()


@pytest.mark.parametrize(
    ("kind", "peer", "kinds"),
    [
        (Kind.MESSAGE, MASTER, ["file"]),
        (Kind.MESSAGE, ALL, ["file"]),
        (Kind.MESSAGE, ALL, ["socket", "socket"]),
        (Kind.REQUEST, MASTER, ["socket"]),
        (Kind.REPLY, MASTER, ["socket"]),
    ],
)
def test_what_is_not_one_connection_is_an_offence_and_goes_to_nobody(
    scene: Scene, kind: Kind, peer: int, kinds: list[str]
) -> None:
    """Who gets it would be at fault, or be told to read a file that is slow."""
    pairs = socket.socketpair()
    with open("/dev/null", "rb") as file, pairs[0], pairs[1]:
        fds = [file.fileno() if one == "file" else pairs[0].fileno() for one in kinds]
        data = encode(Frame(kind, b"1", peer, 0, len(fds)))
        socket.send_fds(scene._ends[2], [data], fds)
        scene.turn()
    assert scene.offences == [(2, "a message with what is not one connection")]
    assert not scene.told(1) and not scene.told(3)


def test_message_for_an_agent_that_is_not_there_is_an_offence(empty: Scene) -> None:
    """It is not kept for one that never comes."""
    fd = empty.relay.open(2, is_agent=False, has_agent=False)
    with socket.socket(fileno=os.dup(fd)) as worker:
        empty.relay.given(2)
        empty.relay.joins(2, slot=0, generation=1, pid=1000)
        worker.sendall(encode(message()))
        empty.turn()
    assert empty.offences == [(2, "a message for 0")]
    assert not empty.relay._waiting


def test_commands_have_no_channel(empty: Scene) -> None:
    """What is told of them is ignored."""
    empty.relay.given(5)
    empty.relay.joins(5, slot=0, generation=1, pid=1)
    empty.relay.leaves(5)

"""Accepting connections and giving them to workers, with fakes for loop, workers and listener."""

import errno
import itertools
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import cast

import pytest

from sdcluster.core.balance import MAX_OUTSTANDING, Rules
from sdcluster.master.connections.channels import SENSELESS, Passage, Untaken, WorkerChannel
from sdcluster.master.connections.dispatch import ACCEPTS_PER_TURN, Dispatcher
from sdcluster.master.connections.listeners import BACKLOG
from sdcluster.master.host.loop import Loop, Timer
from sdcluster.wire.channel import MAX_CONNECTIONS_PER_FRAME, Handoff


class FakeLoop:
    """Watches nothing; the test runs the callbacks."""

    def __init__(self) -> None:
        self.readers: dict[int, Callable[[], None]] = {}
        self.timers: list[Timer] = []
        self.now = 0.0

    def time(self) -> float:
        """Stand still, until the test says otherwise."""
        return self.now

    def add(self, fd: int, callback: Callable[[], None]) -> None:
        """Watch."""
        assert fd not in self.readers
        self.readers[fd] = callback

    def remove(self, fd: int) -> None:
        """Watch no longer."""
        self.readers.pop(fd, None)

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        """Set a timer."""
        assert delay_s > 0
        self.timers.append(Timer(callback))
        return self.timers[-1]

    def turn(self) -> None:
        """Say that every watched listener has a connection."""
        for callback in list(self.readers.values()):
            callback()

    def wait(self) -> None:
        """Let all timers go off."""
        timers, self.timers = self.timers, []
        for timer in timers:
            timer._fire()


class FakeListener:
    """Has a backlog of `queue` connections, or errors."""

    def __init__(self, queue: int = 0) -> None:
        self.queue = queue
        self.errors: list[OSError] = []
        self.closed: list[socket.socket] = []

    def fileno(self) -> int:
        """Return a number."""
        return 1000

    def accept(self) -> tuple[socket.socket, None]:
        """Return one end of a pair; the other one tells whether it was closed."""
        if self.errors:
            raise self.errors.pop(0)
        if self.queue == 0:
            raise BlockingIOError
        self.queue -= 1
        accepted, client = socket.socketpair()
        client.setblocking(False)
        self.closed.append(client)
        return accepted, None


class FakeWorker:
    """Takes connections, or not."""

    frame_limit = 16

    def __init__(self) -> None:
        self.frames: list[list[int]] = []
        self.handoffs: list[Handoff] = []
        self.taken = 0
        self.open = 0
        self.error: OSError | None = None
        self.asked = False
        self.starved = 0
        self.is_quick = False
        """Whether it takes what it was given just before it is asked to tell."""

    @property
    def given(self) -> list[int]:
        """All connections that it was given, as duplicates of its own."""
        return [fd for frame in self.frames for fd in frame]

    def outstanding(self) -> int:
        """Return what it was given and has not taken."""
        return len(self.given) - self.taken

    def connections(self) -> int:
        """Return what it has open."""
        return self.open

    def starved_ns(self) -> int:
        """Return since when it has had no descriptors."""
        return self.starved

    def take_back(self) -> Iterator[Passage]:
        """Give back what was not taken."""
        if self.error is not None:
            raise self.error
        frames, self.frames = self.frames, []
        for fd in [fd for frame in frames for fd in frame]:
            yield Passage(fd)

    def give(self, connections: Sequence[int]) -> None:
        """Duplicate them, as passing them does."""
        assert 0 < len(connections) <= MAX_CONNECTIONS_PER_FRAME
        if self.error is not None:
            raise self.error
        self.frames.append([os.dup(fd) for fd in connections])

    def hand_over(self, passage: Passage) -> None:
        """Duplicate it, and keep what it had elsewhere."""
        self.give([passage.fd])
        if passage.handoff is not None:
            self.handoffs.append(passage.handoff)

    def ask_for_room(self, wanted: bool) -> None:
        """Take note."""
        if wanted and self.is_quick:
            self.take_all()
        self.asked = wanted

    def take_all(self) -> None:
        """Take what was given."""
        self.taken = len(self.given)


class FakeUntaken:
    """What a dead worker has not taken: frames of duplicates, or errors."""

    def __init__(self, *frames: list[int]) -> None:
        self.frames = list(frames)
        self.error: OSError | None = None
        self.closed = False

    def next_count(self) -> int:
        """Return how many connections come next."""
        return len(self.frames[0]) if self.frames else 0

    def take(self) -> list[Passage]:
        """Return the next ones."""
        if self.error is not None:
            raise self.error
        return [Passage(fd) for fd in self.frames.pop(0)] if self.frames else []

    def close(self) -> None:
        """Close what is left."""
        self.closed = True
        for fd in (fd for frame in self.frames for fd in frame):
            os.close(fd)


class Scene:
    """A dispatcher among fakes."""

    def __init__(self, workers: int, *, queue: int = 0, max_connections: int = 0) -> None:
        self.loop = FakeLoop()
        self.listener = FakeListener(queue)
        self.workers = [FakeWorker() for _ in range(workers)]
        self.exhausted: list[OSError] = []
        self.dispatcher = Dispatcher(
            cast(Loop, self.loop),
            Rules(max_connections=max_connections),
            on_exhausted=self.exhausted.append,
        )
        self.dispatcher.watch(self.socket)
        for worker in self.workers:
            self.dispatcher.add(cast(WorkerChannel, worker))

    @property
    def socket(self) -> socket.socket:
        """The listener as the dispatcher sees it."""
        return cast(socket.socket, self.listener)

    def channel(self, index: int) -> WorkerChannel:
        """A worker as the dispatcher sees it."""
        return cast(WorkerChannel, self.workers[index])

    def die(self, index: int) -> FakeUntaken:
        """Have a worker die that has taken nothing."""
        untaken = FakeUntaken(*self.workers[index].frames)
        self.workers[index].frames = []
        self.dispatcher.remove(self.channel(index))
        self.dispatcher.give_back(cast(Untaken, untaken))
        return untaken

    def counts(self) -> list[int]:
        """How many connections each worker was given."""
        return [len(worker.given) for worker in self.workers]

    def is_paused(self) -> bool:
        """Whether connections are left in the backlog."""
        return not self.loop.readers

    def close(self) -> None:
        """Close what is open."""
        self.dispatcher.close()
        for worker in self.workers:
            for fd in worker.given:
                os.close(fd)
        for client in self.listener.closed:
            client.close()


Set = Callable[..., Scene]


@pytest.fixture
def scene() -> Iterator[Set]:
    """Make scenes, and close them."""
    scenes: list[Scene] = []

    def make(workers: int, *, queue: int = 0, max_connections: int = 0) -> Scene:
        scenes.append(Scene(workers, queue=queue, max_connections=max_connections))
        return scenes[-1]

    yield make
    for one in scenes:
        one.close()


def test_connections_are_spread_in_turn(scene: Set) -> None:
    """Also over several turns of the loop."""
    one = scene(3, queue=4)
    one.loop.turn()
    assert one.counts() == [2, 1, 1]
    one.listener.queue = 1
    one.loop.turn()
    assert one.counts() == [2, 2, 1]


def test_master_keeps_no_copy_of_a_connection(scene: Set) -> None:
    """When the worker closes it the client sees the end."""
    one = scene(1, queue=1)
    one.loop.turn()
    client = one.listener.closed[0]
    with pytest.raises(BlockingIOError):
        client.recv(1)
    os.close(one.workers[0].frames[0].pop())
    assert client.recv(1) == b""


def test_many_connections_are_given_in_several_frames(scene: Set) -> None:
    """A frame has a greatest number of descriptors; one worker gets them all here."""
    one = scene(1, queue=100)
    one.workers[0].taken = 100  # It is always ahead.
    one.loop.turn()
    assert [len(frame) for frame in one.workers[0].frames] == [MAX_CONNECTIONS_PER_FRAME] * 4
    assert one.listener.queue == 100 - ACCEPTS_PER_TURN and not one.is_paused()


def test_backlog_holds_while_there_is_no_worker(scene: Set) -> None:
    """Nothing is accepted that cannot be given away."""
    one = scene(0, queue=5)
    one.loop.turn()
    assert one.listener.queue == 5 and one.is_paused() and not one.loop.timers
    worker = FakeWorker()
    one.workers.append(worker)
    one.dispatcher.add(cast(WorkerChannel, worker))
    one.loop.turn()
    assert one.counts() == [5]


def test_backlog_holds_while_all_workers_are_full(scene: Set) -> None:
    """Each is asked to tell when it has room, and accepting goes on when one does."""
    one = scene(2, queue=3 * MAX_OUTSTANDING)
    one.loop.turn()
    assert one.counts() == [MAX_OUTSTANDING, MAX_OUTSTANDING]
    assert one.is_paused() and all(worker.asked for worker in one.workers)
    one.workers[1].take_all()
    one.dispatcher.room()
    assert not one.is_paused() and not any(worker.asked for worker in one.workers)
    one.loop.turn()
    assert one.counts() == [MAX_OUTSTANDING, 2 * MAX_OUTSTANDING]


def test_room_that_came_before_anybody_was_to_tell_is_found_at_once(scene: Set) -> None:
    """A worker may have taken its connections just before it was asked: it will not tell."""
    one = scene(1, queue=2 * MAX_OUTSTANDING)
    one.workers[0].is_quick = True
    one.loop.turn()
    assert one.counts() == [MAX_OUTSTANDING]
    assert not one.is_paused() and not one.workers[0].asked
    one.loop.turn()
    assert one.counts() == [2 * MAX_OUTSTANDING]


def test_connections_of_a_dead_worker_go_to_one_that_had_room_before_it_was_asked(
    scene: Set,
) -> None:
    """All of them at once, though there are more than it has room for."""
    one = scene(2, queue=2 * MAX_OUTSTANDING - 2)
    one.loop.turn()
    one.workers[1].is_quick = True
    untaken = one.die(0)
    assert one.counts() == [0, 2 * MAX_OUTSTANDING - 2] and untaken.closed


def test_room_that_nobody_told_is_found_after_a_moment(scene: Set) -> None:
    """A worker may have no time to tell."""
    one = scene(1, queue=MAX_OUTSTANDING + 1)
    one.loop.turn()
    one.workers[0].take_all()
    one.loop.wait()
    one.loop.turn()
    assert one.counts() == [MAX_OUTSTANDING + 1]


def test_room_is_no_news_while_accepting(scene: Set) -> None:
    """A late X_TAKEN=1 changes nothing."""
    one = scene(1)
    one.dispatcher.room()
    assert not one.is_paused()


def test_max_connections_can_change_with_a_generation(scene: Set) -> None:
    """The new limit holds for the next connection."""
    one = scene(1, queue=3, max_connections=1)
    one.workers[0].open = 1
    one.loop.turn()
    assert one.counts() == [0]
    one.dispatcher.set_rules(Rules(max_connections=1))
    one.dispatcher.set_rules(Rules(max_connections=3))
    one.loop.wait()
    one.loop.turn()
    assert one.counts() == [2]


def test_worker_that_is_removed_gets_nothing_more(scene: Set) -> None:
    """And removing it twice is harmless."""
    one = scene(2, queue=2)
    one.dispatcher.remove(one.channel(0))
    one.dispatcher.remove(one.channel(0))
    one.loop.turn()
    assert one.counts() == [0, 2]


def test_connections_of_a_dead_worker_are_given_to_others(scene: Set) -> None:
    """What a worker had not taken when it died is not lost."""
    one = scene(3, queue=3)
    one.loop.turn()
    untaken = one.die(0)
    assert one.counts() == [0, 2, 1] or one.counts() == [0, 1, 2]
    assert untaken.closed


def test_connections_of_a_worker_without_descriptors_are_given_to_others(scene: Set) -> None:
    """It lives, and gets nothing more until it has some."""
    one = scene(2, queue=10)
    one.loop.turn()
    one.workers[0].starved = 1
    one.dispatcher.relieve(one.channel(0))
    assert one.counts() == [0, MAX_OUTSTANDING]
    one.workers[1].take_all()
    one.loop.wait()
    assert one.counts() == [0, 10]
    one.workers[0].starved = 0
    one.listener.queue = 2
    one.loop.turn()
    assert one.counts() == [1, 11]


def test_nothing_is_taken_back_of_a_worker_that_has_descriptors_again(scene: Set) -> None:
    """It said so a while ago."""
    one = scene(2, queue=4)
    one.loop.turn()
    one.dispatcher.relieve(one.channel(0))
    assert one.counts() == [2, 2]


def test_what_cannot_be_taken_back_stays_where_it_is(scene: Set) -> None:
    """Without descriptors for it; that is told."""
    one = scene(2, queue=4)
    one.loop.turn()
    one.workers[0].starved = 1
    one.workers[0].error = OSError(errno.EMFILE, "no more")
    one.dispatcher.relieve(one.channel(0))
    assert one.counts() == [2, 2]
    assert [error.errno for error in one.exhausted] == [errno.EMFILE]


def test_connections_that_came_back_wait_for_a_worker(scene: Set) -> None:
    """They are older than those in the backlog, and come first."""
    one = scene(1, queue=1)
    one.loop.turn()
    one.die(0)
    assert one.is_paused()
    worker = FakeWorker()
    one.workers.append(worker)
    one.dispatcher.add(cast(WorkerChannel, worker))
    assert one.counts() == [0, 1] and not one.is_paused()


def test_worker_that_dies_with_nothing_untaken_leaves_nothing(scene: Set) -> None:
    """What it had is closed at once."""
    one = scene(1)
    assert one.die(0).closed and not one.is_paused()


def test_connections_stay_with_the_dead_worker_without_descriptors_for_them(scene: Set) -> None:
    """It is told once, others are accepted meanwhile, and those get theirs when it is better."""
    one = scene(2, queue=4)
    one.loop.turn()
    untaken = FakeUntaken(*one.workers[0].frames)
    untaken.error = OSError(errno.EMFILE, "Too many open files")
    one.workers[0].frames = []
    one.dispatcher.remove(one.channel(0))
    one.dispatcher.give_back(cast(Untaken, untaken))
    for _ in range(3):
        one.listener.queue = 1
        one.loop.turn()
        one.loop.wait()
    assert one.counts() == [0, 5] and len(one.exhausted) == 1 and not one.is_paused()
    untaken.error = None
    one.loop.wait()
    assert one.counts() == [0, 7] and untaken.closed


def test_connections_stay_with_the_dead_worker_until_another_has_room(scene: Set) -> None:
    """They take no descriptors until then."""
    one = scene(2, queue=2 * MAX_OUTSTANDING)
    one.loop.turn()
    untaken = one.die(0)
    assert untaken.frames and one.is_paused()
    one.workers[1].take_all()
    one.dispatcher.room()
    assert one.counts() == [0, 2 * MAX_OUTSTANDING] and untaken.closed


def test_worker_whose_channel_is_full_or_dead_loses_no_connection(scene: Set) -> None:
    """What it could not be given comes back, and is given to another after a moment."""
    one = scene(2, queue=2)
    one.workers[0].error = BrokenPipeError()
    one.loop.turn()
    assert one.counts() == [0, 1] and one.is_paused()
    one.dispatcher.remove(one.channel(0))
    one.loop.wait()
    assert one.counts() == [0, 2] and not one.is_paused()


def test_connection_that_came_back_survives_a_second_dead_worker(scene: Set) -> None:
    """It is tried again until somebody takes it."""
    one = scene(1, queue=1)
    one.workers[0].error = BlockingIOError()
    one.loop.turn()
    one.loop.wait()
    assert one.counts() == [0] and one.is_paused()
    one.workers[0].error = None
    one.loop.wait()
    assert one.counts() == [1]


def test_client_that_went_away_in_the_backlog_is_passed_over(scene: Set) -> None:
    """ECONNABORTED is about one connection."""
    one = scene(1, queue=1)
    one.listener.errors = [ConnectionAbortedError()]
    one.loop.turn()
    assert one.counts() == [1] and not one.exhausted


def test_connections_wait_when_descriptors_are_used_up_and_it_is_told_once(scene: Set) -> None:
    """Until it gets better; then it is told again the next time."""
    one = scene(1, queue=1)
    one.listener.errors = [OSError(errno.EMFILE, "Too many open files")] * 3
    for _ in range(3):
        one.loop.turn()
        assert one.is_paused()
        one.loop.wait()
    assert len(one.exhausted) == 1
    one.loop.turn()
    assert one.counts() == [1]
    one.listener.errors = [OSError(errno.ENOMEM, "Out of memory")]
    one.loop.turn()
    assert len(one.exhausted) == 2


def test_other_error_of_accept_is_tried_again_quietly(scene: Set) -> None:
    """A network that is down, for one, see accept(2)."""
    one = scene(1, queue=1)
    one.listener.errors = [OSError(errno.ENETDOWN, "Network is down")]
    one.loop.turn()
    assert one.is_paused() and not one.exhausted
    one.loop.wait()
    one.loop.turn()
    assert one.counts() == [1]


def test_listener_that_is_not_watched_is_left_alone(scene: Set) -> None:
    """Its connections are for somebody else; watching twice is watching once."""
    one = scene(1, queue=1)
    one.dispatcher.watch(one.socket)
    one.dispatcher.unwatch(one.socket)
    one.dispatcher.unwatch(one.socket)
    one.loop.turn()
    assert one.listener.queue == 1 and not one.loop.readers
    one.dispatcher.watch(one.socket)
    one.loop.turn()
    assert one.counts() == [1]


def test_listener_watched_during_a_pause_is_accepted_from_after_it(scene: Set) -> None:
    """And one that is not watched any more, is not."""
    one = scene(0, queue=1)
    one.loop.turn()
    other = FakeListener(queue=1)
    other.fileno = lambda: 1001  # type: ignore[method-assign]
    one.dispatcher.watch(cast(socket.socket, other))
    one.dispatcher.unwatch(one.socket)
    assert one.is_paused()
    one.dispatcher.add(cast(WorkerChannel, worker := FakeWorker()))
    one.workers.append(worker)
    assert list(one.loop.readers) == [1001]
    one.loop.turn()
    assert (one.listener.queue, other.queue) == (1, 0)
    one.listener.closed += other.closed


def test_backlog_of_a_listener_that_ends_is_given_to_workers_however_full(scene: Set) -> None:
    """In equal shares, also of what they have not taken by now."""
    one = scene(2, queue=MAX_OUTSTANDING, max_connections=MAX_OUTSTANDING)
    one.loop.turn()
    one.workers[0].open = MAX_OUTSTANDING
    one.listener.queue = 3 * ACCEPTS_PER_TURN
    one.dispatcher.accept_all(one.socket)
    assert one.listener.queue == 0
    first, second = one.counts()
    assert first + second == MAX_OUTSTANDING + 3 * ACCEPTS_PER_TURN
    assert abs(first - second) <= MAX_CONNECTIONS_PER_FRAME


def test_backlog_that_ends_goes_to_workers_that_can_take_it(scene: Set) -> None:
    """Not to one whose channel is full or closed, nor to one whose counters make no sense."""
    one = scene(3, queue=100)
    one.workers[0].error = BlockingIOError()
    one.workers[1].taken = -SENSELESS
    one.dispatcher.accept_all(one.socket)
    assert one.counts() == [0, 0, 100]


def test_what_came_back_is_given_before_the_backlog_ends(scene: Set) -> None:
    """It waits for room no longer, as there will be no other time."""
    one = scene(2, queue=MAX_OUTSTANDING)
    one.workers[1].open = one.workers[1].taken = 1000
    one.loop.turn()
    one.die(0)
    one.workers[1].taken = 0
    one.dispatcher.accept_all(one.socket)
    assert one.counts() == [0, MAX_OUTSTANDING]


def test_backlog_that_ends_stays_where_it_is_without_workers(scene: Set) -> None:
    """What nobody can be given is not accepted."""
    one = scene(0, queue=5)
    one.dispatcher.accept_all(one.socket)
    assert one.listener.queue == 5


def test_backlog_that_ends_is_accepted_in_parts_when_descriptors_are_few(scene: Set) -> None:
    """Those accepted are given away, which makes room; with none accepted it is given up."""
    one = scene(1, queue=5)
    accept, calls = one.listener.accept, itertools.count()

    def accept_every_second_time() -> tuple[socket.socket, None]:
        if next(calls) % 2:
            raise OSError(errno.EMFILE, "Too many open files")
        return accept()

    one.listener.accept = accept_every_second_time  # type: ignore[method-assign]
    one.dispatcher.accept_all(one.socket)
    assert one.counts() == [5]


def test_clients_that_go_on_coming_are_not_accepted_for_ever(scene: Set) -> None:
    """A backlog that fills again and again is emptied of what it may have held at first."""
    one = scene(1, queue=2 * BACKLOG)
    one.listener.accept = lambda: (socket.socket(), None)  # type: ignore[method-assign]
    given: list[int] = []
    one.workers[0].give = given.extend  # type: ignore[method-assign,assignment]
    one.dispatcher.accept_all(one.socket)
    assert BACKLOG < len(given) <= BACKLOG + ACCEPTS_PER_TURN


def test_closed_dispatcher_closes_what_nobody_took(scene: Set) -> None:
    """The client sees the end."""
    one = scene(1, queue=1)
    one.workers[0].error = BrokenPipeError()
    one.loop.turn()
    one.dispatcher.close()
    assert one.listener.closed[0].recv(1) == b""


def test_closed_dispatcher_closes_what_a_dead_worker_has_left(scene: Set) -> None:
    """The client sees the end."""
    one = scene(1, queue=1)
    one.loop.turn()
    untaken = one.die(0)
    one.dispatcher.close()
    assert untaken.closed
    assert one.listener.closed[0].recv(1) == b""


def test_a_worker_that_takes_nothing_does_not_keep_connections_from_others(scene: Set) -> None:
    """What one could not be given goes to the next one, by the next turn of the timer."""
    one = scene(2, queue=2)
    one.workers[0].error = BrokenPipeError()
    one.loop.turn()
    for _ in range(2):
        one.loop.wait()
    assert one.counts()[1] == 2

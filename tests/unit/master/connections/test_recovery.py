"""What the master does with the connections that the keeper of a dead worker gives it."""

import array
import os
import socket
from collections.abc import Iterator
from typing import cast

import pytest

from sdcluster.master.connections.channels import Passage, WorkerChannel
from sdcluster.master.connections.recovery import FRAMES_PER_TURN, TIMEOUT_S, Recovery, Summary
from sdcluster.system.event_loop import EventLoop
from sdcluster.wire.channel import (
    CONNECTION,
    KEPT_ALL,
    LEDGER,
    Handoff,
    encode_handoff,
    encode_kept,
)
from sdcluster.wire.ledger import MAGIC, NOT_KNOWN, Head, State, Word
from sdcluster.wire.scoreboard import Field
from sdcluster.wire.signature import sign
from unit.descriptors import none_leaked
from unit.ledgers import new_ledger
from unit.master.connections.test_channels import room_for
from unit.master.connections.test_counts import connected
from unit.master.connections.test_dispatch import FakeLoop

REQUEST = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"
SIGNATURE = sign("GET", "/", repeatable=True)


class DeadWorker:
    """A worker that has died, its keeper, and what becomes of its connections."""

    def __init__(self) -> None:
        self.loop = FakeLoop()
        self.ledger = new_ledger(65536)
        self.passages: list[Passage] = []
        self.blamed: list[int] = []
        self.ends: list[Summary] = []
        self.lates = 0
        self.strange: set[int] = set()
        self.channel = WorkerChannel()
        self.channel.given()
        self.recovery = Recovery(
            cast(EventLoop, self.loop),
            self.channel,
            is_ours=lambda connection: os.fstat(connection.fileno()).st_ino not in self.strange,
            on_passage=self.passages.append,
            on_blame=self.blamed.append,
            on_late=self._late,
            on_end=self.ends.append,
        )
        self.keeper = socket.socket(fileno=self.channel._theirs.detach())
        self.recovery.begin()

    def _late(self) -> None:
        self.lates += 1

    def send(self, data: bytes, fds: list[int] | None = None) -> None:
        """Send a frame, as the keeper does."""
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds or []))
        self.keeper.sendmsg([data], [rights] if fds else [])

    def give(self, connection: socket.socket, *, ledger: bool = True) -> None:
        """Give a connection, with the ledger before it, and say that this was all."""
        if ledger:
            self.send(LEDGER, [self.ledger.fd])
        self.send(encode_kept([connection.fileno()]), [connection.fileno()])
        self.send(KEPT_ALL)
        connection.close()
        self.loop.turn()

    def enter(self, connection: socket.socket, handoff: Handoff | None = None) -> None:
        """Enter a connection, as a worker does that was given it."""
        given = handoff or Handoff()
        self.note(given)
        self.ledger.enter(connection.fileno(), given)

    def note(self, given: Handoff) -> None:
        """Take note of a connection that the worker was given."""
        self.channel.known.note(hops=given.hops, crashes=given.crashes, deaths=given.deaths)

    def write(self, connection: socket.socket, word: Word, value: int) -> None:
        """Write a word of its entry."""
        self.ledger.words[self.ledger.index(connection.fileno()) + word] = value

    def read(self, connection: socket.socket, length: int) -> None:
        """Read from it, into the ledger."""
        at = self.ledger.layout.data_at(connection.fileno())
        assert connection.recv_into(self.ledger.bytes[at : at + length]) == length

    def close(self) -> None:
        """Close what is left."""
        self.keeper.close()
        for view in (self.ledger.words, self.ledger.arrival, self.ledger.bytes):
            view.release()
        self.ledger.map.close()
        os.close(self.ledger.fd)
        if not self.ends:
            self.recovery.close()
        for passage in self.passages:
            os.close(passage.fd)


@pytest.fixture
def dead() -> Iterator[DeadWorker]:
    """Have a worker die; at the end there are no more descriptors than before."""
    with none_leaked():
        made = DeadWorker()
        yield made
        made.close()


def test_idle_connection_lives_on(dead: DeadWorker) -> None:
    """It is handed over as it is, and that is all that there was."""
    with connected() as (server, client):
        dead.enter(server)
        dead.give(server)
        (passage,) = dead.passages
        assert passage.handoff == Handoff()
        os.write(passage.fd, b"alive")
        assert client.recv(100) == b"alive"
    assert dead.ends == [Summary(idle=1)]
    assert not dead.loop.readers


@pytest.mark.parametrize("begun", [0, 1, 2])
def test_request_without_an_answer_goes_along(dead: DeadWorker, begun: int) -> None:
    """With what the next worker needs to know; and whether the app was at work on it."""
    with connected() as (server, client):
        client.sendall(REQUEST)
        proxied = b"PROXY 192.0.2.1 1"
        dead.enter(server, Handoff(crashes=1, deaths=4, proxied=proxied))
        dead.read(server, len(REQUEST))
        dead.write(server, Word.BEGUN, begun)
        dead.give(server)
        (passage,) = dead.passages
        assert passage.handoff == Handoff(
            unanswered=REQUEST,
            crashes=2 if begun == 1 else 1,  # A request that begins elsewhere is another one.
            deaths=5,
            consumed=len(REQUEST),
            proxied=proxied,
        )
    assert dead.ends == [Summary(again=1)]


@pytest.mark.parametrize("client", ["waits", "has its answer, and has gone", "has gone before"])
@pytest.mark.parametrize("known", ["nothing", "where the answer ends"])
def test_request_is_blamed_that_the_worker_was_at_work_on(
    dead: DeadWorker, client: str, known: str
) -> None:
    """And which is not made again: one that is answered was not what it died of."""
    with connected() as (server, peer):
        dead.enter(server)
        peer.sendall(REQUEST)
        dead.read(server, len(REQUEST))
        dead.write(server, Word.BEGUN, 1)
        dead.write(server, Word.SIGNATURE, SIGNATURE)
        if known == "where the answer ends":
            dead.write(server, Word.OUT_END, len(b"answer"))
        if client == "has its answer, and has gone":
            server.sendall(b"answer")
            assert peer.recv(100) == b"answer"
        if client != "waits":
            peer.close()
        dead.give(server)
    is_answered = client == "has its answer, and has gone" and known == "where the answer ends"
    assert dead.blamed == ([] if is_answered or client == "waits" else [SIGNATURE])


def test_connection_with_half_an_answer_ends_as_a_close_does(dead: DeadWorker) -> None:
    """The client gets what was written, and an end; not a reset, for all that it has sent."""
    with connected() as (server, client):
        client.sendall(REQUEST * 2)
        dead.enter(server)
        dead.read(server, len(REQUEST))
        server.sendall(b"HTTP/1.1 200 OK\r\n")
        dead.give(server)
        assert client.recv(100) == b"HTTP/1.1 200 OK\r\n"
        assert client.recv(100) == b""
    assert not dead.passages
    assert dead.ends == [Summary(closed=1)]


@pytest.mark.parametrize(("length", "expected"), [(len(REQUEST), REQUEST), (NOT_KNOWN, None)])
def test_unix_connection_is_judged_by_what_is_written_down(
    dead: DeadWorker, length: int, expected: bytes | None
) -> None:
    """And closed when the worker was reading."""
    client, server = socket.socketpair()
    with client:
        client.sendall(REQUEST)
        dead.enter(server)
        dead.read(server, len(REQUEST))
        dead.write(server, Word.LENGTH, length)
        dead.give(server)
    found = [one.handoff.unanswered for one in dead.passages if one.handoff]
    assert found == ([expected] if expected else [])
    assert dead.ends == [Summary(again=1) if expected else Summary(closed=1)]


@pytest.mark.parametrize(("last_serial", "lives"), [(6, True), (7, False)])
def test_connection_that_has_come_already_is_not_there_twice(
    dead: DeadWorker, last_serial: int, lives: bool
) -> None:
    """The worker had handed it over when it died; then its client notices nothing either."""
    with connected() as (server, client):
        dead.enter(server)
        dead.write(server, Word.HANDING, 7)
        dead.channel.known.serial = last_serial
        other = server.dup()
        dead.give(server)
        assert bool(dead.passages) is lives
        other.sendall(b"alive")
        assert client.recv(100) == b"alive"
        other.close()
    assert dead.ends == [Summary(idle=int(lives))]


def test_what_the_worker_has_handed_over_before_is_heard_first(dead: DeadWorker) -> None:
    """It is in the same channel, in its order; so its serial number is known then."""
    with connected() as (server, _):
        dead.enter(server)
        dead.write(server, Word.HANDING, 1)
        dead.send(b"STATUS=fine")
        dead.send(encode_handoff(Handoff(serial=1)), [server.fileno()])
        dead.give(server)
    assert len(dead.passages) == 1
    assert dead.ends == [Summary()]


def test_connection_that_was_being_taken_is_new_or_comes_with_what_it_has(
    dead: DeadWorker,
) -> None:
    """It has no entry yet, but the frame that brought it is there."""
    handed = Handoff(unanswered=REQUEST, slot=0, hops=1, consumed=len(REQUEST))
    dead.note(handed)
    for number, frame, expected in (
        (20, CONNECTION, Handoff()),
        (21, encode_handoff(handed), Handoff(unanswered=REQUEST, hops=1, consumed=len(REQUEST))),
    ):
        with connected() as (server, client):
            dead.ledger.words[Head.TAKING] = 1
            dead.ledger.arrival[: len(frame)] = frame
            client.sendall(REQUEST)
            if expected.unanswered:
                server.recv(len(REQUEST))
            if not dead.passages:
                dead.send(LEDGER, [dead.ledger.fd])
            dead.send(encode_kept([number]), [server.fileno()])
            dead.loop.turn()
        assert dead.passages[-1].handoff == expected
    dead.send(KEPT_ALL)
    dead.loop.turn()
    assert dead.ends == [Summary(idle=1, again=1)]


@pytest.mark.parametrize("taking", [0, 1])
def test_connection_of_the_apps_own_is_let_go_of(dead: DeadWorker, taking: int) -> None:
    """Without a shutdown(2): a process that the app has started may have it as well."""
    with connected() as (server, client):
        dead.ledger.words[Head.TAKING] = taking
        if taking:
            dead.strange.add(os.fstat(server.fileno()).st_ino)
        other = server.dup()
        dead.give(server)
        other.sendall(b"alive")
        assert client.recv(100) == b"alive"
        other.close()
    assert not dead.passages
    assert dead.ends == [Summary()]


def test_new_connection_that_was_read_from_is_closed(dead: DeadWorker) -> None:
    """It cannot be: so it is not as it seems."""
    with connected() as (server, client):
        dead.ledger.words[Head.TAKING] = 1
        client.sendall(REQUEST)
        server.recv(len(REQUEST))
        dead.give(server)
    assert not dead.passages
    assert dead.ends == [Summary(closed=1)]


@pytest.mark.parametrize("state", [State.PINNED, State.LEFT, 77])
def test_connection_that_cannot_go_on_is_closed(dead: DeadWorker, state: int) -> None:
    """A WebSocket, say; or its entry makes no sense."""
    with connected() as (server, client):
        dead.enter(server)
        dead.write(server, Word.STATE, state)
        dead.give(server)
        assert client.recv(1) == b""
    assert dead.ends == [Summary(closed=1)]


@pytest.mark.parametrize("case", ["none", "magic", "short", "no memory", "number"])
def test_connection_without_a_ledger_that_makes_sense_is_closed(
    dead: DeadWorker, case: str
) -> None:
    """What comes from a worker is validated; nothing that it sends ends the master."""
    with connected() as (server, client):
        dead.enter(server)
        match case:
            case "magic":
                dead.ledger.words[Head.MAGIC] = MAGIC + 1
            case "short":
                os.ftruncate(dead.ledger.fd, 100)
            case "number":
                dead.ledger.words[Head.CAPACITY] = server.fileno()
        if case == "no memory":
            with open("/dev/zero", "rb") as file:
                dead.send(LEDGER, [file.fileno()])
        dead.give(server, ledger=case not in ("none", "no memory"))
        assert client.recv(1) == b""
    assert dead.ends == [Summary(closed=1)]


def test_words_that_make_no_sense_close_the_connection(dead: DeadWorker) -> None:
    """Also those that are too large for the frame to the next worker."""
    with connected() as (server, client):
        dead.enter(server)
        for word in (Word.IN_BASE, Word.OUT_BASE, Word.OUT_DONE, Word.CRASHES, Word.LENGTH):
            dead.write(server, word, 2**64 - 1)
        dead.give(server)
        assert client.recv(1) == b""
    assert dead.ends == [Summary(closed=1)]


@pytest.mark.parametrize("word", [Word.CRASHES, Word.DEATHS])
def test_connection_that_has_seen_more_deaths_than_its_worker_was_given_is_closed(
    dead: DeadWorker, word: Word
) -> None:
    """Who gets it would be treated as if it had been the last of many."""
    with connected() as (server, client):
        dead.enter(server, Handoff(crashes=1, deaths=2))
        dead.write(server, word, 3)
        dead.give(server)
        assert client.recv(1) == b""
    assert dead.ends == [Summary(closed=1)]


@pytest.mark.parametrize(
    ("proxied", "words"),
    [
        (b"PROXY 192.0.2.1 port", {}),
        (b"", {Word.CRASHES: 5, Word.DEATHS: 1}),
        (b"", {Word.OUT_BASE: 2**63, Word.OUT_DONE: 2**63}),
    ],
)
def test_connection_that_cannot_be_is_closed(
    dead: DeadWorker, proxied: bytes, words: dict[Word, int]
) -> None:
    """The worker that gets it would believe it."""
    dead.channel.known.note(hops=9, crashes=9, deaths=9)
    client, server = socket.socketpair()
    client.settimeout(5)
    with client:
        client.sendall(REQUEST)
        dead.enter(server, Handoff(proxied=proxied))
        dead.read(server, len(REQUEST))
        dead.write(server, Word.LENGTH, len(REQUEST))
        for word, value in words.items():
            dead.write(server, word, value)
        dead.give(server)
        assert client.recv(1) == b""
    assert not dead.passages
    assert dead.ends == [Summary(closed=1)]


def test_connection_of_another_place_is_let_go_of(dead: DeadWorker) -> None:
    """One that the worker has made itself, to a database say, though its ledger has it."""
    with connected() as (server, client):
        dead.enter(server)
        dead.strange.add(os.fstat(server.fileno()).st_ino)
        other = server.dup()
        dead.give(server)
        other.sendall(b"alive")
        assert client.recv(100) == b"alive"
        other.close()
    assert not dead.passages
    assert dead.ends == [Summary()]


@pytest.mark.parametrize("same", ["number", "connection"])
def test_connection_comes_once(dead: DeadWorker, same: str) -> None:
    """Two workers would answer the same client."""
    with connected() as (server, _), connected() as (second, _):
        again = server.dup() if same == "connection" else second
        for one in (server, again):
            dead.enter(one)
        numbers = [server.fileno(), again.fileno()] if same == "connection" else [7, 7]
        dead.ledger.enter(7, Handoff())
        dead.send(LEDGER, [dead.ledger.fd])
        dead.send(encode_kept(numbers), [server.fileno(), again.fileno()])
        dead.send(KEPT_ALL)
        dead.loop.turn()
        if same == "connection":
            again.close()
    assert len(dead.passages) == 1
    assert dead.ends == [Summary(idle=1)]


def test_what_is_no_connection_is_let_go_of(dead: DeadWorker) -> None:
    """A file, a listener, a datagram socket; a second ledger."""
    reader, writer = os.pipe()
    listener = socket.create_server(("127.0.0.1", 0))
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    fds = [reader, writer, listener.fileno(), datagrams.fileno()]
    dead.send(LEDGER, [dead.ledger.fd])
    dead.send(LEDGER, [dead.ledger.fd])
    dead.send(encode_kept(fds), fds)
    dead.send(KEPT_ALL)
    dead.loop.turn()
    for fd in (reader, writer):
        os.close(fd)
    listener.close()
    datagrams.close()
    assert not dead.passages
    assert dead.ends == [Summary()]


def test_keeper_that_is_late_is_told_of_and_not_waited_for(dead: DeadWorker) -> None:
    """What it has sent by then is taken."""
    with connected() as (server, _):
        dead.enter(server)
        dead.send(LEDGER, [dead.ledger.fd])
        dead.send(encode_kept([server.fileno()]), [server.fileno()])
        assert TIMEOUT_S == 2
        dead.loop.wait()
        assert dead.lates == 1
    assert dead.ends == [Summary(idle=1)]
    assert not dead.loop.readers


def test_keeper_is_not_late_while_there_are_no_descriptors_for_what_it_has(
    dead: DeadWorker,
) -> None:
    """It is the master that is late then; afterwards it has as much time as any."""
    with connected() as (server, _):
        dead.enter(server)
        dead.send(LEDGER, [dead.ledger.fd])
        dead.send(encode_kept([server.fileno()]), [server.fileno()])
        with room_for(0):
            for _ in range(3):
                dead.loop.turn()
                dead.loop.wait()
        assert (dead.lates, dead.ends) == (0, [])
        dead.loop.turn()
        dead.loop.wait()
        assert (dead.lates, dead.ends) == (0, [])
        dead.loop.wait()
    assert dead.lates == 1
    assert dead.ends == [Summary(idle=1)]


@pytest.mark.parametrize("is_open", [False, True])
def test_keeper_that_dies_ends_it(dead: DeadWorker, is_open: bool) -> None:
    """What it has sent is taken; whether or not somebody has its end of the channel still."""
    with connected() as (server, _):
        dead.enter(server)
        dead.send(LEDGER, [dead.ledger.fd])
        dead.send(encode_kept([server.fileno()]), [server.fileno()])
        if not is_open:
            dead.keeper.close()
        dead.recovery.keeper_is_gone()
    assert dead.ends == [Summary(idle=1)]
    assert dead.lates == 0


def test_connections_that_a_dead_keeper_has_not_given_are_counted(dead: DeadWorker) -> None:
    """By the scoreboard; not those that are none of the worker's any more."""
    with connected() as (server, _):
        dead.enter(server)
        dead.channel.board[Field.CONNECTIONS] = 3
        dead.send(LEDGER, [dead.ledger.fd])
        dead.send(encode_kept([server.fileno()]), [server.fileno()])
        dead.recovery.keeper_is_gone()
    assert dead.ends == [Summary(idle=1, lost=2)]


def test_end_of_the_channel_ends_it(dead: DeadWorker) -> None:
    """The keeper is dead then."""
    dead.keeper.close()
    dead.loop.turn()
    assert dead.ends == [Summary()]
    dead.recovery.keeper_is_gone()
    assert dead.ends == [Summary()]


@pytest.mark.parametrize("dies", [False, True])
def test_nothing_is_lost_while_descriptors_are_used_up(dead: DeadWorker, dies: bool) -> None:
    """What the keeper has sent waits, also when that has ended, until there are some."""
    with connected() as (server, _):
        dead.enter(server)
        dead.send(LEDGER, [dead.ledger.fd])
        dead.send(encode_kept([server.fileno()]), [server.fileno()])
        dead.send(KEPT_ALL)
        timeout = dead.loop.timers.pop()
        with room_for(0):
            dead.loop.turn()
            assert not dead.loop.readers
            if dies:
                dead.recovery.keeper_is_gone()
        assert not dead.ends
        dead.loop.wait()
        dead.loop.turn()
        timeout.cancel()
    assert dead.ends == [Summary(idle=1)]


def test_many_connections_are_taken_a_few_at_a_time(dead: DeadWorker) -> None:
    """Others are served in between."""
    pairs = [socket.socketpair() for _ in range(FRAMES_PER_TURN + 4)]
    fds = [server.fileno() for server, _ in pairs]
    for server, _ in pairs:
        dead.enter(server)
    dead.send(LEDGER, [dead.ledger.fd])
    for fd in fds:
        dead.send(encode_kept([fd]), [fd])
    dead.send(KEPT_ALL)
    dead.loop.turn()
    assert 0 < len(dead.passages) < len(fds)
    dead.loop.turn()
    assert dead.ends == [Summary(idle=len(fds))]
    for pair in pairs:
        for sock in pair:
            sock.close()


def test_recovery_that_is_closed_leaves_nothing() -> None:
    """At the end of the cluster, with connections that nobody has taken."""
    with none_leaked():
        dead = DeadWorker()
        with connected() as (server, client):
            dead.enter(server)
            dead.send(LEDGER, [dead.ledger.fd])
            dead.loop.turn()
            dead.send(encode_kept([server.fileno()]), [server.fileno()])
            server.close()
            dead.close()
            assert client.recv(1) == b""
        assert not dead.ends
        assert not dead.loop.readers
        dead.loop.wait()
        assert dead.lates == 0


@pytest.mark.parametrize("begun", [False, True])
def test_request_behind_an_answered_one_goes_along_alone(dead: DeadWorker, begun: bool) -> None:
    """With the bytes that are its own, and whether the app was at work on it."""
    length = len(REQUEST)
    with connected() as (server, client):
        client.sendall(REQUEST + REQUEST[::-1])
        dead.enter(server)
        dead.read(server, 2 * length)
        server.sendall(b"answer")
        dead.write(server, Word.IN_DONE, length)
        dead.write(server, Word.OUT_BASE, len(b"answer"))
        dead.write(server, Word.BEGUN, (length if begun else 0) + 1)
        dead.give(server)
        (passage,) = dead.passages
        assert passage.handoff == Handoff(
            unanswered=REQUEST[::-1],
            crashes=int(begun),
            deaths=1,
            consumed=2 * length,
            written=len(b"answer"),
        )

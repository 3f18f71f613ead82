"""Orders to a mold and its reports, over a real channel to a mold that is played by the test."""

import array
import errno
import os
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from sdcluster.config.load import from_options
from sdcluster.errors import ProtocolError
from sdcluster.master.processes import interpreter
from sdcluster.master.processes.molds import MAX_UNANSWERED, Mold
from sdcluster.wire import frames

BEYOND = MAX_UNANSWERED + 3


class FakeMold:
    """The far end of the channel."""

    def __init__(self, channel_fd: int) -> None:
        self._channel = socket.socket(fileno=os.dup(channel_fd))
        self._channel.setblocking(False)
        self.received: list[int] = []
        """Descriptors that came with orders."""

    def orders(self) -> list[int]:
        """Return the workers that it is told to fork and has not read of before."""
        found: list[int] = []
        while True:
            try:
                data, ancillary, _, _ = self._channel.recvmsg(65536, socket.CMSG_SPACE(64))
            except BlockingIOError:
                return found
            if not data:
                return found
            for _, _, descriptors in ancillary:
                self.received += array.array("i", descriptors)
            order = frames.decode_order(data)
            if isinstance(order, frames.Fork):
                found.append(order.worker)

    def report(self, *workers: int) -> None:
        """Say that the workers are forked."""
        for worker in workers:
            self._channel.send(frames.encode(frames.Forked(worker=worker, pid=worker)))

    def has_end(self) -> bool:
        """Tell whether there will be no more orders."""
        return self._channel.recv(1) == b""

    def close(self) -> None:
        """Be gone."""
        self._channel.close()
        while self.received:
            os.close(self.received.pop())


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[tuple[Mold, FakeMold]]:
    """Return a mold that has taken its first order, and who plays it."""
    far: list[FakeMold] = []

    def execute(command: interpreter.Command) -> interpreter.Interpreter:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with theirs:
            far.append(FakeMold(theirs.fileno()))
        return interpreter.Interpreter(command, 0, ours)

    monkeypatch.setattr(interpreter, "_execute", execute)
    config = from_options({"app": "app:app"}, name="test", directory=tmp_path)
    mold = Mold(config, 1, listener_names=())
    assert far[0].orders() == []
    yield mold, far[0]
    mold.close()
    far[0].close()


def order(mold: Mold, workers: Sequence[int], descriptors: Sequence[int] = ()) -> None:
    """Order some workers."""
    for worker in workers:
        mold.fork(frames.Fork(worker=worker, slot=0), descriptors)


def take_reports(mold: Mold) -> list[int]:
    """Read what has been reported, and send what may be sent then."""
    found = []
    while (report := mold.read()) is not None:
        assert isinstance(report, frames.Forked)
        found.append(report.worker)
        assert mold.send_queued() == []
    return found


def test_orders_beyond_the_limit_wait_for_answers(pair: tuple[Mold, FakeMold]) -> None:
    """A mold has so many orders at the most; each answer brings the next one, in their order."""
    mold, far = pair
    order(mold, range(BEYOND))
    assert far.orders() == list(range(MAX_UNANSWERED))
    assert sorted(mold.pending) == list(range(BEYOND))
    far.report(1, 0)
    assert take_reports(mold) == [1, 0]
    assert far.orders() == [MAX_UNANSWERED, MAX_UNANSWERED + 1]
    order(mold, [BEYOND])
    far.report(2, 3)
    assert take_reports(mold) == [2, 3]
    assert far.orders() == [MAX_UNANSWERED + 2, BEYOND]
    assert sorted(mold.pending) == list(range(4, BEYOND + 1))


def test_descriptors_of_an_order_that_waits_are_its_own(pair: tuple[Mold, FakeMold]) -> None:
    """What is closed meanwhile is passed all the same."""
    mold, far = pair
    order(mold, range(MAX_UNANSWERED))
    far.orders()
    reader, writer = os.pipe()
    order(mold, [MAX_UNANSWERED], [writer])
    os.close(writer)
    far.report(0)
    take_reports(mold)
    assert far.orders() == [MAX_UNANSWERED]
    os.write(far.received[-1], b"x")
    assert os.read(reader, 1) == b"x"
    far.close()
    assert os.read(reader, 1) == b""
    os.close(reader)


def test_orders_that_wait_are_released_with_the_mold(pair: tuple[Mold, FakeMold]) -> None:
    """All that was ordered is pending when the mold is dead, and its descriptors are closed."""
    mold, far = pair
    order(mold, range(MAX_UNANSWERED))
    reader, writer = os.pipe()
    order(mold, [MAX_UNANSWERED], [writer])
    os.close(writer)
    far.close()
    assert mold.send_queued() == []
    assert sorted(mold.pending) == list(range(MAX_UNANSWERED + 1))
    mold.close()
    assert os.read(reader, 1) == b""
    os.close(reader)


def test_report_of_an_order_that_waits_breaks_the_protocol(pair: tuple[Mold, FakeMold]) -> None:
    """A mold cannot have forked what it was not told to."""
    mold, far = pair
    order(mold, range(BEYOND))
    far.report(MAX_UNANSWERED)
    with pytest.raises(ProtocolError, match="not ordered"):
        mold.read()


def test_retired_mold_gets_what_was_ordered_before(pair: tuple[Mold, FakeMold]) -> None:
    """The end of the orders comes after the last one."""
    mold, far = pair
    order(mold, range(BEYOND))
    mold.retire()
    first = far.orders()
    far.report(*first)
    take_reports(mold)
    assert far.orders() == list(range(MAX_UNANSWERED, BEYOND))
    assert far.has_end()


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ETOOMANYREFS])
def test_order_that_finds_no_room_waits(
    pair: tuple[Mold, FakeMold], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A limit of the system is reached while the mold has orders: the next answer makes room."""
    mold, far = pair
    order(mold, [1])
    with monkeypatch.context() as patch:
        patch.setattr(socket, "send_fds", failing(number))
        order(mold, [2])
    far.report(1)
    take_reports(mold)
    assert far.orders() == [1, 2]


def test_order_that_never_finds_room_fails(
    pair: tuple[Mold, FakeMold], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No answer is awaited that could make room: the order fails with the system's reason."""
    mold, far = pair
    with monkeypatch.context() as patch:
        patch.setattr(socket, "send_fds", failing(errno.ETOOMANYREFS))
        with pytest.raises(OSError, match="Too many references"):
            order(mold, [1])
    order(mold, range(BEYOND))
    far.report(0)
    assert mold.read() is not None
    monkeypatch.setattr(socket, "send_fds", failing(errno.ENOMEM))
    failed = mold.send_queued()
    assert [one.worker for one in failed] == list(range(MAX_UNANSWERED, BEYOND))
    assert failed[0].reason == "cannot start a process: Cannot allocate memory"
    assert sorted(mold.pending) == list(range(1, MAX_UNANSWERED))


def test_what_a_mold_reported_before_it_died_is_read(pair: tuple[Mold, FakeMold]) -> None:
    """Orders that a dead mold has not read hide none of its reports."""
    mold, far = pair
    order(mold, [1, 2, 3])
    far.report(1, 2)
    far.close()
    assert [mold.read(), mold.read()] == [frames.Forked(worker=n, pid=n) for n in (1, 2)]
    with pytest.raises(EOFError):
        mold.read()
    assert mold.pending == [3]


def failing(number: int) -> object:
    """Return a function that fails with an error number."""

    def fail(*_arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


def test_mold_that_is_closed_says_nothing(pair: tuple[Mold, FakeMold]) -> None:
    """A loop may have it read once more, in the turn in which its end was seen."""
    mold, _ = pair
    mold.close()
    assert mold.read() is None

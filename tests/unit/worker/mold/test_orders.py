"""Orders that are carried out and answered elsewhere, and those that are not."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from sdcluster.wire import frames
from sdcluster.worker.mold.orders import Orders
from unit.descriptors import count, none_leaked
from unit.master.connections.test_channels import room_for


class Master:
    """The other end of the channel of `orders`."""

    def __init__(self) -> None:
        self.channel, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.orders = Orders(self._theirs)

    def order(self, worker: int, slot: int = 0) -> frames.Fork:
        """Order a worker, with its descriptor."""
        order = frames.Fork(worker=worker, slot=slot)
        socket.send_fds(self.channel, [frames.encode(order)], [0])
        return order

    def report(self) -> frames.Report:
        """Return the next report."""
        return frames.decode_report(self.channel.recv(frames.MAX_FRAME_BYTES, socket.MSG_DONTWAIT))

    def close(self) -> None:
        """Let go of both ends."""
        self.channel.close()
        self._theirs.close()


@pytest.fixture
def master() -> Iterator[Master]:
    """Make a channel."""
    with none_leaked():
        made = Master()
        yield made
        made.close()


def take(orders: Orders) -> frames.Order:
    """Take an order and close its descriptors."""
    data, descriptors = orders.take()
    for fd in descriptors:
        assert not os.get_inheritable(fd)
        os.close(fd)
    assert len(descriptors) == 1
    return frames.decode_order(data)


def test_order_is_carried_out_and_answered_by_a_child(master: Master) -> None:
    """The mold sends what its child has answered; its own memory has nothing of it."""
    order = master.order(7, slot=3)
    assert master.orders.wait()
    report = frames.Forked(worker=7, pid=1234)
    child = os.fork()
    if child == 0:
        try:
            assert take(master.orders) == order
            master.orders.answer(report)
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    with pytest.raises(BlockingIOError):
        master.report()
    assert master.orders.pass_on()
    assert master.report() == report


def test_order_whose_descriptors_cannot_be_opened_is_taken_and_fails(master: Master) -> None:
    """Nothing of it is left, and the worker is not forked without them."""
    master.order(1)
    second = master.order(2)
    assert master.orders.wait()
    with room_for(0), pytest.raises(OSError, match="Too many open files"):
        master.orders.take()
    assert master.orders.order().worker == 1
    assert master.orders.wait()
    assert take(master.orders) == second


def test_worker_has_nothing_of_the_channel(master: Master) -> None:
    """Neither the descriptor, nor the memory: whatever it does, the mold does not notice."""
    maps = Path("/proc/self/maps").read_text().count("/dev/zero")
    own = Orders(socket.socket(fileno=os.dup(master.channel.fileno())))
    assert Path("/proc/self/maps").read_text().count("/dev/zero") == maps + 1
    own.close()
    assert Path("/proc/self/maps").read_text().count("/dev/zero") == maps


@pytest.mark.parametrize("is_taken", [True, False])
def test_order_that_nobody_answers_fails(master: Master, is_taken: bool) -> None:
    """Once, whether it was taken or not; and the next one is another."""
    master.order(1, slot=4)
    second = master.order(2, slot=4)
    assert master.orders.wait()
    if is_taken:
        take(master.orders)
    assert not master.orders.pass_on()
    master.orders.fail("no memory")
    assert master.report() == frames.ForkFailed(worker=1, reason="no memory")
    assert master.orders.wait()
    assert take(master.orders) == second


@pytest.mark.parametrize("is_taken", [True, False])
def test_last_order_that_nobody_answers_fails(master: Master, is_taken: bool) -> None:
    """When there is nothing behind it, and the master has said that nothing will come."""
    master.order(1)
    before = count()
    master.channel.shutdown(socket.SHUT_WR)
    assert master.orders.wait()
    if is_taken:
        take(master.orders)
    master.orders.fail("no memory")
    assert count() == before
    assert master.report() == frames.ForkFailed(worker=1, reason="no memory")
    assert not master.orders.wait()


def test_answer_of_one_order_is_not_that_of_the_next(master: Master) -> None:
    """A child that dies has not answered, whatever the last one has."""
    master.order(1)
    master.order(2)
    assert master.orders.wait()
    take(master.orders)
    master.orders.answer(frames.Forked(worker=1, pid=1234))
    assert master.orders.pass_on()
    assert master.orders.wait()
    assert not master.orders.pass_on()
    take(master.orders)

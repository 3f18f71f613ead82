"""What the master does with its children's ends, in whichever order it comes to know of them."""

import os
import signal
import socket
from collections.abc import Iterator
from typing import cast

import pytest

from sdcluster.core import events as ev
from sdcluster.master.connections.channels import Passage, WorkerChannel
from sdcluster.master.connections.recovery import Summary
from sdcluster.master.host.journal import Journal
from sdcluster.master.processes.children import Children
from sdcluster.master.processes.health import Limits
from sdcluster.master.processes.molds import Mold
from sdcluster.master.processes.workers import WorkerProcess, is_child
from sdcluster.system.event_loop import EventLoop
from sdcluster.wire.channel import KEPT_ALL, LEDGER, NEW, encode_kept
from sdcluster.wire.scoreboard import Field
from unit.descriptors import none_leaked
from unit.ledgers import new_ledger
from unit.master.connections.test_counts import connected
from unit.master.connections.test_dispatch import FakeLoop

NO_LIMITS = Limits(
    heartbeat_timeout_s=0, request_timeout_s=0, max_requests=0, max_lifetime_s=0, max_memory_mb=0
)


class Family:
    """A worker and its keeper, and what is told of their ends."""

    def __init__(self) -> None:
        self.events: list[ev.Event] = []
        self.passages: list[Passage] = []
        self.summaries: list[Summary] = []
        self.children = Children(
            loop=cast(EventLoop, FakeLoop()),
            journal=cast(Journal, None),
            report=self.events.append,
            on_starved=lambda _process: None,
            on_room=lambda: None,
            on_gone=lambda _process, untaken: untaken.close(),
            on_passage=self.passages.append,
            on_blame=lambda _signature: None,
            on_recovered=lambda _process, summary: self.summaries.append(summary),
            is_ours=lambda _connection: True,
        )
        self.channel = WorkerChannel()
        self.keepers_end = socket.socket(fileno=os.dup(self.channel.descriptors()[0]))
        self.process = WorkerProcess(
            1, 0, 1, cast(Mold, None), self.channel, NO_LIMITS, pid=child(), keeper=child()
        )
        self.children.workers[1] = self.process
        self.pids = [self.process.pid, self.process.keeper]

    def give(self, connection: socket.socket) -> None:
        """Give a connection away, as the keeper does."""
        ledger = new_ledger(4096)
        number = connection.fileno()
        ledger.enter(number, NEW)
        for data, fd in ((LEDGER, ledger.fd), (encode_kept([number]), number)):
            socket.send_fds(self.keepers_end, [data], [fd])
        self.keepers_end.send(KEPT_ALL)
        ledger.close()

    def close(self) -> None:
        """End what is left."""
        for pid in self.pids:
            if is_child(pid):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        self.keepers_end.close()
        self.children.close()
        if self.process.id in self.children.workers:
            self.process.close()
        for passage in self.passages:
            os.close(passage.fd)


def child() -> int:
    """Start a process that does nothing."""
    pid = os.fork()
    if pid == 0:
        while True:
            signal.pause()
    return pid


def end(pid: int) -> None:
    """Kill a child, and wait until it can be collected."""
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


@pytest.fixture
def family() -> Iterator[Family]:
    """Start them."""
    with none_leaked():
        started = Family()
        yield started
        started.close()


@pytest.mark.parametrize("first", ["worker", "keeper"])
def test_connections_of_a_dead_worker_go_on_whichever_end_is_seen_first(
    family: Family, first: str
) -> None:
    """A worker whose threads are about to end may have an end that is seen after its keeper's."""
    with connected() as (server, _):
        family.give(server)
        for pid in family.pids if first == "worker" else reversed(family.pids):
            end(pid)
            family.children.reap()
    assert [type(event) for event in family.events] == [ev.WorkerExited]
    assert family.summaries == [Summary(idle=1)]
    assert len(family.passages) == 1


def test_worker_that_dies_before_it_has_named_its_keeper_breaks_no_protocol(
    family: Family,
) -> None:
    """What the keeper sends is of no use then: there was no connection yet."""
    family.process.keeper = 0
    family.keepers_end.send(KEPT_ALL)
    for pid in family.pids:
        end(pid)
    family.children.reap()
    assert [type(event) for event in family.events] == [ev.WorkerExited]
    assert family.summaries == []


@pytest.mark.parametrize("first", ["worker", "keeper"])
def test_connections_that_end_with_a_worker_are_counted_whichever_end_is_seen_first(
    family: Family, first: str
) -> None:
    """Those of a worker whose keeper was dead."""
    family.channel.board[Field.CONNECTIONS] = 3
    for pid in family.pids if first == "worker" else reversed(family.pids):
        end(pid)
        family.children.reap()
    assert family.summaries == [Summary(lost=3)]
    assert family.passages == []

"""The connections that wait for a worker, and their memory."""

import subprocess
import sys

import pytest

from sdcluster.master.connections import passages
from sdcluster.master.connections.channels import Passage
from sdcluster.master.connections.passages import TRIM_BYTES, Passages
from sdcluster.wire.channel import ANY, Handoff

SCRIPT = """
import os
import resource
import socket
import sys

from sdcluster.master.connections import handoffs
from sdcluster.master.connections.channels import Passage
from sdcluster.master.connections.dispatch import Dispatcher
from sdcluster.wire.channel import Handoff, decode_handoff, encode_handoff

class Loop:
    def add(self, *_): pass
    remove = add
    call_later = add
    def time(self): return 0.0

class Worker:
    def outstanding(self): return 0
    connections = latency_ns = measured_ns = starved_ns = outstanding
    def ask_for_room(self, _): pass
    def hand_over(self, passage): pass

def memory_mb():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 10**6

_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 10_000), hard))
handoffs.MAX_SLOT_BYTES = handoffs.MAX_BYTES
dispatcher = Dispatcher(Loop(), on_exhausted=print)
ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
frame = encode_handoff(Handoff(slot=int(sys.argv[1]), unanswered=b"x" * 60_000, consumed=60_000))
before, others = memory_mb(), []
for _ in range(1_000):
    theirs.send(frame)
    handoff = decode_handoff(ours.recv(200_000), 1)
    dispatcher.hand_over(Passage(os.open("/dev/null", os.O_RDONLY), handoff))
    others.append(bytes(3_000))  # As all that is made meanwhile, and stays.
    del handoff
held = memory_mb()
dispatcher.add(Worker())
print(before, held, memory_mb())
"""
"""A dispatcher that holds 60 MB of requests for a while; it prints the memory of its process."""


@pytest.mark.parametrize("slot", [ANY, 0])
def test_memory_of_what_has_waited_is_given_back(slot: int) -> None:
    """To the system, and not only to the process, which may never need it again."""
    script = [sys.executable, "-c", SCRIPT, str(slot)]
    output = subprocess.run(script, capture_output=True, text=True, check=True).stdout
    before, held, after = map(float, output.split())
    assert held - before > 55
    assert after - before < TRIM_BYTES / 10**6 + 7


def test_what_waits_comes_out_in_its_order() -> None:
    """With what was put back before the others."""
    some = [Passage(number, Handoff(unanswered=bytes(number))) for number in range(6)]
    waiting = Passages()
    waiting.append(some[2])
    waiting.extend([some[3], Passage(9)])
    waiting.extendleft(reversed(some[:2]))
    assert waiting[0] == some[0]
    assert [waiting.popleft() for _ in range(5)] == [*some[:4], Passage(9)]
    assert not waiting


def test_what_was_all_taken_out_does_not_count_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its memory is given back with that of the next one."""
    trims: list[int] = []
    monkeypatch.setattr(passages, "TRIM_BYTES", 100)
    monkeypatch.setattr(passages, "_malloc_trim", trims.append)
    waiting = Passages()
    waiting.extend(Passage(number, Handoff(unanswered=bytes(50))) for number in range(4))
    assert [passage.fd for passage in waiting.take_all()] == [0, 1, 2, 3]
    assert not waiting
    waiting.append(Passage(4, Handoff(unanswered=b"x")))
    waiting.popleft()
    assert trims == [0]

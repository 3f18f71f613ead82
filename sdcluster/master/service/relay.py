"""Passes messages on between the workers and the agent of a service. It reads no message.

A worker may write to the agent and to all workers; the agent to each worker and to all. A request
is remembered until its answer has passed, so that who asked is told when there will be none. What
the agent is sent while there is none waits for the next one.
"""

import contextlib
import json
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from sdcluster.errors import ProtocolError, SpawnError, reason_of
from sdcluster.master.host import closing
from sdcluster.messaging.endpoint import Messenger
from sdcluster.system.descriptors import duplicates, is_socket
from sdcluster.system.event_loop import EventLoop
from sdcluster.wire.messages import ALL, MASTER, Frame, Kind, refusal

MAX_REQUESTS = 16384
"""Requests to one process whose answer has not passed; the oldest are forgotten."""
MAX_NUMBER = 2**32 - 1
MAX_WAITING = 1024
"""Frames that wait for an agent."""
MAX_WAITING_BYTES = 4 * 1024 * 1024
MAX_WAITING_DESCRIPTORS = 64
"""Of those frames; the master needs descriptors of its own to start the agent."""

_ANSWERS = (Kind.REPLY, Kind.ERROR)
_FROM_WORKERS = (Kind.MESSAGE, Kind.REQUEST, *_ANSWERS)
_SLOWNESS = (Kind.PAUSE, Kind.RESUME)


@dataclass(slots=True, eq=False)
class _End:
    """A process with a message channel."""

    worker: int
    is_agent: bool
    messenger: Messenger
    theirs: socket.socket
    introduction: bytes = b""
    """What the agent is told of it, once it runs."""
    has_agent: bool = True
    """Whether its generation has an agent, which it may write to."""
    asked: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Who waits for its answer, as (worker, number), by the number that it was asked with."""
    numbers: int = 0
    last_number: int = 0
    """The highest that it was asked with."""
    held_up: set[int] = field(default_factory=set)
    """Who was told that it is slow."""
    notes: list[Frame] = field(default_factory=list)
    """What it has to be told by the relay, once it reads again."""

    @property
    def name(self) -> int:
        """What others call it, as a peer."""
        return MASTER if self.is_agent else self.worker


class Relay:
    """The message channels of all processes of a cluster."""

    def __init__(
        self,
        loop: EventLoop,
        *,
        on_offence: Callable[[int, str], None],
        on_dropped: Callable[[int], None],
    ) -> None:
        """`on_offence` is told of a worker that broke the protocol, and how.

        `on_dropped` is told of a worker that something was not passed on to, as it reads nothing.
        """
        self._loop = loop
        self._on_offence = on_offence
        self._on_dropped = on_dropped
        self._ends: dict[int, _End] = {}
        self._agent: _End | None = None
        """The one that is asked; another may still be answering."""
        self._waiting: deque[tuple[_End, Frame, list[int]]] = deque()
        self._waiting_bytes = 0
        self._waiting_descriptors = 0
        self._dropped: set[int] = set()

    def open(self, worker: int, *, is_agent: bool, has_agent: bool = True) -> int:
        """Return the descriptor of the channel for a process to be. Raises `SpawnError`.

        `has_agent` tells whether there is an agent for it to write to.
        """
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError as error:
            raise SpawnError(f"cannot start a process: {reason_of(error)}") from error
        messenger = Messenger(
            ours,
            self._loop,
            on_frame=lambda frame, fds: self._received(end, frame, fds),
            on_end=lambda reason: self._ended(end, reason),
            on_drained=lambda: self._caught_up(end),
            close=closing.close,
        )
        end = _End(worker, is_agent, messenger, theirs, has_agent=has_agent)
        self._ends[worker] = end
        if is_agent:
            for other in self._ends.values():
                if other.introduction:
                    self._introduce(end, other)
        return theirs.fileno()

    def given(self, worker: int) -> None:
        """The process has its descriptor. Harmless when it has no channel."""
        if worker in self._ends:
            self._ends[worker].theirs.close()  # At once: nobody has sent descriptors there yet.

    def joins(self, worker: int, *, slot: int, generation: int, pid: int) -> None:
        """A worker serves; an agent is the one that is asked from now on.

        Harmless for a process that has no channel.
        """
        end = self._ends.get(worker)
        if end is None:
            return
        if not end.is_agent:
            about = {"slot": slot, "generation": generation, "pid": pid}
            end.introduction = json.dumps(about).encode()
            for agent in self._agents():
                self._introduce(agent, end)
            return
        self._agent = end
        waiting, self._waiting = self._waiting, deque()
        self._waiting_bytes = self._waiting_descriptors = 0
        for sender, frame, descriptors in waiting:
            self._to_agent(sender, frame, descriptors)
            closing.close(descriptors)

    def _agents(self) -> list[_End]:
        return [end for end in self._ends.values() if end.is_agent]

    def _introduce(self, agent: _End, end: _End) -> None:
        self._note(agent, Frame(Kind.JOINED, end.introduction, end.worker))

    def retires(self, worker: int) -> None:
        """An agent is to end: what it is sent from now on waits for the next one.

        Harmless for a worker, and for a process that has no channel.
        """
        end = self._ends.get(worker)
        if end is None or not end.is_agent:
            return
        if self._agent is end:
            self._agent = None
        self._note(end, Frame(Kind.FINISH))

    def leaves(self, worker: int) -> None:
        """A process is dead: say so to who waits for it. Harmless when it has no channel."""
        end = self._ends.pop(worker, None)
        if end is None:
            return
        if self._agent is end:
            self._agent = None
        end.messenger.read_rest()
        end.messenger.close()
        closing.close_socket(end.theirs)
        self._caught_up(end)
        what = "the agent" if end.is_agent else f"worker {worker}"
        for asker, number in end.asked.values():
            self._refuse(asker, number, f"{what} ended before it answered")
        for other in self._ends.values():
            other.held_up.discard(worker)
        if end.introduction:
            for agent in self._agents():
                self._note(agent, Frame(Kind.LEFT, b"", worker))
        self._dropped.discard(worker)

    # What processes say.

    def _received(self, end: _End, frame: Frame, descriptors: list[int]) -> None:
        """Take a frame from a process. Raises `ProtocolError`, which ends its channel."""
        try:
            if frame.kind not in _FROM_WORKERS:
                raise ProtocolError(f"a message of kind {frame.kind.name}")
            _check_attached(frame, descriptors)
            if frame.kind in _ANSWERS:
                self._answer(end, frame, descriptors)
            elif frame.peer == ALL:
                self._to_all(end, frame, descriptors)
            elif end.is_agent:
                self._to_worker(end, frame, descriptors)
            elif frame.peer == MASTER and end.has_agent:
                self._to_agent(end, frame, descriptors)
            else:
                raise ProtocolError(f"a message for {frame.peer}")
        finally:
            closing.close(descriptors)

    def _to_all(self, sender: _End, frame: Frame, descriptors: list[int]) -> None:
        if frame.kind is not Kind.MESSAGE:
            raise ProtocolError("a request for all")
        for end in list(self._ends.values()):
            if not end.is_agent:
                self._pass_on(sender, end, frame, descriptors)

    def _to_worker(self, agent: _End, frame: Frame, descriptors: list[int]) -> None:
        end = self._ends.get(frame.peer)
        if end is not None and not end.is_agent:
            self._pass_on(agent, end, frame, descriptors)
        elif frame.kind is Kind.REQUEST:
            self._refuse(agent.worker, frame.number, f"worker {frame.peer} is gone")

    def _answer(self, end: _End, frame: Frame, descriptors: list[int]) -> None:
        if not 0 < frame.number <= end.last_number:
            raise ProtocolError(f"an answer to {frame.number}, which it was not asked")
        asker, number = end.asked.pop(frame.number, (0, 0))
        if asker in self._ends:  # Else it is gone, or nobody has asked.
            self._pass_on(end, self._ends[asker], frame._replace(number=number), descriptors)

    def _to_agent(self, end: _End, frame: Frame, descriptors: list[int]) -> None:
        if self._agent is not None:
            self._pass_on(end, self._agent, frame, descriptors)
            return
        if not self._waits(end, frame, descriptors) and frame.kind is Kind.REQUEST:
            self._refuse(end.worker, frame.number, "the agent is not there")

    def _waits(self, end: _End, frame: Frame, descriptors: list[int]) -> bool:
        """Have a frame wait for an agent, if there is room."""
        size = self._waiting_bytes + len(frame.body)
        attached = self._waiting_descriptors + len(descriptors)
        if (
            len(self._waiting) >= MAX_WAITING
            or size > MAX_WAITING_BYTES
            or attached > MAX_WAITING_DESCRIPTORS
        ):
            return False
        try:
            kept = duplicates(descriptors)
        except OSError:
            return False
        self._waiting.append((end, frame, kept))
        self._waiting_bytes, self._waiting_descriptors = size, attached
        return True

    # Passing on.

    def _pass_on(self, sender: _End, end: _End, frame: Frame, descriptors: list[int]) -> None:
        """Pass a frame on; tell the sender when the receiver is slow, or will not answer."""
        number, is_answer = frame.number, frame.kind in _ANSWERS
        if frame.kind is Kind.REQUEST:
            number = self._remember(sender, end, number)
        has_room = False
        try:
            passed = Frame(frame.kind, frame.body, sender.name, number, frame.attached)
            has_room = end.messenger.send(passed, descriptors)
        except OSError as error:
            if frame.kind is Kind.REQUEST:
                del end.asked[number]
            if end is self._agent and isinstance(error, BrokenPipeError) and not is_answer:
                self._agent = None  # It is dead, which will be seen: this is for the next one.
                self._to_agent(sender, frame, descriptors)
                return
            if frame.kind is Kind.REQUEST:
                self._refuse(sender.worker, frame.number, reason_of(error))
            self._drop(end)
        if not has_room and not end.messenger.closed and sender.worker not in end.held_up:
            end.held_up.add(sender.worker)
            self._note(sender, Frame(Kind.PAUSE, b"", end.name))

    def _remember(self, sender: _End, end: _End, number: int) -> int:
        """Return the number that `end` is asked with: that of the sender may be another's, too."""
        if len(end.asked) >= MAX_REQUESTS:
            del end.asked[next(iter(end.asked))]
        end.numbers = end.numbers % MAX_NUMBER + 1
        end.last_number = max(end.last_number, end.numbers)
        end.asked[end.numbers] = (sender.worker, number)
        return end.numbers

    def _drop(self, end: _End) -> None:
        if end.worker not in self._dropped and not end.messenger.closed:
            self._dropped.add(end.worker)
            self._on_dropped(end.worker)

    def _refuse(self, asker: int, number: int, reason: str) -> None:
        if asker in self._ends:
            with contextlib.suppress(OSError):  # One that does not read waits for nothing.
                self._ends[asker].messenger.send(refusal(number, reason))

    def _caught_up(self, end: _End) -> None:
        """A process has read what waited for it: tell those who were told to wait."""
        held_up, end.held_up = end.held_up, set()
        self._dropped.discard(end.worker)
        for worker in held_up:
            if worker in self._ends:
                self._note(self._ends[worker], Frame(Kind.RESUME, b"", end.name))
        notes, end.notes = end.notes, []
        for note in notes:
            self._note(end, note)

    def _note(self, end: _End, frame: Frame) -> None:
        """Tell a process what it would be wrong about for ever if that was dropped."""
        if frame.kind in _SLOWNESS:  # Only the last word counts, and so there are few of them.
            same = [one for one in end.notes if one.kind in _SLOWNESS and one.peer == frame.peer]
            for one in same:
                end.notes.remove(one)
        if end.notes:
            end.notes.append(frame)
            return
        try:
            end.messenger.send(frame)
        except BlockingIOError:
            end.notes.append(frame)
        except OSError:
            pass  # It is dead, which will be seen.

    def _ended(self, end: _End, reason: str) -> None:
        """A process says nothing any more."""
        if self._agent is end:
            self._agent = None
        self._caught_up(end)
        if reason:
            self._on_offence(end.worker, reason)

    def close(self) -> None:
        """Close all channels."""
        for worker in list(self._ends):
            self.leaves(worker)
        for _, _, descriptors in self._waiting:
            closing.close(descriptors)


def _check_attached(frame: Frame, descriptors: list[int]) -> None:
    """Raise `ProtocolError` when there is more with a frame than one socket with a message.

    Whoever gets it cannot tell whose fault that is.
    """
    if descriptors and (
        frame.kind is not Kind.MESSAGE or len(descriptors) > 1 or not is_socket(descriptors[0])
    ):
        raise ProtocolError("a message with what is not one connection")

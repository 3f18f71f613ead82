"""What workers say before they are online."""

import contextlib
import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from sdcluster.core.manual import Stage
from sdcluster.master.host import closing
from sdcluster.master.host.loop import Loop
from sdcluster.master.program.early_frames import MAX_BYTES, MAX_DESCRIPTORS, EarlyFrames
from sdcluster.master.program.handlers import Handlers
from sdcluster.master.program.inbox import Inbox
from sdcluster.master.program.openings import Openings
from sdcluster.messaging.endpoint import Messenger
from sdcluster.messaging.requests import encode
from sdcluster.wire import messages
from sdcluster.wire.messages import MASTER, Frame, Kind
from unit.descriptors import count, none_leaked

MUCH_BYTES = 16 * 1024 * 1024


class Scene:
    """A worker that is not online yet, and the inbox that takes what it says."""

    def __init__(self) -> None:
        ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.theirs.setblocking(False)
        self.loop = Loop()
        self.told: list[Any] = []
        self.inbox = Inbox(
            cast("Openings", None),
            cast("Handlers", None),
            is_shared=False,
            feed=lambda _event: None,
            send_all=lambda _frame: None,
            soon=lambda _function, *arguments: self.told.append(arguments),
            on_listening=lambda *_told: None,
        )
        self.worker: Any = SimpleNamespace(id=1, _stage=Stage.FORKED, _early_frames=EarlyFrames())
        self.worker._messenger = Messenger(
            ours,
            self.loop,
            on_frame=lambda frame, fds: self.inbox.received(self.worker, frame, fds),
            on_end=lambda reason: self.inbox.ended(self.worker, reason),
            close=closing.close,
        )
        self._unsent = b""

    def turn(self) -> None:
        """Run what is ready."""
        self.loop.call_later(0.001, lambda: None)
        self.loop._turn()

    def say(self, message: object, fds: list[int], *, most_bytes: int) -> int:
        """Say it over and over, as long as it is read; return how many bytes were."""
        frame = Frame(Kind.MESSAGE, encode(message), MASTER, attached=len(fds))
        data, sent = messages.encode(frame), 0
        while sent < most_bytes:
            try:
                if self._unsent:
                    done = self.theirs.send(self._unsent)
                    self._unsent = self._unsent[done:]
                else:
                    done = socket.send_fds(self.theirs, [data], fds)
                    self._unsent = data[done:]
            except BlockingIOError:
                waiting = self._waiting()
                self.turn()
                if self._waiting() == waiting:
                    return sent
            else:
                sent += done
        return sent

    def _waiting(self) -> int:
        """Return how much is in the channel that nobody has read."""
        with contextlib.suppress(BlockingIOError):
            return len(self.worker._messenger._sock.recv(1 << 20, socket.MSG_PEEK))
        return 0

    def close(self) -> None:
        """Close all."""
        self.worker._messenger.close()
        self.worker._early_frames.close()
        self.theirs.close()
        self.loop.close()


@pytest.fixture
def scene() -> Iterator[Scene]:
    """Make one."""
    with none_leaked():
        made = Scene()
        yield made
        made.close()


@pytest.mark.parametrize("size", [1, 100_000])
def test_worker_that_says_much_before_it_is_online_has_to_wait(scene: Scene, size: int) -> None:
    """The master holds little of it, and hears all of it then."""
    message = "x" * size
    frame_bytes = len(messages.encode(Frame(Kind.MESSAGE, encode(message), MASTER)))
    sent = scene.say(message, [], most_bytes=MUCH_BYTES)
    assert sent < MUCH_BYTES
    assert not scene.told
    scene.worker._stage = Stage.ONLINE
    scene.inbox.take_early(scene.worker)
    early = len(scene.told)
    assert early * frame_bytes <= MAX_BYTES + 1_000_000
    sent += scene.say(message, [], most_bytes=1_000_000)
    for _ in range(20):
        scene.turn()
    assert len(scene.told) == sent // frame_bytes
    assert {told[1] for told in scene.told} == {message}


def test_descriptors_that_come_before_a_worker_is_online_are_few(scene: Scene) -> None:
    """The master needs its own."""
    before = count()
    scene.say("x", [0], most_bytes=100_000)
    assert count() - before <= 2 * MAX_DESCRIPTORS

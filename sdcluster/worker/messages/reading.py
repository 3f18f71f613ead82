"""Who reads the channel to the master: a thread of ours, or the loop that the handlers run on.

A program of any kind can be a worker, so a thread reads. When the program has an asyncio loop with
handlers, that loop reads: a message wakes one thread then, and not two, one after the other. The
thread reads again as soon as the loop cannot be relied on: when it is closed, while it waits in a
call of the cluster's, and when others wait for answers.
"""

import asyncio
import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator

from sdcluster.messaging.endpoint import Messenger


class _Turn:
    """What the program's loop calls. It is the loop's alone, and so tells when that is closed."""

    def __init__(self, reading: "Reading") -> None:
        self._reading = reading

    def __call__(self) -> None:
        self._reading.turn(self)


class Reading:
    """Moves the reading between the two. Both may read at once: the channel has a lock for it."""

    def __init__(
        self, messenger: Messenger, in_own_loop: Callable[[Callable[[], object]], None]
    ) -> None:
        """`in_own_loop` runs a function in the thread of ours."""
        self._messenger = messenger
        self._in_own_loop = in_own_loop
        self._loop: asyncio.AbstractEventLoop | None = None
        """The program's, while it reads."""
        self._thread = 0
        """The one that runs that."""
        self._turn: weakref.ref[_Turn] | None = None
        self._waiting = False
        """Whether that is in a call of the cluster's."""
        self._stays = False

    def offer(self) -> None:
        """Have the loop that runs here read, unless another one did, or threads wait too."""
        loop = asyncio.get_running_loop()
        if self._stays or loop is self._loop or self._messenger.closed:
            return
        if self._loop is not None:
            self.stay()
            return
        turn = _Turn(self)
        self._messenger.is_read_elsewhere = True
        try:
            loop.add_reader(self._messenger.fileno(), turn)
        except NotImplementedError:
            return
        self._turn = weakref.ref(turn, self._lost)
        self._thread = threading.get_ident()
        self._loop = loop
        self._in_own_loop(self._settle)

    def stay(self) -> None:
        """Have the thread of ours read from now on. Any thread may call it."""
        self._stays = True
        self._loop = self._turn = None
        self._in_own_loop(self._settle)

    def answers(self) -> None:
        """Be told that the loop that runs here is to be woken by an answer."""
        if self._loop is not None and self._loop is not asyncio.get_running_loop():
            self.stay()

    @contextlib.contextmanager
    def meanwhile(self) -> Iterator[None]:
        """Have the thread of ours read while the caller waits for an answer."""
        if self._loop is None:
            yield
        elif self._thread != threading.get_ident():
            self.stay()  # The loop may come to wait for this thread.
            yield
        else:
            self._waiting = True
            self._in_own_loop(self._settle)
            try:
                yield
            finally:
                self._waiting = False
                self._in_own_loop(self._settle)

    def turn(self, turn: _Turn) -> None:
        """Read, in the program's loop."""
        if self._turn is not None and self._turn() is turn and not self._messenger.closed:
            self._messenger.read()
            if self._messenger.lacks_descriptors:
                self.stay()  # This loop would be called again and again until there are some.
        else:
            asyncio.get_running_loop().remove_reader(self._messenger.fileno())

    def _lost(self, turn: "weakref.ref[_Turn]") -> None:
        """The loop has been closed, or does not read any more."""
        if turn is self._turn:
            self._loop = self._turn = None
            self._in_own_loop(self._settle)

    def _settle(self) -> None:
        if not self._messenger.closed:
            self._messenger.watch_reading(self._loop is None or self._waiting)

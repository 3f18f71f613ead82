"""How connections come in: from the master over the control channel, or accepted here.

Listeners are not given to the engine or the event loop to serve: both would call listen(2) again,
which changes the backlog that systemd has set, and empty the backlog in one go, which starves the
other workers.

Nor is anything taken that there are no descriptors for: it would be lost. The master is told, gives
it to others, and nothing more to this worker until it has descriptors again (`STARVED_NS`).
"""

import asyncio
import logging
import resource
import select
import socket
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from sdcluster.errors import ProtocolError, reason_of
from sdcluster.system import descriptors
from sdcluster.wire import channel, notify
from sdcluster.wire.channel import NEW, Handoff
from sdcluster.wire.scoreboard import Field, Scoreboard
from sdcluster.worker.moving.ledger import Ledger

ACCEPTS_PER_TURN = 4
"""Connections taken in one turn of the loop, so that siblings get theirs."""
FRAMES_PER_TURN = 16

_CONNECTIONS, _TAKEN = int(Field.CONNECTIONS), int(Field.TAKEN)
_WAITING, _MOVES = int(Field.WAITING), int(Field.MOVES)
_STARVED_NS = int(Field.STARVED_NS)
_ANCILLARY_BYTES = descriptors.space(channel.MAX_CONNECTIONS_PER_FRAME)

ConnectionFactory = Callable[[int, Handoff, socket.socket | None], asyncio.BaseProtocol]
"""Takes the number of a descriptor, what came with it, and its socket if that is a Unix one."""

logger = logging.getLogger("sdcluster")


class Intake:
    """Takes connections and makes a protocol for each with `connection_factory`.

    `on_finish` is called when there is nobody to hand connections over to, `on_hurry` when new
    clients wait for the end of this worker, `on_move` to hand idle connections over: how many,
    and to which slot. `on_end` is called once, when the master says that
    no more will come, or is dead.
    """

    def __init__(
        self,
        control: socket.socket,
        listeners: Sequence[socket.socket],
        board: Scoreboard,
        *,
        ledger: Ledger,
        connection_factory: ConnectionFactory,
        connections: Callable[[], int],
        max_connections: int,
        on_finish: Callable[[], None],
        on_hurry: Callable[[], None],
        on_move: Callable[[int, int], None],
        on_end: Callable[[], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._control = control
        self._listeners = [_Listener(listener) for listener in listeners]
        self._words = board.words
        self._ledger = ledger
        self._connection_factory = connection_factory
        self._connections = connections
        self._max_connections = max_connections
        self._on_finish = on_finish
        self._on_hurry = on_hurry
        self._on_move = on_move
        self._on_end = on_end
        self._opening: set[asyncio.Task[Any]] = set()
        self._admitted = False
        self._accepting = False
        self._closed = False
        # Descriptors are given out lowest first: one that high means that there are few left.
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._high_fd = soft - 2 * channel.MAX_CONNECTIONS_PER_FRAME if soft > 0 else sys.maxsize
        self._is_scarce = True
        self._is_starved = False
        """Whether connections wait, or may, that there are no descriptors for."""
        self._has_told = False
        """That connections wait, since one was last taken."""
        control.setblocking(False)
        self._listen_to_master()

    @property
    def is_limited(self) -> bool:
        """Whether there is a limit to the connections open at a time."""
        return bool(self._max_connections)

    @property
    def is_arriving(self) -> bool:
        """Whether there are connections that have no protocol yet."""
        is_left = self._is_starved and _connections(self._peek() or b"") > 0
        return bool(self._opening) or is_left

    @property
    def opening(self) -> int:
        """How many connections were taken and do not have their protocol yet."""
        return len(self._opening)

    def tell(self, **assignments: str | int) -> None:
        """Send a notification to the master."""
        tell(self._control, **assignments)

    def stop_accepting(self) -> None:
        """Leave the listeners to others, if there are any; what the master sends is still taken."""
        self._closed = True
        self._pause()
        for listener in self._listeners:
            listener.sock.close()
        self._listeners.clear()

    def look_for_room(self) -> None:
        """Accept again if fewer connections are open than allowed; called when one has closed."""
        if not self._accepting and self._admitted and not self._closed and self._has_room():
            self._resume()

    def _has_room(self) -> bool:
        limit = self._max_connections
        return not limit or self._connections() + len(self._opening) < limit

    def _resume(self) -> None:
        if not self._accepting and not self._closed and not self._is_starved:
            self._accepting = True
            for listener in self._listeners:
                self._loop.add_reader(listener.sock, self._accept, listener)

    def _pause(self) -> None:
        if self._accepting:
            self._accepting = False
            for listener in self._listeners:
                self._loop.remove_reader(listener.sock)

    def _accept(self, listener: "_Listener") -> None:
        for _ in range(ACCEPTS_PER_TURN):
            if not self._accepting:
                return
            if not self._has_room():
                self._pause()
                return
            if self._is_scarce and not self._has_descriptors():
                self._starve("descriptors are used up")
                return
            self._ledger.begin_taking()
            try:
                connection = listener.accept()
                self._is_scarce = connection.fileno() >= self._high_fd
                self._open(connection, NEW, is_unix=listener.is_unix)
                self.count()
            except (BlockingIOError, InterruptedError):
                return  # A sibling was faster.
            except ConnectionAbortedError:
                continue
            except OSError as error:
                if error.errno not in descriptors.EXHAUSTED:
                    raise
                self._starve(f"cannot accept: {reason_of(error)}")
                return
            finally:
                self._ledger.end_taking()

    def closed(self) -> None:
        """Use the room that a connection has left by closing, or let the master use it."""
        self.count()
        if self._max_connections:
            self.look_for_room()
            self._tell_room()

    def count(self) -> None:
        """Tell the master how many connections there are."""
        self._words[_CONNECTIONS] = self._connections() + len(self._opening)

    def _tell_room(self) -> None:
        if self._words[_WAITING]:
            self._words[_WAITING] = 0
            self.tell(X_TAKEN=1)

    def _listen_to_master(self) -> None:
        self._loop.add_reader(self._control, self._read_control)

    def _read_control(self) -> None:
        for _ in range(FRAMES_PER_TURN):
            frame = self._peek()
            if frame is None:
                return
            if not self._has_descriptors_for(_connections(frame)):
                self._starve("descriptors are used up")
                return
            self._ledger.begin_taking()
            try:
                if not self._take():
                    return
            finally:
                self._ledger.end_taking()

    def _peek(self) -> bytes | None:
        """Return how the next frame begins; nothing at the end, None when there is none yet."""
        try:
            return self._control.recv(channel.MAX_CONNECTIONS_PER_FRAME, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError:
            return b""

    def _has_descriptors(self) -> bool:
        """Tell whether there are descriptors for connections, and some for the app."""
        return self._has_descriptors_for(channel.MAX_CONNECTIONS_PER_FRAME)

    def _has_descriptors_for(self, connections: int) -> bool:
        if connections and self._is_scarce:
            connections = channel.MAX_CONNECTIONS_PER_FRAME  # Some are for the app.
        try:
            descriptors.require(connections, like=self._control.fileno())
        except OSError:
            return False
        return True

    # Without descriptors.

    def look_for_leaks(self) -> None:
        """Have it known that descriptors are used up before there is a connection to take."""
        if not self._is_starved and not self._has_descriptors():
            self._starve("descriptors are used up")

    def _starve(self, reason: str) -> None:
        """Leave all connections to others until there are descriptors for some."""
        self._is_starved = self._is_scarce = True
        self._words[_STARVED_NS] = time.monotonic_ns()
        self._pause()
        self._loop.remove_reader(self._control)
        if not self._has_told:
            self._has_told = True
            logger.warning("%s; connections wait", reason)
        self._stay_starved()

    def _stay_starved(self) -> None:
        # Each time: the master may have had no time to listen, or no descriptors itself.
        self.tell(X_STARVED=1)
        self._loop.call_later(descriptors.EXHAUSTED_RETRY_S, self._look_for_descriptors)

    def _look_for_descriptors(self) -> None:
        if self._has_descriptors():
            self._is_starved = False
            self._words[_STARVED_NS] = 0
            self._listen_to_master()
            self.look_for_room()
            return
        if _is_dead(self._control):
            self._on_end()  # It is told only behind the connections that wait.
        while (frame := self._peek()) is not None and not _connections(frame):
            if not self._take():
                break
        self._stay_starved()

    def _take(self) -> bool:
        """Take one frame; False when there is none."""
        arrival = self._ledger.arrival
        try:
            length, ancillary, flags, _ = self._control.recvmsg_into(
                [arrival], _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
            )
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            length, ancillary, flags = 0, [], 0
        data = bytes(arrival[:length])
        fds = descriptors.attached(ancillary)
        attached = len(fds)
        if flags & socket.MSG_CTRUNC:
            attached = 1 if data.startswith(channel.HANDOFF) else length
            logger.error("descriptors are used up: %d connections lost", attached - len(fds))
        if data == channel.FINISH:
            self._on_finish()
            return True
        if data == channel.HURRY:
            self._on_hurry()
            return True
        came_with = NEW
        if data:
            try:
                if data.startswith(channel.MOVE):
                    self._move(*channel.decode_move(data, attached))
                    return True
                if data.startswith(channel.HANDOFF):
                    came_with, taken = channel.decode_handoff(data, attached), 1
                else:
                    taken = channel.decode_order(data, attached)
            except ProtocolError:
                logger.exception("the master broke the protocol; this worker drains")
                data = b""
        if not data:
            self._loop.remove_reader(self._control)
            self._on_end()
            return False
        if not taken:
            self._admitted = True
            self.look_for_room()
            return True
        self._is_scarce = max(fds, default=sys.maxsize) >= self._high_fd
        words = self._words
        # At once, and before they count as taken: the master must not miss any in between.
        words[_CONNECTIONS] += len(fds)
        words[_TAKEN] += taken
        for fd in fds:
            self._take_one(socket.socket(fileno=fd), came_with)
        self._tell_room()
        return True

    def _take_one(self, connection: socket.socket, came_with: Handoff) -> None:
        try:
            self._open(connection, came_with, is_unix=connection.family == socket.AF_UNIX)
        except Exception:  # Else those that came with it were open, and never served.
            _close_failed(connection)

    def _move(self, count: int, slot: int) -> None:
        """Hand connections over, and say what is left before it is seen that this is done."""
        self._on_move(count, slot)
        self.count()
        self._words[_MOVES] += 1

    def _open(self, connection: socket.socket, came_with: Handoff, *, is_unix: bool) -> None:
        self._has_told = False
        number = connection.fileno()
        self._ledger.enter(number, came_with)
        connection.setblocking(False)

        def make() -> asyncio.BaseProtocol:
            return self._connection_factory(number, came_with, connection if is_unix else None)

        task = self._loop.create_task(self._connect(connection, make))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _connect(
        self, connection: socket.socket, make: Callable[[], asyncio.BaseProtocol]
    ) -> None:
        try:
            await self._loop.connect_accepted_socket(make, connection)
        except OSError:
            connection.close()  # The client has gone already.
        except Exception:
            _close_failed(connection)


class _Listener:
    """A listening socket, with what of it is true of its connections."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.is_unix = sock.family == socket.AF_UNIX
        self._kind = int(sock.family), int(sock.type), sock.proto

    def accept(self) -> socket.socket:
        """Do as `socket.socket.accept`, which looks the kind up for each connection."""
        fd, _ = self.sock._accept()  # type: ignore[attr-defined]
        return socket.socket(*self._kind, fileno=fd)


def _close_failed(connection: socket.socket) -> None:
    logger.exception("a connection cannot be served, and is closed")
    connection.close()


def _connections(frame: bytes) -> int:
    """Return how many connections a frame brings that begins so."""
    if frame.startswith(channel.HANDOFF):
        return 1
    return len(frame) if frame.startswith(channel.CONNECTION) else 0


def _is_dead(control: socket.socket) -> bool:
    """Tell whether the master is dead, whatever is still in the channel: poll(2)."""
    poll = select.poll()
    poll.register(control, 0)  # Of POLLHUP one is always told.
    return any(events & select.POLLHUP for _, events in poll.poll(0))


def tell(control: socket.socket, **assignments: str | int) -> None:
    """Send a notification to the master, if it lives."""
    try:
        control.send(notify.encode(**assignments), socket.MSG_NOSIGNAL)
    except OSError:
        pass  # The master is dead, or so far behind that it knows.

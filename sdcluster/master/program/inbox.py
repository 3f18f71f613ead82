"""What the workers of a program say to its master, and what comes of it."""

import contextlib
import errno
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from sdcluster.core.manual import Event, KillWanted, Stage
from sdcluster.core.states import WorkerId
from sdcluster.errors import ClusterError, ListenError, ProtocolError, reason_of
from sdcluster.master.host import closing
from sdcluster.master.program.handlers import Handlers
from sdcluster.master.program.openings import Openings
from sdcluster.master.program.peer import Worker
from sdcluster.messaging import attachment
from sdcluster.messaging.requests import decode, encode
from sdcluster.wire.messages import ALL, Frame, Kind, refusal

_ENDING = {"SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP"}
"""Signals at which programs close what they have, and end."""


class Inbox:
    """Takes the frames of all workers."""

    def __init__(
        self,
        openings: Openings,
        handlers: Handlers,
        *,
        is_shared: bool,
        feed: Callable[[Event], None],
        send_all: Callable[[Frame], object],
        soon: Callable[..., None],
        on_listening: Callable[[Worker, Any], None],
    ) -> None:
        """`is_shared` tells that workers accept by themselves.

        `feed` tells the policy, `send_all` sends a frame to every worker, `soon` calls a function
        from the loop, and `on_listening` is told a worker and the address.
        """
        self._openings = openings
        self._handlers = handlers
        self._is_shared = is_shared
        self._feed = feed
        self._send_all = send_all
        self._soon = soon
        self._on_listening = on_listening

    def received(self, worker: Worker, frame: Frame, descriptors: list[int]) -> None:
        """Take a frame from a worker. Raises `ProtocolError`, which ends that one."""
        if worker._stage == Stage.FORKED:
            # It is online first, as another channel will tell.
            worker._early_frames.add(frame, descriptors)
            if worker._early_frames.is_full:
                worker._messenger.watch_reading(False)  # It waits as for anybody who is slow.
        else:
            self._take(worker, frame, descriptors)

    def take_early(self, worker: Worker) -> None:
        """Take what a worker has said before it was online."""
        frames = worker._early_frames.take()
        worker._messenger.watch_reading(True)
        try:
            for frame, descriptors in frames:
                self._take(worker, frame, descriptors)
        except ProtocolError as error:
            for _, descriptors in frames:
                closing.close(descriptors)
            self.ended(worker, str(error))

    def _take(self, worker: Worker, frame: Frame, descriptors: list[int]) -> None:
        match frame.kind:
            case Kind.MESSAGE if frame.peer == ALL:
                decode(frame.body)  # Others would be at fault who get it.
                with contextlib.suppress(ClusterError):  # One that does not read has enough.
                    self._send_all(Frame(Kind.MESSAGE, frame.body))
            case Kind.MESSAGE:
                message = decode(frame.body)
                connection = attachment.received(descriptors, close=closing.close)
                self._soon(self._tell_message, worker, message, connection)
            case Kind.REQUEST:
                self._soon(self._answer, worker, frame.number, decode(frame.body))
            case Kind.REPLY | Kind.ERROR:
                worker._requests.settle(frame, [])
            case Kind.LISTEN:
                self._listen(worker, frame)
            case Kind.UNLISTEN:
                self._unlisten(worker, frame)
            case Kind.DISCONNECT:
                worker.exited_after_disconnect = True
                self._feed(KillWanted(WorkerId(worker.id)))
            case _:
                raise ProtocolError(f"a message of kind {frame.kind.name}")
        closing.close(descriptors)  # Those that nobody has taken out.

    def _tell_message(self, worker: Worker, message: Any, connection: socket.socket | None) -> None:
        """Tell those who hear the worker, and those who hear all; a connection is for them all."""
        told = [
            worker._emitter.offer("message", message, extra=connection),
            self._handlers.events.offer("message", worker, message, extra=connection),
        ]
        if connection is not None and not any(told):
            closing.close_socket(connection)

    def _answer(self, worker: Worker, number: int, message: Any) -> None:
        if worker._has_ended:
            return
        reply = self._handlers.begin_answer(number, worker, message)
        if isinstance(reply, Frame):
            self._send_answer(worker, number, reply)
            return
        task = self._handlers.start(self._answer_later(worker, number, reply))
        worker._answers.add(task)
        task.add_done_callback(worker._answers.discard)

    async def _answer_later(self, worker: Worker, number: int, reply: Awaitable[Frame]) -> None:
        self._send_answer(worker, number, await reply)

    def _send_answer(self, worker: Worker, number: int, reply: Frame) -> None:
        with contextlib.suppress(ClusterError):  # It is gone, or does not read.
            try:
                worker._send_soon(reply)
            except ClusterError as error:
                worker._send(refusal(number, str(error)))

    def _listen(self, worker: Worker, frame: Frame) -> None:
        try:
            told, descriptors = self._openings.open(
                worker.id, decode(frame.body), shared=self._is_shared
            )
        except (ListenError, OSError) as error:
            if worker._stage == Stage.DISCONNECTED:
                return  # It is about to be interrupted, and would take this for a failure.
            cause = error if isinstance(error, OSError) else error.__cause__
            number = cause.errno if isinstance(cause, OSError) and cause.errno else errno.EINVAL
            body = encode({"errno": number, "text": reason_of(error)})
            with contextlib.suppress(ClusterError):
                worker._send(Frame(Kind.ERROR, body, number=frame.number))
            return
        body = encode(told)
        reply = Frame(Kind.REPLY, body, number=frame.number, attached=len(descriptors))
        with contextlib.suppress(OSError):  # It is gone: its exit follows.
            worker._messenger.send(reply, descriptors)
        self._openings.given(worker.id, told["key"])
        if worker._stage == Stage.DISCONNECTED:
            self._openings.retire(worker.id)
        else:
            name = told["name"]
            self._on_listening(worker, tuple(name) if isinstance(name, list) else name)

    def _unlisten(self, worker: Worker, frame: Frame) -> None:
        """Close a listener for a worker, and tell it if it waits for that."""
        key, is_meant = _closing(decode(frame.body))
        leaves = worker._stage == Stage.DISCONNECTED
        # A program that was sent a signal to end it closes what it has, and is about to end.
        is_meant = is_meant and not leaves and worker._signals.isdisjoint(_ENDING)
        self._openings.close(worker.id, key, is_meant=is_meant, leaves=leaves)
        if frame.number:
            with contextlib.suppress(ClusterError):  # It is gone.
                worker._send(Frame(Kind.REPLY, encode(None), number=frame.number))

    def ended(self, worker: Worker, reason: str) -> None:
        """A worker says nothing any more: it is dead, or has broken the protocol."""
        worker._requests.fail(f"worker {worker.id} is gone")
        if reason and not worker._has_ended:
            print(f"sdcluster: worker {worker.id} broke the protocol: {reason}", file=sys.stderr)
            worker.kill(signal.SIGKILL)


def _closing(value: Any) -> tuple[int, bool]:
    """Return which listener is closed, and whether that is meant. Raises `ProtocolError`."""
    match value:
        case {"key": int(key), "is_meant": bool(is_meant)}:
            return key, is_meant
    raise ProtocolError("a listener that makes no sense")

"""The worker of a service: its messages go over the event loop that the app is served on."""

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Sequence
from typing import Any

from sdcluster.errors import ClusterError
from sdcluster.messaging import attachment, requests
from sdcluster.wire import rendezvous
from sdcluster.wire.messages import MASTER, Frame
from sdcluster.worker.messages.member import Member
from sdcluster.worker.moving.intake import tell

NO_AGENT = "the service has no agent; name one in its configuration: agent = 'MODULE:FUNCTION'"


class AgentPeer:
    """The agent, as a worker reaches it."""

    def __init__(self, member: "ServiceMember") -> None:
        self._member = member

    def send(self, message: Any, connection: attachment.HasFileno | None = None) -> bool:
        """Send it a message that JSON can express, and maybe a socket with it.

        Returns False when so much waits to be read that the caller should wait, see `drain`. Raises
        `ClusterError` when it cannot be sent.
        """
        return self._member.send(message, connection)

    async def drain(self) -> None:
        """Wait until it has read enough for `send` to return True again."""
        await self._member.drain()

    async def request(self, message: Any, *, timeout_s: float = requests.DEFAULT_TIMEOUT_S) -> Any:
        """Ask it, and return what its handler returns, see `cluster.on_request`.

        While it is being started again the request waits. Raises `ClusterError` when there is no
        answer to come, TimeoutError when it does not come.
        """
        return await self._member.request(message, timeout_s=timeout_s)

    def ask(self, message: Any, *, timeout_s: float = requests.DEFAULT_TIMEOUT_S) -> Any:
        """As `request`, for threads that have no event loop, as those of WSGI: it waits."""
        return self._member.ask(message, timeout_s=timeout_s)


class ServiceMember(Member):
    """The worker that this process is, or is yet to be: an app that is imported adds handlers."""

    def __init__(self, *, has_agent: bool) -> None:
        super().__init__()
        self.slot = -1
        self._has_agent = has_agent
        self._control: socket.socket | None = None
        self._slots: Callable[[], int] = int

    def join(
        self,
        number: int,
        slot: int,
        slots: Callable[[], int],
        channel: socket.socket,
        control: socket.socket,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """Be the worker of that number from now on, in the loop that runs.

        It has the slot `slot`, and `slots` tells how many there are.
        """
        self.id = number
        self.slot = slot
        self._slots = slots
        self._control = control
        self._join(channel, loop)

    @property
    def agent(self) -> AgentPeer:
        """The agent. Raises `ClusterError` when there is none."""
        self._require_agent()
        return AgentPeer(self)

    def _require_agent(self) -> None:
        if not self._has_agent:
            raise ClusterError(NO_AGENT)

    def _send(self, frame: Frame, descriptors: Sequence[int] = ()) -> bool:
        if frame.peer == MASTER:
            self._require_agent()
        return super()._send(frame, descriptors)

    def _send_soon(self, frame: Frame) -> None:
        if frame.peer == MASTER:
            self._require_agent()
        super()._send_soon(frame)

    def owner(self, key: str | bytes) -> int:
        """Return the slot that a key belongs to. Raises `ClusterError` before the app serves."""
        slots = self._slots()
        if not slots:
            raise ClusterError("whose a key is can be told when the app serves, not before")
        return rendezvous.owner(key, slots)

    def owns(self, key: str | bytes) -> bool:
        """Tell whether a key belongs to this worker's slot. Raises `ClusterError` as `owner`."""
        return self.owner(key) == self.slot

    def disconnect(self) -> None:
        """Leave, as soon as another worker serves in this one's place."""
        if self._control is not None:
            self.exited_after_disconnect = True
            tell(self._control, X_WORN=1)

    def kill(self, number: int = signal.SIGTERM) -> None:
        """Send this worker a signal."""
        os.kill(self.pid, number)

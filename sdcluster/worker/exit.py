"""The way out for connections: to the master, which passes them on to another worker."""

import array
import socket

from sdcluster.errors import ProtocolError
from sdcluster.wire.channel import Handoff, encode_handoff


class Exit:
    """Gives connections to the master, as long as there is somebody to give them to."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self.is_shut = False

    def send(self, fd: int, handoff: Handoff) -> bool:
        """Give a descriptor to the master; False when it takes none, or none now."""
        if self.is_shut:
            return False
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
        try:
            self._control.sendmsg([encode_handoff(handoff)], rights, socket.MSG_NOSIGNAL)
        except (BrokenPipeError, ConnectionResetError):
            self.is_shut = True  # The master is dead.
            return False
        except (OSError, ProtocolError):
            return False  # Its channel is full, say.
        return True

    def shut(self) -> None:
        """Give it nothing more: there is nobody to give connections to."""
        self.is_shut = True

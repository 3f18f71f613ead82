"""The master's own log: structured entries in the journal, or lines on a terminal.

Each entry has a MESSAGE_ID for its kind, explained in the message catalog (`journalctl -x`), and
SDCLUSTER_ fields that say whom it is about. The workers log for themselves.

Neither way waits for a reader: an entry that the journal or the terminal does not take is lost.
That is why sd_journal_send(3) is not used, which waits for as long as the journal is stuck.
"""

import array
import errno
import fcntl
import os
import socket
from dataclasses import asdict, dataclass
from enum import StrEnum, unique
from syslog import LOG_ERR, LOG_INFO, LOG_NOTICE, LOG_WARNING
from typing import Final

from sdcluster.core.states import Slot, label
from sdcluster.master.host.output import Output
from sdcluster.system import process
from sdcluster.wire import journal


@unique
class EventKind(StrEnum):
    """The MESSAGE_ID of each kind of entry, see systemd.journal-fields(7)."""

    STARTING = "0479cde544c04f17bb0bc2ada2f663eb"
    """The cluster starts."""
    READY = "4bf67b18161f4d64bc568492d72721e6"
    """Enough workers serve."""
    STOPPING = "97a5b75d65834bfe95f1e4539197795a"
    """The cluster drains."""
    STOPPED = "2f385551b8284f498d6b132dc2631e7f"
    """The cluster has ended."""
    START_FAILED = "6980994729ae4594b3262522eced7521"
    """The cluster could not start."""
    START_WAITS = "ac3ca70be736481c8b91c91640b7888f"
    """The cluster could not start yet."""
    WORKER_READY = "f8d89d5b0a9b46489e006e3ecd6c86da"
    """A worker serves."""
    WORKER_RETIRED = "cf4e365c777143bfba62c2d1f048ec28"
    """A worker left by the cluster's choice."""
    WORKER_WORN = "e1a7e0ffa85b4cc39973fb45e312a3b3"
    """A worker has served its time, and is replaced."""
    WORKER_LOST = "9ed4c967dac3484d978e60dedd361780"
    """A worker crashed, hung or did not become ready."""
    WORKER_STUCK = "33ad61ca5c5a43deabf532c4b407f85f"
    """A worker is aborted or killed."""
    WORKER_PROTOCOL = "a558a99ebe5b4550b6a040f5502b923b"
    """A worker sent what the protocol does not allow."""
    CONNECTIONS_KEPT = "d82ca3f807dc4927bda95e2fbdc0700f"
    """The connections of a dead worker went to others."""
    RELOAD_BEGUN = "8b7381641bd84b67b3bc85b592c356c5"
    """A rolling reload begins."""
    RELOAD_DONE = "2b36a94cfc6b4f6e864e2c3901bc8e02"
    """The new code is live."""
    RELOAD_FAILED = "4dd75e286e9f4bce8d94218f064557d6"
    """A reload failed."""
    ROLLBACK = "a29393b5787741a9bb419b55a8ba02fe"
    """Replaced slots go back to the old code."""
    MOLD_LOST = "d7879813fc584e5ea092127300ee8da3"
    """The process that workers are forked from is gone."""
    ACCEPT_PAUSED = "e7dba602c74e41c9829519df72c8059e"
    """Connections wait in the backlog, as a limit is reached."""
    MESSAGES_DROPPED = "7d344f7a431943d29494ed4c553c5542"
    """A worker or the agent does not read what others send it."""
    NOTE = "1183062f40b443a38ba837107fd43f11"
    """Something that the administrator should know."""


PRIORITIES: Final = {
    EventKind.READY: LOG_NOTICE,
    EventKind.RELOAD_DONE: LOG_NOTICE,
    EventKind.START_FAILED: LOG_ERR,
    EventKind.START_WAITS: LOG_ERR,
    EventKind.RELOAD_FAILED: LOG_ERR,
    EventKind.WORKER_WORN: LOG_NOTICE,
    EventKind.WORKER_LOST: LOG_WARNING,
    EventKind.WORKER_STUCK: LOG_WARNING,
    EventKind.CONNECTIONS_KEPT: LOG_NOTICE,
    EventKind.WORKER_PROTOCOL: LOG_ERR,
    EventKind.ROLLBACK: LOG_WARNING,
    EventKind.MOLD_LOST: LOG_WARNING,
    EventKind.ACCEPT_PAUSED: LOG_WARNING,
    EventKind.MESSAGES_DROPPED: LOG_WARNING,
    EventKind.NOTE: LOG_WARNING,
}
"""How grave each kind is; LOG_INFO where it is not listed. syslog(3)."""


@dataclass(frozen=True, slots=True)
class About:
    """Whom an entry is about."""

    slot: int | None = None
    worker: int | None = None
    generation: int | None = None


class Journal:
    """Writes entries about the instance `name`."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._stderr = Output(2)
        self._socket = _journal_socket()

    def write(
        self,
        kind: EventKind,
        message: str,
        about: About = About(),
        *,
        detail: str = "",
    ) -> None:
        """Write an entry. `detail` is text of several lines, a traceback for one."""
        text = f"{message}\n{detail.rstrip()}" if detail else message
        if self._socket is None:
            self._stderr.write(f"sdcluster[{self._name}]: {text}\n")
            return
        fields = {
            "MESSAGE": text,
            "MESSAGE_ID": kind.value,
            "PRIORITY": str(PRIORITIES.get(kind, LOG_INFO)),
            "SYSLOG_IDENTIFIER": "sdcluster",
            "SDCLUSTER_INSTANCE": self._name,
        }
        for key, value in asdict(about).items():
            if value is not None:
                text = label(Slot(value)) if key == "slot" else str(value)
                fields[f"SDCLUSTER_{key.upper()}"] = text
        try:
            _send(self._socket, journal.encode(fields))
        except OSError:
            pass  # No journal, no descriptor, or nobody who reads: the service goes on.

    def close(self) -> None:
        """Release the descriptors."""
        self._stderr.close()
        if self._socket is not None:
            self._socket.close()


def _journal_socket() -> socket.socket | None:
    """Return what entries are sent with, if stderr is the journal; else None."""
    if not process.stderr_is_journal():
        return None
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.setblocking(False)
    return sock


def _send(sock: socket.socket, data: bytes) -> None:
    """Send an entry, in a file if it is too large for a datagram. Raises OSError."""
    try:
        sock.sendto(data, journal.SOCKET_PATH)
    except OSError as error:
        if error.errno != errno.EMSGSIZE:
            raise
        _send_file(sock, data)


def _send_file(sock: socket.socket, data: bytes) -> None:
    """Send an entry as the descriptor of a file in memory, which must be sealed."""
    fd = os.memfd_create("sdcluster-entry", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(fd, "wb") as file:
        file.write(data)
        file.flush()
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        passed = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))
        sock.sendmsg([b""], [passed], 0, journal.SOCKET_PATH)


_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL

"""The master's own log: structured entries in the journal, or lines on a terminal.

Each entry has a MESSAGE_ID for its kind, explained in the message catalog (`journalctl -x`), and
SDCLUSTER_ fields that say whom it is about. The workers log for themselves.
"""

import os
from dataclasses import asdict, dataclass
from enum import StrEnum, unique
from syslog import LOG_ERR, LOG_INFO, LOG_NOTICE, LOG_WARNING
from typing import Final

from systemd import journal

from sdcluster.wire.journal import matches_stream


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
    WORKER_READY = "f8d89d5b0a9b46489e006e3ecd6c86da"
    """A worker serves."""
    WORKER_RETIRED = "cf4e365c777143bfba62c2d1f048ec28"
    """A worker left by the cluster's choice."""
    WORKER_LOST = "9ed4c967dac3484d978e60dedd361780"
    """A worker crashed, hung or did not become ready."""
    WORKER_STUCK = "33ad61ca5c5a43deabf532c4b407f85f"
    """A worker is aborted or killed."""
    WORKER_PROTOCOL = "a558a99ebe5b4550b6a040f5502b923b"
    """A worker sent what the protocol does not allow."""
    RELOAD_BEGUN = "8b7381641bd84b67b3bc85b592c356c5"
    """A rolling reload begins."""
    RELOAD_DONE = "2b36a94cfc6b4f6e864e2c3901bc8e02"
    """The new code is live."""
    RELOAD_FAILED = "4dd75e286e9f4bce8d94218f064557d6"
    """The old code serves on."""
    ROLLBACK = "a29393b5787741a9bb419b55a8ba02fe"
    """Replaced slots go back to the old code."""
    MOLD_LOST = "d7879813fc584e5ea092127300ee8da3"
    """The process that workers are forked from is gone."""
    ACCEPT_PAUSED = "e7dba602c74e41c9829519df72c8059e"
    """Connections wait in the backlog, as a limit is reached."""
    NOTE = "1183062f40b443a38ba837107fd43f11"
    """Something that the administrator should know."""


PRIORITIES: Final = {
    EventKind.READY: LOG_NOTICE,
    EventKind.RELOAD_DONE: LOG_NOTICE,
    EventKind.START_FAILED: LOG_ERR,
    EventKind.RELOAD_FAILED: LOG_ERR,
    EventKind.WORKER_LOST: LOG_WARNING,
    EventKind.WORKER_STUCK: LOG_WARNING,
    EventKind.WORKER_PROTOCOL: LOG_ERR,
    EventKind.ROLLBACK: LOG_WARNING,
    EventKind.MOLD_LOST: LOG_WARNING,
    EventKind.ACCEPT_PAUSED: LOG_WARNING,
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
        self._native = _stderr_is_journal()

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
        if not self._native:
            _write_to_stderr(f"sdcluster[{self._name}]: {text}\n")
            return
        fields: dict[str, str | int] = {
            "MESSAGE_ID": kind.value,
            "PRIORITY": PRIORITIES.get(kind, LOG_INFO),
            "SYSLOG_IDENTIFIER": "sdcluster",
            "SDCLUSTER_INSTANCE": self._name,
        }
        for key, value in asdict(about).items():
            if value is not None:
                fields[f"SDCLUSTER_{key.upper()}"] = str(value)
        try:
            journal.send(text, **fields)
        except (OSError, ValueError):
            pass  # No journal, no descriptor, or a text it does not take: the service goes on.


def _write_to_stderr(text: str) -> None:
    try:
        os.write(2, text.encode("utf-8", "backslashreplace"))
    except OSError:
        pass  # Nobody reads it any more: no reason to stop serving.


def _stderr_is_journal() -> bool:
    try:
        stream = os.fstat(2)
    except OSError:
        return False
    return matches_stream(os.environ.get("JOURNAL_STREAM"), stream.st_dev, stream.st_ino)

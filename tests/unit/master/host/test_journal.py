"""The master's entries in the journal, and that it never waits for the journal to take them."""

import array
import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from syslog import LOG_INFO, LOG_NOTICE, LOG_WARNING

import pytest
from waiting import at_once

from sdcluster.master.host.journal import About, EventKind, Journal
from sdcluster.wire import journal as native
from unit.master.receivers import fill, read, receiver


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Return the journal's socket, for a process whose stderr is the journal."""
    stderr = os.stat("/dev/null")
    monkeypatch.setattr(os, "fstat", lambda _fd: stderr)
    monkeypatch.setenv("JOURNAL_STREAM", f"{stderr.st_dev}:{stderr.st_ino}")
    monkeypatch.setattr(native, "SOCKET_PATH", str(tmp_path / "journal"))
    with receiver(tmp_path / "journal") as sock:
        yield sock


@pytest.fixture
def journal(daemon: socket.socket) -> Iterator[Journal]:
    """Return the master's journal."""
    assert daemon
    with contextlib.closing(Journal("shop")) as made:
        yield made


def test_entry_has_its_fields(daemon: socket.socket, journal: Journal) -> None:
    """The kind, how grave it is, and whom it is about."""
    journal.write(EventKind.WORKER_LOST, "gone", About(slot=1, worker=7))
    (entry,) = read(daemon)
    assert entry.decode().splitlines() == [
        "MESSAGE=gone",
        f"MESSAGE_ID={EventKind.WORKER_LOST}",
        "PRIORITY=4",
        "SYSLOG_IDENTIFIER=sdcluster",
        "SDCLUSTER_INSTANCE=shop",
        "SDCLUSTER_SLOT=1",
        "SDCLUSTER_WORKER=7",
    ]


def test_journal_that_reads_nothing_is_not_waited_for(
    daemon: socket.socket, journal: Journal
) -> None:
    """An entry that does not fit is lost, and those that do fit later are not."""
    fill(daemon)
    with at_once():
        journal.write(EventKind.NOTE, "lost")
    assert read(daemon) == []
    journal.write(EventKind.NOTE, "heard")
    (entry,) = read(daemon)
    assert b"MESSAGE=heard\n" in entry


def test_journal_that_is_not_there_is_not_missed(
    daemon: socket.socket, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service goes on without it."""
    monkeypatch.setattr(native, "SOCKET_PATH", "/nowhere/journal")
    journal.write(EventKind.NOTE, "lost")
    assert read(daemon) == []


def test_entry_that_is_larger_than_a_datagram_arrives(
    daemon: socket.socket, journal: Journal
) -> None:
    """Such an entry is a file in memory that nobody can change any more, and its descriptor."""
    text = "x" * 10_000_000
    journal.write(EventKind.NOTE, text)
    fds = array.array("i", [0])
    _, ((_, _, passed),), _, _ = daemon.recvmsg(1, socket.CMSG_SPACE(4))
    fds.frombytes(passed)
    with open(fds[-1], "rb") as file:
        file.seek(0)
        assert f"MESSAGE={text}\n".encode() in file.read()
        with pytest.raises(PermissionError):
            os.ftruncate(file.fileno(), 0)


def test_large_entry_that_does_not_fit_is_lost(daemon: socket.socket, journal: Journal) -> None:
    """The journal reads nothing: the master does not wait for it to take a descriptor."""
    fill(daemon)
    with at_once():
        journal.write(EventKind.NOTE, "x" * 10_000_000)
    assert read(daemon) == []


@pytest.mark.parametrize(
    ("kind", "priority"),
    [
        (EventKind.WORKER_RETIRED, LOG_INFO),
        (EventKind.WORKER_WORN, LOG_NOTICE),
        (EventKind.WORKER_LOST, LOG_WARNING),
    ],
)
def test_what_is_routine_is_no_warning(
    daemon: socket.socket, journal: Journal, kind: EventKind, priority: int
) -> None:
    """A worker that is recycled, as configured, is nothing to look into; one that crashed is."""
    journal.write(kind, "worker 3 is gone", About(worker=3))
    (entry,) = read(daemon)
    assert f"PRIORITY={priority}\n".encode() in entry
    assert f"MESSAGE_ID={kind}\n".encode() in entry

"""What one master leaves to the next: connections, by way of systemd's store of descriptors.

At a restart systemd starts the new master when all processes of the old one have ended. Whoever
has asked nothing whole by then, a client that is kept alive, say, loses nothing: his connection is
put into the store, FDSTORE=1 of sd_notify(3), and with the listening sockets it comes to the next
master, as LISTEN_FDS. What is known of the connections is in memory that is stored with them.

The store is emptied when the next master gives them to its first worker. A start that fails before
leaves them there for the one after it; a stop without a start closes them.
"""

import fcntl
import os
import stat
import struct
from collections.abc import Sequence
from typing import Protocol

from sdcluster import __version__
from sdcluster.errors import ProtocolError
from sdcluster.master.connections.channels import Passage
from sdcluster.master.host import closing
from sdcluster.system import descriptors
from sdcluster.wire.channel import (
    MAX_HANDOFF_BYTES,
    Handoff,
    decode_arrival,
    encode_handoff,
)

NAME = "sdcluster-kept"
"""What everything is called in the store."""
PER_MESSAGE = 64
"""Descriptors that are stored at a time."""
MAX_BYTES = 64 * 1024 * 1024
"""What may be known of all connections: a part of a request for each, at most."""

_ENTRY = struct.Struct("<QI")
"""The inode of a connection's socket, which no other has, and how many bytes are known of it."""
_FORMAT = f"sdcluster {__version__}\n".encode()
"""How that begins: another version may put it in another way, and then no connection is kept."""
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


class Store(Protocol):
    """systemd's store."""

    store_size: int
    """How many descriptors it takes; 0 when there is none."""

    def store(self, name: str, fds: Sequence[int]) -> bool:
        """Put descriptors into it; False when that cannot be."""

    def forget(self, name: str) -> None:
        """Take out of it, and close there, all that is called so."""

    def wait_until_heard(self) -> None:
        """Wait until all that was said is heard, for a moment at the most."""


class Estate:
    """What was left to this master, and what it leaves."""

    def __init__(self, store: Store, passed: Sequence[tuple[int, str]]) -> None:
        """`passed` are the descriptors from systemd, of which those in the store are some."""
        self._store = store
        self._room = max(0, store.store_size - 1)
        self._size_bytes = 0
        self._left: list[Passage] = []
        stored = [fd for fd, name in passed if name == NAME]
        self._has_stored = bool(stored)
        self._inherited = _recognised(stored)
        self.listening = [(fd, name) for fd, name in passed if name != NAME]
        """The sockets among what was passed."""

    @property
    def is_open(self) -> bool:
        """Whether connections can be left to another master."""
        return self._room > 0

    def claim(self) -> list[Passage]:
        """Return the connections that were left, by a try of this master too: once."""
        inherited, self._inherited = self._inherited + self._left, []
        self._left, self._size_bytes = [], 0
        if self._has_stored:
            # Before any can be closed here: a copy in the store would keep it open.
            self._has_stored = False
            self._store.forget(NAME)
        return inherited

    def add(self, passage: Passage) -> None:
        """Leave a connection to the next master; where there is no room it is closed."""
        size_bytes = len(_known(passage))
        if len(self._left) >= self._room or self._size_bytes + size_bytes > MAX_BYTES:
            closing.close([passage.fd])
            return
        self._size_bytes += size_bytes
        self._left.append(passage)

    def settle(self) -> int:
        """Store what was added, and return how many connections that is."""
        unclaimed, self._inherited = self._inherited, []
        for passage in unclaimed:
            os.close(passage.fd)  # They are in the store still.
        left, self._left = self._left, []
        stored = 0
        if left and self._write(left):
            for begin in range(0, len(left), PER_MESSAGE):
                some = [passage.fd for passage in left[begin : begin + PER_MESSAGE]]
                if not self._store.store(NAME, some):
                    break
                stored += len(some)
            self._store.wait_until_heard()
        for passage in left:
            os.close(passage.fd)
        return stored

    def _write(self, passages: Sequence[Passage]) -> bool:
        """Store what is known of connections."""
        try:
            fd = os.memfd_create(NAME, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        except OSError:
            return False
        try:
            with os.fdopen(os.dup(fd), "wb") as file:
                file.write(_FORMAT)
                for passage in passages:
                    known = _known(passage)
                    file.write(_ENTRY.pack(os.fstat(passage.fd).st_ino, len(known)) + known)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            return self._store.store(NAME, [fd])
        except OSError:
            return False
        finally:
            os.close(fd)


def _known(passage: Passage) -> bytes:
    return b"" if passage.handoff is None else encode_handoff(passage.handoff)


def _recognised(stored: Sequence[int]) -> list[Passage]:
    """Return the connections among what was stored, each with what is known of it."""
    known: dict[int, Handoff | None] = {}
    connections: list[int] = []
    for fd in stored:
        if descriptors.is_connection(fd):
            connections.append(fd)
            continue
        if stat.S_ISREG(os.fstat(fd).st_mode):
            known.update(_read(fd))
        os.close(fd)
    found = []
    for fd in connections:
        inode = os.fstat(fd).st_ino
        if inode in known:
            found.append(Passage(fd, known[inode]))
        else:
            os.close(fd)
    return found


def _read(fd: int) -> dict[int, Handoff | None]:
    """Return what is known of connections, by inode; what makes no sense is left out."""
    found: dict[int, Handoff | None] = {}
    with os.fdopen(os.dup(fd), "rb") as file:
        file.seek(0)
        if file.read(len(_FORMAT)) != _FORMAT:
            return found
        while len(entry := file.read(_ENTRY.size)) == _ENTRY.size:
            inode, length = _ENTRY.unpack(entry)
            if length > MAX_HANDOFF_BYTES:
                break
            data = file.read(length)
            try:
                found[inode] = decode_arrival(data)[0] if data else None
            except ProtocolError:
                continue
    return found

"""LMDB's environment in a folder: one for each process, opened anew by a child after fork(2).

Here is who may have a folder, and how it is opened and shared; what is in it, `entries` says.
"""

import errno
import fcntl
import os
import struct
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

from sdcluster.cache.fork_gate import Gate
from sdcluster.errors import CacheError, reason_of
from sdcluster.system.folders import NotOursError, make_private

MAX_READERS = 2048
DATABASES = (b"values", b"order", b"ends")
TOTALS = b"totals"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

_LOCK_BYTES = 64 * MAX_READERS + 4096
"""The size of LMDB's lock file."""
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_SMALLEST_BYTES = 2 * _PAGE_BYTES
"""The size of LMDB's data file when nothing is in it."""
_REPLACED_BYTES = 64 * _PAGE_BYTES
"""What a few transactions replace, however small the cache is."""
_LAYOUT = b"3"
"""How entries are written: another version's are refused."""
_SIZE = struct.Struct("<Q")


class Environment:
    """The environment in the folder `path`, which belongs to the instance `owner`.

    `size` is in bytes, of all that its files may take. Who opens a folder first sets it for all.
    """

    def __init__(self, path: Path, *, size: int, owner: str) -> None:
        self.path = path
        self.size = size
        self.owner = owner
        self.lmdb = _lmdb()
        self.failures = (self.lmdb.Error, OSError)
        self.databases: dict[bytes, Any] = {}
        self.opening = threading.Lock()
        self._env: Any = None
        self._pid = 0
        self._users: set[int] = set()
        self._inherited: list[Any] = []

    @property
    def limit(self) -> int:
        """The most bytes that entries may take: the rest of the file is for what is replaced.

        A page that is written anew stays as it was until the last reader has gone.
        """
        return self._map_bytes * 3 // 4 - _REPLACED_BYTES

    @property
    def _map_bytes(self) -> int:
        """The most that the file of the entries takes."""
        return (self.size - _LOCK_BYTES) // _PAGE_BYTES * _PAGE_BYTES

    def get(self, user: int) -> Any:
        """Return it, opened by this process for `user`, who stands in the gate.

        Raises `CacheError`.
        """
        if user not in self._users:
            with self.opening:
                if self._pid != os.getpid():
                    self._reopen()
                self._users.add(user)
        return self._env

    def begin_in_child(self) -> None:
        """Have nothing open, and a lock that is free, whatever a thread of the parent was doing."""
        self.opening = threading.Lock()
        self._users = set()

    def close(self, user: int) -> None:
        """Close it for this process when `user` was the last who had it open."""
        with GATE, self.opening:
            self._users.discard(user)
            if not self._users and self._pid == os.getpid():
                self._env.close()
                self._env, self._pid = None, 0

    def error(self, error: Exception) -> CacheError:
        """Return what went wrong, with the folder; LMDB's own begin with a path and a colon."""
        reason = reason_of(error).rpartition(": ")[2]
        if reason == os.strerror(errno.EIO) and _is_full(self.path):
            reason = os.strerror(errno.ENOSPC)  # LMDB says EIO when a part was written.
        return CacheError(f"the cache in {self.path}: {reason}")

    def _reopen(self) -> None:
        """Open it, maybe in a child of the process that opened it before."""
        inherited = self._env
        try:
            self._open()
        except CacheError as error:
            if "already open" not in str(error) or inherited is None:
                raise
            inherited.close()  # A py-lmdb that knows this case closes its own copy only.
            self._open()
        else:
            if inherited is not None:
                self._inherited.append(inherited)  # Closed, it would harm the parent's.

    def _open(self) -> None:
        try:
            self._prepare()
            env = self._opened_or_made()
            try:
                size = self._claim(env)
                if size != self.size:
                    self.size = size  # All processes have a map of the same size.
                    env.close()
                    env = self._opened()
                env.reader_check()
                self.databases = {name: env.open_db(name) for name in DATABASES}
            except BaseException:
                env.close()
                raise
        except (OSError, self.lmdb.Error) as error:
            raise self.error(error) from error
        self._env, self._pid = env, os.getpid()

    def _prepare(self) -> None:
        """Make the folder, and the lock file in its full size.

        LMDB maps that file and writes to the map: in a file system without room, SIGBUS would end
        the process.
        """
        try:
            make_private(self.path, is_strict=False)  # The place is the administrator's choice.
        except NotOursError as error:
            raise CacheError(
                f"the cache in {self.path}: {error.strerror}, and this process runs as "
                f"{os.geteuid()}"
            ) from error
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        lock = os.open(self.path / "lock.mdb", flags, 0o600)
        try:
            os.posix_fallocate(lock, 0, _LOCK_BYTES)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
        finally:
            os.close(lock)

    def _opened_or_made(self) -> Any:
        """Open it; where a full file system has let it be made by half, make it anew."""
        try:
            return self._opened()
        except self.lmdb.InvalidError:
            folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(folder, fcntl.LOCK_EX)  # Until it is made: another may see that too.
                data = self.path / "data.mdb"
                if data.stat().st_size >= _SMALLEST_BYTES:
                    raise
                os.truncate(data, 0)
                return self._opened()
            finally:
                os.close(folder)

    def _opened(self) -> Any:
        return self.lmdb.open(
            str(self.path),
            map_size=self._map_bytes,
            max_dbs=len(DATABASES),
            max_readers=MAX_READERS,
            # A kept one has a place in the lock file, and a child would free that of its parent.
            max_spare_txns=0,
            mode=0o600,
            sync=False,
            metasync=False,
        )

    def _claim(self, env: Any) -> int:
        """Make it the owner's if it is nobody's, and return its limit."""
        with env.begin(write=True) as transaction:
            owner = transaction.get(b"owner")
            if owner is None:
                transaction.put(b"layout", _LAYOUT)
                transaction.put(b"owner", self.owner.encode())
                transaction.put(b"size", _SIZE.pack(self.size))
                transaction.put(b"boot", _boot())
                return self.size
            _check_owner(self.path, owner.decode(), self.owner)
            if transaction.get(b"layout") != _LAYOUT:
                raise CacheError(
                    f"the cache in {self.path} is another version's; stop who uses it and remove it"
                )
            if transaction.get(b"boot") != _boot():
                # On a disk it outlives the machine's clock, by which all of it has its end.
                for name in DATABASES:
                    transaction.drop(env.open_db(name, txn=transaction), delete=False)
                transaction.delete(TOTALS)
                transaction.put(b"boot", _boot())
            return int(_SIZE.unpack(transaction.get(b"size"))[0])


GATE = Gate()
"""Whoever uses an environment stands in it."""

_environments: dict[Path, Environment] = {}
_finding = threading.Lock()


def environment(path: Path, *, size: int, owner: str, user: int) -> Environment:
    """Return the environment of a folder, opened for `user`. Raises `CacheError`.

    LMDB wants one for each process, so that all who ask for a folder have the same.
    """
    path = Path(os.path.realpath(path))
    with GATE, _finding:
        found = _environments.get(path) or Environment(path, size=size, owner=owner)
        _check_owner(path, found.owner, owner)
        found.get(user)
        _environments[path] = found
    return found


def _check_owner(path: Path, owner: str, asking: str) -> None:
    if owner != asking:
        raise CacheError(
            f"the cache in {path} belongs to {owner!r}; give {asking!r} a folder of its own"
        )


def _boot() -> bytes:
    """Return what names the time since the machine was started, see random(4)."""
    try:
        return BOOT_ID.read_bytes()
    except OSError:
        return b""


def _is_full(path: Path) -> bool:
    try:
        return os.statvfs(path).f_bavail < 64
    except OSError:
        return False


def _lmdb() -> ModuleType:
    try:
        import lmdb
    except ImportError as error:
        raise CacheError(
            f"the embedded cache needs lmdb: {sys.prefix}/bin/pip install lmdb"
        ) from error
    return lmdb


def _begin_in_child() -> None:
    global _finding
    _finding = threading.Lock()
    for one in _environments.values():
        one.begin_in_child()


GATE.guard(_begin_in_child)

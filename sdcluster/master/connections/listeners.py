"""The listening sockets: taken from systemd, or bound by the master itself.

Sockets from systemd are used as they are: no option is changed (but O_NONBLOCK, which accepting
without blocking needs), they are not listened on again, never shut down, and no path is unlinked.
"""

import errno
import os
import socket
import stat
from collections.abc import Sequence
from dataclasses import dataclass

from sdcluster.config.address import Address, Family, same_as_socket, too_long
from sdcluster.errors import ConfigError, ListenError, ListenPermissionError, reason_of
from sdcluster.system.descriptors import Borrowed

RESTART = "run 'systemctl daemon-reload', then restart the socket unit and the service"
"""What makes a change of the listening sockets take effect under systemd."""
BACKLOG = 4096
"""Capped by net.core.somaxconn, see listen(2)."""


@dataclass(slots=True, eq=False)
class Listener:
    """One listening socket. `slot` is the slot that owns it, None when all share it."""

    socket: socket.socket
    address: str
    name: str
    inherited: bool
    path: str = ""
    """For a Unix socket that the master has bound: the path to remove at the end."""
    slot: int | None = None

    def close(self) -> None:
        """Close it; remove its path if the master had made it."""
        self.socket.close()
        if self.path:
            try:
                os.unlink(self.path)
            except OSError:
                pass  # Somebody was faster.


def adopt(
    passed: Sequence[tuple[int, str]],
    configured: Sequence[Address],
    *,
    datagrams: bool = False,
    as_copies: bool = False,
) -> list[Listener]:
    """Take the sockets that systemd passed, as (descriptor, name).

    With `as_copies` the descriptors stay open, and may be adopted once more.

    Raises `ConfigError` when `configured` names addresses and they are not those, and unless
    `datagrams` are wanted for sockets that receive such (ListenDatagram=, systemd.socket(5)).
    """
    listeners: list[Listener] = []
    try:
        for fd, name in passed:
            _check_kind(fd, name, datagrams=datagrams)
            listeners.append(_adopt(os.dup(fd) if as_copies else fd, name, configured))
        _check(listeners, configured)
    except ConfigError:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def _check_kind(fd: int, name: str, *, datagrams: bool) -> None:
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        raise ConfigError(f"descriptor {fd} ({name}) is not a socket")
    with Borrowed(fd) as probe:
        listening = probe.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        is_stream = probe.type == socket.SOCK_STREAM
        is_wanted = (listening and is_stream) or (datagrams and _has_datagrams(probe))
    if not is_wanted:
        raise ConfigError(f"descriptor {fd} ({name}) is not a listening stream socket")


def _adopt(fd: int, name: str, configured: Sequence[Address]) -> Listener:
    listener = Listener(socket.socket(fileno=fd), "", name, inherited=True)
    listener.address = address_text(listener.socket)
    for address in configured:
        # A socket unit has one FileDescriptorName= for all its sockets, `listen` one for each.
        if address.name and _is(listener, address):
            listener.name = address.name
    return listener


def _check(listeners: Sequence[Listener], configured: Sequence[Address]) -> None:
    hint = f"{RESTART}, or remove 'listen'"
    for address in configured:
        if not any(_is(listener, address) for listener in listeners):
            got = ", ".join(listener.address for listener in listeners)
            raise ConfigError(f"'listen' has {address}, but systemd passed {got}; {hint}")
    for listener in listeners:
        if configured and not any(_is(listener, address) for address in configured):
            raise ConfigError(f"systemd passed {listener.address}, 'listen' has it not; {hint}")


def _is(listener: Listener, address: Address) -> bool:
    return same_as_socket(address, listener.socket.family, listener.socket.getsockname())


def bind(
    address: Address,
    *,
    reuse_port: bool = False,
    backlog: int = BACKLOG,
    ipv6_only: bool | None = None,
    datagrams: bool = False,
) -> Listener:
    """Bind and listen on an address, or bind a socket that receives datagrams there.

    A path that is too long for a socket is bound as it is seen from the folder of this process,
    where that is shorter.

    Raises `ListenError`, `ListenPermissionError`.
    """
    kind = socket.SOCK_DGRAM if datagrams else socket.SOCK_STREAM
    sock: socket.socket | None = None
    path = ""
    try:
        if address.family == "unix":
            sock = socket.socket(socket.AF_UNIX, kind)
            if not address.path.startswith("@"):
                _remove_stale(address, kind)
                path = address.path
                sock.bind(_short(path))
            else:
                sock.bind("\0" + address.path[1:])
        else:
            family = socket.AF_INET6 if address.family == "tcp6" else socket.AF_INET
            sock = socket.socket(family, kind)
            if not datagrams:  # With which it would let others bind the same address, socket(7).
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                only_v6 = address.host not in ("", "::") if ipv6_only is None else ipv6_only
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only_v6)
            sock.bind((address.host, address.port))
        if not datagrams:
            sock.listen(backlog)
    except (OSError, ListenError) as error:
        if sock is not None:
            sock.close()
        if isinstance(error, OSError):
            raise _explain(address, error) from error
        raise
    return Listener(sock, address_text(sock), address.name, inherited=False, path=path)


def _short(path: str) -> str:
    """Return a path as a socket can have it. Raises OSError."""
    reason = too_long(path)
    if not reason:
        return path
    short = os.path.relpath(path)
    if too_long(short):
        raise OSError(errno.ENAMETOOLONG, f"its path {reason}")
    return short


def _explain(address: Address, error: OSError) -> ListenError:
    what = f"cannot listen on {address}: {reason_of(error)}"
    match error.errno:
        case errno.EADDRINUSE:
            return ListenError(f"{what}; stop what uses it, or choose another address")
        case errno.EACCES | errno.EPERM if address.family != "unix" and address.port < 1024:
            hint = "ports below 1024 need a socket unit (sdcluster@.socket) or CAP_NET_BIND_SERVICE"
            return ListenPermissionError(f"{what}; {hint}")
        case errno.EACCES | errno.EPERM:
            return ListenPermissionError(f"{what}; the folder must be writable")
        case errno.ENOENT:
            return ListenError(f"{what}; its folder does not exist")
        case _:
            return ListenError(what)


def _has_datagrams(sock: socket.socket) -> bool:
    return sock.type == socket.SOCK_DGRAM


def _remove_stale(address: Address, kind: socket.SocketKind) -> None:
    """Remove a Unix socket that nobody listens on any more. Raises `ListenError`."""
    try:
        mode = os.stat(address.path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ListenError(f"cannot listen on {address}: it exists and is no socket")
    with socket.socket(socket.AF_UNIX, kind) as probe:
        probe.setblocking(False)
        try:
            probe.connect(_short(address.path))
        except ConnectionRefusedError:
            os.unlink(address.path)
        except OSError as error:
            # Somebody listens and is busy, or it is of another kind: bind will say it is in use.
            if error.errno not in (errno.EAGAIN, errno.EPROTOTYPE):
                raise


def address_text(sock: socket.socket) -> str:
    """Return where a socket is bound, as people write it."""
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        if isinstance(name, bytes):
            return "@" + name[1:].decode(errors="replace")
        return str(name)
    host, port = name[0], name[1]
    return f"[{host}]:{port}" if sock.family == socket.AF_INET6 else f"{host}:{port}"


class ListenerSet:
    """All listeners of the cluster, and which slot owns which.

    With `reuse_port` each slot has a socket of its own for each address, and keeps it when its
    worker is replaced, so that its queue is never reset. A Unix socket, which knows no such thing,
    and sockets from systemd that are fewer than the slots, are shared.
    """

    def __init__(
        self,
        *,
        passed: Sequence[tuple[int, str]],
        addresses: Sequence[Address],
        given: bool,
        reuse_port: bool,
        as_copies: bool = False,
    ) -> None:
        """Adopt what was passed, or bind `addresses`; `given` tells that the user named them.

        With `as_copies` what was passed stays open when the listeners are closed.
        """
        self._reuse_port = reuse_port
        if passed:
            self.all = adopt(passed, addresses if given else (), as_copies=as_copies)
            if reuse_port:
                self._own_in_order()
        else:
            self.all = []
            try:
                for address in addresses:
                    self.all.append(bind(address, reuse_port=reuse_port))
            except ListenError:
                self.close_bound()
                raise
            if reuse_port:
                for listener in self.all:
                    listener.slot = 0

    def _own_in_order(self) -> None:
        counts: dict[str, int] = {}
        for listener in self.all:
            listener.slot = counts.get(listener.address, 0)
            counts[listener.address] = listener.slot + 1

    def for_slot(self, slot: int) -> list[Listener]:
        """Return what a worker of the slot accepts from. Raises `ListenError`."""
        if not self._reuse_port:
            return self.all
        return [self._for_slot(address, slot) for address in self.addresses()]

    def _for_slot(self, address: str, slot: int) -> Listener:
        """Return the slot's own socket of an address, or one that it shares."""
        there = [listener for listener in self.all if listener.address == address]
        for listener in there:
            if listener.slot == slot:
                return listener
        if there[0].inherited or there[0].socket.family == socket.AF_UNIX:
            return there[slot % len(there)]
        host, port = there[0].socket.getsockname()[:2]
        family: Family = "tcp6" if there[0].socket.family == socket.AF_INET6 else "tcp"
        listener = bind(Address(family, host, port, "", there[0].name), reuse_port=True)
        listener.slot = slot
        self.all.append(listener)
        return listener

    def slots_with_own(self) -> int:
        """Return how many slots have a socket that is theirs alone; 0 when all are shared."""
        return 1 + max((one.slot for one in self.all if one.slot is not None), default=-1)

    def are_inherited(self) -> bool:
        """Whether they were passed, and are not the master's to bind anew."""
        return any(listener.inherited for listener in self.all)

    def set_nonblocking(self) -> None:
        """Make accepting never block. The flag is shared with systemd, which does not mind."""
        for listener in self.all:
            listener.socket.setblocking(False)

    def addresses(self) -> list[str]:
        """Return each address once, in order."""
        return list(dict.fromkeys(listener.address for listener in self.all))

    def close(self) -> None:
        """Close this process's descriptors; what systemd passed goes on listening there."""
        for listener in self.all:
            listener.close()
        self.all = []

    def close_bound(self) -> None:
        """Close those that the master has bound; what systemd passed stays systemd's."""
        for listener in self.all:
            if not listener.inherited:
                listener.close()
        self.all = [listener for listener in self.all if listener.inherited]

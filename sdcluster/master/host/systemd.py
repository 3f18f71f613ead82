"""Talking to systemd: what it passed in, and what it is told. sd_listen_fds(3), sd_notify(3).

Everything here is harmless without systemd: there are no sockets then, and nobody is told. Nothing
here waits for systemd: what it does not take at once is told again later, or is not worth it.
"""

import contextlib
import errno
import os
import select
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

import sdnotify
from systemd import daemon

from sdcluster.errors import ConfigError
from sdcluster.wire import listenfds

_NOTIFY_ENVIRONMENT = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "FDSTORE")
PRIVATE_ENVIRONMENT = frozenset({*listenfds.ENVIRONMENT, *_NOTIFY_ENVIRONMENT})
"""Variables that are for the master alone and not passed on to the processes it starts."""

MAX_STATUS_BYTES = 2048
"""A longer status is cut: systemd drops messages of more than 4096 bytes."""

STORE_TIMEOUT_S = 2.0
"""How long systemd may take to listen to what is stored. Only a master that ends waits for it."""
EXTEND_S = 10.0
"""How far each sign of progress moves systemd's time-outs, the watchdog's among them."""


def take_listen_fds() -> list[tuple[int, str]]:
    """Return the sockets that systemd passed, as (descriptor, name), and forget the variables.

    Raises `ConfigError` when the variables are there but not as sd_listen_fds(3) has them.
    """
    given = {name: os.environ.get(name, "") for name in ("LISTEN_FDS", "LISTEN_PID")}
    if not given["LISTEN_FDS"]:
        return []
    if not all(value.isdecimal() for value in given.values()):
        raise ConfigError(
            "LISTEN_FDS={LISTEN_FDS} and LISTEN_PID={LISTEN_PID} are not numbers".format(**given)
        )
    if int(given["LISTEN_PID"]) != os.getpid():
        # For a parent or a sibling of ours; sd_listen_fds(3) ignores them, and so do we.
        for name in listenfds.ENVIRONMENT:
            os.environ.pop(name, None)
        return []
    given_names = os.environ.get("LISTEN_FDNAMES", "")
    try:
        names: dict[int, str] = daemon.listen_fds_with_names(unset_environment=True)
    except OSError as error:
        what = f"LISTEN_FDS={given['LISTEN_FDS']}"
        if error.errno == errno.EINVAL:
            raise ConfigError(f"{what} and LISTEN_FDNAMES={given_names} do not fit") from error
        raise ConfigError(f"{what}: not that many descriptors were passed") from error
    fds = sorted(names)
    for fd in fds:
        try:
            os.set_inheritable(fd, False)
        except OSError as error:
            raise ConfigError(
                f"LISTEN_FDS={given['LISTEN_FDS']}, but descriptor {fd} is not open"
            ) from error
    return [(fd, names[fd]) for fd in fds]


class ServiceManager:
    """The service manager that started the master, if one did."""

    def __init__(self) -> None:
        self._notifier = _notifier()
        self._untold: dict[str, str] = {}
        """The last message of each kind that did not arrive yet, in their order."""
        self._watchdog_usec = _watchdog_usec()
        size = os.environ.get("FDSTORE", "")
        self.store_size = int(size) if size.isdecimal() and self._notifier is not None else 0
        """How many descriptors systemd stores, as it says itself from version 254 on."""
        self._status = ""
        for name in _NOTIFY_ENVIRONMENT:
            os.environ.pop(name, None)

    @property
    def watchdog_interval_s(self) -> float:
        """How often `alive` must be called at least, in seconds; 0 when nobody watches."""
        return self._watchdog_usec / 1e6 / 3

    def _tell(self, **assignments: str | int) -> None:
        """Tell a state, which counts until there is another: if not now, then with a later call."""
        kind = next(iter(assignments))
        self._untold.pop(kind, None)
        self._untold[kind] = _message(assignments)
        self._tell_what_is_due()

    def _tell_what_is_due(self) -> None:
        for kind, message in list(self._untold.items()):
            if not self._send(message):
                break  # The order counts: READY=1 ends what RELOADING=1 began.
            del self._untold[kind]

    def _send(self, message: str) -> bool:
        """Tell whether systemd has taken a message."""
        if self._notifier is not None:
            try:
                self._notifier.notify(message)
            except OSError:
                return False
        return True

    def ready(self) -> None:
        """Say that the cluster serves; also the end of each reload, a failed one included."""
        self._tell(READY=1)

    def reloading(self) -> None:
        """Say that a reload began."""
        self._tell(RELOADING=1, MONOTONIC_USEC=time.monotonic_ns() // 1000)

    def stopping(self) -> None:
        """Say that the cluster is on its way out."""
        self._tell(STOPPING=1)

    def status(self, text: str) -> None:
        """Tell people how things are, in one line, if it has changed."""
        if text != self._status:
            self._status = text
            self._tell(STATUS=_one_line(text))

    def failed(self, errno: int) -> None:
        """Say which error number explains that the service ends."""
        self._tell(ERRNO=errno)

    def extend_timeout(self) -> None:
        """Ask for `EXTEND_S` more, as there is progress."""
        self._send(_message({"EXTEND_TIMEOUT_USEC": int(EXTEND_S * 1e6)}))

    def alive(self) -> None:
        """Ping the watchdog, if there is one, and tell again what did not arrive."""
        self._tell_what_is_due()
        if self._watchdog_usec:
            self._send(_message({"WATCHDOG": 1}))

    def store(self, name: str, fds: Sequence[int]) -> bool:
        """Put descriptors into systemd's store; False when that cannot be."""
        return self._send_with(f"FDSTORE=1\nFDNAME={name}", fds)

    def forget(self, name: str) -> None:
        """Have systemd close what is stored under a name."""
        self._send_with(f"FDSTOREREMOVE=1\nFDNAME={name}", [])

    def wait_until_heard(self) -> None:
        """Wait until systemd has heard what was said, or `STORE_TIMEOUT_S`: BARRIER=1."""
        ours, theirs = os.pipe2(os.O_CLOEXEC)
        try:
            is_sent = self._send_with("BARRIER=1", [theirs])
        finally:
            os.close(theirs)
        poll = select.poll()
        poll.register(ours, 0)
        if is_sent:
            poll.poll(STORE_TIMEOUT_S * 1000)
        os.close(ours)

    def _send_with(self, message: str, fds: Sequence[int]) -> bool:
        """Send a message with descriptors, and wait for room for it."""
        if self._notifier is None:
            return False
        sock: socket.socket = self._notifier.socket
        sock.settimeout(STORE_TIMEOUT_S)
        try:
            socket.send_fds(sock, [message.encode()], list(fds))
        except OSError:
            return False
        finally:
            with contextlib.suppress(OSError):
                sock.setblocking(False)
        return True

    def close(self) -> None:
        """Release the socket."""
        if self._notifier is not None:
            self._notifier.socket.close()


def _notifier() -> Any:
    """Return what sends to NOTIFY_SOCKET without waiting; None when there is nobody to tell."""
    if not os.environ.get("NOTIFY_SOCKET"):
        return None
    notifier = sdnotify.SystemdNotifier()
    if notifier.socket is None:
        return None
    notifier.socket.setblocking(False)
    notifier.debug = True  # It raises then, and does not hide that a message was not sent.
    return notifier


def _message(assignments: Mapping[str, str | int]) -> str:
    text = "\n".join(f"{key}={value}" for key, value in assignments.items())
    # systemd takes UTF-8. sdnotify encodes to Latin-1, which only undoes this decoding.
    return text.encode().decode("latin-1")


def _one_line(text: str) -> str:
    """Return a text as STATUS= may have it: valid UTF-8, no control characters, not too long."""
    text = text.encode("utf-8", "backslashreplace").decode()
    words = "".join(char if char.isprintable() else " " for char in text).split()
    return " ".join(words).encode()[:MAX_STATUS_BYTES].decode("utf-8", "ignore")


def _watchdog_usec() -> int:
    """Return the watchdog's time-out, as sd_watchdog_enabled(3) reads it; 0 for none."""
    pid = os.environ.get("WATCHDOG_PID", "")
    usec = os.environ.get("WATCHDOG_USEC", "")
    if not usec.isdecimal() or (pid and pid != str(os.getpid())):
        return 0
    return int(usec)

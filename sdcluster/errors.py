"""The errors of sdcluster: one tree, split by whose fault it was, each with its exit status.

The exit statuses are those of sysexits.h(3head), which systemd names in `systemctl status`.
A message says what failed, on what, and what to do about it; it is all that a user sees.
"""

import os
from collections.abc import Sequence

EX_USAGE = os.EX_USAGE
EX_UNAVAILABLE = os.EX_UNAVAILABLE
EX_SOFTWARE = os.EX_SOFTWARE
EX_OSERR = os.EX_OSERR
EX_NOPERM = os.EX_NOPERM
EX_PROTOCOL = os.EX_PROTOCOL
EX_CONFIG = os.EX_CONFIG


class SdclusterError(Exception):
    """Something sdcluster can name. `exit_status` is what a command exits with because of it."""

    exit_status = EX_SOFTWARE


class ConfigError(SdclusterError):
    """The user's configuration is wrong; `problems` holds one line for each thing to mend."""

    exit_status = EX_CONFIG

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


class ListenError(SdclusterError):
    """An address cannot be listened on, or systemd passed other sockets than configured."""

    exit_status = EX_UNAVAILABLE


class ListenPermissionError(ListenError):
    """The address needs rights that this process does not have."""

    exit_status = EX_NOPERM


class AppError(SdclusterError):
    """The app did not load or did not become ready. `detail` holds its traceback, if any."""

    exit_status = EX_SOFTWARE

    def __init__(self, message: str, detail: str = "") -> None:
        self.detail = detail
        super().__init__(message)


class SpawnError(SdclusterError):
    """A process could not be started: a limit was reached, or its program is missing."""

    exit_status = EX_OSERR


class ClusterError(SdclusterError):
    """The program asked the library for what cannot be, or not now."""


class CacheError(SdclusterError):
    """The shared cache cannot be reached, has no room, or holds what it should not."""

    exit_status = EX_UNAVAILABLE


class CacheRefusedError(CacheError):
    """The shared cache is in order, and does not take or give this one value."""


class ProtocolError(SdclusterError):
    """A peer sent what the protocol does not allow. The peer is at fault, never the user."""

    exit_status = EX_PROTOCOL


class ControlError(SdclusterError):
    """The master could not be reached, or refused what was asked of it."""

    exit_status = EX_UNAVAILABLE


def reason_of(error: Exception) -> str:
    """Return what an error says, one of the system's without its number and its file.

    A system error that Python itself raises may have a text alone, or none.
    """
    text = str(error)
    if isinstance(error, OSError) and error.errno:
        text = error.strerror or os.strerror(error.errno)
    return text or type(error).__name__

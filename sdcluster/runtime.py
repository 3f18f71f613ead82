"""Where an instance keeps its control socket while it runs, and who is at its other end."""

import os
import socket
import stat
import struct
from pathlib import Path

from sdcluster.errors import ListenError

SYSTEM = Path("/run/sdcluster")
CONTROL = "control"
"""The name of the socket in that folder."""

_UCRED = struct.Struct("3i")


def directory(name: str) -> Path:
    """Return the runtime folder for an instance that this process starts.

    systemd names it in RUNTIME_DIRECTORY (systemd.exec(5)); without, it is in $XDG_RUNTIME_DIR,
    for root in /run, and else in a folder of the user's own below /tmp. Raises `ListenError` when
    somebody else has made that one.
    """
    given = _in_environment(name)
    if given is not None:
        return given
    candidates = _candidates(name)
    if not candidates:
        raise ListenError(f"/tmp/sdcluster-{os.geteuid()} is not this user's alone; remove it")
    return candidates[0]


def control_sockets(name: str) -> list[Path]:
    """Return where the control socket of an instance may be, the likeliest first."""
    folders = [*_given(name), SYSTEM / name, *_candidates(name)]
    return [folder / CONTROL for folder in dict.fromkeys(folders)]


def peer_uid(connection: socket.socket) -> int:
    """Return the user at the other end of a Unix socket: SO_PEERCRED, see unix(7)."""
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return int(_UCRED.unpack(data)[1])


def _given(name: str) -> list[Path]:
    """Return the folder in RUNTIME_DIRECTORY, unless it is known to be another instance's."""
    folder = _in_environment(name)
    if folder is None or (folder.parent == SYSTEM and folder.name != name):
        return []
    return [folder]


def _in_environment(name: str) -> Path | None:
    """Return the folder in RUNTIME_DIRECTORY, unless it came down from another instance."""
    given = os.environ.get("RUNTIME_DIRECTORY", "")
    if not given or os.environ.get("SDCLUSTER_INSTANCE", name) != name:
        return None
    return Path(given.split(":")[0])


def _candidates(name: str) -> list[Path]:
    folders = []
    user = os.environ.get("XDG_RUNTIME_DIR", "")
    if user:
        folders.append(Path(user) / "sdcluster" / name)
    if os.geteuid() == 0:
        folders.append(SYSTEM / name)
    elif _is_private(own := Path(f"/tmp/sdcluster-{os.geteuid()}")):
        folders.append(own / name)
    return folders


def _is_private(folder: Path) -> bool:
    """Tell whether a folder is missing, or this user's alone: in /tmp anybody may make one."""
    try:
        found = os.lstat(folder)
    except FileNotFoundError:
        return True
    return (
        stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022
    )

"""Where an instance keeps its control socket while it runs, and who is at its other end."""

import os
import socket
import struct
from pathlib import Path

from sdcluster.errors import ListenError, reason_of
from sdcluster.system.folders import make_private

SYSTEM = Path("/run/sdcluster")
CONTROL = "control"
"""The name of the socket in that folder."""

_UCRED = struct.Struct("3i")


def places(name: str) -> list[Path]:
    """Return where the runtime folder of an instance that this process starts may be.

    systemd names it in RUNTIME_DIRECTORY (systemd.exec(5)); without, it is in $XDG_RUNTIME_DIR, for
    root in /run, and else in a folder of the user's own below /tmp: the next is for the case that
    somebody else has made that one.
    """
    given = _in_environment(name)
    if given is not None:
        return [given]
    candidates = _candidates(name)
    return candidates[:1] if _has_own() else candidates


def directory(name: str) -> Path:
    """Return the runtime folder, which is there then, and this user's alone.

    Raises `ListenError`.
    """
    problems = []
    for folder in places(name):
        try:
            if _is_given(folder):  # It may be a link of systemd's, to a folder below /run/private.
                make_private(Path(os.path.realpath(folder)), is_strict=False)
            else:
                make_private(folder, above=0o755 if folder.parent == SYSTEM else 0o700)
        except OSError as error:
            problems.append(f"{error.filename or folder}: {reason_of(error)}")
        else:
            return folder
    raise ListenError(
        f"no folder is this user's alone, for the control socket of {name}: {'; '.join(problems)}; "
        f"remove that, or set XDG_RUNTIME_DIR to a folder of your own"
    )


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


def _is_given(folder: Path) -> bool:
    return str(folder) in os.environ.get("RUNTIME_DIRECTORY", "").split(":")


def _has_own() -> bool:
    """Whether there is a place where nobody else can make anything."""
    return bool(os.environ.get("XDG_RUNTIME_DIR")) or os.geteuid() == 0


def _candidates(name: str) -> list[Path]:
    folders = []
    user, home = os.environ.get("XDG_RUNTIME_DIR", ""), os.environ.get("HOME", "")
    if user:
        folders.append(Path(user) / "sdcluster" / name)
    if os.geteuid() == 0:
        folders.append(SYSTEM / name)
        return folders
    folders.append(Path(f"/tmp/sdcluster-{os.geteuid()}") / name)
    if home.startswith("/"):
        folders.append(Path(home) / ".local/state/sdcluster/run" / name)
    return folders

"""Where an instance keeps its control socket while it runs."""

import os
from pathlib import Path

SYSTEM = Path("/run/sdcluster")
CONTROL = "control"


def directory(name: str) -> Path:
    """Return the runtime folder for an instance that this process starts.

    systemd names it in RUNTIME_DIRECTORY (systemd.exec(5)); without, it is in $XDG_RUNTIME_DIR,
    for root in /run, and else in a folder of the user's own below /tmp.
    """
    given = os.environ.get("RUNTIME_DIRECTORY", "")
    if given:
        return Path(given.split(":")[0])
    return _candidates(name)[0]


def control_sockets(name: str) -> list[Path]:
    """Return where the control socket of an instance may be, the likeliest first."""
    system = SYSTEM / name
    folders = [system, *(folder for folder in _candidates(name) if folder != system)]
    return [folder / CONTROL for folder in folders]


def _candidates(name: str) -> list[Path]:
    folders = []
    user = os.environ.get("XDG_RUNTIME_DIR", "")
    if user:
        folders.append(Path(user) / "sdcluster" / name)
    if os.geteuid() == 0:
        folders.append(SYSTEM / name)
    folders.append(Path(f"/tmp/sdcluster-{os.geteuid()}") / name)
    return folders

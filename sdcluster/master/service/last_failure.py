"""Remembers, from one start of the service to the next, that a start has failed.

It is a small file in the folder that systemd keeps for the service (StateDirectory=): the runtime
folder goes with each failed start.
"""

import contextlib
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path

from sdcluster.errors import EX_CONFIG

FILE = ".sdcluster-start-failed"


@dataclass(frozen=True, slots=True)
class Failure:
    """How the last start ended, as far as it is known."""

    age_s: float | None
    """How long ago it failed: infinite when that cannot be known, None when it did not fail."""
    mends_itself: bool
    """systemd repeats such a start by itself."""


class LastFailure:
    """The note of it."""

    def __init__(self) -> None:
        """Find the place that STATE_DIRECTORY names, see systemd.exec(5)."""
        folder = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
        self._path = Path(folder, FILE) if folder and os.access(folder, os.W_OK) else None

    def read(self) -> Failure:
        """Return what was noted last."""
        if self._path is None:
            return Failure(math.inf, mends_itself=False)
        try:
            noted = self._path.read_text(errors="replace")
        except OSError:
            return Failure(None, mends_itself=False)
        status, _, when = noted.partition(" ")
        return Failure(_age_s(when), mends_itself=status != str(EX_CONFIG))

    def note(self, exit_status: int) -> None:
        """Note that this start ends with a failure now."""
        if self._path is None:
            return
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with contextlib.suppress(OSError):  # Then the next start does not know, and fails as well.
            fd = os.open(self._path, flags, 0o600)
            with open(fd, "w", encoding="ascii") as file:
                file.write(f"{exit_status} {math.floor(time.monotonic() * 1000) / 1000}")

    def forget(self) -> None:
        """Note that the service has started, or was told to stop."""
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._path.unlink()


def _age_s(when: str) -> float:
    """Return how long ago a time of CLOCK_MONOTONIC was; infinite when that was another boot's."""
    try:
        age_s = time.monotonic() - float(when)
    except ValueError:
        return math.inf
    return age_s if age_s >= 0 else math.inf

"""What a process of the app's must be able to have, and what is said where it is not."""

import resource

from sdcluster.errors import AppError
from sdcluster.system import descriptors
from sdcluster.wire.channel import MAX_CONNECTIONS_PER_FRAME

FEWEST = 2 * MAX_CONNECTIONS_PER_FRAME
"""Descriptors that must be left for connections and the app: with fewer none would be taken."""


def require_descriptors(*, like: int) -> None:
    """Raise `AppError` when there are too few descriptors left to serve; `like` is one."""
    try:
        descriptors.require(FEWEST, like=like)
    except OSError as error:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        raise AppError(
            f"of the {soft} descriptors that a process may have (RLIMIT_NOFILE) fewer than "
            f"{FEWEST} are left to serve with; raise the limit, or have the app not lower it"
        ) from error

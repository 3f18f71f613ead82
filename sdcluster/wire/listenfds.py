"""The socket activation protocol, sd_listen_fds(3), from the giving side.

Descriptors 3, 4, … and LISTEN_FDS, LISTEN_FDNAMES, LISTEN_PID. The moves are planned here and
done by whoever execs.
"""

from collections.abc import Sequence

FIRST_FD = 3

ENVIRONMENT = ("LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID", "LISTEN_PIDFDID")
"""What to remove from an environment before it is passed on."""


def environment(names: Sequence[str], pid: int) -> dict[str, str]:
    """Return the variables for `len(names)` descriptors, for the process `pid` alone."""
    return {
        "LISTEN_FDS": str(len(names)),
        "LISTEN_FDNAMES": ":".join(names),
        "LISTEN_PID": str(pid),
    }


def plan_moves(fds: Sequence[int]) -> list[tuple[int, int]]:
    """Return the dup2 calls, in order, that put `fds` at 3, 4, … without overwriting one unmoved.

    Sources that stand inside the target range are first moved beyond it.
    """
    end = FIRST_FD + len(fds)
    beyond = max([end, *(fd + 1 for fd in fds)])
    moves: list[tuple[int, int]] = []
    sources = list(fds)
    for index, fd in enumerate(sources):
        if FIRST_FD <= fd < end and fd != FIRST_FD + index:
            moves.append((fd, beyond))
            sources[index] = beyond
            beyond += 1
    moves.extend(
        (fd, FIRST_FD + index) for index, fd in enumerate(sources) if fd != FIRST_FD + index
    )
    return moves

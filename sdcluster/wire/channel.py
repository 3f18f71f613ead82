"""The control channel, master to worker: one-byte orders in `AF_UNIX SOCK_SEQPACKET` frames.

    b"c" * n    n connections, attached as n file descriptors (SCM_RIGHTS, unix(7))
    b"a"        admitted: accept from the listeners you hold; an agent: the one before is dead
    b"f"        finish, to the workers of a program: the cluster stops, and with it its listeners
    end of file no more connections will come: answer what you have, then exit

The end of file is one rule for three cases: the master retires the worker (it shuts down its
sending side after the last connection), the cluster stops, or the master died. Worker to master
the channel carries notifications, see `notify`.
"""

from sdcluster.errors import ProtocolError

CONNECTION = b"c"
ADMIT = b"a"
FINISH = b"f"

MAX_CONNECTIONS_PER_FRAME = 16
"""Connections a frame may carry; far below the kernel's limit of 253 (SCM_MAX_FD)."""


def decode_order(data: bytes, attached: int) -> int:
    """Return how many connections a frame brings; 0 means the worker is admitted.

    Raises `ProtocolError` when the frame and its `attached` descriptors do not fit together.
    """
    if data == ADMIT and attached == 0:
        return 0
    if data and data == CONNECTION * len(data) and attached == len(data):
        return attached
    raise ProtocolError(f"order {data[:20]!r} with {attached} descriptors")

"""The message channel: frames over `AF_UNIX SOCK_STREAM`, both ways between master and worker.

A frame is a header of 16 bytes and a body. What the body says is the business of the two ends,
JSON as a rule; the header tells what to do with it. Descriptors (SCM_RIGHTS, unix(7)) travel with
the first byte of the frame that announces them.

    bytes  meaning
    0-3    length of the body
    4      kind
    5      descriptors attached
    6-7    0
    8-11   peer: for whom to the master, from whom to a worker; 0 is the master, or in a service
           the agent, and 2**32 - 1 for whom is all workers
    12-15  number of a request, which its answer repeats; 0 for the rest
"""

import json
import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

from sdcluster.errors import ProtocolError

MAX_BODY_BYTES = 1024 * 1024
MAX_ATTACHED = 2
MAX_REASON_CHARS = 4096
MASTER = 0
"""As a peer: the program in the master, or in a service the agent, which has its place."""
ALL = 2**32 - 1
"""As a peer: every worker."""

_HEADER = struct.Struct("<IBBHII")
_pack, _unpack = _HEADER.pack, _HEADER.unpack_from


class Kind(IntEnum):
    """What a frame is."""

    MESSAGE = 1
    """Something for the application."""
    REQUEST = 2
    """The same, and an answer is waited for."""
    REPLY = 3
    """The answer."""
    ERROR = 4
    """There is no answer; the body says why."""
    LISTEN = 5
    """Worker to master: open a listener. A request."""
    UNLISTEN = 6
    """Worker to master: it has closed that listener."""
    DISCONNECT = 7
    """Worker to master: it leaves by its own choice."""
    JOINED = 8
    """To the agent: this worker is there; the body says its slot, generation and pid."""
    LEFT = 9
    """To the agent: this worker is gone."""
    PAUSE = 10
    """From the master: the peer is slow to read."""
    RESUME = 11
    """From the master: it has caught up."""
    FINISH = 12
    """To the agent: it is asked nothing more, what it asks is answered; it may end."""


_KINDS = {int(kind): kind for kind in Kind}


class Frame(NamedTuple):
    """One frame, without its descriptors. A tuple, as it is made for each message."""

    kind: Kind
    body: bytes = b""
    peer: int = 0
    number: int = 0
    attached: int = 0


def encode(frame: Frame) -> bytes:
    """Return a frame as it is sent. Raises `ProtocolError` when it is too large."""
    kind, body, peer, number, attached = frame
    length = len(body)
    if length > MAX_BODY_BYTES or attached > MAX_ATTACHED:
        raise _refused(length, kind, attached)
    return _pack(length, kind, attached, 0, peer, number) + body


def refusal(number: int, reason: str, *, peer: int = MASTER) -> Frame:
    """Return the frame that says why there is no answer to a request."""
    body = json.dumps(reason[:MAX_REASON_CHARS]).encode()
    return Frame(Kind.ERROR, body, peer, number)


class Splitter:
    """Finds the frames in what was received."""

    def __init__(self) -> None:
        self._data: bytes | bytearray = b""
        """What was received; a bytearray when it is the beginning of a frame, which grows."""
        self._at = 0
        """Where in it the next frame begins."""

    @property
    def is_within_frame(self) -> bool:
        """Whether the beginning of a frame has come, and not its end."""
        return len(self._data) > self._at

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield each frame that is complete. Raises `ProtocolError`, and is of no use after it."""
        if self.is_within_frame:
            self._data = bytearray(self._data) if self._at else self._data
            self._data += data
        else:
            self._data, self._at = data, 0
        received, at = self._data, self._at
        last = len(received) - _HEADER.size
        while at <= last:
            length, kind, attached, _, peer, number = _unpack(received, at)
            known = _KINDS.get(kind)
            if length > MAX_BODY_BYTES or attached > MAX_ATTACHED or known is None:
                raise _refused(length, kind, attached)
            begin = at + _HEADER.size
            end = begin + length
            if len(received) < end:
                break
            self._at = at = end  # Whoever asks may stop here.
            body = bytes(received[begin:end])
            # As Frame(...), in a third of the time.
            yield tuple.__new__(Frame, (known, body, peer, number, attached))
        if self._at or not isinstance(self._data, bytearray):
            self._data, self._at = bytearray(self._data[self._at :]), 0


def _refused(length: int, kind: int, attached: int) -> ProtocolError:
    if length > MAX_BODY_BYTES:
        return ProtocolError(f"a message of {length} bytes; {MAX_BODY_BYTES} are the most")
    if kind not in _KINDS:
        return ProtocolError(f"a message of kind {kind}")
    return ProtocolError(f"a message with {attached} descriptors")

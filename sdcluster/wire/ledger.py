"""The ledger: what a worker knows of each of its connections, for when it dies.

Shared memory (a memfd) of the worker and its keeper, which gives it to the master. The master only
reads it. The keeper adds what a dead worker could not: see `worker.moving.unix_counts` and
`worker.moving.signatures`. A connection's number is that of its descriptor in the worker.

    bytes               what
    0-4095              the head: `Head`, a 64-bit word each
    then                the frame last taken from the control channel; its first byte is 0 when
                        what it has brought is entered
    ENTRY_BYTES each    for each number: `Word`, a 64-bit word each, and who a proxy says it is
    `limit` each        for each number: what was read from it since its request began

Each change is one word, and however many of them the worker gets through before it dies, what is
there can be told from what the kernel has counted: see `core.verdict`.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum

from sdcluster.errors import ProtocolError
from sdcluster.wire.channel import MAX_HANDOFF_BYTES, MAX_PROXIED_BYTES, MAX_UNANSWERED_BYTES

MAGIC = 0x5D_C1_05_7E_2D_6E_72_01
PAGE_BYTES = 4096
ENTRY_BYTES = 256
NOT_KNOWN = 2**64 - 1
"""As `LENGTH` or `OUT_DONE`: more is being read, or written, and it cannot be told how much."""
MAX_CAPACITY = 16384
"""Connections that a ledger has room for; those with a higher number end with their worker."""

_WORD_BYTES = 8
_PROXIED_AT = 128
_ARRIVAL_BYTES = -(-MAX_HANDOFF_BYTES // PAGE_BYTES) * PAGE_BYTES


class Head(IntEnum):
    """The index of each word of the head."""

    MAGIC = 0
    CAPACITY = 1
    """Entries."""
    LIMIT = 2
    """Bytes that are kept of a request."""
    TAKING = 3
    """1 while connections are taken that are not entered yet."""
    PIPE = 4
    """The descriptor, and 1, of the pipe through which is written to Unix sockets; 0 without."""


class State(IntEnum):
    """What is known of a connection."""

    NONE = 0
    """Its number is that of no connection."""
    OPEN = 1
    """All that follows is true of it."""
    PINNED = 2
    """It cannot go elsewhere: a WebSocket, say, or requests one on another's heels."""
    LEFT = 3
    """It is being closed."""
    OWED = 4
    """As `OPEN`; and the response that ends at `OUT_END` is complete before its request is."""
    ANSWERING = 5
    """As `OPEN` when all is written up to `OUT_END`; until then it cannot go elsewhere."""


class Word(IntEnum):
    """The index of each word of an entry. Totals are of bytes, since the connection was opened."""

    STATE = 0
    IN_BASE = 1
    """Bytes read before the request that is unanswered."""
    LENGTH = 2
    """Bytes read since then, where the kernel does not count them: from Unix sockets."""
    OUT_BASE = 3
    """Bytes written before the response to it."""
    OUT_DONE = 4
    """Bytes written, where the kernel does not count them."""
    OUT_END = 5
    """Bytes written when the response is complete; `OUT_BASE` at most while that is not known, but
    for what is `OWED`."""
    CRASHES = 6
    """Workers that have died when their app was at work on the request."""
    DEATHS = 7
    """Workers that have died with the request, whether the app was at work on it or not."""
    BEGUN = 8
    """Bytes read before the request that the app was given last, and 1; 0 when it had none."""
    HANDING = 9
    """The serial number with which it is being handed over; 0 when it is not."""
    SIGNATURE = 10
    """What requests as the one that the app was given last have in common, see `wire.signature`.
    Where its head is kept, the keeper finds it; 0 when nobody has."""
    IN_DONE = 11
    """Bytes read before the request that is unanswered, when that came behind others: else less
    than `IN_BASE`, where what is kept begins in any case."""
    IN_END = 12
    """What `IN_DONE` is to be when the response is complete, see `OUT_END`; 0 when nothing is
    known to come behind the request."""
    OUT_INTERIM = 13
    """Bytes written with an interim response, as 100 Continue: the response is not begun by it."""
    READING = 14
    """What `LENGTH` is to be when what is being read is read, and SO_PEEK_OFF is 0; else 0."""
    WRITING = 15
    """What `OUT_DONE` is to be when what is being written is, and the pipe is empty; else 0."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things are in a ledger of so many entries and bytes for a request."""

    capacity: int
    limit: int

    @property
    def arrival_at(self) -> int:
        """Return where the frame is that is being taken."""
        return PAGE_BYTES

    @property
    def entries_at(self) -> int:
        """Return where the entries begin."""
        return PAGE_BYTES + _ARRIVAL_BYTES

    def entry_at(self, number: int) -> int:
        """Return where the entry of a connection begins."""
        return self.entries_at + number * ENTRY_BYTES

    def proxied_at(self, number: int) -> int:
        """Return where it says who the client is, ended by a zero."""
        return self.entry_at(number) + _PROXIED_AT

    def data_at(self, number: int) -> int:
        """Return where the bytes of its request are."""
        start = self.entries_at + self.capacity * ENTRY_BYTES
        return -(-start // PAGE_BYTES) * PAGE_BYTES + number * self.limit

    @property
    def size(self) -> int:
        """Return the length of the whole, in bytes; what is not used takes no memory."""
        return self.data_at(self.capacity)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What a ledger says of one connection."""

    state: State
    in_base: int
    length: int
    out_base: int
    out_done: int
    out_end: int
    crashes: int
    deaths: int
    begun: int
    handing: int
    signature: int
    in_done: int = 0
    in_end: int = 0
    out_interim: int = 0
    proxied: bytes

    @property
    def base(self) -> int:
        """Bytes read before the request that is unanswered, as far as that was noted."""
        return max(self.in_base, self.in_done)

    @property
    def is_begun(self) -> bool:
        """Whether the app is at work on that request."""
        return self.begun == self.base + 1


def encode_head(layout: Layout) -> bytes:
    """Return the words that the head of a ledger begins with."""
    return struct.pack("=3Q", MAGIC, layout.capacity, layout.limit)


def decode_head(data: bytes) -> tuple[Layout, bool]:
    """Read the head; return also whether connections were being taken. Raises `ProtocolError`."""
    if len(data) < PAGE_BYTES:
        raise ProtocolError("a ledger without a head")
    words = memoryview(data).cast("Q")
    layout = Layout(words[Head.CAPACITY], words[Head.LIMIT])
    if (
        words[Head.MAGIC] != MAGIC
        or layout.capacity > MAX_CAPACITY
        or layout.limit > MAX_UNANSWERED_BYTES
    ):
        raise ProtocolError("a ledger that makes no sense")
    return layout, words[Head.TAKING] != 0


def decode_entry(data: bytes) -> Entry:
    """Read an entry. Raises `ProtocolError`."""
    if len(data) != ENTRY_BYTES:
        raise ProtocolError("an entry of a ledger is missing")
    words = memoryview(data)[: len(Word) * _WORD_BYTES].cast("Q")
    try:
        state = State(words[Word.STATE])
    except ValueError as error:
        raise ProtocolError("an entry of a ledger makes no sense") from error
    proxied = data[_PROXIED_AT : _PROXIED_AT + MAX_PROXIED_BYTES].partition(b"\0")[0]
    return Entry(
        state=state,
        in_base=words[Word.IN_BASE],
        length=words[Word.LENGTH],
        out_base=words[Word.OUT_BASE],
        out_done=words[Word.OUT_DONE],
        out_end=words[Word.OUT_END],
        crashes=words[Word.CRASHES],
        deaths=words[Word.DEATHS],
        begun=words[Word.BEGUN],
        handing=words[Word.HANDING],
        signature=words[Word.SIGNATURE],
        in_done=words[Word.IN_DONE],
        in_end=words[Word.IN_END],
        out_interim=words[Word.OUT_INTERIM],
        proxied=proxied,
    )

"""The worker's side of the ledger: the memory, and an entry in it for each of its connections."""

import mmap
import os
import resource
from array import array

from sdcluster.wire.channel import MAX_PROXIED_BYTES, NEW, Handoff, Terms
from sdcluster.wire.ledger import (
    ENTRY_BYTES,
    MAX_CAPACITY,
    PAGE_BYTES,
    Head,
    Layout,
    State,
    Word,
)

_NONE, _OPEN, _PINNED = int(State.NONE), int(State.OPEN), int(State.PINNED)
_OWED = int(State.OWED)
_TAKING = int(Head.TAKING)
_ENTRY_WORDS = ENTRY_BYTES // 8
_USED_WORDS = len(Word)
_CLEAR = array("Q", bytes(8 * _USED_WORDS))

MAX_KEPT_BYTES = 64 * 1024 * 1024
"""What requests take in all, but for the first page of each; no more is kept of those to come."""
KEPT_NUMBERS = 256
"""Connections whose number is below have a page at hand when they come: it is not given back."""

SCRATCH_BYTES = 256 * 1024
"""How much is read at a time from a connection whose request is longer than what is kept."""


def layout_for(limit_bytes: int) -> Layout:
    """Return the layout with room for as many connections as this process may have descriptors.

    `limit_bytes`, of whole pages, are kept of a request.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Layout(min(soft, MAX_CAPACITY) if soft > 0 else MAX_CAPACITY, limit_bytes)


def memory(size_bytes: int, head: bytes) -> int:
    """Return the descriptor of memory for a ledger, which begins with `head`. Raises OSError."""
    fd = os.memfd_create("ledger", os.MFD_CLOEXEC)
    try:
        os.ftruncate(fd, size_bytes)
        os.pwrite(fd, head, 0)
    except OSError:
        os.close(fd)
        raise
    return fd


class Ledger:
    """The memory, as a process has it that shares it with others. See `wire.ledger`.

    Some of it is done for each connection: where things are is not computed anew.
    """

    def __init__(self, layout: Layout, fd: int) -> None:
        """`fd` is that of the memory, see `memory`, and belongs to the ledger. Raises OSError."""
        self.layout = layout
        self._capacity, self._limit = layout.capacity, layout.limit
        self._first_index, self._first_data_at = layout.entry_at(0) // 8, layout.data_at(0)
        self._first_proxied_at, self._arrival_at = layout.proxied_at(0), layout.arrival_at
        self.fd = fd
        self.map = mmap.mmap(self.fd, layout.size)
        self.map.madvise(mmap.MADV_DONTDUMP)  # Else each core dump would have room for all of it.
        self.bytes = memoryview(self.map)
        self.words = self.bytes.cast("Q")
        private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS  # No memory as long as it is not used.
        self.scratch = memoryview(mmap.mmap(-1, SCRATCH_BYTES, flags=private))
        """Shared by all connections: what is read is out of it before another reads."""
        self.arrival = self.bytes[layout.arrival_at : layout.entries_at]
        """Where frames from the control channel are read into."""
        self.left: list[int] = []
        """Numbers of connections whose end was told; they are closed right after that."""
        self._pages = array("H", bytes(2 * layout.capacity))
        """Pages that are used for the request of each connection."""
        self._kept_pages = 0

    def close(self) -> None:
        """Let go of it in this process; another that has it, has it on."""
        for view in (self.arrival, self.words, self.bytes):
            view.release()
        self.map.close()
        os.close(self.fd)

    def has(self, number: int) -> bool:
        """Tell whether there is an entry for a connection."""
        return number < self._capacity

    def index(self, number: int) -> int:
        """Return the index in `words` of the first word of an entry."""
        return self._first_index + number * _ENTRY_WORDS

    def data_at(self, number: int) -> int:
        """Return where in `map` the bytes of its request are."""
        return self._first_data_at + number * self._limit

    def begin_taking(self) -> None:
        """Note that there may be connections that are not entered yet: those with no state."""
        for number in self.left:
            self.words[self.index(number)] = _NONE
        self.left.clear()
        self.words[_TAKING] = 1

    def end_taking(self) -> None:
        """Note that all connections are entered."""
        self.bytes[self._arrival_at] = 0
        self.words[_TAKING] = 0

    def enter(self, number: int, handoff: Handoff) -> None:
        """Enter a connection, with what it was handed over with."""
        if not self.has(number):
            return
        words, at = self.words, self.index(number)
        if handoff is NEW:
            words[at : at + _USED_WORDS] = _CLEAR
            self.bytes[self._first_proxied_at + number * ENTRY_BYTES] = 0
            words[at] = _OPEN
            return
        unanswered = handoff.unanswered
        words[at + Word.STATE] = _NONE
        words[at + Word.IN_BASE] = handoff.consumed - len(unanswered)
        words[at + Word.OUT_BASE] = words[at + Word.OUT_DONE] = handoff.written
        words[at + Word.OUT_END] = words[at + Word.HANDING] = words[at + Word.BEGUN] = 0
        words[at + Word.SIGNATURE] = 0
        words[at + Word.IN_DONE] = words[at + Word.IN_END] = words[at + Word.OUT_INTERIM] = 0
        words[at + Word.READING] = words[at + Word.WRITING] = 0
        words[at + Word.CRASHES], words[at + Word.DEATHS] = handoff.crashes, handoff.deaths
        self.set_proxied(number, handoff.proxied)
        kept = len(unanswered) <= self._limit and self.use(number, len(unanswered))
        if kept:
            data_at = self.data_at(number)
            self.bytes[data_at : data_at + len(unanswered)] = unanswered
        words[at + Word.LENGTH] = len(unanswered)
        if not kept:
            words[at] = _PINNED
        elif handoff.terms is Terms.ANSWERED:
            words[at + Word.OUT_END] = handoff.written
            words[at] = _OWED
        else:
            words[at] = _OPEN

    def set_proxied(self, number: int, proxied: bytes) -> None:
        """Enter who a proxy says that the client is."""
        if self.has(number):
            at = self._first_proxied_at + number * ENTRY_BYTES
            text = proxied[:MAX_PROXIED_BYTES] + b"\0"
            self.bytes[at : at + len(text)] = text

    def used(self, number: int) -> int:
        """Return how many bytes of the memory for a connection's request are in use."""
        return self._pages[number] * PAGE_BYTES

    @property
    def is_half_full(self) -> bool:
        """Whether memory is to be given back as soon as it can be."""
        return self._kept_pages * PAGE_BYTES > MAX_KEPT_BYTES // 2

    def use(self, number: int, length: int) -> bool:
        """Have memory for so many bytes of a connection's request; False if it is used up."""
        pages = -(-length // PAGE_BYTES)
        more = pages - self._pages[number]
        if more > 0:
            if pages > 1 and (self._kept_pages + more) * PAGE_BYTES > MAX_KEPT_BYTES:
                return False
            self._pages[number] = pages
            self._kept_pages += more
        return True

    def free(self, number: int, length: int, rest: int = 0) -> None:
        """Give the memory of a request of some length back, but for that of its first bytes."""
        had = self._pages[number]
        begin = -(-rest // PAGE_BYTES)
        end = max(had, -(-min(length, self._limit) // PAGE_BYTES))
        if begin < end:
            at = self.data_at(number) + begin * PAGE_BYTES
            self.map.madvise(mmap.MADV_REMOVE, at, (end - begin) * PAGE_BYTES)
            if begin < had:
                self._pages[number] = begin
                self._kept_pages -= had - begin

    def leave(self, number: int) -> None:
        """Note that a connection's end was told, and give its memory back."""
        self.left.append(number)
        pages = self._pages[number]
        if pages > 1 or (pages and number >= KEPT_NUMBERS):
            self.free(number, 0, PAGE_BYTES if number < KEPT_NUMBERS else 0)

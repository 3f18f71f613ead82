"""What a ledger says of the connections of its worker."""

import struct

import pytest

from sdcluster.errors import ProtocolError
from sdcluster.wire.channel import MAX_PROXIED_BYTES, MAX_UNANSWERED_BYTES
from sdcluster.wire.ledger import (
    ENTRY_BYTES,
    MAGIC,
    MAX_CAPACITY,
    PAGE_BYTES,
    Entry,
    Layout,
    State,
    decode_entry,
    decode_head,
    encode_head,
)
from unit.wire.fuzz import byte_strings


def head(*words: int) -> bytes:
    """Return a head with these words."""
    return struct.pack(f"={len(words)}Q", *words).ljust(PAGE_BYTES, b"\0")


def entry(*words: int, proxied: bytes = b"") -> bytes:
    """Return an entry with these words."""
    begin = struct.pack(f"={len(words)}Q", *words).ljust(128, b"\0")
    return (begin + proxied).ljust(ENTRY_BYTES, b"\0")


@pytest.mark.parametrize(("capacity", "limit"), [(1, 4096), (1000, 65536), (16384, 131072)])
def test_nothing_in_a_ledger_overlaps(capacity: int, limit: int) -> None:
    """Head, arrival, entries and requests follow each other, the requests on pages of their own."""
    layout = Layout(capacity, limit)
    assert PAGE_BYTES == layout.arrival_at < layout.entries_at == layout.entry_at(0)
    assert layout.entry_at(1) - layout.entry_at(0) == ENTRY_BYTES
    assert layout.entry_at(0) < layout.proxied_at(0)
    assert layout.proxied_at(0) + MAX_PROXIED_BYTES < layout.entry_at(1)
    assert layout.entry_at(capacity) <= layout.data_at(0)
    assert layout.data_at(0) % PAGE_BYTES == 0
    assert layout.data_at(1) - layout.data_at(0) == limit
    assert layout.size == layout.data_at(capacity - 1) + limit


def test_head_is_read_as_it_was_written() -> None:
    """Before there is anything else."""
    layout = Layout(1000, 8192)
    assert decode_head(encode_head(layout).ljust(PAGE_BYTES, b"\0")) == (layout, False)


@pytest.mark.parametrize("taking", [0, 1])
def test_head_says_how_the_rest_is_laid_out(taking: int) -> None:
    """And whether connections were being taken."""
    assert decode_head(head(MAGIC, 100, 8192, taking)) == (Layout(100, 8192), bool(taking))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        head(MAGIC)[:-1],
        head(MAGIC + 1, 100, 8192),
        head(MAGIC, MAX_CAPACITY + 1, 8192),
        head(MAGIC, 100, MAX_UNANSWERED_BYTES + 1),
    ],
)
def test_head_that_makes_no_sense_is_refused(data: bytes) -> None:
    """It may be anything: an app may write to memory that it has not allocated."""
    with pytest.raises(ProtocolError, match="a ledger "):
        decode_head(data)


def test_entry_says_what_is_known() -> None:
    """Each word has its place; who the client is ends at the zero."""
    expected = Entry(
        state=State.PINNED,
        in_base=1,
        length=2,
        out_base=3,
        out_done=4,
        out_end=5,
        crashes=6,
        deaths=7,
        begun=8,
        handing=9,
        signature=10,
        proxied=b"PROXY UNKNOWN\r\n",
    )
    data = entry(State.PINNED, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, proxied=b"PROXY UNKNOWN\r\n\0rest")
    assert decode_entry(data) == expected


def test_entry_that_names_no_end_is_read_as_far_as_it_may_go() -> None:
    """No more than the longest line there is."""
    assert decode_entry(entry(1, proxied=b"x" * 128)).proxied == b"x" * MAX_PROXIED_BYTES


@pytest.mark.parametrize("data", [b"", entry(1)[:-1], entry(1) + b"\0"])
def test_entry_that_is_cut_off_is_refused(data: bytes) -> None:
    """Its file may be shorter than it says."""
    with pytest.raises(ProtocolError, match="missing"):
        decode_entry(data)


@pytest.mark.parametrize("state", [6, 2**64 - 1])
def test_entry_with_an_unknown_state_is_refused(state: int) -> None:
    """There are six."""
    with pytest.raises(ProtocolError, match="no sense"):
        decode_entry(entry(state))


def test_any_bytes_are_an_entry_or_a_protocol_error() -> None:
    """No other error; the same for a head."""
    for data in byte_strings(entry(1, 2, 3)[:40], head(MAGIC, 1, 2)[:40]):
        for decode, size in ((decode_entry, ENTRY_BYTES), (decode_head, PAGE_BYTES)):
            try:
                decode(data.ljust(size, b"\0"))
            except ProtocolError:
                pass  # As it should be.

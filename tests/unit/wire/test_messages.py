"""The frames of the message channel."""

import random
import struct

import pytest

from sdcluster.errors import ProtocolError
from sdcluster.wire.messages import (
    MAX_ATTACHED,
    MAX_BODY_BYTES,
    Frame,
    Kind,
    Splitter,
    encode,
)
from unit.wire.fuzz import byte_strings

FRAMES = [
    Frame(Kind.MESSAGE, b'{"a": 1}'),
    Frame(Kind.MESSAGE),
    Frame(Kind.REQUEST, b"[]", peer=3, number=2**32 - 1),
    Frame(Kind.REPLY, "\u2028é".encode(), number=1, attached=MAX_ATTACHED),
    Frame(Kind.ERROR, b"\0" * 40, peer=2**32 - 1, number=7),
    Frame(Kind.LISTEN, b"{}", number=1),
    Frame(Kind.UNLISTEN, b"1"),
    Frame(Kind.DISCONNECT),
]
STREAM = b"".join(encode(frame) for frame in FRAMES)


def raw(length: int, kind: int = Kind.MESSAGE, attached: int = 0) -> bytes:
    """Return a header as somebody else would write it."""
    return struct.pack("<IBBHII", length, kind, attached, 0, 0, 0)


def frames(splitter: Splitter, *pieces: bytes) -> list[Frame]:
    """Return the frames that are found in pieces of a stream."""
    return [frame for piece in pieces for frame in splitter.feed(piece)]


@pytest.mark.parametrize("frame", FRAMES, ids=lambda one: one.kind.name)
def test_frame_arrives_as_it_was_sent(frame: Frame) -> None:
    """Every field survives; the header is of 16 bytes."""
    data = encode(frame)
    assert len(data) == 16 + len(frame.body)
    assert frames(Splitter(), data) == [frame]


def test_stream_is_cut_into_the_same_frames_however_it_arrives() -> None:
    """Pieces of any size give the same frames, and so do two pieces split at any byte."""
    for size in range(1, len(STREAM) + 1):
        pieces = (STREAM[start : start + size] for start in range(0, len(STREAM), size))
        assert frames(Splitter(), *pieces) == FRAMES
    for at in range(len(STREAM) + 1):
        assert frames(Splitter(), STREAM[:at], STREAM[at:]) == FRAMES


def test_splitter_knows_whether_a_frame_is_under_way() -> None:
    """From the first byte of a frame to its last."""
    splitter = Splitter()
    assert not splitter.is_within_frame
    data = encode(FRAMES[0])
    for byte in data[:-1]:
        assert frames(splitter, bytes([byte])) == []
        assert splitter.is_within_frame
    assert frames(splitter, data[-1:]) == [FRAMES[0]]
    assert not splitter.is_within_frame


def test_frames_that_were_not_asked_for_come_with_the_next_piece() -> None:
    """A reader may stop in the middle, and loses nothing."""
    splitter = Splitter()
    assert next(splitter.feed(STREAM)) == FRAMES[0]
    assert frames(splitter, b"") == FRAMES[1:]


def test_largest_body_is_taken_by_both_ends() -> None:
    """The limit itself is allowed."""
    frame = Frame(Kind.MESSAGE, b"x" * MAX_BODY_BYTES)
    assert frames(Splitter(), encode(frame)) == [frame]


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (Frame(Kind.MESSAGE, b"x" * (MAX_BODY_BYTES + 1)), "a message of 1048577 bytes; 1048576"),
        (Frame(Kind.REPLY, attached=MAX_ATTACHED + 1), "a message with 3 descriptors"),
    ],
    ids=["body", "attached"],
)
def test_frame_that_is_too_large_is_not_sent(frame: Frame, message: str) -> None:
    """The sender finds out before the other end does."""
    with pytest.raises(ProtocolError, match=message):
        encode(frame)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (raw(MAX_BODY_BYTES + 1), "a message of 1048577 bytes; 1048576 are the most"),
        (raw(2**32 - 1), "a message of 4294967295 bytes"),
        (raw(0, kind=0), "a message of kind 0"),
        (raw(0, kind=255), "a message of kind 255"),
        (raw(0, attached=MAX_ATTACHED + 1), "a message with 3 descriptors"),
        (b"GET / HTTP/1.1\r\n", "a message of 542393671 bytes"),
    ],
)
def test_header_that_is_wrong_is_refused_before_its_body(data: bytes, message: str) -> None:
    """Nobody waits for, or keeps, what is not to be taken."""
    with pytest.raises(ProtocolError, match=message):
        frames(Splitter(), data)


def test_frames_before_a_wrong_one_are_found() -> None:
    """They were sent while all was well."""
    found = Splitter().feed(STREAM + raw(0, kind=99))
    assert [next(found) for _ in FRAMES] == FRAMES
    with pytest.raises(ProtocolError, match="kind 99"):
        next(found)


def test_any_bytes_are_frames_or_a_protocol_error() -> None:
    """In pieces of any size, and the same frames as in one piece."""
    draw = random.Random(0)
    for data in byte_strings(STREAM, *(encode(frame) for frame in FRAMES)):
        found: list[list[Frame] | str] = []
        for size in (len(data) + 1, draw.randint(1, 20)):
            pieces = [data[start : start + size] for start in range(0, len(data), size)]
            seen: list[Frame] = []
            splitter = Splitter()
            try:
                for piece in pieces:
                    seen.extend(splitter.feed(piece))
            except ProtocolError as error:
                found.append(str(error))
            else:
                found.append(seen)
            assert all(len(encode(frame)) <= 16 + MAX_BODY_BYTES for frame in seen)
        assert found[0] == found[1]

"""The journal's native protocol."""

import pytest

from sdcluster.wire.journal import encode
from unit.wire.fuzz import texts


def parse(data: bytes) -> dict[str, str]:
    """Read a datagram as the journal does."""
    fields = {}
    while data:
        line, _, rest = data.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if equals:
            data = rest
        else:
            size = int.from_bytes(rest[:8], "little")
            value, end, data = rest[8 : 8 + size], rest[8 + size : 9 + size], rest[9 + size :]
            assert end == b"\n"
        fields[name.decode()] = value.decode()
    return fields


def test_single_lines_are_written_with_an_equals_sign() -> None:
    """The simple form, one field a line."""
    assert encode({"MESSAGE": "hello", "PRIORITY": "6"}) == b"MESSAGE=hello\nPRIORITY=6\n"


def test_text_of_several_lines_is_written_with_its_size() -> None:
    """The size, 64 bits, little-endian, then the bytes."""
    assert encode({"MESSAGE": "a\nb"}) == b"MESSAGE\n\x03\0\0\0\0\0\0\0a\nb\n"


@pytest.mark.parametrize("text", ["caf\udce9", "\ud83d"])
def test_text_that_is_not_unicode_is_logged_readably(text: str) -> None:
    """Undecodable bytes of a file name, and half a character, lose no entry."""
    assert parse(encode({"MESSAGE": text}))["MESSAGE"].startswith(("caf\\udce9", "\\ud83d"))


def test_every_text_arrives_as_it_was_sent() -> None:
    """Newlines, equals signs and NULs are all text."""
    for text in texts():
        unicode = text.encode("utf-8", "ignore").decode()
        fields = {"MESSAGE": unicode, "PRIORITY": "6", "A_1": unicode}
        assert parse(encode(fields)) == fields

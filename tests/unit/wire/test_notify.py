"""The notifications of a supervised process."""

import pytest

from sdcluster.errors import ProtocolError
from sdcluster.wire.notify import (
    MAX_DATAGRAM_BYTES,
    MAX_STATUS_CHARS,
    Notification,
    decode,
    encode,
)
from unit.wire.fuzz import byte_strings, texts


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"READY=1", Notification(ready=True)),
        (b"STOPPING=1\n", Notification(stopping=True)),
        (b"X_WORN=1", Notification(worn=True)),
        (b"WATCHDOG=1", Notification(watchdog=True)),
        (b"X_TAKEN=1", Notification(taken=True)),
        (b"X_KEEPER=4321", Notification(keeper=4321)),
        (b"X_KEEPER=-1\nREADY=1", Notification(ready=True)),
        ("X_KEEPER=\u0663".encode(), Notification()),
        (b"X_KEEPER=1234567890", Notification()),
        (b"X_FAILED=no database", Notification(failed="no database")),
        (b"READY=1\nSTATUS=a=b\n\n", Notification(ready=True, status="a=b")),
        (b"STATUS=one\nSTATUS=two", Notification(status="two")),
        (b"READY=0\nWATCHDOG=trigger", Notification()),
        (b"MAINPID=1\nFDSTORE=1\nERRNO=13", Notification()),
        (b"STATUS=", Notification(status="")),
        (b"", Notification()),
        (b"\n", Notification()),
        (b"READY=1\0", Notification(ready=True)),
        (b"STATUS=caf\xe9\nREADY=1", Notification(ready=True, status="caf\ufffd")),
        (b"READY=1\nup and running", Notification(ready=True)),
        (b"=1\n\xff\nREADY\nWATCHDOG=1", Notification(watchdog=True)),
        (b"READY\nX_FAILED=no database", Notification(failed="no database")),
    ],
)
def test_datagram_says_what_its_lines_say(data: bytes, expected: Notification) -> None:
    """Known keys are read, the last of two counts; what is unknown or senseless is passed over."""
    assert decode(data) == expected


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"x" * (MAX_DATAGRAM_BYTES + 1), "more than 4096 bytes"),
        (b"READY", "notification without KEY=VALUE: b'READY'"),
        (b"=1\n\xff", "notification without KEY=VALUE: "),
    ],
)
def test_datagram_that_is_wrong_is_refused(data: bytes, message: str) -> None:
    """Each way of being wrong has its text."""
    with pytest.raises(ProtocolError, match=message):
        decode(data)


def test_status_for_people_is_short_and_printable() -> None:
    """No escape sequence reaches a terminal, and no status fills it."""
    notification = decode("STATUS=a\x1b[31mb\u2028c\tté".encode() + b"x" * 1000)
    assert notification.status is not None
    assert notification.status.startswith("a [31mb c té")
    assert len(notification.status) == MAX_STATUS_CHARS


def test_values_are_encoded_as_one_line_each() -> None:
    """A newline inside a value would begin another assignment."""
    data = encode(X_FAILED="no database\nREADY=1", STOPPING=1)
    assert data == b"X_FAILED=no database READY=1\nSTOPPING=1"


def test_value_that_is_too_long_is_cut_and_pushes_nothing_out() -> None:
    """What comes behind a long text arrives all the same."""
    notification = decode(encode(STATUS="é" * 10_000, READY=1))
    assert notification == Notification(ready=True, status="é" * MAX_STATUS_CHARS)


def test_value_that_is_not_unicode_is_sent_all_the_same() -> None:
    """The reason of a failure must not get lost for a file name."""
    assert decode(encode(X_FAILED="no file 'caf\udce9'")).failed == "no file 'caf?'"


def test_what_is_encoded_can_be_decoded() -> None:
    """Whatever the texts are, they arrive as one printable line each."""
    for text in texts():
        notification = decode(encode(STATUS=text, X_FAILED=text * 99, STOPPING=1))
        assert notification.stopping
        assert notification.status is not None and notification.status.isprintable()
        assert notification.failed is not None and notification.failed.isprintable()


def test_more_than_a_datagram_holds_is_not_sent() -> None:
    """The sender finds out before the channel does."""
    with pytest.raises(ProtocolError, match="more than 4096 bytes"):
        encode(**{f"X_{number}": "é" * 256 for number in range(9)})


def test_any_bytes_are_a_notification_or_a_protocol_error() -> None:
    """A program that writes rubbish to its NOTIFY_SOCKET harms nobody else."""
    for data in byte_strings(b"READY=1\nSTATUS=up\nWATCHDOG=1", b"X_FAILED=no", b"STOPPING=1"):
        try:
            decode(data)
        except ProtocolError:
            pass  # As it should be.

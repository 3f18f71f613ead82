"""Varlink messages."""

import json
import re

import pytest

from sdcluster.errors import ProtocolError
from sdcluster.wire.varlink import (
    DESCRIPTION,
    INTERFACE,
    MAX_MESSAGE_BYTES,
    Call,
    Reply,
    Splitter,
    decode_call,
    decode_reply,
    encode,
)
from unit.wire.fuzz import byte_strings, json_objects

CALLS = [
    Call("io.sdcluster.Control.Status"),
    Call("io.sdcluster.Control.Reload", more=True),
    Call("io.sdcluster.Control.Scale", {"delta": -1}, oneway=True),
]
REPLIES = [
    Reply(),
    Reply({"workers": 4}, continues=True),
    Reply({"reason": "no module"}, error="io.sdcluster.Control.ReloadFailed"),
]


@pytest.mark.parametrize("call", CALLS, ids=lambda one: one.method)
def test_call_arrives_as_it_was_sent(call: Call) -> None:
    """Method, parameters and flags survive."""
    data = encode(call)
    assert data.endswith(b"\0")
    assert decode_call(data[:-1]) == call


@pytest.mark.parametrize("reply", REPLIES, ids=str)
def test_reply_arrives_as_it_was_sent(reply: Reply) -> None:
    """Parameters, error and flag survive."""
    assert decode_reply(encode(reply)[:-1]) == reply


def test_only_what_is_set_is_sent() -> None:
    """A call without flags and a reply without an error have none."""
    assert json.loads(encode(Call("a.B"))[:-1]) == {"method": "a.B", "parameters": {}}
    assert json.loads(encode(Reply())[:-1]) == {"parameters": {}}


def test_call_may_leave_everything_out_but_its_method() -> None:
    """So it is written by hand."""
    assert decode_call(b'{"method": "a.B"}') == Call("a.B")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"1", "not a JSON object"),
        (b"{}", "a call without a method"),
        (b'{"method": 1}', "a call without a method"),
        (b'{"method": "Status"}', "a call without a method"),
        (b'{"method": "a.B", "parameters": []}', "parameters are not a JSON object"),
        (b'{"method": "a.B", "parameters": null}', "parameters are not a JSON object"),
    ],
)
def test_call_that_is_wrong_is_refused(data: bytes, message: str) -> None:
    """Each way of being wrong has its text."""
    with pytest.raises(ProtocolError, match=message):
        decode_call(data)


def test_reply_that_is_wrong_is_refused() -> None:
    """A client does not trust the master blindly either."""
    with pytest.raises(ProtocolError, match="the error of a reply is not a string"):
        decode_reply(b'{"error": 1}')
    with pytest.raises(ProtocolError, match="parameters are not a JSON object"):
        decode_reply(b'{"parameters": 1}')


def test_any_bytes_are_a_message_or_a_protocol_error() -> None:
    """A client that writes rubbish harms only itself."""
    samples = [encode(one)[:-1] for one in CALLS] + [encode(one)[:-1] for one in REPLIES]
    for data in byte_strings(*samples):
        for decode in (decode_call, decode_reply):
            try:
                decode(data)
            except ProtocolError:
                pass  # As it should be.


def test_any_values_are_a_message_or_a_protocol_error() -> None:
    """Types are checked before anybody relies on them."""
    keys = ["method", "parameters", "more", "oneway", "continues", "error"]
    for values in json_objects(keys):
        for decode in (decode_call, decode_reply):
            try:
                decode(json.dumps(values).encode())
            except ProtocolError:
                pass  # As it should be.


# The stream.


def test_stream_is_cut_into_the_same_messages_however_it_arrives() -> None:
    """Pieces of any size give the same messages."""
    messages = [b"one", b"", b"two two", b"x" * 40]
    stream = b"".join(one + b"\0" for one in messages)
    for size in range(1, len(stream) + 1):
        splitter = Splitter()
        pieces = (stream[start : start + size] for start in range(0, len(stream), size))
        assert [one for piece in pieces for one in splitter.feed(piece)] == messages


def test_message_without_an_end_is_refused_when_it_gets_too_long() -> None:
    """Nobody fills the master's memory."""
    splitter = Splitter(max_message_bytes=10)
    assert splitter.feed(b"x" * 10) == []
    with pytest.raises(ProtocolError, match="more than 10 bytes"):
        splitter.feed(b"x")


def test_complete_message_that_is_too_long_is_refused() -> None:
    """The limit holds however a message arrives."""
    with pytest.raises(ProtocolError, match="more than 10 bytes"):
        Splitter(max_message_bytes=10).feed(b"x" * 11 + b"\0")
    with pytest.raises(ProtocolError, match=f"more than {MAX_MESSAGE_BYTES} bytes"):
        Splitter().feed(b"x" * (MAX_MESSAGE_BYTES + 1))


def test_description_is_of_our_interface() -> None:
    """The first line that is no comment names the interface; each method has a comment."""
    lines = [line for line in DESCRIPTION.splitlines() if line and not line.startswith("#")]
    assert lines[0] == f"interface {INTERFACE}"
    assert re.findall(r"^method (\w+)\(", DESCRIPTION, re.MULTILINE) == [
        "Status",
        "Reload",
        "Scale",
    ]

"""The parser of responses, alone and beside h11."""

import h11
import pytest
from fuzz.answers import Answer, AnswerError, AnswerReader

LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX-A: b\r\n\r\nabc"
CHUNKED = (
    b"HTTP/1.1 404 No\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"1\r\na\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n"
)
UNTIL_END = b"HTTP/1.0 201 Made\r\n\r\nall of it"
CONTINUED = b"HTTP/1.1 100 Continue\r\n\r\n" * 2 + LENGTH


def read(data: bytes, method: str = "GET", *, step: int = 0) -> Answer:
    """Return the response that is all of `data`, fed in pieces of `step` bytes."""
    reader = AnswerReader(method)
    rest = None
    step = step or len(data)
    for at in range(0, len(data), step):
        assert rest is None
        rest = reader.feed(data[at : at + step])
    assert reader.end() and not rest
    return reader.answer()


@pytest.mark.parametrize("step", [0, 1, 2, 7])
@pytest.mark.parametrize(
    ("data", "status", "body"),
    [
        (LENGTH, 200, b"abc"),
        (CHUNKED, 404, b"a0123456789"),
        (UNTIL_END, 201, b"all of it"),
        (CONTINUED, 200, b"abc"),
        (b"HTTP/1.1 204 None\r\nA: b\r\n\r\n", 204, b""),
    ],
)
def test_response_is_read_however_it_comes(
    step: int, data: bytes, status: int, body: bytes
) -> None:
    """All of it, with its status."""
    answer = read(data, step=step)
    assert (answer.status, answer.body) == (status, body)


def test_response_to_head_has_no_body() -> None:
    """Whatever its headers say."""
    assert read(LENGTH.removesuffix(b"abc"), "HEAD").body == b""


def test_what_comes_behind_is_returned() -> None:
    """The next response of a pipeline begins there."""
    reader = AnswerReader("GET")
    assert reader.feed(LENGTH + CHUNKED) == CHUNKED
    assert reader.received == len(LENGTH)


def test_response_that_breaks_off_is_not_whole() -> None:
    """What has come of it is counted, without what was informational."""
    reader = AnswerReader("GET")
    assert reader.feed(CONTINUED[:-1]) is None
    assert not reader.end()
    assert (reader.continued, reader.received, reader.size) == (2, len(LENGTH) - 1, 2)
    part = reader.part()
    assert part is not None and part.body == b"ab"


def test_part_without_a_whole_head_is_nothing() -> None:
    """Nobody knows then who has answered."""
    reader = AnswerReader("GET")
    reader.feed(LENGTH[:20])
    assert reader.part() is None


@pytest.mark.parametrize(
    ("data", "is_last"),
    [
        (LENGTH, False),
        (LENGTH.replace(b"X-A: b", b"Connection: Close"), True),
        (LENGTH.replace(b"X-A: b", b"Connection: te, close"), True),
        (UNTIL_END, True),
    ],
)
def test_response_says_whether_it_is_the_last(data: bytes, is_last: bool) -> None:
    """By a header, or by its end being that of the connection."""
    answer = read(data)
    assert answer.is_last is is_last
    assert answer.is_delimited is (data is not UNTIL_END)


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"\x00\x01",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -3\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        CHUNKED.replace(b"\r\n1\r\n", b"\r\nx\r\n"),
        CHUNKED.replace(b"\r\na\r\n", b"\r\nab\r\n"),
        CHUNKED.removesuffix(b"\r\n") + b"trailer\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"b" * 70_000,
    ],
)
def test_what_is_no_response_is_found(data: bytes) -> None:
    """Nothing is guessed."""
    with pytest.raises(AnswerError):
        AnswerReader("GET").feed(data)


@pytest.mark.parametrize("data", [LENGTH, CHUNKED, UNTIL_END, CONTINUED])
def test_other_parser_says_the_same(data: bytes) -> None:
    """h11 is by somebody else."""
    other = h11.Connection(h11.CLIENT)
    other.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    other.send(h11.EndOfMessage())
    other.receive_data(data)
    other.receive_data(b"")
    body, status = b"", 0
    while not isinstance(event := other.next_event(), (h11.EndOfMessage, h11.ConnectionClosed)):
        if isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            body += event.data
    answer = read(data)
    assert (answer.status, answer.body) == (status, body)

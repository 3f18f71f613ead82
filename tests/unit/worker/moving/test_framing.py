"""Where requests end."""

import mmap

import pytest

from sdcluster.worker.moving.framing import request_end, response_size

GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"
BODY = b"GET / HTTP/1.1\r\n\r\n0\r\n\r\n"
PUT = b"PUT / HTTP/1.1\r\ncontent-LENGTH :  %d \r\n\r\n%b" % (len(BODY), BODY)
CHUNKS = b"5\r\n0\r\n\r\n\r\n1A ;a=b\r\n" + b"x" * 26 + b"\r\n"
CHUNKED = b"PUT / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n" + CHUNKS + b"0\r\n\r\n"
TRAILER = b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS + b"0;a\r\nA: b\r\n\r\n"


@pytest.mark.parametrize("request_", [GET, PUT, CHUNKED, TRAILER, b"\r\n\r\n" + GET])
@pytest.mark.parametrize("before", [b"", b"\r\nx"])
def test_end_of_a_request_is_known(request_: bytes, before: bytes) -> None:
    """Whatever is before and behind it, also in a mapping of memory."""
    data = before + request_ + GET
    expected = len(before) + len(request_)
    assert request_end(data, len(before), len(data)) == expected
    with mmap.mmap(-1, len(data)) as memory:
        memory[:] = data
        assert request_end(memory, len(before), len(data)) == expected


def test_end_of_a_body_may_be_yet_to_come() -> None:
    """When its length is known."""
    end = len(PUT) - len(BODY)
    assert request_end(PUT[:end], 0, end) == len(PUT)


@pytest.mark.parametrize("request_", [GET, CHUNKED, TRAILER])
def test_nothing_is_known_before_the_end(request_: bytes) -> None:
    """Nor is what is there behind it looked at."""
    for end in range(len(request_)):
        assert request_end(request_, 0, end) is None
        assert request_end(request_[:end], 0, end) is None


@pytest.mark.parametrize(
    "line",
    [
        b"A: b\nContent-Length: 5",
        b"A: b\rContent-Length: 5",
        b"A: b\r\n Content-Length: 5",
        b"Content-Length: 5\r\nContent-Length: 5",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked",
        b"Content-Length: +5",
        b"Content-Length: 5, 5",
        b"Content-Length: " + b"9" * 20,
        b"Transfer-Encoding: gzip, chunked",
        b"Connection: upgrade\r\nUpgrade: h2c",
    ],
)
def test_nothing_is_told_of_what_may_be_read_in_two_ways(line: bytes) -> None:
    """Else part of a body might be made a request."""
    data = b"POST / HTTP/1.1\r\n" + line + b"\r\n\r\n" + BODY
    assert request_end(data, 0, len(data)) is None


@pytest.mark.parametrize("chunks", [b"x\r\n", b"5\nabcde\r\n0\r\n\r\n", b"-1\r\n", b"5\r\nabcdef0"])
def test_nothing_is_told_of_chunks_that_are_none(chunks: bytes) -> None:
    """Where a size would have to be."""
    data = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks
    assert request_end(data, 0, len(data)) is None


def test_tunnel_has_no_end() -> None:
    """What follows CONNECT is no HTTP."""
    data = b"CONNECT test:80 HTTP/1.1\r\n\r\n"
    assert request_end(data, 0, len(data)) is None


@pytest.mark.parametrize(
    ("head", "size"),
    [
        (b"HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 5\r\n\r\n", 44 + 5),
        (b"HTTP/1.1 404 Not Found\r\ncontent-length:0\r\n\r\n", 44),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n", None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\n", 62 + 5),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nconnection: Close\r\n\r\n", None),
        (b"HTTP/1.1 200 OK\r\nConnection: a, close\r\nContent-Length: 5\r\n\r\n", None),
        (b"HTTP/1.1 200 OK\r\n\r\n", None),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", None),
        (b"HTTP/1.1 103 Early Hints\r\nContent-Length: 5\r\n\r\n", None),
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", None),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", None),
        (b"this is no response", None),
    ],
)
def test_size_of_a_response_is_what_its_head_says(head: bytes, size: int | None) -> None:
    """If it does, and has a body."""
    assert response_size(head, b"GET / HT") == size
    assert response_size(head + b"body", b"GET / HT") == size
    assert response_size(head, b"HEAD / H") is None

"""Where a message ends that another one may follow: RFC 9112, 6. Pure.

The engine parses requests. This tells how many bytes one has had, which its parsers do not; where
a message is written in a way that two parsers might read differently, it tells nothing.
"""

import re
from mmap import mmap

_END_OF_HEAD = b"\r\n\r\n"
_AMBIGUOUS = re.compile(rb"(?<!\r)\n|\r(?!\n)|\n[ \t]")
"""Line ends that are bare, and lines that are folded."""
_FRAMING = re.compile(
    rb"\r\n(content-length|transfer-encoding|upgrade)[ \t]*:[ \t]*([^\r]*)", re.IGNORECASE
)
_STATUS = re.compile(rb"HTTP/1\.1 (?!204|304)[2-5]\d\d ")
"""Of a response that may have a body: RFC 9110, 15."""
_CLOSE = re.compile(rb"\r\nconnection[ \t]*:[^\r]*\bclose\b", re.IGNORECASE)
_LENGTH = re.compile(rb"\d{1,15}")
_CHUNK = re.compile(rb"([0-9a-fA-F]{1,12})[ \t]*(?:;[^\r\n]*)?\r\n")


def request_end(data: bytes | mmap, begin: int, end: int) -> int | None:
    """Return where the request ends in `data` that begins at `begin`; None if that is not known.

    Only what is before `end` counts. A body of a known length may end after that.
    """
    while begin < end and data[begin : begin + 1] in (b"\r", b"\n"):
        begin += 1
    head_end = data.find(_END_OF_HEAD, begin, end)
    if head_end < 0:
        return None
    head = data[begin : head_end + 2]
    if _AMBIGUOUS.search(head) or head.startswith(b"CONNECT "):
        return None
    body_at = head_end + len(_END_OF_HEAD)
    match [(name.lower(), value.strip().lower()) for name, value in _FRAMING.findall(head)]:
        case []:
            return body_at
        case [(b"content-length", length)] if _LENGTH.fullmatch(length):
            return body_at + int(length)
        case [(b"transfer-encoding", b"chunked")]:
            return _end_of_chunks(data, body_at, end)
    return None


def response_size(data: bytes, request: bytes) -> int | None:
    """Return how many bytes a response has that begins so; None if its head does not tell.

    `request` is how the request begins: the response to HEAD has no body. After one that says so
    the connection is closed: such a response is not complete before that.
    """
    head_end = data.find(_END_OF_HEAD)
    status = _STATUS.match(data)
    if (
        head_end < 0
        or not status
        or _CLOSE.search(data, 0, head_end)
        or request.startswith((b"HEAD ", b"CONNECT "))
    ):
        return None
    match [(name.lower(), value.strip()) for name, value in _FRAMING.findall(data, 0, head_end)]:
        case [(b"content-length", length)] if _LENGTH.fullmatch(length):
            return head_end + len(_END_OF_HEAD) + int(length)
    return None


def _end_of_chunks(data: bytes | mmap, at: int, end: int) -> int | None:
    while chunk := _CHUNK.match(data, at, end):
        size = int(chunk[1], 16)
        at = chunk.end()
        if not size:
            if data[at : min(at + 2, end)] == b"\r\n":
                return at + 2
            trailer_end = data.find(_END_OF_HEAD, at, end)
            return trailer_end + len(_END_OF_HEAD) if trailer_end >= 0 else None
        at += size + 2
    return None

"""Reads HTTP/1.1 responses, strictly: a parser that no server here has. Pure; RFC 9112."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

MAX_HEAD_BYTES = 64 * 1024

_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: ([^\r\n]*))?")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n]*?)[ \t]*")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})(?:[ \t]*;[^\r\n]*)?")


class AnswerError(ValueError):
    """What has come is no response."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole response; the names of its headers are lower-case, and values of one name joined."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    is_last: bool
    """Whether the server has said that it closes the connection."""
    is_delimited: bool = True
    """Whether it says where its end is; else that is where the connection ends."""


class _At(Enum):
    HEAD = 1
    BODY = 2
    CHUNK = 3
    CHUNK_DATA = 4
    CHUNK_END = 5
    TRAILER = 6
    UNTIL_END = 7
    DONE = 8


class AnswerReader:
    """Reads the response to one request, whose method it has to know."""

    def __init__(self, method: str, *, is_old: bool = False) -> None:
        """`is_old` is for a request of HTTP/1.0, which ends its connection."""
        self._method = method
        self._is_old = is_old
        self._at = _At.HEAD
        self._data = b""
        self._left = 0
        self._body: list[bytes] = []
        self._status = 0
        self._headers: dict[str, str] = {}
        self.received = 0
        """How many bytes of the final response have come."""
        self.continued = 0
        """How often 100 Continue has come."""

    @property
    def size(self) -> int:
        """How many bytes of the body have come."""
        return sum(map(len, self._body))

    def feed(self, data: bytes) -> bytes | None:
        """Take what has come; return what is left when all is there. Raises `AnswerError`."""
        self._data += data
        self.received += len(data)
        while self._step():
            pass
        if self._at is not _At.DONE:
            return None
        self.received -= len(self._data)
        return self._data

    def end(self) -> bool:
        """Take that no more comes; return whether the response is whole."""
        if self._at is _At.UNTIL_END:
            self._at = _At.DONE
        return self._at is _At.DONE

    def answer(self) -> Answer:
        """Return the response, when all of it is there."""
        assert self._at is _At.DONE
        tokens = self._headers.get("connection", "").lower().split(",")
        is_delimited = self._left >= 0
        return Answer(
            self._status,
            self._headers,
            b"".join(self._body),
            is_last="close" in map(str.strip, tokens) or self._is_old or not is_delimited,
            is_delimited=is_delimited,
        )

    def part(self) -> Answer | None:
        """Return what is there of the response; None when its head is not there whole."""
        if not self._status:
            return None
        return Answer(self._status, self._headers, b"".join(self._body), is_last=True)

    def _step(self) -> bool:
        """Read on; False if that needs more, or all is there."""
        match self._at:
            case _At.HEAD:
                return self._read_head()
            case _At.BODY | _At.CHUNK_DATA:
                return self._read_body()
            case _At.CHUNK:
                return self._read_chunk_size()
            case _At.CHUNK_END:
                line = self._line()
                if line:
                    raise AnswerError(f"{line[:40]!r} at the end of a chunk")
                if line is not None:
                    self._at = _At.CHUNK
                return line is not None
            case _At.TRAILER:
                return self._read_trailer()
            case _At.UNTIL_END:
                self._body.append(self._data)
                self._data = b""
                return False
            case _At.DONE:
                return False

    def _read_head(self) -> bool:
        head, end, rest = self._data.partition(b"\r\n\r\n")
        if not end:
            if len(head) > MAX_HEAD_BYTES:
                raise AnswerError(f"a head of more than {MAX_HEAD_BYTES} bytes")
            if not _may_begin(head):
                raise AnswerError(f"it begins with {head[:60]!r}")
            return False
        line, *lines = head.split(b"\r\n")
        found = _STATUS_LINE.fullmatch(line)
        if not found:
            raise AnswerError(f"the status line {line[:60]!r}")
        self._data = rest
        headers: dict[str, str] = {}
        for one in lines:
            pair = _FIELD.fullmatch(one)
            if not pair:
                raise AnswerError(f"the header {one[:60]!r}")
            name, value = pair[1].decode().lower(), pair[2].decode("latin-1")
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        status = int(found[1])
        if status == 100:
            self.continued += 1
            self.received = len(rest)
            return True
        if status < 200:
            raise AnswerError(f"the status {status}")
        self._status, self._headers = status, headers
        self._begin_body()
        return True

    def _begin_body(self) -> None:
        """Find out how long the body is: RFC 9112, 6.3."""
        length, coding = (self._headers.get(n) for n in ("content-length", "transfer-encoding"))
        if length is not None and not re.fullmatch("[0-9]{1,12}", length):
            raise AnswerError(f"Content-Length: {length}")
        if length is not None and coding is not None:
            raise AnswerError("both Content-Length and Transfer-Encoding")
        if self._method == "HEAD" or self._status in (204, 304):
            self._at = _At.DONE
        elif coding is not None:
            if coding.lower() != "chunked":
                raise AnswerError(f"Transfer-Encoding: {coding}")
            self._at = _At.CHUNK
        elif length is not None:
            self._left = int(length)
            self._at = _At.BODY if self._left else _At.DONE
        else:
            self._left = -1
            self._at = _At.UNTIL_END

    def _read_body(self) -> bool:
        piece = self._data[: self._left]
        self._data = self._data[len(piece) :]
        self._body.append(piece)
        self._left -= len(piece)
        if self._left:
            return False
        self._at = _At.DONE if self._at is _At.BODY else _At.CHUNK_END
        return True

    def _read_chunk_size(self) -> bool:
        line = self._line()
        if line is None:
            return False
        found = _CHUNK_SIZE.fullmatch(line)
        if not found:
            raise AnswerError(f"the chunk size {line[:40]!r}")
        self._left = int(found[1], 16)
        self._at = _At.CHUNK_DATA if self._left else _At.TRAILER
        return True

    def _read_trailer(self) -> bool:
        line = self._line()
        if line is None:
            return False
        if not line:
            self._at = _At.DONE
        elif not _FIELD.fullmatch(line):
            raise AnswerError(f"the trailer {line[:60]!r}")
        return True

    def _line(self) -> bytes | None:
        line, end, rest = self._data.partition(b"\r\n")
        if not end:
            if len(line) > MAX_HEAD_BYTES:
                raise AnswerError("a line without an end")
            return None
        self._data = rest
        return line


def _may_begin(data: bytes) -> bool:
    """Tell whether a response may begin so."""
    begin = b"HTTP/1."
    return data[: len(begin)] == begin[: len(data)]

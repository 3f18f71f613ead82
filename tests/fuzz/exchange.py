"""A request, with how it wants to be answered, and its bytes. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import blake2b
from random import Random
from urllib.parse import quote

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
IDEMPOTENT = SAFE | {"PUT", "DELETE"}
"""What may be carried out twice: RFC 9110, 9.2.2. The server replays these."""


class Framing(StrEnum):
    """How a request says how long its body is."""

    NONE = "none"
    LENGTH = "length"
    CHUNKED = "chunked"


class Kind(StrEnum):
    """How an answer says how long it is, and comes."""

    LENGTH = "length"
    CHUNKED = "chunked"
    EMPTY = "empty"
    ENDLESS = "endless"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What the app is asked for."""

    kind: Kind = Kind.LENGTH
    size: int = 0
    """Bytes of the body; of one round, for one without an end."""
    count: int = 1
    """In how many pieces."""
    pause_ms: int = 0
    """Between two pieces."""
    delay_ms: int = 0
    """Before the first."""
    status: int = 200
    reads: bool = True
    """Whether the app reads the body of the request."""

    def text(self) -> str:
        """Return it as the app is told."""
        words = (self.kind, self.size, self.count, self.pause_ms, self.delay_ms, self.status)
        return ",".join(str(word) for word in (*words, int(self.reads)))

    @property
    def is_short(self) -> bool:
        """Whether the answer is written at once, or not at all."""
        return self.kind in (Kind.LENGTH, Kind.EMPTY) and self.count == 1 and self.size <= 32768


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request. Every key that a server might be told to look at is somebody else's."""

    id: str
    method: str = "GET"
    version: str = "1.1"
    segments: tuple[str, ...] = ()
    """Of the path, not quoted; the first is a key."""
    query: tuple[tuple[str, str], ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    """All but those that belong to the framing, and cookies."""
    cookies: tuple[tuple[str, str], ...] = ()
    size: int = 0
    """Bytes of the body."""
    framing: Framing = Framing.NONE
    chunks: tuple[int, ...] = ()
    """Their sizes, again and again until all is sent."""
    expects: bool = False
    """Whether the body waits for 100 Continue."""
    closes: bool = False
    has_idempotency_key: bool = False
    shape: Shape = field(default_factory=Shape)
    user: int | None = None
    """Whose sticky cookie goes with it; that of a new one when it is None."""

    def __str__(self) -> str:
        words = [self.id, self.method, f"HTTP/{self.version}", f"{self.framing} {self.size}"]
        words += ["expects"] if self.expects else []
        words += ["closes"] if self.closes else []
        words += ["idempotency key"] if self.has_idempotency_key else []
        return f"{' '.join(words)} -> {self.shape.text()}"

    @property
    def may_be_repeated(self) -> bool:
        """Whether the server may have it carried out twice."""
        return self.method in IDEMPOTENT or self.has_idempotency_key

    @property
    def path(self) -> str:
        """The path as the app sees it."""
        return "/" + "/".join(self.segments)

    @property
    def target(self) -> str:
        """What the request line has."""
        path = "/" + "/".join(quote(one, safe="") for one in self.segments)
        return f"{path}?{self.query_string}" if self.query else path

    @property
    def query_string(self) -> str:
        """The query, quoted."""
        return "&".join(f"{quote(name)}={quote(value, safe='')}" for name, value in self.query)

    def body(self) -> bytes:
        """Return the body."""
        return Random(f"request {self.id}").randbytes(self.size)

    @property
    def is_kept_alive(self) -> bool:
        """Whether the connection may go on."""
        return not self.closes and self.version == "1.1"


def head(request: Request, cookies: Mapping[str, str]) -> bytes:
    """Return the request line and the headers, with these cookies beside the request's own."""
    lines = [f"{request.method} {request.target} HTTP/{request.version}", "Host: fuzz"]
    lines += [f"X-Id: {request.id}", f"X-Shape: {request.shape.text()}"]
    lines += [f"{name}: {value}" for name, value in request.headers]
    pairs = [*request.cookies, *cookies.items()]
    if pairs:
        lines.append("Cookie: " + "; ".join(f"{name}={value}" for name, value in pairs))
    if request.framing is Framing.LENGTH:
        lines.append(f"Content-Length: {request.size}")
    elif request.framing is Framing.CHUNKED:
        lines.append("Transfer-Encoding: chunked")
    if request.expects:
        lines.append("Expect: 100-continue")
    if request.closes:
        lines.append("Connection: close")
    if request.has_idempotency_key:
        lines.append(f"Idempotency-Key: {request.id}")
    return "\r\n".join((*lines, "", "")).encode("latin-1")


def framed_body(request: Request) -> bytes:
    """Return the body as it is sent."""
    body = request.body()
    if request.framing is not Framing.CHUNKED:
        return body
    sent, at, number = [], 0, 0
    while at < len(body):
        size = request.chunks[number % len(request.chunks)]
        piece = body[at : at + size]
        sent.append(b"%x\r\n%b\r\n" % (len(piece), piece))
        at, number = at + size, number + 1
    return b"".join((*sent, b"0\r\n\r\n"))


def digest(body: bytes) -> str:
    """Return the digest of a body that the app has read."""
    return blake2b(body, digest_size=16).hexdigest()

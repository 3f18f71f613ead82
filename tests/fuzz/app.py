"""The app that is fuzzed, as ASGI (`app`) and as WSGI (`application`).

It does what a request's X-Shape says, and tells in X-Echo what it has got. Each execution is
written down first, by one append, in a file that all workers share. It has nothing in common with
the oracle: what is computed on both sides is written twice.
"""

import asyncio
import json
import os
import random
import time
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Any

UNREAD = "unread"
LONGEST_S = 1.0
"""How long an endless response is, if nobody ends it."""

executions = os.open(os.environ["FUZZ_EXECUTIONS"], os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)


def key(scope: Any) -> bytes | None:
    """Return the key of a request, for `shard = "app:key"`: that of its header, backwards."""
    value: bytes = dict(scope["headers"]).get(b"x-key", b"")
    return value[::-1] if value else None


class Shape:
    """How the request wants to be answered."""

    def __init__(self, text: str) -> None:
        kind, size, count, pause_ms, delay_ms, status, reads = text.split(",")
        self.kind = kind
        self.size, self.count, self.status = int(size), int(count), int(status)
        self.pause_s, self.delay_s = int(pause_ms) / 1000, int(delay_ms) / 1000
        self.reads = reads == "1"

    def pieces(self, identity: str, digest: str) -> list[bytes]:
        """Return the body in pieces."""
        body = random.Random(f"answer {identity} {digest}").randbytes(self.size)
        if self.kind == "empty":
            return []
        length = -(-self.size // max(1, self.count)) or 1
        return [body[at : at + length] for at in range(0, self.size, length)] or [b""]

    def headers(self) -> list[tuple[str, str]]:
        """Return the header that says how long the body is, if one does."""
        if self.kind in ("chunked", "endless") or self.status == 204:
            return []
        size = 0 if self.kind == "empty" else self.size
        return [("content-length", str(size))]


def note(identity: str) -> None:
    """Write an execution down."""
    line = f"{identity} {os.environ['SDCLUSTER_SLOT']} {os.getpid()}\n".encode()
    assert os.write(executions, line) == len(line)


def digest_of(pairs: Iterable[tuple[str, str]]) -> str:
    """Return a digest of the headers that are there for the sake of it."""
    lines = sorted(f"{name}: {value}" for name, value in pairs)
    return blake2b("\n".join(lines).encode(), digest_size=8).hexdigest()


def echo(**known: Any) -> str:
    """Return what was got, for a header."""
    own = {"slot": int(os.environ["SDCLUSTER_SLOT"]), "pid": os.getpid()}
    return json.dumps({**known, **own})


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answer one request."""
    assert scope["type"] == "http"
    headers = [(name.decode("latin-1"), text.decode("latin-1")) for name, text in scope["headers"]]
    found = dict(headers)
    identity, shape = found["x-id"], Shape(found["x-shape"])
    note(identity)
    size, digest = 0, UNREAD
    if shape.reads:
        hashed = blake2b(digest_size=16)
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            hashed.update(message.get("body", b""))
            size += len(message.get("body", b""))
            if not message.get("more_body", False):
                break
        digest = hashed.hexdigest()
    if shape.delay_s:
        await asyncio.sleep(shape.delay_s)
    client = scope.get("client")
    told = echo(
        id=identity,
        method=scope["method"],
        path=scope["path"],
        query=scope["query_string"].decode("latin-1"),
        client=client[0] if client else "",
        size=size,
        digest=digest,
        extras=digest_of(one for one in headers if one[0].startswith("x-extra-")),
    )
    answer = [*shape.headers(), ("x-echo", told)]
    start = [(name.encode(), value.encode()) for name, value in answer]
    await send({"type": "http.response.start", "status": shape.status, "headers": start})
    *pieces, last = shape.pieces(identity, digest) or [b""]
    for piece in pieces:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
        await asyncio.sleep(shape.pause_s)
    ends_s = time.monotonic() + LONGEST_S
    while shape.kind == "endless" and time.monotonic() < ends_s:
        await send({"type": "http.response.body", "body": last, "more_body": True})
        await asyncio.sleep(0.01)
    await send({"type": "http.response.body", "body": last})


def application(environ: Any, start_response: Any) -> Iterator[bytes]:
    """Answer one request."""
    found = {
        name.removeprefix("HTTP_").lower().replace("_", "-"): value
        for name, value in environ.items()
        if name.startswith("HTTP_")
    }
    identity, shape = found["x-id"], Shape(found["x-shape"])
    note(identity)
    size, digest = 0, UNREAD
    if shape.reads:
        hashed = blake2b(digest_size=16)
        while body := environ["wsgi.input"].read(65536):
            hashed.update(body)
            size += len(body)
        digest = hashed.hexdigest()
    time.sleep(shape.delay_s)
    path = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
    told = echo(
        id=identity,
        method=environ["REQUEST_METHOD"],
        path=path.encode("latin-1").decode(),
        query=environ.get("QUERY_STRING", ""),
        client=environ.get("REMOTE_ADDR", ""),
        size=size,
        digest=digest,
        extras=digest_of((n, v) for n, v in found.items() if n.startswith("x-extra-")),
    )
    start_response(f"{shape.status} As asked", [*shape.headers(), ("x-echo", told)])
    return _pieces(shape, identity, digest)


def _pieces(shape: Shape, identity: str, digest: str) -> Iterator[bytes]:
    pieces = shape.pieces(identity, digest)
    for number, piece in enumerate(pieces):
        time.sleep(shape.pause_s if number else 0)
        yield piece
    ends_s = time.monotonic() + LONGEST_S
    while shape.kind == "endless" and time.monotonic() < ends_s:
        time.sleep(0.01)
        yield pieces[0]

"""Users who share kept-alive connections: each request says whose it is, each answer who gave it.

As behind a proxy, each connection brings the requests of any user, one after the other or two at
once, with large heads and now and then a body. What comes back is counted.
"""

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

HEAD_BYTES = 8 * 1024
BODY_BYTES = 24 * 1024
TIMEOUT_S = 30.0

APP = """
import os

async def app(scope, receive, send):
    assert scope["type"] == "http"
    size = 0
    while True:
        message = await receive()
        size += len(message.get("body", b""))
        if not message.get("more_body", False):
            break
    mark = next(value for name, value in scope["headers"] if name == b"x-mark")
    body = b"%s %s %d" % (os.environ["SDCLUSTER_SLOT"].encode(), mark, size)
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""
"""An app that answers with its slot, the mark of the request, and how much came with it."""


@dataclass
class Count:
    """What became of the requests."""

    right: int = 0
    wrong: int = 0
    """Answered by another worker than their own."""
    refused: int = 0
    faults: list[str] = field(default_factory=list)
    """What went wrong otherwise."""

    def __str__(self) -> str:
        asked = self.right + self.wrong + self.refused
        faults = f"{len(self.faults)} faults, such as {self.faults[:3]}"
        return f"{self.wrong} wrong and {self.refused} refused of {asked}; {faults}"


@dataclass(frozen=True)
class User:
    """Somebody whose requests are for one worker."""

    slot: int
    target: str
    headers: Mapping[str, str]


def ask(address: str, users: list[User], *, connections: int, seconds: float) -> Count:
    """Send the users' requests for so long, and count what comes back."""
    return asyncio.run(_ask(address, users, connections=connections, seconds=seconds))


async def _ask(address: str, users: list[User], *, connections: int, seconds: float) -> Count:
    count = Count()
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    await asyncio.gather(
        *(_connection(address, users, count, lambda: loop.time() < end) for _ in range(connections))
    )
    return count


async def _connection(
    address: str, users: list[User], count: Count, goes_on: Callable[[], bool]
) -> None:
    host, _, port = address.rpartition(":")
    while goes_on():
        reader, writer = await asyncio.open_connection(host, int(port))
        began = asyncio.get_running_loop().time()
        number = 0
        try:
            async with asyncio.timeout(None) as limit:
                while goes_on():
                    limit.reschedule(asyncio.get_running_loop().time() + TIMEOUT_S)
                    began = asyncio.get_running_loop().time()
                    number += 1
                    if not await _exchange(users, count, reader, writer):
                        break
        except (OSError, EOFError, TimeoutError) as error:
            lasted_s = asyncio.get_running_loop().time() - began
            count.faults.append(f"{error!r} in exchange {number} after {lasted_s:.2f} s")
        finally:
            writer.close()


async def _exchange(
    users: list[User], count: Count, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> bool:
    """Send a request or two, and read the answers; False when the connection is at its end."""
    asked = [random.choice(users) for _ in range(random.choice((1, 1, 1, 2)))]
    marks = [f"{random.getrandbits(48):x}" for _ in asked]
    sizes = [random.choice((0, 0, 0, random.randrange(BODY_BYTES))) for _ in asked]
    for request in map(_request, asked, marks, sizes):
        writer.write(request)
    for user, mark, size in zip(asked, marks, sizes, strict=True):
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        except EOFError as error:
            raise EOFError(f"{error}, {marks.index(mark)} of {sizes}") from error
        length = int(head.partition("content-length:")[2].partition("\r\n")[0])
        body = (await reader.readexactly(length)).decode()
        if head.startswith("http/1.1 200 "):
            slot, *rest = body.split()
            if rest != [mark, str(size)]:
                count.faults.append(f"{body!r} for {mark} and {size} bytes")
            count.right += int(slot) == user.slot
            count.wrong += int(slot) != user.slot
        else:
            count.refused += 1
        if "connection: close" in head:
            return False
    return True


def _request(user: User, mark: str, size: int) -> bytes:
    padding = "x" * random.randrange(HEAD_BYTES // 2, HEAD_BYTES + HEAD_BYTES // 2)
    headers = {"Host": "test", "X-Mark": mark, "X-Padding": padding, **user.headers}
    method = "POST" if size else "GET"
    if size:
        headers["Content-Length"] = str(size)
    lines = [f"{method} {user.target} HTTP/1.1", *(f"{n}: {v}" for n, v in headers.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + bytes(size)

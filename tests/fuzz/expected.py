"""What an answer must be, from the request alone: the oracle. Pure."""

import json
from collections.abc import Mapping
from hashlib import blake2b
from random import Random
from typing import Any

from fuzz.answers import Answer
from fuzz.configurations import PATH_NUMBER, Configuration, Routing
from fuzz.exchange import Kind, Request, digest

UNREAD = "unread"


def body(request: Request) -> bytes:
    """Return what the answer's body is; of an endless one, what is sent again and again."""
    if request.shape.kind is Kind.EMPTY:
        return b""
    got = digest(request.body()) if request.shape.reads else UNREAD
    return Random(f"answer {request.id} {got}").randbytes(request.shape.size)


def echo(request: Request, config: Configuration, client: str) -> Mapping[str, object]:
    """Return what the app has to have got; `client` is the address of who has sent it."""
    extras = sorted(
        f"{name.lower()}: {value}"
        for name, value in request.headers
        if name.lower().startswith("x-extra-")
    )
    return {
        "id": request.id,
        "method": request.method,
        "path": config.root_path + request.path,
        "query": request.query_string,
        "client": client,
        "size": request.size if request.shape.reads else 0,
        "digest": digest(request.body()) if request.shape.reads else UNREAD,
        "extras": blake2b("\n".join(extras).encode(), digest_size=8).hexdigest(),
    }


def differences(
    request: Request,
    answer: Answer,
    config: Configuration,
    client: str,
    *,
    is_whole: bool = True,
) -> list[str]:
    """Return what is wrong with an answer, or with a part of one that has all of its head."""
    found = []
    told = told_by(answer)
    for name, right in echo(request, config, client).items():
        if name not in told or told[name] != right:
            found.append(f"{name}: {told.get(name)!r}, not {right!r}")
    if answer.status != request.shape.status:
        found.append(f"status: {answer.status}, not {request.shape.status}")
    right_body = b"" if request.method == "HEAD" else body(request)
    if request.shape.kind is Kind.ENDLESS and right_body:
        right_body *= len(answer.body) // len(right_body) + 1
        is_whole = False
    got = answer.body
    if (got != right_body) if is_whole else not right_body.startswith(got):
        at = next((i for i, (a, b) in enumerate(zip(got, right_body, strict=False)) if a != b), -1)
        where = f"at {at}" if at >= 0 else "in its length"
        found.append(f"body: {len(got)} bytes, not {len(right_body)}; they differ {where}")
    return found


def told_by(answer: Answer) -> Mapping[str, Any]:
    """Return what the app has told of a request; nothing where no app has answered."""
    try:
        told = json.loads(answer.headers.get("x-echo", "{}"))
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def client_of(request: Request, client: str) -> str:
    """Return who has sent a request over a connection of `client`, as a trusted proxy says."""
    forwarded = [value for name, value in request.headers if name == "X-Forwarded-For"]
    return forwarded[0] if forwarded else client


def key(request: Request, config: Configuration, client: str) -> str | None:
    """Return the key that says whose a request is; None when it has none."""
    match config.routing:
        case Routing.BY_HEADER:
            return _first(request.headers, "x-key")
        case Routing.BY_PATH:
            # The path begins with a slash: what is before it is number 0.
            index = PATH_NUMBER - 1
            return request.segments[index] if len(request.segments) > index else None
        case Routing.BY_QUERY:
            return _first(request.query, "key")
        case Routing.BY_COOKIE:
            return _first(request.cookies, "key")
        case Routing.BY_FUNCTION:
            found = _first(request.headers, "x-key")
            return found[::-1] if found else None
        case Routing.CLIENT:
            return client
        case _:
            return None


def _first(pairs: tuple[tuple[str, str], ...], name: str) -> str | None:
    return next((value for one, value in pairs if one.lower() == name and value), None)


def owner(key: str, slots: int) -> int:
    """Return the slot that a key belongs to: of the hashes of key and slot the highest wins."""
    hashes = [
        blake2b(key.encode() + slot.to_bytes(4, "little"), digest_size=16).digest()
        for slot in range(slots)
    ]
    return hashes.index(max(hashes))


def slot_of_cookie(value: str) -> int:
    """Return the slot that a sticky cookie names; -1 when it is none."""
    number, _, signature = value.partition(".")
    return int(number) if number.isdecimal() and len(signature) == 32 else -1


def slot(
    request: Request, config: Configuration, client: str, sticky: str | None, slots: int
) -> int | None:
    """Return whose a request is that came with a sticky cookie or none; None if anybody's."""
    if config.routing is Routing.COOKIE:
        number = slot_of_cookie(sticky or "")
        return number if 0 <= number < slots else None
    found = key(request, config, client)
    return owner(found, slots) if found else None

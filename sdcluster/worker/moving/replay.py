"""What becomes of a request whose worker died before it began to answer. Pure."""

import re
from enum import Enum
from typing import Literal, NamedTuple

Policy = Literal["idempotent", "all", "never"]

MAX_CRASHES = 1
"""Workers that may die when their app is at work on a request, before it is refused.

The second one had nothing else: the request is served in the quarantine when it was not alone.
"""
MAX_DEATHS = 8
"""Workers that may die with it at all: what reads requests may be what it kills."""

IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
"""RFC 9110, 9.2.2."""
KEY = b"idempotency-key"
"""The header with which a client says that a request of its may be made twice."""
_HAS_KEY = re.compile(rb"\r\n" + KEY + rb"[ \t]*:", re.IGNORECASE)
_MAX_LINE_CHARS = 200


class Fate(Enum):
    """What becomes of it."""

    SERVED = "served"
    REFUSED = "refused"
    """It is answered that it failed: the next worker would die as well."""
    CLOSED = "closed"
    """Its connection is closed: it may have been carried out, and must not be twice."""


class Asked(NamedTuple):
    """What a request's head says."""

    method: str
    target: str
    has_key: bool
    """Whether there is a `KEY`."""


def asked(unanswered: bytes) -> Asked:
    """Return what a request asks for that begins so; its head is there, or most of it is empty."""
    head = unanswered.partition(b"\r\n\r\n")[0]
    line = head.lstrip(b"\r\n").partition(b"\r\n")[0].decode("latin-1")
    method, _, rest = line.partition(" ")
    return Asked(method, rest.partition(" ")[0], _HAS_KEY.search(head) is not None)


def is_repeatable(method: str, *, has_key: bool, policy: Policy) -> bool:
    """Tell whether an app may be given a request a second time; `has_key` is about `KEY`."""
    if policy == "idempotent":
        return method in IDEMPOTENT or has_key
    return policy == "all"


def fate(unanswered: bytes, *, crashes: int, deaths: int, policy: Policy) -> Fate:
    """Return what becomes of what was read from a connection.

    `deaths` workers have died with it; in `crashes` of them the app was at work on it.
    """
    if crashes > MAX_CRASHES or deaths > MAX_DEATHS:
        return Fate.REFUSED
    if not crashes:
        return Fate.SERVED
    request = asked(unanswered)
    may = is_repeatable(request.method, has_key=request.has_key, policy=policy)
    return Fate.SERVED if may else Fate.CLOSED


def fitting(response: bytes, unanswered: bytes) -> bytes:
    """Return a response as it fits a request: that to HEAD is its head alone, RFC 9110, 9.3.2."""
    if not unanswered.lstrip(b"\r\n").startswith(b"HEAD "):
        return response
    head, end, _ = response.partition(b"\r\n\r\n")
    return head + end


def request_line(unanswered: bytes) -> str:
    """Return the first line of a request, fit for a log."""
    line = unanswered.lstrip(b"\r\n").partition(b"\r\n")[0].decode("latin-1")
    return "".join(char if char.isprintable() else "?" for char in line[:_MAX_LINE_CHARS])

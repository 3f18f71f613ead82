"""Where a shared cache is, as text: the one table of the URLs that there are.

Nothing is opened here, and no message has what may be secret in a URL.
"""

import re
from dataclasses import dataclass
from typing import Literal, get_args
from urllib.parse import unquote, urlsplit

VARIABLE = "SDCLUSTER_CACHE"
"""The variable that tells an app where its cache is."""
REMOTE = ("redis", "rediss", "valkey", "valkeys", "unix")
DEFAULT_SIZE_MB = 64.0
SMALLEST_MB, LARGEST_MB = 1, 1_000_000

_DATABASE = re.compile(r"/?[0-9]*")

OnError = Literal["raise", "miss"]
"""What becomes of a store that cannot be reached: a `CacheError`, or nothing is ever found."""


@dataclass(frozen=True, slots=True)
class CacheUrl:
    """A URL in parts. `remote` is what a client of Redis takes, empty for an embedded cache."""

    remote: str = ""
    folder: str = ""
    """That of an embedded cache; empty for the instance's own."""
    size_mb: float = DEFAULT_SIZE_MB
    on_error: OnError = "raise"


def parse(text: str) -> CacheUrl:
    """Read a URL; an empty one is the instance's own embedded cache. Raises ValueError."""
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError as error:
        raise ValueError("the URL of the cache is wrong: that is no host, or no port") from error
    if parts.scheme not in ("", "lmdb", *REMOTE):
        raise ValueError(
            f"a cache is lmdb://, redis://, valkey:// or unix://, and not {parts.scheme}://"
        )
    query = [one for one in parts.query.split("&") if one]
    ours = {"size_mb", "on_error"} if parts.scheme in ("", "lmdb") else {"on_error"}
    given: dict[str, str] = {}
    for word in [one for one in query if one.partition("=")[0] in ours]:
        name, _, value = word.partition("=")
        if name in given:
            raise ValueError(f"the URL of the cache has {name} twice")
        given[name] = value
        query.remove(word)
    on_error = _on_error(given.get("on_error", "raise"))
    if parts.scheme in REMOTE:
        if parts.scheme == "unix" and (parts.netloc.rpartition("@")[2] or not parts.path):
            raise ValueError("a cache behind a socket is unix:///PATH, three slashes")
        if parts.scheme != "unix" and not _DATABASE.fullmatch(parts.path):
            raise ValueError(f"{parts.path} is no database of Redis: that is a number")
        remote = "?".join([text.partition("?")[0], *(["&".join(query)] if query else [])])
        return CacheUrl(remote=remote, on_error=on_error)
    if parts.netloc or (not parts.scheme and parts.path):
        raise ValueError(f"{text}: an embedded cache is lmdb:///FOLDER, three slashes")
    if query:
        raise ValueError(f"{text}: {query[0]!r} is none of size_mb=NUMBER and on_error=miss")
    return CacheUrl(
        folder=unquote(parts.path), size_mb=_size_mb(text, given.get("size_mb")), on_error=on_error
    )


def _size_mb(text: str, value: str | None) -> float:
    if value is None:
        return DEFAULT_SIZE_MB
    try:
        size_mb = float(value)
    except ValueError:
        size_mb = 0.0
    if not SMALLEST_MB <= size_mb <= LARGEST_MB:
        raise ValueError(
            f"{text}: size_mb is a number of megabytes from {SMALLEST_MB} to {LARGEST_MB}"
        )
    return size_mb


def _on_error(value: str) -> OnError:
    for one in get_args(OnError):
        if value == one:
            known: OnError = one
            return known
    raise ValueError(f"on_error is {' or '.join(get_args(OnError))}, not {value[:20]!r}")

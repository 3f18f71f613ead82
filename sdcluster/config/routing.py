"""Which worker a request is for: the values of the keys `sticky`, `shard` and `proxy_*`, checked.

The checkers raise ValueError, with what would be right.
"""

import contextlib
import difflib
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from sdcluster.config.schema import STRING, allows, list_of

StickyBy = Literal["cookie", "client-ip"]
SameSite = Literal["lax", "strict", "none"]
Secure = Literal["auto", "always", "never"]

UNIX = "unix"
"""As a trusted peer: whoever comes over a Unix socket."""
MAX_AGE_S = 86400 * 400
"""The most that browsers keep a cookie."""

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
"""RFC 9110, 5.6.2."""
_DOMAIN = re.compile(r"\.?[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9-]+)*")
_PATH = re.compile(r"/[\x20-\x3a\x3c-\x7e]{0,1023}")
_FUNCTION = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
_SHARD_EXAMPLES = "header:X-Tenant, path:1, query:user or cookie:name"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sticky:
    """What keeps a client with the worker that it has had."""

    by: StickyBy
    name: str = "sdcluster"
    """Of the cookie, as all that follows."""
    path: str = "/"
    domain: str = ""
    max_age_s: int = 0
    """0 is until the browser ends."""
    same_site: SameSite = "lax"
    secure: Secure = "auto"
    """`auto` is for those responses that go out by https."""

    def attributes(self) -> str:
        """Return the attributes of the cookie but `Secure`, as in a Set-Cookie header."""
        from http import cookies  # Here, as each master and worker would wait for it.

        morsel: cookies.Morsel[str] = cookies.Morsel()
        morsel.set("name", "value", "value")
        morsel["path"] = self.path
        morsel["domain"] = self.domain
        morsel["max-age"] = str(self.max_age_s) if self.max_age_s else ""
        morsel["samesite"] = self.same_site.capitalize()
        morsel["httponly"] = True
        return morsel.OutputString().partition("; ")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """What of a request says which worker it is for. One of the two is empty."""

    by: str = ""
    """`header:NAME`, `path:NUMBER`, `query:NAME` or `cookie:NAME`."""
    function: str = ""
    """`MODULE:FUNCTION`, in the app."""


@allows(
    anyOf=[
        {"enum": list(get_args(StickyBy))},
        {
            "type": "object",
            "properties": {
                "by": {"enum": list(get_args(StickyBy))},
                "name": STRING,
                "path": STRING,
                "domain": STRING,
                "max_age_s": {"type": "integer", "minimum": 0, "maximum": MAX_AGE_S},
                "same_site": {"enum": list(get_args(SameSite))},
                "secure": {"enum": list(get_args(Secure))},
            },
            "required": ["by"],
            "additionalProperties": False,
        },
    ]
)
def sticky(value: object) -> Sticky:
    """Check the key `sticky`: a text, or a table with `by` and what goes with it."""
    if isinstance(value, str):
        value = {"by": value}
    if not isinstance(value, Mapping):
        raise ValueError(f"{value!r} is none of {_either(StickyBy)}, nor a table")
    _known(value, [field.name for field in fields(Sticky)])
    found = {name: _STICKY[name](given) for name, given in value.items()}
    if "by" not in found:
        raise ValueError(f"the table does not say by what: {_either(StickyBy)}")
    if found["by"] != "cookie" and len(found) > 1:
        raise ValueError(f"{min(found.keys() - {'by'})} is for cookies only")
    if found.get("same_site") == "none" and found.get("secure") == "never":
        raise ValueError("browsers take no cookie with same_site = 'none' that is not secure")
    return Sticky(**found)


@allows(
    anyOf=[
        STRING,
        {
            "type": "object",
            "properties": {"by": STRING},
            "required": ["by"],
            "additionalProperties": False,
        },
    ]
)
def shard(value: object) -> Shard:
    """Check the key `shard`: `MODULE:FUNCTION`, or a table with `by`."""
    if isinstance(value, str):
        if not _FUNCTION.fullmatch(value):
            raise ValueError(
                f"{value!r} is not MODULE:FUNCTION; for a part of the request write a table, such "
                'as { by = "header:X-Tenant" }'
            )
        return Shard(function=value)
    if not isinstance(value, Mapping):
        raise ValueError(f"{value!r} is no table, such as {{ by = 'header:X-Tenant' }}")
    _known(value, ["by"])
    by = value.get("by")
    if not isinstance(by, str):
        raise ValueError(f"the table does not say by what: {_SHARD_EXAMPLES}")
    kind, _, name = by.partition(":")
    good = {
        "header": _TOKEN.fullmatch(name),
        "cookie": _TOKEN.fullmatch(name),
        "query": name,
        "path": re.fullmatch(r"[1-9][0-9]?", name),
    }
    if not good.get(kind):
        raise ValueError(f"{by!r} is none of {_SHARD_EXAMPLES}")
    return Shard(by=by)


@allows(anyOf=[STRING, list_of(STRING)])
def proxies(value: object) -> tuple[str, ...]:
    """Check the key `proxy_allow_ips`: addresses, networks, and `unix`."""
    words = value if isinstance(value, list) else [value]
    found = []
    for word in words:
        if word == UNIX:
            found.append(UNIX)
            continue
        with contextlib.suppress(ValueError):
            if isinstance(word, str):
                found.append(str(ipaddress.ip_network(word)))
                continue
        raise ValueError(f"{word!r} is no address, no network such as 10.0.0.0/8, and not 'unix'")
    if not found:
        raise ValueError("nobody is named; leave the key out for the default")
    return tuple(found)


def _either(choices: Any) -> str:
    return " or ".join(get_args(choices))


def _known(value: Mapping[Any, object], names: list[str]) -> None:
    for name in value:
        if name not in names:
            near = difflib.get_close_matches(str(name), names, 1, 0.5)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"the table has an unknown key {name!r}{hint}")


def _one_of(name: str, choices: Any) -> Any:
    def check(value: object) -> object:
        if value not in get_args(choices):
            raise ValueError(f"{name} = {value!r} is none of {', '.join(get_args(choices))}")
        return value

    return check


def _matching(name: str, pattern: re.Pattern[str], what: str) -> Any:
    def check(value: object) -> object:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise ValueError(f"{name} = {value!r} is no {what}")
        return value

    return check


def _max_age_s(value: object) -> int:
    if type(value) is not int or not 0 <= value <= MAX_AGE_S:
        raise ValueError(f"max_age_s = {value!r} is not a whole number from 0 to {MAX_AGE_S}")
    return value


_STICKY: Mapping[str, Any] = {
    "by": _one_of("by", StickyBy),
    "name": _matching("name", _TOKEN, "name of a cookie"),
    "path": _matching("path", _PATH, "path of a cookie, such as /"),
    "domain": _matching("domain", _DOMAIN, "domain, such as example.org"),
    "max_age_s": _max_age_s,
    "same_site": _one_of("same_site", SameSite),
    "secure": _one_of("secure", Secure),
}

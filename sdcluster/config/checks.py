"""The checks of values: a value in, the value to use out, ValueError with what would be right."""

import contextlib
import difflib
import re
from collections.abc import Mapping

from sdcluster.config import cpus
from sdcluster.config.address import Address, parse
from sdcluster.config.model import DEFAULT_LISTEN, MAX_REPLAY_KB, MAX_WEIGHT, MAX_WORKERS
from sdcluster.config.schema import STRING, Check, Schema, allows, list_of
from sdcluster.wire import cache_url

_ADDRESS: Schema = {"anyOf": [STRING, {"type": "integer", "minimum": 0, "maximum": 65535}]}
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def integer(low: int, high: int) -> Check[int]:
    """Allow whole numbers from `low` to `high`."""

    @allows(type="integer", minimum=low, maximum=high)
    def check(value: object) -> int:
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"{_show(value)} is not a whole number from {low} to {high}")
        return value

    return check


def seconds(low: float, high: float) -> Check[float]:
    """Allow numbers of seconds from `low` to `high`."""

    @allows(type="number", minimum=low, maximum=high)
    def check(value: object) -> float:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not low <= float(str(value)) <= high:
            raise ValueError(f"{_show(value)} is not a number of seconds from {low:g} to {high:g}")
        return float(str(value))

    return check


@allows(**list_of({"type": "integer", "minimum": 1, "maximum": MAX_WEIGHT}, maxItems=MAX_WORKERS))
def weights(value: object) -> tuple[int, ...]:
    """Allow a weight for each of the first slots."""
    if not isinstance(value, list) or not 0 < len(value) <= MAX_WORKERS:
        raise ValueError(f"{_show(value)} is not a list of whole numbers, such as [2, 1, 1]")
    return tuple(integer(1, MAX_WEIGHT)(one) for one in value)


@allows(type="integer", minimum=4, maximum=MAX_REPLAY_KB, multipleOf=4)
def replay_max_kb(value: object) -> int:
    """Allow whole pages of memory."""
    kb = integer(4, MAX_REPLAY_KB)(value)
    if kb % 4:
        raise ValueError(f"{kb} is not a multiple of 4")
    return kb


def choice(*choices: str) -> Check[str]:
    """Allow these words."""

    @allows(enum=list(choices))
    def check(value: object) -> str:
        if value not in choices:
            near = difflib.get_close_matches(str(value), choices, 1, 0.5)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{_show(value)} is none of {', '.join(choices)}{hint}")
        return str(value)

    return check


@allows(type="boolean")
def boolean(value: object) -> bool:
    """Allow true and false."""
    if not isinstance(value, bool):
        raise ValueError(f"{_show(value)} is not true or false")
    return value


@allows(**STRING)
def string(value: object) -> str:
    """Allow texts that have something in them, and no NUL."""
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError(f"{_show(value)} is not a text")
    return value


@allows(anyOf=[{"const": "max"}, {"type": "integer", "minimum": 1, "maximum": MAX_WORKERS}])
def workers(value: object) -> int:
    """Allow a number of workers; `max` is one for each CPU."""
    if value == "max":
        return min(cpus.usable(), MAX_WORKERS)
    if type(value) is not int or not 1 <= value <= MAX_WORKERS:
        raise ValueError(
            f"{_show(value)} is not a number of workers; give a whole number from 1 to "
            f'{MAX_WORKERS}, or "max"'
        )
    return value


@allows(**STRING)
def app(value: object) -> str:
    """Allow MODULE:ATTRIBUTE, with () behind it for a factory."""
    text = string(value)
    module, colon, attribute = text.partition(":")
    attribute = attribute.removesuffix("()")
    parts = [*module.split("."), *attribute.split(".")]
    is_file = module.endswith(".py") or "/" in module
    if is_file or not colon or not all(part.isidentifier() for part in parts):
        hint = "; it is a module, not a file" if is_file else ""
        raise ValueError(
            f"{_show(value)} is not MODULE:ATTRIBUTE, such as hello:app, or hello:make() for a "
            f"factory{hint}"
        )
    return text


@allows(**STRING)
def agent(value: object) -> str:
    """Allow MODULE:FUNCTION."""
    text = str(value)
    with contextlib.suppress(ValueError):
        if not text.endswith(")"):
            return app(value)
    hint = "; name the function, without ()" if text.endswith(")") else ""
    raise ValueError(f"{_show(value)} is not MODULE:FUNCTION, such as hello:agent{hint}")


@allows(**list_of(STRING))
def command(value: object) -> tuple[str, ...]:
    """Allow a program and its arguments."""
    if isinstance(value, str):
        raise ValueError(f'{_show(value)} is a text; write a list, such as ["node", "server.js"]')
    if not isinstance(value, list) or not value:
        raise ValueError(f'{_show(value)} is not a list of texts, such as ["node", "server.js"]')
    return tuple(string(word) for word in value)


@allows(anyOf=[_ADDRESS, list_of(_ADDRESS), {"type": "object", "additionalProperties": _ADDRESS}])
def listen(value: object) -> tuple[Address, ...]:
    """Allow one address, a list of them, or a table with a name for each."""
    if isinstance(value, Mapping):
        found = [_named(name, address) for name, address in value.items()]
    else:
        found = [_address(one) for one in (value if isinstance(value, list) else [value])]
    if not found:
        raise ValueError("no address; leave the key out for the default, " + DEFAULT_LISTEN)
    for index, address in enumerate(found):
        twice = [other for other in found[:index] if str(other) == str(address)]
        if twice and address.port + bool(address.path):
            raise ValueError(f"{address} is there twice")
    return tuple(found)


def _named(name: object, value: object) -> Address:
    text = str(name)
    if not text:
        raise ValueError("a socket has an empty name; give it one, or write a list of addresses")
    return _address(value, name=text)


def _address(value: object, *, name: str = "") -> Address:
    if type(value) is int:
        value = str(value)
    if not isinstance(value, str):
        raise ValueError(f"{_show(value)} is not an address")
    return parse(value, name=name)


@allows(anyOf=[STRING, list_of(STRING)])
def addresses(value: object) -> str:
    """Allow one text, or a list of them; return them with commas between."""
    words = value if isinstance(value, list) else [value]
    return ",".join(string(word) for word in words)


@allows(type="object", additionalProperties={"type": "string"})
def environment(value: object) -> dict[str, str]:
    """Allow a table of variables."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{_show(value)} is not a table, such as {{ NAME = 'value' }}")
    for name, text in value.items():
        if not _VARIABLE.fullmatch(str(name)):
            raise ValueError(f"{name!r} is no name of a variable")
        if not isinstance(text, str) or "\0" in text:
            raise ValueError(f"{name} = {_show(text)} is not a text; put it in quotes")
    return dict(value)


@allows(**STRING)
def cache(value: object) -> str:
    """Allow the URL of a shared cache."""
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("is not a text, such as lmdb:///srv/hello/cache?size_mb=256")
    cache_url.parse(value)
    return value


@allows(type="string", pattern="^/(.*[^/])?$")
def root_path(value: object) -> str:
    """Allow a path that an app is below."""
    text = string(value)
    if not text.startswith("/") or text.endswith("/"):
        raise ValueError(f"{_show(value)} is not a path such as /api, without a slash at its end")
    return text


def _show(value: object) -> str:
    text = repr(value) if not isinstance(value, bool) else str(value).lower()
    return text if len(text) <= 60 else text[:57] + "…"

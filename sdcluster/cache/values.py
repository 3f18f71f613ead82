"""Values as bytes: a number is its decimal digits, everything else has a byte before it that tells.

Never pickle, unless it is asked for: who can write to the cache could run code in all who read it.
"""

import json
import pickle
import re
from collections.abc import Callable
from typing import Any, Literal

from sdcluster.errors import CacheError

Serializer = Literal["json", "pickle"]

_BYTES, _TEXT, _FLOAT, _JSON, _PICKLE = b"\0", b"\1", b"\2", b"\3", b"\4"
# The keys sorted: equal values are equal bytes, which `compare_and_set` compares.
_ENCODER = json.JSONEncoder(sort_keys=True, ensure_ascii=False)
_DECODER = json.JSONDecoder()
_NUMBER = re.compile(rb"-?[0-9]{1,4300}")


def dumps(value: Any, serializer: Serializer) -> bytes:
    """Return a value as bytes. Raises TypeError for one that the serializer cannot express."""
    try:
        return _dumps(value, serializer)
    except (TypeError, ValueError, RecursionError, AttributeError, pickle.PicklingError) as error:
        what, hint = "pickle", ""
        if serializer == "json":
            what, hint = "JSON", '; serializer="pickle" would take more'
        raise TypeError(f"a {type(value).__name__} is no {what}: {error}{hint}") from error


def _dumps(value: Any, serializer: Serializer) -> bytes:
    match value:
        case bytes() | bytearray() | memoryview():
            return _BYTES + bytes(value)
        case str():
            return _TEXT + value.encode("utf-8", "surrogatepass")
        case bool() | None:
            return _JSON + json.dumps(value).encode()
        case int():
            return str(int(value)).encode()  # ValueError for one of very many digits.
        case float():
            return _FLOAT + value.hex().encode()
    if serializer == "pickle":
        return _PICKLE + pickle.dumps(value)
    return _JSON + _ENCODER.encode(value).encode()


def loads(data: bytes, serializer: Serializer) -> Any:
    """Return the value. Raises `CacheError` for bytes that are none of ours."""
    kind = data[:1]
    read = _READERS.get(kind)
    try:
        if read is not None:
            return read(data[1:])
        if kind == _PICKLE:
            return _unpickle(data[1:], serializer)
        if _NUMBER.fullmatch(data):
            return int(data)
    except (ValueError, OverflowError, RecursionError) as error:
        raise CacheError(f"the cache holds a value that makes no sense: {error}") from error
    raise CacheError("the cache holds a value that somebody else has written")


def _parse(data: bytes) -> Any:
    """Do what `json.loads` does, which first asks in which encoding it is."""
    text = data.decode()
    value, end = _DECODER.raw_decode(text)
    if end != len(text):
        raise ValueError(f"it goes on after its end: {text[end:][:20]!r}")
    return value


def _unpickle(data: bytes, serializer: Serializer) -> Any:
    if serializer != "pickle":
        raise CacheError('the cache holds a pickled value; read it with serializer="pickle"')
    try:
        return pickle.loads(data)
    except Exception as error:  # Whatever the class says that it is made of.
        raise CacheError(f"the cache holds a value that makes no sense: {error}") from error


_READERS: dict[bytes, Callable[[bytes], Any]] = {
    _BYTES: bytes,
    _TEXT: lambda data: data.decode("utf-8", "surrogatepass"),
    _FLOAT: lambda data: float.fromhex(data.decode()),
    _JSON: _parse,
}

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
_NUMBER = re.compile(rb"-?[0-9]{1,4300}")


def dumps(value: Any, serializer: Serializer) -> bytes:
    """Return a value as bytes. Raises TypeError for one that the serializer cannot express."""
    match value:
        case bytes() | bytearray() | memoryview():
            return _BYTES + bytes(value)
        case str():
            return _TEXT + value.encode("utf-8", "surrogatepass")
        case bool() | None:
            return _JSON + json.dumps(value).encode()
        case int():
            return b"%d" % value
        case float():
            return _FLOAT + value.hex().encode()
    if serializer == "pickle":
        return _PICKLE + pickle.dumps(value)
    try:
        # The keys sorted: equal values are equal bytes, which `compare_and_set` compares.
        return _JSON + json.dumps(value, sort_keys=True, ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:
        raise TypeError(f"a {type(value).__name__} is no JSON: {error}") from error


def loads(data: bytes, serializer: Serializer) -> Any:
    """Return the value. Raises `CacheError` for bytes that are none of ours."""
    read = _READERS.get(data[:1])
    try:
        if read is not None:
            return read(data[1:])
        if data[:1] == _PICKLE and serializer == "pickle":
            return pickle.loads(data[1:])
        if _NUMBER.fullmatch(data):
            return int(data)
    except (ValueError, RecursionError) as error:
        raise CacheError(f"the cache holds a value that makes no sense: {error}") from error
    if data[:1] == _PICKLE:
        raise CacheError('the cache holds a pickled value; read it with serializer="pickle"')
    raise CacheError("the cache holds a value that somebody else has written")


_READERS: dict[bytes, Callable[[bytes], Any]] = {
    _BYTES: bytes,
    _TEXT: lambda data: data.decode("utf-8", "surrogatepass"),
    _FLOAT: lambda data: float.fromhex(data.decode()),
    _JSON: json.loads,
}

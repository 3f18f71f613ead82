"""A request's signature: what it has in common with those that would do to a worker what it does.

It is a hash of method and path, without the query, as the worker's Python has it: processes that
come from one mold agree on it. Nobody who does not know the secret of that hash, see
PYTHONHASHSEED, can make two paths have the same. Its lowest bit tells whether the request may be
made again.
"""

NONE = 0
"""The signature of what no app was given."""
_HASH = (1 << 64) - 2
_REPEATABLE = 1


def sign(method: str, path: str, *, repeatable: bool) -> int:
    """Return the signature of a request, an unsigned number of 64 bits."""
    return (hash((method, path)) & _HASH) | repeatable


def is_repeatable(signature: int) -> bool:
    """Tell whether a request of the signature may be made again."""
    return bool(signature & _REPEATABLE)

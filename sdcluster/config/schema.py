"""The check of a value, and the same rule as a JSON Schema, for editors."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")

Schema = Mapping[str, Any]
"""As of JSON Schema, draft 2020-12."""


@dataclass(frozen=True, slots=True)
class Check(Generic[T]):
    """A value in, the value to use out; ValueError with what would be right."""

    take: Callable[[object], T]
    schema: Schema
    """What lets pass at least what `take` does: not every rule can be said in it."""

    def __call__(self, value: object) -> T:
        return self.take(value)


def allows(**schema: Any) -> Callable[[Callable[[object], T]], Check[T]]:
    """Make a `Check` of a function."""
    return lambda take: Check(take, schema)


def list_of(items: Schema, **more: Any) -> dict[str, Any]:
    """Return the schema of a list that has something in it."""
    return {"type": "array", "items": items, "minItems": 1, **more}


STRING: Schema = {"type": "string", "minLength": 1}

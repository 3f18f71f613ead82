"""Text of others' as it may be shown: a terminal obeys control characters, whoever has sent them.

Everything that is read from a socket to be shown goes through here once.
"""

from typing import Any


def plain(text: str) -> str:
    """Return a text in which there is nothing but what can be seen, and ends of lines."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char == "\n" else " " for char in text)


def plain_values(value: Any) -> Any:
    """Return what JSON can express with all texts in it, also keys, as `plain` does.

    Raises RecursionError when it is too deep.
    """
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, list):
        return [plain_values(one) for one in value]
    if isinstance(value, dict):
        return {plain(name): plain_values(one) for name, one in value.items()}
    return value

"""Text that may be shown."""

import sys
import unicodedata

import pytest

from sdcluster.cli.plain_text import plain, plain_values


def test_what_can_be_seen_stays() -> None:
    """In each language; and ends of lines."""
    text = "worker 1 «läuft» 工作进程\n  ok 🙂"
    assert plain(text) == text


def test_what_a_terminal_or_a_reader_would_obey_is_a_space() -> None:
    """Control, format and line separators, surrogates: by their category in Unicode."""
    for number in range(sys.maxunicode + 1):
        char = chr(number)
        if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp") and char != "\n":
            assert plain(f"a{char}b") == "a b"


def test_all_texts_of_a_value_are_looked_at() -> None:
    """Also the names; numbers stay."""
    value = {"\x1b": ["\x07", {"a\tb": "\x9b"}], "n": 1, "f": 0.5, "t": True, "0": None}
    assert plain_values(value) == {
        " ": [" ", {"a b": " "}],
        "n": 1,
        "f": 0.5,
        "t": True,
        "0": None,
    }


def test_what_is_too_deep_is_an_error() -> None:
    """It ends no process."""
    value: list[object] = []
    for _ in range(10 * sys.getrecursionlimit()):
        value = [value]
    with pytest.raises(RecursionError):
        plain_values(value)

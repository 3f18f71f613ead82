"""Files of environment variables."""

import pytest

from sdcluster.config.environment_file import EnvironmentFileError, parse_environment_file


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("\n  \n# A=1\n ; B=2\n", {}),
        ("A=1\nB=2", {"A": "1", "B": "2"}),
        ("A=1\nA=2\n", {"A": "2"}),
        ("  A = 1  \r\n", {"A": "1"}),
        ("A=", {"A": ""}),
        ("A=b=c", {"A": "b=c"}),
        ("A=b # c", {"A": "b # c"}),
        ("A=b c", {"A": "b c"}),
        ('A="b  c"', {"A": "b  c"}),
        ("A='b \"c\" d'", {"A": 'b "c" d'}),
        ("A='b'\"c\"", {"A": "bc"}),
        ("A=it's", {"A": "it's"}),
        ("A=1\\\n2\nB=3", {"A": "12", "B": "3"}),
        ("A=1\\", {"A": "1"}),
        ("A=1 \\\n  # 2", {"A": "1   # 2"}),
        ("# A=1\\\nB=2", {"B": "2"}),
        ("_a1=é", {"_a1": "é"}),
    ],
)
def test_variables_are_read_as_systemd_reads_them(text: str, expected: dict[str, str]) -> None:
    """Comments, quotes and continued lines, see EnvironmentFile= in systemd.exec(5)."""
    assert parse_environment_file(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A=1\nB", "line 2: 'B' is not NAME=VALUE"),
        ("=1", "line 1: '=1' is not NAME=VALUE"),
        ("export A=1", "line 1: 'export A=1' is not NAME=VALUE"),
        ("1A=1", "line 1: '1A=1' is not NAME=VALUE"),
        ("A-B=1", "line 1: 'A-B=1' is not NAME=VALUE"),
        ("A=1\n\nB='2", "line 3: no closing quotation"),
        ("# a\nA=1\\\n2\\\n3\nB", "line 5: 'B'"),
        ("A=1\\\nB\n=", "line 3: '='"),
        ("A=1\0", "line 1: a NUL"),
    ],
)
def test_line_that_is_wrong_is_refused_with_its_number(text: str, message: str) -> None:
    """A continued line is told by the number that it begins with."""
    with pytest.raises(EnvironmentFileError, match=message):
        parse_environment_file(text)

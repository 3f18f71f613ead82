"""The cookie, as its table says it."""

import pytest

from sdcluster.config.routing import Sticky, sticky


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("cookie", {"HttpOnly", "Path=/", "SameSite=Lax"}),
        (
            {
                "by": "cookie",
                "path": "/shop",
                "domain": "example.org",
                "max_age_s": 60,
                "same_site": "none",
                "secure": "always",
            },
            {"HttpOnly", "Path=/shop", "Domain=example.org", "Max-Age=60", "SameSite=None"},
        ),
    ],
)
def test_attributes_are_those_of_a_header(value: object, expected: set[str]) -> None:
    """`Secure` is left to who knows the scheme."""
    assert {*sticky(value).attributes().split("; ")} == expected


def test_path_with_blanks_stays_one_attribute() -> None:
    """No value can add an attribute of its own."""
    assert "; Path=/a b;" in f"; {Sticky(by='cookie', path='/a b').attributes()};"

"""What a worker may say of a connection that it hands over."""

from dataclasses import replace

import pytest

from sdcluster.core.handing import MAX_TOLD_HOPS, Given, Said, miscount, offence

SAID = Said(slot=-1, hops=1, crashes=0, deaths=0, serial=8, consumed=100, written=10)
GIVEN = Given(slots=2, hops=2, crashes=1, deaths=3, serial=7)


@pytest.mark.parametrize(
    "said",
    [
        SAID,
        replace(SAID, slot=1),
        replace(SAID, hops=3),
        replace(SAID, crashes=1, deaths=3),
        replace(SAID, serial=2**32 - 1),
    ],
)
def test_what_follows_from_what_it_was_given_is_believed(said: Said) -> None:
    """Some numbers may be left out: a connection could not be sent, say."""
    assert offence(said, GIVEN) == ""


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (replace(SAID, serial=7), "connection 7 of those that it hands over comes after 7"),
        (replace(SAID, serial=0), "connection 0 of those that it hands over comes after 7"),
        (replace(SAID, slot=2), "slot 2 of the 2 that it knows of"),
        (replace(SAID, hops=4), "4 hops, where it was given 2 at the most"),
        (
            replace(SAID, deaths=4),
            "0 crashes and 4 deaths, where it was given 1 and 3 at the most",
        ),
        (
            replace(SAID, crashes=2, deaths=2),
            "2 crashes and 2 deaths, where it was given 1 and 3 at the most",
        ),
    ],
)
def test_what_it_cannot_know_is_an_offence(said: Said, reason: str) -> None:
    """Another worker would believe it."""
    assert offence(said, GIVEN) == reason


def test_what_it_may_say_grows_with_what_it_is_given() -> None:
    """The most of each number counts, not the last."""
    given = Given(slots=1)
    given.note(hops=MAX_TOLD_HOPS, crashes=2, deaths=1)
    given.note(hops=0, crashes=0, deaths=2)
    assert given == Given(slots=1, hops=MAX_TOLD_HOPS, crashes=2, deaths=2)
    assert offence(replace(SAID, hops=MAX_TOLD_HOPS, crashes=2, deaths=2), given) == ""


@pytest.mark.parametrize(
    ("counted", "fits"),
    [((100, 10), True), ((200, 20), True), ((99, 10), False), ((100, 9), False)],
)
def test_totals_are_compared_with_the_kernels(counted: tuple[int, int], fits: bool) -> None:
    """Nobody has read or written more than has come and gone."""
    reason = "100 bytes read and 10 written, where the kernel has counted {} and {}"
    assert miscount(SAID, counted) == ("" if fits else reason.format(*counted))

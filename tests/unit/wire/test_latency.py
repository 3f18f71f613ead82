"""The average that counts the worst at once, and forgets it slowly."""

import itertools
import random

import pytest

from sdcluster.wire.latency import MAX_NS, TAU_NS, expected, observe

MS = 1_000_000
NOW = 100 * TAU_NS


def test_first_answer_is_the_average() -> None:
    """There is nothing before it."""
    assert observe(0, 0, sample_ns=5 * MS, now_ns=NOW) == 5 * MS


def test_slower_answer_replaces_the_average_at_once() -> None:
    """Whoever has become slow is known to be slow by the first answer."""
    assert observe(5 * MS, NOW, sample_ns=80 * MS, now_ns=NOW) == 80 * MS


def test_faster_answer_counts_by_the_time_that_has_passed() -> None:
    """Many in a moment do no more than one: it is the time that counts."""
    assert observe(80 * MS, NOW, sample_ns=MS, now_ns=NOW) == 80 * MS
    after = observe(80 * MS, NOW, sample_ns=MS, now_ns=NOW + TAU_NS)
    assert after == pytest.approx(MS + 79 * MS / 2.71828, rel=1e-3)
    average, at = 80 * MS, NOW
    for now in range(NOW, NOW + TAU_NS + 1, TAU_NS // 1000):
        average, at = observe(average, at, sample_ns=MS, now_ns=now), now
    assert average == pytest.approx(after, rel=1e-3)


def test_it_decays_to_nothing_without_answers() -> None:
    """A worker that was slow is tried again."""
    times = [0, 1, 3, 10, 40, 1000]
    seen = [expected(80 * MS, NOW, oldest_ns=0, now_ns=NOW + n * TAU_NS) for n in times]
    assert seen[0] == 80 * MS and seen[-1] == 0
    assert all(one > other or one == 0 for one, other in itertools.pairwise(seen))
    assert seen[3] < MS / 100


def test_request_that_has_waited_for_longer_counts() -> None:
    """Else a worker that is stuck would look fast."""
    assert expected(MS, NOW, oldest_ns=NOW - 500 * MS, now_ns=NOW) == 500 * MS
    assert expected(900 * MS, NOW, oldest_ns=NOW - 500 * MS, now_ns=NOW) == 900 * MS


def test_nothing_is_expected_of_one_that_has_done_nothing() -> None:
    """The page begins with zeros."""
    assert expected(0, 0, oldest_ns=0, now_ns=NOW) == 0


def test_nonsense_is_kept_within_limits() -> None:
    """The numbers are a worker's, and it may write what it likes."""
    chance = random.Random(1)
    odd = [0, 1, NOW - 1, NOW, NOW + 1, 2**63, 2**64 - 1]
    for _ in range(2000):
        average, at, oldest = (chance.choice([*odd, chance.randrange(2**64)]) for _ in range(3))
        assert 0 <= expected(average, at, oldest_ns=oldest, now_ns=NOW) <= MAX_NS
    assert observe(0, 0, sample_ns=2**63, now_ns=NOW) == MAX_NS

"""Whose a key is, and how few change hands."""

from collections import Counter

import pytest

from sdcluster.wire.rendezvous import owner

KEYS = [f"10.0.{number // 256}.{number % 256}" for number in range(4000)]


def test_owner_is_the_same_everywhere() -> None:
    """It does not depend on the process, nor on the version of Python."""
    assert [owner(key, 8) for key in ("a", "tenant-1", "10.0.0.1", "ü")] == [6, 3, 6, 3]


def test_text_and_its_bytes_are_one_key() -> None:
    """Headers are bytes."""
    assert owner("tenant-ü", 5) == owner("tenant-ü".encode(), 5)


def test_text_that_is_no_unicode_is_a_key_as_well() -> None:
    """Parts of a path may be such."""
    assert 0 <= owner("\udcff", 4) < 4


def test_each_slot_has_its_share() -> None:
    """Within a fifth of it."""
    counts = Counter(owner(key, 8) for key in KEYS)
    assert sorted(counts) == [*range(8)]
    assert all(abs(count - 500) < 100 for count in counts.values())


@pytest.mark.parametrize("slots", [1, 2, 3, 7, 16])
def test_slot_more_takes_its_share_and_no_other_key_moves(slots: int) -> None:
    """About one in `slots + 1`."""
    moved = [key for key in KEYS if owner(key, slots) != owner(key, slots + 1)]
    assert {owner(key, slots + 1) for key in moved} == {slots}
    share = len(KEYS) / (slots + 1)
    assert abs(len(moved) - share) < share / 4


def test_no_slots_are_an_error() -> None:
    """There is nobody whose it could be."""
    with pytest.raises(ValueError, match="empty"):
        owner("key", 0)

"""What waits for the worker of a slot: for how long, and how much of it."""

import pytest

from sdcluster.core.queues import Limits, Queues

LIMITS = Limits(slot_bytes=100, bytes=150, count=6)


def queues() -> Queues[str]:
    """Return queues with small limits."""
    return Queues(LIMITS)


def test_each_slot_has_a_queue_of_its_own() -> None:
    """What waits longest comes first."""
    some = queues()
    assert some.add(1, "a", 1, deadline=5.0)
    assert some.add(2, "b", 1, deadline=5.0)
    assert some.add(1, "c", 1, deadline=6.0)
    assert (some.slots(), len(some)) == ([1, 2], 3)
    assert (some.first(1), some.pop(1), some.pop(1), some.first(1)) == ("a", "a", "c", None)
    assert (some.slots(), some.pop(2), len(some)) == ([2], "b", 0)


def test_nothing_can_be_taken_out_of_an_empty_queue() -> None:
    """And nothing is first in it."""
    assert queues().first(3) is None
    with pytest.raises(KeyError):
        queues().pop(3)


def test_what_is_overdue_is_taken_out() -> None:
    """With its slot; the rest waits on, and it is known until when."""
    some = queues()
    assert some.deadline() is None and some.overdue(9.0) == []
    for slot, what, deadline in ((1, "a", 5.0), (1, "b", 6.0), (2, "c", 5.5), (2, "d", 7.0)):
        assert some.add(slot, what, 1, deadline=deadline)
    assert some.deadline() == 5.0
    assert some.overdue(6.0) == [(1, "a"), (1, "b"), (2, "c")]
    assert (some.deadline(), some.slots()) == (7.0, [2])


@pytest.mark.parametrize(
    ("held", "slot", "size"),
    [
        ([(1, 60)], 1, 41),
        ([(1, 100), (2, 40)], 3, 11),
        ([(1, 1)] * 3, 1, 1),
        ([(1, 1), (2, 1)] * 3, 3, 1),
    ],
    ids=["bytes of a slot", "bytes of all", "count of a slot", "count of all"],
)
def test_too_much_is_not_kept(held: list[tuple[int, int]], slot: int, size: int) -> None:
    """What was taken out makes room again."""
    some = queues()
    for one, size_bytes in held:
        assert some.add(one, "a", size_bytes, deadline=1.0)
    assert not some.add(slot, "b", size, deadline=1.0)
    some.pop(1)
    assert some.add(slot, "b", size, deadline=1.0)

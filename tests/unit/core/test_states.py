"""The words of the core."""

from sdcluster.core.states import (
    AGENT,
    EXPECTED,
    QUARANTINE,
    ExitReason,
    Generation,
    Slot,
    SlotRecord,
    Worker,
    WorkerId,
    WorkerState,
    label,
    place,
)


def worker(number: int, reason: ExitReason | None = None) -> Worker:
    """Return a worker that serves, or leaves for a reason."""
    state = WorkerState.DRAINING if reason else WorkerState.SERVING
    return Worker(WorkerId(number), Slot(0), Generation(1), state, None, reason)


def test_slot_with_a_successor_is_in_transition() -> None:
    """A worker is being replaced by choice."""
    slot = SlotRecord(Slot(0), Generation(1), serving=worker(1), successor=worker(2))
    assert slot.in_transition


def test_slot_that_is_filled_after_a_crash_is_not_in_transition() -> None:
    """Nobody is replaced where nobody serves."""
    assert not SlotRecord(Slot(0), Generation(1), successor=worker(2)).in_transition


def test_slot_is_in_transition_while_a_worker_leaves_by_choice() -> None:
    """A drain is the second half of a replacement; a crash is not."""
    for reason in ExitReason:
        slot = SlotRecord(Slot(0), Generation(1), leaving=[worker(1, reason)])
        assert slot.in_transition == (reason in EXPECTED)


def test_slot_is_vacant_when_nobody_serves_or_is_about_to() -> None:
    """Those that leave have left their place."""
    assert SlotRecord(Slot(0), Generation(1), leaving=[worker(1)]).is_vacant
    assert not SlotRecord(Slot(0), Generation(1), serving=worker(1)).is_vacant
    assert not SlotRecord(Slot(0), Generation(1), successor=worker(1)).is_vacant


def test_slot_is_empty_when_no_process_belongs_to_it() -> None:
    """One that leaves still belongs to it."""
    assert SlotRecord(Slot(0), Generation(1)).is_empty
    assert not SlotRecord(Slot(0), Generation(1), serving=worker(1)).is_empty
    assert not SlotRecord(Slot(0), Generation(1), successor=worker(1)).is_empty
    assert not SlotRecord(Slot(0), Generation(1), leaving=[worker(1)]).is_empty


def test_slots_have_names_for_people() -> None:
    """Those of the agent and the quarantine have no numbers that would mean anything to them."""
    slots = (AGENT, QUARANTINE, Slot(QUARANTINE - 1), Slot(0))
    assert [label(slot) for slot in slots] == ["agent", "quarantine", "quarantine", "0"]
    assert [place(slot) for slot in slots[1:]] == ["the quarantine", "the quarantine", "slot 0"]
    assert place(AGENT) == "the agent"

"""Which requests are served apart: suspects first and alone, then those of a listed signature."""

import pytest

from sdcluster.core.quarantine import (
    FORGET_S,
    LONGEST_WAIT_S,
    MAX_SIGNATURES,
    MAX_WAITING,
    MAX_WORKERS,
    PATIENCE_S,
    SURVIVALS,
    Quarantine,
)

BAD = 0xBAD


@pytest.fixture
def quarantine() -> Quarantine[str, str]:
    """Return one of workers and requests that are words."""
    return Quarantine()


def test_nothing_is_needed_while_nothing_has_died(quarantine: Quarantine[str, str]) -> None:
    """No worker, and no request for one."""
    assert quarantine.workers_wanted(0) == 0
    assert not quarantine.is_active
    assert quarantine.take("worker", 0) is None
    assert quarantine.survived("worker") == [] == quarantine.look(0)
    quarantine.left("worker")


def test_suspects_are_tried_one_after_the_other(quarantine: Quarantine[str, str]) -> None:
    """In the order in which they came; a worker has one at a time."""
    for number, request in enumerate(("first", "second")):
        quarantine.suspect(request, number, 0, tells=True)
    assert quarantine.workers_wanted(0) == 1
    assert quarantine.take("worker", 0) == "first"
    assert quarantine.is_busy("worker")
    assert quarantine.survived("worker") == []
    assert not quarantine.is_busy("worker")
    assert quarantine.take("worker", 0) == "second"
    quarantine.left("worker")
    assert quarantine.workers_wanted(0) == 0


def test_suspects_come_before_those_whose_signature_is_listed(
    quarantine: Quarantine[str, str],
) -> None:
    """Most suspects are innocent."""
    quarantine.blame(BAD, 0)
    assert quarantine.listed("listed", BAD, 0)
    quarantine.suspect("suspect", 1, 0, tells=True)
    assert [quarantine.take(worker, 0) for worker in "abc"] == ["suspect", "listed", None]


def test_free_worker_is_kept_while_a_signature_is_listed(
    quarantine: Quarantine[str, str],
) -> None:
    """The next request of death need not wait for one."""
    quarantine.blame(BAD, 0)
    assert quarantine.signatures == (BAD,)
    assert quarantine.is_listed(BAD)
    assert quarantine.workers_wanted(1) == 1


def test_request_that_takes_long_keeps_nobody_waiting(quarantine: Quarantine[str, str]) -> None:
    """Each of them has one more worker beside it, up to a limit."""
    for number in range(MAX_WORKERS + 1):
        quarantine.suspect(f"slow {number}", number, 0, tells=True)
        quarantine.take(f"worker {number}", 0)
    assert quarantine.workers_wanted(PATIENCE_S / 2) == 1
    assert quarantine.workers_wanted(PATIENCE_S) == MAX_WORKERS
    for number in range(1, MAX_WORKERS + 1):
        quarantine.survived(f"worker {number}")
    assert quarantine.workers_wanted(PATIENCE_S) == 2


def test_signature_is_cleared_by_requests_that_survive(quarantine: Quarantine[str, str]) -> None:
    """As many for each death; those that wait need not wait any longer."""
    quarantine.blame(BAD, 0)
    quarantine.blame(BAD, 0)
    quarantine.blame(1, 0)
    for _ in range(2 * SURVIVALS - 1):
        quarantine.listed("other", BAD, 0)
        quarantine.take("worker", 0)
        assert quarantine.survived("worker") == []
    for request, signature in (("last", BAD), ("other", 1), ("waits", BAD)):
        quarantine.listed(request, signature, 0)
    assert quarantine.take("worker", 0) == "last"
    assert quarantine.survived("worker") == ["waits"]
    assert quarantine.signatures == (1,)
    assert quarantine.waiting == 1


def test_request_that_tells_nothing_clears_nothing(quarantine: Quarantine[str, str]) -> None:
    """No app was given it: it must not be made twice."""
    quarantine.blame(BAD, 0)
    for _ in range(2 * SURVIVALS):
        quarantine.suspect("POST", BAD, 0, tells=False)
        quarantine.take("worker", 0)
        quarantine.survived("worker")
    assert quarantine.is_listed(BAD)


def test_signature_is_forgotten_after_its_last_harm(quarantine: Quarantine[str, str]) -> None:
    """The time counts from its last death on."""
    quarantine.blame(BAD, 0)
    quarantine.blame(BAD, 10)
    quarantine.listed("waits", BAD, 11)
    assert quarantine.look(FORGET_S + 9) == []
    assert quarantine.look(FORGET_S + 10) == ["waits"]
    assert not quarantine.is_active


def test_suspect_does_not_wait_for_ever(quarantine: Quarantine[str, str]) -> None:
    """There may be no worker here: the mold is dead, say."""
    quarantine.suspect("first", 1, 0, tells=True)
    quarantine.suspect("second", 2, 5, tells=True)
    assert quarantine.look(LONGEST_WAIT_S - 1) == []
    assert quarantine.look(LONGEST_WAIT_S) == ["first"]
    assert quarantine.waiting == 1


def test_request_that_a_worker_could_not_be_given_is_the_next_one(
    quarantine: Quarantine[str, str],
) -> None:
    """And its worker has none."""
    for request in ("first", "second"):
        quarantine.suspect(request, 1, 0, tells=True)
    quarantine.take("dead", 0)
    quarantine.put_back("dead", "first", 1)
    assert not quarantine.is_busy("dead")
    assert quarantine.take("worker", 1) == "first"


def test_many_signatures_make_room_for_the_next(quarantine: Quarantine[str, str]) -> None:
    """The one that has done no harm for longest goes."""
    for signature in range(MAX_SIGNATURES):
        quarantine.blame(signature, signature)
    quarantine.blame(0, 100)
    quarantine.blame(BAD, 101)
    assert quarantine.signatures == (*range(2, MAX_SIGNATURES), 0, BAD)


def test_too_many_listed_requests_are_not_taken(quarantine: Quarantine[str, str]) -> None:
    """Suspects are: there are no more of them than connections."""
    quarantine.blame(BAD, 0)
    assert all(quarantine.listed("listed", BAD, 0) for _ in range(MAX_WAITING))
    assert not quarantine.listed("one more", BAD, 0)
    quarantine.suspect("suspect", 1, 0, tells=True)
    assert quarantine.waiting == MAX_WAITING + 1


def test_all_that_waits_can_be_had_back(quarantine: Quarantine[str, str]) -> None:
    """When the cluster stops."""
    quarantine.suspect("suspect", 1, 0, tells=True)
    quarantine.blame(BAD, 0)
    quarantine.listed("listed", BAD, 0)
    assert quarantine.give_up() == ["suspect", "listed"]
    assert quarantine.waiting == 0

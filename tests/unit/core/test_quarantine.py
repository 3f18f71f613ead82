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
    Trials,
)

BAD = 0xBAD


@pytest.fixture
def quarantine() -> Trials[str, str]:
    """Return one of workers and requests that are words."""
    return Trials()


def test_nothing_is_needed_while_nothing_has_died(quarantine: Trials[str, str]) -> None:
    """No worker, and no request for one."""
    assert quarantine.workers_wanted(0) == 0
    assert not quarantine.is_active
    assert quarantine.take("worker", 0) is None
    assert quarantine.look(0) == ([], []) and quarantine.clear() == []
    quarantine.abandon("worker")


def test_suspects_are_tried_one_after_the_other(quarantine: Trials[str, str]) -> None:
    """In the order in which they came; a worker has one at a time."""
    for number, request in enumerate(("first", "second")):
        quarantine.enqueue_suspect(request, number, 0, tells=True)
    assert quarantine.workers_wanted(0) == 1
    assert quarantine.take("worker", 0) == "first"
    assert quarantine.is_busy("worker")
    assert quarantine.survived("worker") == []
    assert not quarantine.is_busy("worker")
    assert quarantine.take("worker", 0) == "second"
    quarantine.abandon("worker")
    assert quarantine.workers_wanted(0) == 0


def test_suspects_come_before_those_whose_signature_is_listed(
    quarantine: Trials[str, str],
) -> None:
    """Most suspects are innocent."""
    quarantine.blame(BAD, 0)
    assert quarantine.enqueue_listed("listed", BAD, 0)
    quarantine.enqueue_suspect("suspect", 1, 0, tells=True)
    assert [quarantine.take(worker, 0) for worker in "abc"] == ["suspect", "listed", None]


def test_free_worker_is_kept_while_a_signature_is_listed(
    quarantine: Trials[str, str],
) -> None:
    """The next request of death need not wait for one."""
    quarantine.blame(BAD, 0)
    assert quarantine.signatures == (BAD,)
    assert quarantine.is_listed(BAD)
    assert quarantine.workers_wanted(1) == 1


def test_request_that_takes_long_keeps_nobody_waiting(quarantine: Trials[str, str]) -> None:
    """Each of them has one more worker beside it, up to a limit."""
    for number in range(MAX_WORKERS + 1):
        quarantine.enqueue_suspect(f"slow {number}", number, 0, tells=True)
        quarantine.take(f"worker {number}", 0)
    assert quarantine.workers_wanted(PATIENCE_S / 2) == 1
    assert quarantine.workers_wanted(PATIENCE_S) == MAX_WORKERS
    for number in range(1, MAX_WORKERS + 1):
        quarantine.survived(f"worker {number}")
    assert quarantine.workers_wanted(PATIENCE_S) == 2


def test_signature_is_cleared_by_requests_that_survive(quarantine: Trials[str, str]) -> None:
    """As many for each death; those that wait need not wait any longer."""
    quarantine.blame(BAD, 0)
    quarantine.blame(BAD, 0)
    quarantine.blame(1, 0)
    for _ in range(2 * SURVIVALS - 1):
        quarantine.enqueue_listed("other", BAD, 0)
        quarantine.take("worker", 0)
        assert quarantine.survived("worker") == []
    for request, signature in (("last", BAD), ("other", 1), ("waits", BAD)):
        quarantine.enqueue_listed(request, signature, 0)
    assert quarantine.take("worker", 0) == "last"
    assert quarantine.survived("worker") == ["waits"]
    assert quarantine.signatures == (1,)
    assert quarantine.waiting == 1


def test_request_that_tells_nothing_clears_nothing(quarantine: Trials[str, str]) -> None:
    """No app was given it: it must not be made twice."""
    quarantine.blame(BAD, 0)
    for _ in range(2 * SURVIVALS):
        quarantine.enqueue_suspect("POST", BAD, 0, tells=False)
        quarantine.take("worker", 0)
        quarantine.survived("worker")
    assert quarantine.is_listed(BAD)


def test_signature_is_forgotten_after_its_last_harm(quarantine: Trials[str, str]) -> None:
    """The time counts from its last death on."""
    quarantine.blame(BAD, 0)
    quarantine.blame(BAD, 10)
    quarantine.enqueue_listed("waits", BAD, FORGET_S + 8)
    assert quarantine.look(FORGET_S + 9) == ([], [])
    assert quarantine.look(FORGET_S + 10) == (["waits"], [])
    assert not quarantine.is_active


def test_nothing_waits_for_ever(quarantine: Trials[str, str]) -> None:
    """There may be no worker here: suspects go to any, those of a listed signature are refused."""
    quarantine.blame(BAD, 0)
    quarantine.enqueue_suspect("first", 1, 0, tells=True)
    quarantine.enqueue_suspect("second", 2, 5, tells=True)
    quarantine.enqueue_listed("listed", BAD, 1)
    assert quarantine.look(LONGEST_WAIT_S - 1) == ([], [])
    assert quarantine.look(LONGEST_WAIT_S) == (["first"], [])
    assert quarantine.look(LONGEST_WAIT_S + 1) == ([], ["listed"])
    assert quarantine.waiting == 1


def test_request_that_a_worker_could_not_be_given_is_the_next_one(
    quarantine: Trials[str, str],
) -> None:
    """Of its kind, and it has waited since it came; its worker has none."""
    quarantine.blame(BAD, 0)
    quarantine.enqueue_listed("listed", BAD, 0)
    quarantine.take("full", 1)
    quarantine.put_back("full")
    for request in ("first", "second"):
        quarantine.enqueue_suspect(request, 1, 0, tells=True)
    quarantine.take("full", 1)
    quarantine.put_back("full")
    assert not quarantine.is_busy("full")
    assert [quarantine.take(worker, 1) for worker in "abc"] == ["first", "second", "listed"]


def test_request_that_kills_its_worker_has_its_signature_listed(
    quarantine: Trials[str, str],
) -> None:
    """It was alone; but not one that no app was given."""
    for request, signature, tells in (("GET", 1, True), ("POST", 2, False)):
        quarantine.enqueue_suspect(request, signature, 0, tells=tells)
        quarantine.take("worker", 0)
        quarantine.died("worker", 0)
        assert not quarantine.is_busy("worker")
    assert quarantine.signatures == (1,)


def test_signatures_mean_nothing_to_other_code(quarantine: Trials[str, str]) -> None:
    """They are forgotten when it serves, and nobody waits for their sake."""
    quarantine.blame(BAD, 0)
    quarantine.enqueue_suspect("suspect", 1, 0, tells=True)
    quarantine.enqueue_listed("listed", BAD, 0)
    assert quarantine.clear() == ["listed"]
    assert quarantine.signatures == ()
    assert quarantine.waiting == 1


def test_many_signatures_make_room_for_the_next(quarantine: Trials[str, str]) -> None:
    """The one that has done no harm for longest goes."""
    for signature in range(MAX_SIGNATURES):
        quarantine.blame(signature, signature)
    quarantine.blame(0, 100)
    quarantine.blame(BAD, 101)
    assert quarantine.signatures == (*range(2, MAX_SIGNATURES), 0, BAD)


def test_too_many_listed_requests_are_not_taken(quarantine: Trials[str, str]) -> None:
    """Suspects are: there are no more of them than connections."""
    quarantine.blame(BAD, 0)
    assert all(quarantine.enqueue_listed("listed", BAD, 0) for _ in range(MAX_WAITING))
    assert not quarantine.enqueue_listed("one more", BAD, 0)
    quarantine.enqueue_suspect("suspect", 1, 0, tells=True)
    assert quarantine.waiting == MAX_WAITING + 1


def test_all_that_waits_can_be_had_back(quarantine: Trials[str, str]) -> None:
    """When the cluster stops."""
    quarantine.enqueue_suspect("suspect", 1, 0, tells=True)
    quarantine.blame(BAD, 0)
    quarantine.enqueue_listed("listed", BAD, 0)
    assert quarantine.give_up() == ["suspect", "listed"]
    assert not quarantine.is_active

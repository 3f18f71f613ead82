"""Which connections move, until all workers have their share; and then none."""

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from sdcluster.core.rebalance import SLOW_LOOKS, WELL_LOOKS, Load, Move, Rebalance

MS = 1_000_000


def loads(*connections: int, weights: Sequence[int] = ()) -> list[Load]:
    """Return workers with so many connections each."""
    return [
        Load(slot=slot, connections=count, weight=weights[slot] if weights else 1)
        for slot, count in enumerate(connections)
    ]


def moved(before: Sequence[Load], moves: Sequence[Move]) -> list[Load]:
    """Return the workers after the moves; none may give what it does not have."""
    counts = {load.slot: load.connections for load in before}
    for move in moves:
        assert 0 < move.count <= counts[move.origin] and move.origin != move.target
        counts[move.origin] -= move.count
        counts[move.target] += move.count
    return [replace(load, connections=counts[load.slot]) for load in before]


def counts(row: Sequence[Load]) -> list[int]:
    """Return how many connections each has."""
    return [load.connections for load in row]


def test_worker_that_has_all_gives_each_its_share() -> None:
    """In one step."""
    moves = Rebalance().moves(loads(64, 0, 0, 0))
    assert moves == [Move(0, 1, 16), Move(0, 2, 16), Move(0, 3, 16)]


@pytest.mark.parametrize(
    "row",
    [
        [],
        loads(100),
        loads(0, 0, 0),
        loads(3, 0),
        loads(1, 0, 0, 0),
        loads(10, 12),
        loads(110, 90, 100),
        loads(30, 10, weights=[3, 1]),
    ],
    ids=str,
)
def test_nothing_moves_that_is_near_enough(row: list[Load]) -> None:
    """Two connections, or a fifth of the mean, are no matter."""
    assert Rebalance().moves(row) == []


@pytest.mark.parametrize("row", [loads(4, 0), loads(111, 89, 100)], ids=str)
def test_what_is_further_apart_moves(row: list[Load]) -> None:
    """The limits are what they are said to be."""
    assert Rebalance().moves(row)


def test_shares_are_by_weight() -> None:
    """The worker of weight 2 has twice as many."""
    row = loads(64, 0, 0, weights=[1, 2, 1])
    assert counts(moved(row, Rebalance().moves(row))) == [16, 32, 16]


@pytest.mark.parametrize("seed", range(200))
def test_it_comes_to_rest_at_once(seed: int) -> None:
    """After one step nothing moves any more: whole numbers, odd weights and all."""
    chance = random.Random(seed)
    slots = chance.randint(2, 12)
    weights = [chance.choice([1, 1, 2, 7, 100]) for _ in range(slots)]
    row = loads(*(chance.choice([0, 1, 5, 50, 1000]) for _ in range(slots)), weights=weights)
    rebalance = Rebalance()
    after = moved(row, rebalance.moves(row))
    assert sum(counts(after)) == sum(counts(row))
    for _ in range(20):
        assert rebalance.moves(after) == []


@pytest.mark.parametrize("seed", range(50))
def test_it_comes_to_rest_when_orders_are_carried_out_in_part(seed: int) -> None:
    """Connections at work cannot move; what is left is done later, and nothing is undone."""
    chance = random.Random(seed)
    row = loads(*(chance.randint(0, 200) for _ in range(chance.randint(2, 8))))
    rebalance = Rebalance()
    gaps = []
    for _ in range(60):
        moves = rebalance.moves(row)
        some = [replace_count(move, chance.randint(0, move.count)) for move in moves]
        row = moved(row, [move for move in some if move.count])
        gaps.append(max(counts(row)) - min(counts(row)))
    assert rebalance.moves(row) == []
    assert gaps == sorted(gaps, reverse=True)


def replace_count(move: Move, count: int) -> Move:
    """Return the move of as many."""
    return Move(move.origin, move.target, count)


@pytest.mark.parametrize("seed", range(30))
def test_connections_that_come_and_go_do_not_set_it_off(seed: int) -> None:
    """A few more here and fewer there are within the tolerance."""
    chance = random.Random(seed)
    rebalance = Rebalance()
    for _ in range(100):
        assert rebalance.moves(loads(*(100 + chance.randint(-9, 9) for _ in range(6)))) == []


def test_nobody_gets_more_than_it_may_have() -> None:
    """What has no place stays where it is, and is not asked for again and again."""
    row, rebalance = loads(18, 2, weights=[1, 9]), Rebalance()
    after = moved(row, rebalance.moves(row, max_connections=10))
    assert counts(after) == [10, 10]
    assert rebalance.moves(after, max_connections=10) == []


# Latency.


def look(rebalance: Rebalance, row: Sequence[Load], *latencies_ms: int) -> list[Move]:
    """Have it look at workers with such latencies."""
    pairs = zip(row, latencies_ms, strict=True)
    return rebalance.moves([replace(load, latency_ns=ms * MS) for load, ms in pairs])


def test_worker_that_is_slow_for_longer_gives_most_of_its_share_away() -> None:
    """It keeps some, so that it can be seen how it is."""
    row, rebalance = loads(26, 26, 26), Rebalance()
    for _ in range(SLOW_LOOKS - 1):
        assert look(rebalance, row, 2, 100, 3) == []
    row = moved(row, look(rebalance, row, 2, 100, 3))
    assert counts(row) == [35, 9, 34]
    for _ in range(100):
        assert look(rebalance, row, 2, 100, 3) == []


def test_worker_that_is_well_again_gets_its_share_back() -> None:
    """After some time, as it may be well only because it has less to do."""
    row, rebalance = loads(8, 8), Rebalance()
    for _ in range(SLOW_LOOKS):
        row = moved(row, look(rebalance, row, 100, 2))
    assert counts(row) == [3, 13]
    for _ in range(WELL_LOOKS - 1):
        assert look(rebalance, row, 5, 2) == []
    assert counts(moved(row, look(rebalance, row, 5, 2))) == [8, 8]


def test_slow_now_and_then_is_not_slow() -> None:
    """It has to be so several times in a row."""
    row, rebalance = loads(20, 20), Rebalance()
    for turn in range(50):
        assert look(rebalance, row, 100 if turn % SLOW_LOOKS else 2, 2) == [], turn


def test_what_is_not_known_neither_adds_to_it_nor_ends_it() -> None:
    """A worker without requests has not shown how it is."""
    row, rebalance = loads(20, 20), Rebalance()
    for _ in range(SLOW_LOOKS - 1):
        assert look(rebalance, row, 100, 2) == []
        assert look(rebalance, row, 0, 2) == []
    assert look(rebalance, row, 100, 2)


@pytest.mark.parametrize("latencies_ms", [(9, 1), (100, 30), (1, 9), (500, 500), (100, 0)], ids=str)
def test_workers_are_not_slow_that_are_nearly_as_fast(latencies_ms: tuple[int, int]) -> None:
    """Nor are those that are fast anyway, or have nobody beside them."""
    row, rebalance = loads(20, 20), Rebalance()
    for _ in range(20):
        assert look(rebalance, row, *latencies_ms) == []

"""Which worker gets the next connection."""

import random
from dataclasses import dataclass

import pytest

from sdcluster.core.balance import MAX_OUTSTANDING, Balance, Policy, Rules, fewest_outstanding

MS = 1_000_000

ALL = list(Policy)
LEAST = [Policy.LEAST_CONNECTIONS, Policy.LEAST_LATENCY]


@dataclass(eq=False)
class Load:
    """A worker as the balance sees it."""

    given: int = 0
    open: int = 0
    slot: int = 0
    latency: int = 0
    measured: int = 0
    starved: bool = False
    credit: int = 0
    max_connections: int = 0
    looks: int = 0

    def outstanding(self) -> int:
        """Return what it was given and has not taken."""
        self.looks += 1
        return self.given

    def connections(self) -> int:
        """Return what it has open."""
        return self.open

    def is_starved(self) -> bool:
        """Tell whether it has no descriptors."""
        return self.starved

    def latency_ns(self) -> int:
        """Return how long an answer is expected to take."""
        return self.latency

    def measured_ns(self) -> int:
        """Return how long it was when it was last measured."""
        return self.measured or self.latency


def workers(count: int) -> list[Load]:
    """Return workers that have nothing yet."""
    return [Load(slot=slot) for slot in range(count)]


def balance(
    policy: Policy = Policy.ROUND_ROBIN, *, weights: tuple[int, ...] = (), max_connections: int = 0
) -> Balance:
    """Return what chooses by such rules."""
    return Rules(policy=policy, weights=weights, max_connections=max_connections).balance()


def spread(by: Balance, loads: list[Load], count: int, *, opens: bool = False) -> list[int]:
    """Give `count` connections and return who got them; with `opens` they stay open there."""
    order = []
    for _ in range(count):
        chosen = by.pick(loads)
        assert chosen is not None
        order.append(loads.index(chosen))
        chosen.open += opens
        by.advance()
    return order


def test_fewest_outstanding_knows_no_limit() -> None:
    """When all are full, the one that is least behind is found."""
    loads = [Load(given=3 * MAX_OUTSTANDING), Load(given=2 * MAX_OUTSTANDING, open=1000)]
    assert fewest_outstanding(loads) is loads[1]


# What holds for all.


@pytest.mark.parametrize("policy", ALL)
def test_each_worker_has_its_turn(policy: Policy) -> None:
    """Equal workers get equal shares, in order."""
    assert spread(balance(policy), workers(3), 6) == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize("weights", [(), (3, 1)])
@pytest.mark.parametrize("policy", ALL)
def test_turn_stays_until_a_connection_was_given(policy: Policy, weights: tuple[int, ...]) -> None:
    """Picking in vain does not skip anybody."""
    by, loads = balance(policy, weights=weights), workers(2)
    assert by.pick(loads) is by.pick(loads) is loads[0]
    assert loads[0].credit == loads[1].credit == 0


@pytest.mark.parametrize("weights", [(), (9, 9, 1), (1, 9, 1)])
@pytest.mark.parametrize("policy", ALL)
def test_worker_that_does_not_take_what_it_was_given_is_passed_over(
    policy: Policy, weights: tuple[int, ...]
) -> None:
    """A busy worker gets a few connections at the most, however much it is owed."""
    loads = workers(3)
    loads[1].given = MAX_OUTSTANDING
    loads[2].given = MAX_OUTSTANDING - 1
    assert 1 not in spread(balance(policy, weights=weights), loads, 50)


@pytest.mark.parametrize("weights", [(), (9, 1)])
@pytest.mark.parametrize("policy", ALL)
def test_worker_without_descriptors_is_passed_over(
    policy: Policy, weights: tuple[int, ...]
) -> None:
    """Whatever it was given, it could take none of it."""
    loads = workers(2)
    loads[0].starved = True
    by = balance(policy, weights=weights)
    assert spread(by, loads, 20) == [1] * 20
    loads[1].starved = True
    assert by.pick(loads) is None


@pytest.mark.parametrize("weights", [(), (9, 1)])
@pytest.mark.parametrize("policy", ALL)
def test_worker_with_max_connections_is_passed_over(
    policy: Policy, weights: tuple[int, ...]
) -> None:
    """What is on its way to the worker counts as open."""
    loads = [Load(given=1, open=4), Load(given=1, open=3, slot=1)]
    by = balance(policy, weights=weights, max_connections=5)
    assert spread(by, loads, 2) == [1, 1]


@pytest.mark.parametrize("weights", [(), (9, 1)])
@pytest.mark.parametrize("policy", ALL)
def test_nobody_is_picked_when_all_are_full_or_there_is_nobody(
    policy: Policy, weights: tuple[int, ...]
) -> None:
    """None means: leave the connection in the backlog. Nothing is owed for that."""
    by = balance(policy, weights=weights, max_connections=1)
    loads = [Load(open=1), Load(given=MAX_OUTSTANDING, slot=1)]
    assert by.pick(loads) is None
    by.advance()
    assert by.pick(list[Load]()) is None
    by.advance()
    assert [load.credit for load in loads] == [0, 0]


@pytest.mark.parametrize("policy", ALL)
def test_turn_goes_on_when_workers_come_and_go(policy: Policy) -> None:
    """A shorter row neither breaks the turn nor starts it anew."""
    by, loads = balance(policy), workers(3)
    assert spread(by, loads, 3) == [0, 1, 2]
    assert spread(by, loads[:2], 4) in ([0, 1, 0, 1], [1, 0, 1, 0])


@pytest.mark.parametrize("weights", [(), (2, 1)])
@pytest.mark.parametrize("policy", ALL)
def test_a_pick_takes_a_look_or_two_at_each_worker(
    policy: Policy, weights: tuple[int, ...]
) -> None:
    """It takes no longer than there are workers, however many were picked before."""
    by, loads = balance(policy, weights=weights), workers(100)
    spread(by, loads, 250)
    for load in loads:
        load.looks = 0
    by.pick(loads)
    assert sum(load.looks for load in loads) <= 2 * len(loads)


@pytest.mark.parametrize("policy", ALL)
def test_two_workers_at_their_limit_take_turns_as_they_have_room(policy: Policy) -> None:
    """Who has room gets the next one, and nobody else: there is no way back and forth."""
    by, loads = balance(policy, max_connections=4), workers(2)
    spread(by, loads, 8, opens=True)
    assert [load.open for load in loads] == [4, 4] and by.pick(loads) is None
    for index in (1, 1, 0, 1, 0):
        loads[index].open -= 1
        assert spread(by, loads, 1, opens=True) == [index]
        assert by.pick(loads) is None


# Weights.


def test_order_is_as_nginx_has_it() -> None:
    """The example of its documentation."""
    by = balance(weights=(5, 1, 1))
    order = spread(by, workers(3), 14)
    assert "".join("abc"[index] for index in order) == "aabacaa" * 2


@pytest.mark.parametrize("seed", range(40))
def test_shares_are_exact_over_a_cycle(seed: int) -> None:
    """In as many turns as all weights together each has its weight; wherever the cycle begins."""
    chance = random.Random(seed)
    weights = tuple(chance.randint(1, 20) for _ in range(chance.randint(1, 12)))
    whole = sum(weights)
    order = spread(balance(weights=weights), workers(len(weights)), 3 * whole)
    for begin in (0, chance.randrange(whole), whole):
        cycle = order[begin : begin + whole]
        assert tuple(cycle.count(slot) for slot in range(len(weights))) == weights


@pytest.mark.parametrize("seed", range(40))
def test_shares_come_without_bursts(seed: int) -> None:
    """At no time anybody is ahead of its share by a whole connection."""
    chance = random.Random(seed)
    weights = tuple(chance.randint(1, 20) for _ in range(chance.randint(2, 12)))
    had = [0] * len(weights)
    order = spread(balance(weights=weights), workers(len(weights)), 3 * sum(weights))
    for turn, index in enumerate(order, 1):
        had[index] += 1
        assert had[index] < turn * weights[index] / sum(weights) + 1


def test_slots_beyond_the_weights_have_weight_1() -> None:
    """So a cluster can be scaled without another config."""
    order = spread(balance(weights=(3,)), workers(3), 10)
    assert [order.count(slot) for slot in range(3)] == [6, 2, 2]


def test_worker_that_was_full_is_not_paid_for_that_time() -> None:
    """It has its share from then on, and does not catch up in a burst."""
    by, loads = balance(weights=(2, 1)), workers(2)
    loads[0].given = MAX_OUTSTANDING
    assert set(spread(by, loads, 30)) == {1}
    loads[0].given = 0
    assert spread(by, loads, 9) == [0, 1, 0] * 3


def test_weights_of_one_are_no_weights() -> None:
    """The order is that of plain round-robin."""
    assert type(balance(weights=(1, 1))) is type(balance())


@pytest.mark.parametrize("policy", LEAST)
def test_weights_count_in_the_others_as_well(policy: Policy) -> None:
    """Connections are as the weights are."""
    loads = workers(3)
    spread(balance(policy, weights=(3, 1, 2)), loads, 60, opens=True)
    assert [load.open for load in loads] == [30, 10, 20]


# Least connections.


@pytest.mark.parametrize("policy", LEAST)
def test_worker_with_the_fewest_connections_is_next(policy: Policy) -> None:
    """Those on their way to it count."""
    loads = [Load(open=3), Load(open=1, given=1, slot=1), Load(open=9, slot=2)]
    assert spread(balance(policy), loads, 8, opens=True) == [1, 0, 1, 0, 1, 0, 1, 0]


@pytest.mark.parametrize("seed", range(20))
def test_connections_are_even_while_they_come_and_go(seed: int) -> None:
    """At the end of any time in which more come than go, they differ by one at most."""
    chance = random.Random(seed)
    by, loads = balance(Policy.LEAST_CONNECTIONS), workers(5)
    for _ in range(500):
        if chance.random() < 0.4:
            load = chance.choice(loads)
            load.open = max(0, load.open - 1)
        else:
            spread(by, loads, 1, opens=True)
    spread(by, loads, 5 * max(load.open for load in loads), opens=True)
    assert max(load.open for load in loads) - min(load.open for load in loads) <= 1


# Least latency.


def test_worker_that_takes_twice_as_long_has_half_as_many() -> None:
    """Latency times connections is what is evened out."""
    loads = [Load(latency=10 * MS), Load(latency=20 * MS, slot=1), Load(latency=40 * MS, slot=2)]
    spread(balance(Policy.LEAST_LATENCY), loads, 70, opens=True)
    assert [load.open for load in loads] == [40, 20, 10]


def test_latency_below_a_millisecond_is_noise() -> None:
    """Workers that are all fast get equal shares."""
    loads = [Load(latency=MS // 10), Load(latency=MS // 2, slot=1)]
    spread(balance(Policy.LEAST_LATENCY), loads, 20, opens=True)
    assert [load.open for load in loads] == [10, 10]


def test_worker_of_which_nothing_is_known_counts_as_the_fastest() -> None:
    """It gets as many as that one, and not all."""
    loads = [Load(latency=20 * MS), Load(latency=40 * MS, slot=1), Load(slot=2)]
    spread(balance(Policy.LEAST_LATENCY), loads, 50, opens=True)
    assert [load.open for load in loads] == [20, 10, 20]


def test_worker_that_was_slow_long_ago_counts_as_the_fastest() -> None:
    """What was measured then has decayed to nothing; it is tried, and not flooded."""
    loads = [Load(latency=20 * MS), Load(latency=0, measured=500 * MS, slot=1)]
    spread(balance(Policy.LEAST_LATENCY), loads, 20, opens=True)
    assert [load.open for load in loads] == [10, 10]


@pytest.mark.parametrize("policy", ALL)
def test_limit_of_a_worker_is_its_own(policy: Policy) -> None:
    """One that has none gets what the rules allow."""
    loads = [Load(slot=0, max_connections=1), Load(slot=1, max_connections=9), Load(slot=2)]
    by = balance(policy, max_connections=3)
    order = spread(by, loads, 13, opens=True)
    assert sorted(order) == [0] + [1] * 9 + [2] * 3
    assert by.pick(loads) is None

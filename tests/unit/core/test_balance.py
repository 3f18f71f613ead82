"""Which worker gets the next connection."""

from dataclasses import dataclass

from sdcluster.core.balance import MAX_OUTSTANDING, RoundRobin, fewest_outstanding


@dataclass
class Load:
    """A worker as the balance sees it."""

    given: int = 0
    open: int = 0

    def outstanding(self) -> int:
        """Return what it was given and has not taken."""
        return self.given

    def connections(self) -> int:
        """Return what it has open."""
        return self.open


def spread(balance: RoundRobin, workers: list[Load], count: int) -> list[int]:
    """Give `count` connections and return who got them."""
    order = []
    for _ in range(count):
        chosen = balance.pick(workers)
        assert chosen is not None
        order.append([one is chosen for one in workers].index(True))
        balance.advance()
    return order


def test_each_worker_has_its_turn() -> None:
    """Equal workers get equal shares, in order."""
    assert spread(RoundRobin(max_connections=0), [Load(), Load(), Load()], 6) == [0, 1, 2, 0, 1, 2]


def test_turn_stays_until_a_connection_was_given() -> None:
    """Picking in vain does not skip anybody."""
    balance, workers = RoundRobin(max_connections=0), [Load(), Load()]
    assert balance.pick(workers) is balance.pick(workers) is workers[0]


def test_worker_that_does_not_take_what_it_was_given_is_passed_over() -> None:
    """A busy worker gets a few connections at the most."""
    workers = [Load(), Load(given=MAX_OUTSTANDING), Load(given=MAX_OUTSTANDING - 1)]
    assert spread(RoundRobin(max_connections=0), workers, 4) == [0, 2, 0, 2]


def test_worker_with_max_connections_is_passed_over() -> None:
    """What is on its way to the worker counts as open."""
    workers = [Load(given=1, open=4), Load(given=1, open=3)]
    assert spread(RoundRobin(max_connections=5), workers, 2) == [1, 1]


def test_nobody_is_picked_when_all_are_full_or_there_is_nobody() -> None:
    """None means: leave the connection in the backlog."""
    balance = RoundRobin(max_connections=1)
    assert balance.pick([Load(open=1), Load(given=MAX_OUTSTANDING)]) is None
    assert balance.pick(list[Load]()) is None


def test_turn_goes_on_when_workers_come_and_go() -> None:
    """A shorter row neither breaks the turn nor starts it anew."""
    balance, workers = RoundRobin(max_connections=0), [Load(), Load(), Load()]
    assert spread(balance, workers, 3) == [0, 1, 2]
    assert spread(balance, workers[:2], 2) == [1, 0]


def test_fewest_outstanding_knows_no_limit() -> None:
    """When all are full, the one that is least behind is found."""
    workers = [Load(given=3 * MAX_OUTSTANDING), Load(given=2 * MAX_OUTSTANDING, open=1000)]
    assert fewest_outstanding(workers) is workers[1]

"""Socket activation from the giving side."""

import random

from sdcluster.wire.listenfds import FIRST_FD, environment, plan_moves


def after(fds: list[int]) -> list[int]:
    """Carry the plan out on a table of descriptors, and return what stands at 3, 4, ….

    Each descriptor refers to itself at first, so that the table tells what was moved where.
    """
    table = {fd: fd for fd in range(40)}
    for source, target in plan_moves(fds):
        assert source != target, "dup2 of a descriptor to itself leaves it close-on-exec"
        table[target] = table[source]
    return [table[FIRST_FD + index] for index in range(len(fds))]


def test_descriptors_that_are_in_place_are_not_moved() -> None:
    """Nothing to do is nothing done."""
    assert plan_moves([3, 4, 5]) == []


def test_descriptors_from_elsewhere_are_moved_in_order() -> None:
    """The simple case: nothing is in the way."""
    assert plan_moves([7, 9]) == [(7, 3), (9, 4)]


def test_descriptors_that_have_to_swap_go_through_a_third_place() -> None:
    """No descriptor is overwritten before it was moved."""
    assert after([4, 3]) == [4, 3]
    assert after([5, 3, 4]) == [5, 3, 4]


def test_plan_puts_every_descriptor_in_its_place() -> None:
    """Whatever the order, and also when one is to be passed twice."""
    draw = random.Random(0)
    for _ in range(500):
        fds = draw.choices(range(14), k=draw.randint(0, 8))
        assert after(fds) == fds


def test_environment_names_descriptors_and_the_one_process_they_are_for() -> None:
    """LISTEN_PID keeps a child of the worker from taking them for its own."""
    assert environment(["http", "admin"], 4711) == {
        "LISTEN_FDS": "2",
        "LISTEN_FDNAMES": "http:admin",
        "LISTEN_PID": "4711",
    }

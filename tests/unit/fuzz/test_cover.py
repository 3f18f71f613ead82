"""Which configurations are chosen."""

import itertools
from random import Random

from fuzz.configurations import OPTIONS
from fuzz.cover import all_pairs, of_first, pairs, rows

FEW = {"a": (1, 2, 3), "b": (True, False), "c": ("x", "y")}


def test_each_two_values_meet() -> None:
    """In far fewer rows than there are combinations."""
    chosen = itertools.islice(rows(OPTIONS, Random(1)), 90)
    assert all_pairs(OPTIONS) == set().union(*map(pairs, chosen))


def test_first_option_meets_all_values_first() -> None:
    """In hardly more rows than it takes."""
    fewest = len(OPTIONS["scheduling"]) * max(map(len, [*OPTIONS.values()][1:]))
    chosen = itertools.islice(rows(OPTIONS, Random(2)), fewest + 2)
    wanted = of_first(OPTIONS, all_pairs(OPTIONS))
    assert wanted <= set().union(*map(pairs, chosen))


def test_it_goes_on_when_all_have_met() -> None:
    """With other rows."""
    chosen = list(itertools.islice(rows(FEW, Random(3)), 100))
    assert len(chosen) == 100
    assert set(map(str, chosen[:10])) != set(map(str, chosen[-10:]))


def test_seed_says_which_rows() -> None:
    """And nothing else does, such as the order of a set."""
    first, second = (list(itertools.islice(rows(OPTIONS, Random(4)), 20)) for _ in range(2))
    assert first == second

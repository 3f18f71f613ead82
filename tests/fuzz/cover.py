"""Chooses configurations so that each two values of two options soon meet. Pure.

Greedy: of some random rows the one that has the most pairs that were not there yet, each of these
begun with a pair that was not. Cohen, Dalal, Fredman and Patton, "The AETG system", 1997. The first
option is the most important one: what it has not met comes first.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from random import Random

CANDIDATES = 10
URGENCY = 100
"""How much more a pair counts that has a value of the first option."""

Options = Mapping[str, Sequence[object]]
Row = Mapping[str, object]
Pair = frozenset[tuple[str, object]]


def pairs(row: Row) -> set[Pair]:
    """Return each two values of a row."""
    return {frozenset(two) for two in itertools.combinations(row.items(), 2)}


def all_pairs(options: Options) -> set[Pair]:
    """Return each two values that two options may have."""
    return {
        frozenset({(first, one), (second, other)})
        for first, second in itertools.combinations(options, 2)
        for one in options[first]
        for other in options[second]
    }


def of_first(options: Options, some: set[Pair]) -> set[Pair]:
    """Return those pairs that have a value of the first option."""
    first = next(iter(options))
    return {pair for pair in some if first in dict(pair)}


def rows(options: Options, random: Random) -> Iterator[Row]:
    """Yield rows for ever; when all pairs were there it begins anew."""
    while True:
        every = all_pairs(options)
        # Ordered, as a set of texts has another order in each process.
        missing = dict.fromkeys(sorted(every, key=_name), 1)
        missing.update(dict.fromkeys(of_first(options, every), URGENCY))
        while missing:
            most = max(missing.values())
            urgent = [pair for pair, weight in missing.items() if weight == most]
            found = max(
                (_row(options, random.choice(urgent), missing, random) for _ in range(CANDIDATES)),
                key=lambda row: sum(missing.get(pair, 0) for pair in pairs(row)),
            )
            for pair in pairs(found):
                missing.pop(pair, None)
            yield found


def _name(pair: Pair) -> list[str]:
    return sorted(map(str, pair))


def _row(options: Options, pair: Pair, missing: Mapping[Pair, int], random: Random) -> Row:
    """Return a row with a pair, and as many missing ones as it can have by the way."""
    row = dict(sorted(pair, key=str))
    first, *others = options
    names = [name for name in random.sample(others, len(others)) if name not in row]
    for name in [first, *names] if first not in row else names:
        values = random.sample(list(options[name]), len(options[name]))
        row[name] = max(values, key=lambda value: _gain(name, value, row, missing))
    return {name: row[name] for name in options}


def _gain(name: str, value: object, row: Row, missing: Mapping[Pair, int]) -> int:
    return sum(missing.get(frozenset({(name, value), other}), 0) for other in row.items())

"""Tells what came of the rounds. Pure."""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from fuzz.configurations import OPTIONS
from fuzz.cover import all_pairs, of_first, pairs
from fuzz.rounds import Result
from fuzz.verdict import VIOLATIONS, Outcome

MAX_DEFERRED = 0.05
"""The most that may be answered 503, as a part of all requests."""
MAX_SHOWN = 12
"""Rounds of which all is told that was wrong."""


def is_good(result: Result) -> bool:
    """Tell whether nothing was wrong in a round."""
    return not result.troubles and not any(result.outcomes[one] for one in VIOLATIONS)


def is_available(results: Sequence[Result]) -> bool:
    """Tell whether few requests were told to come again, of all rounds."""
    outcomes = sum((result.outcomes for result in results), Counter[Outcome]())
    return outcomes[Outcome.DEFERRED] <= MAX_DEFERRED * outcomes.total()


def line(result: Result) -> str:
    """Return a round in one line."""
    counts = [f"{result.outcomes[Outcome.ANSWERED]} answered"]
    counts += [
        f"{count} {outcome}"
        for outcome, count in sorted(result.outcomes.items())
        if outcome is not Outcome.ANSWERED
    ]
    deeds = [f"{count} x {deed}" for deed, count in sorted(result.deeds.items())]
    word = "good" if is_good(result) else "BAD "
    told = "; ".join([", ".join(counts), *deeds])
    return f"{word} {result.number:3} {result.seconds:5.1f} s  {result.config}: {told}"


def details(results: Sequence[Result], seed: str) -> Iterator[str]:
    """Yield all that is to be known of the first rounds that were bad."""
    bad = [result for result in results if not is_good(result)]
    for result in itertools.islice(bad, MAX_SHOWN):
        yield f"\n== seed {seed}, round {result.number}: {result.config}"
        for text in result.troubles:
            yield f"-- trouble: {text}"
        for _, text in result.shown:
            yield f"-- {text}"
        yield f"-- what was done, and the end of the log:\n{result.log}"
    if len(bad) > MAX_SHOWN:
        yield f"\n== and {len(bad) - MAX_SHOWN} more bad rounds"


def summary(results: Sequence[Result], seed: str) -> Iterator[str]:
    """Yield what came of all rounds."""
    outcomes: Counter[Outcome] = Counter()
    deeds: Counter[str] = Counter()
    met = set()
    for result in results:
        outcomes += result.outcomes
        deeds += result.deeds
        met |= pairs(asdict(result.config))
    every = all_pairs(OPTIONS)
    first = of_first(OPTIONS, every)
    done = ", ".join(f"{count} x {deed}" for deed, count in sorted(deeds.items()))
    yield (
        f"seed {seed}: {len(results)} rounds, {sum(outcomes.values())} requests, "
        f"{sum(deeds.values())} faults ({done})"
    )
    yield (
        f"configurations: {len(first & met)} of {len(first)} pairs with each scheduling, "
        f"{len(every & met)} of {len(every)} of all options"
    )
    for outcome in Outcome:
        if outcome in VIOLATIONS or outcomes[outcome]:
            yield f"{outcomes[outcome]:8} {outcome}"
    yield f"{sum(len(result.troubles) for result in results):8} troubles of the server"

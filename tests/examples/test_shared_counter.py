"""The article's shared state: workers that count together."""

import re

from conftest import CPUS, Run
from instance import wait_until
from web import fetch_many


def test_count_is_exact_whoever_answers(run: Run) -> None:
    """No request is counted twice, and none left out."""
    example = run("shared_counter")
    counts: list[int] = []
    pids: set[str] = set()

    def ask() -> bool:
        for answer in fetch_many(example.web, 100):
            found = re.fullmatch(r"Request (\d+), handled by process (\d+)", answer.text)
            assert found is not None
            counts.append(int(found[1]))
            pids.add(found[2])
        return len(pids) >= CPUS

    wait_until(ask, "an answer from each worker")
    assert sorted(counts) == list(range(1, len(counts) + 1))

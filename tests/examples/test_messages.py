"""The article's messages: to every worker, and a database that is asked once for all of them."""

import re
import time

import pytest
from conftest import CPUS, Run

PERIOD_S = 1


def test_every_worker_prints_what_the_master_sends(run: Run) -> None:
    """Each its own message, and the one to all."""
    example = run("broadcast")
    for number in range(1, CPUS + 1):
        line = f"Worker {number}, message from master: "
        example.wait_log(f"{line}Hello Worker {number}\n")
        example.wait_log(f"{line}Hello everyone\n")
    assert example.log().count("message from master") == 2 * CPUS


@pytest.mark.parametrize("name", ["users_count", "users_count_service"])
def test_database_is_asked_once_a_period(run: Run, name: str) -> None:
    """Whatever the number of workers, of which each knows the answers as they change."""
    began = time.monotonic()
    example = run(name, PERIOD_S=PERIOD_S)
    first = example.answers(r"Process (\d+)\nUsers: \d+", CPUS)
    later = example.answers(r"Process (\d+)\nUsers: (?:625|390625|1000000000)$", CPUS)
    assert first == later and len(first) == CPUS
    found = re.findall(r"A query to the database: (\d+) users", example.log())
    assert found[:2] == ["25", "625"]
    assert len(found) <= 1 + (time.monotonic() - began) / PERIOD_S

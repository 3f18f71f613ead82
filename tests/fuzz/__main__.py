"""Attack sdcluster with random requests and faults, and know what each answer must be.

    python tests/fuzz                       a minute
    python tests/fuzz --seconds 600         ten of them
    python tests/fuzz --seed S              the same plan once more
    python tests/fuzz --seed S --round 7    one round of it

Exits with 1 when an answer was wrong, a request was lost that must not be, or executed twice.
"""

import argparse
import secrets
import sys
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS), str(TESTS / "integration")]

from fuzz import report  # noqa: E402
from fuzz.rounds import Result, Setup, play  # noqa: E402


def main() -> int:
    """Attack for as long as is said. Return 0 if nothing was wrong."""
    parser = argparse.ArgumentParser(
        prog="tests/fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", default=secrets.token_hex(4))
    parser.add_argument("--round", type=int, help="play this one alone")
    parser.add_argument("--round-s", type=float, default=1.5, help="how long clients send in each")
    parser.add_argument("--lanes", type=int, default=3, help="rounds that are played at a time")
    parser.add_argument("--clients", type=int, default=22, help="of each round")
    given = parser.parse_args()
    print(f"seed {given.seed}, rounds of {given.round_s:g} s", flush=True)
    results = []
    for result in played(given):
        print(report.line(result), flush=True)
        results.append(result)
    for text in (*report.details(results, given.seed), "", *report.summary(results, given.seed)):
        print(text)
    is_good = all(map(report.is_good, results)) and report.is_available(results)
    return 0 if results and is_good else 1


def played(given: argparse.Namespace) -> Iterator[Result]:
    """Play rounds until the time is over, each in a process of its own; yield what came of them."""

    def setup(number: int) -> Setup:
        return Setup(seed=given.seed, number=number, clients=given.clients, seconds=given.round_s)

    until_s = time.monotonic() + given.seconds
    lanes = 1 if given.round is not None else given.lanes
    number = given.round or 0
    # Threads, as those of calls to the control socket, do not outlive a fork well.
    context = get_context("spawn")
    with ProcessPoolExecutor(lanes, mp_context=context) as pool:
        running: set[Future[Result]] = set()
        while True:
            while len(running) < lanes and (number == given.round or time.monotonic() < until_s):
                running.add(pool.submit(play, setup(number)))
                number += 1
                if given.round is not None:
                    until_s = 0.0
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for one in done:
                yield one.result()


if __name__ == "__main__":
    sys.exit(main())

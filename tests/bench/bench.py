"""Runs the measures, server after server and round after round, and reports.

Runs in the virtualenv that `run` has made. The exit status is 0 when it ran, whatever it found.
"""

import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import NoReturn

import caching
import deaths
import measures
import messages
import moving
import options
import processes
import report
import scheduling
from instances import ServerFailed
from measures import Plan, Sample
from options import Effort, Options
from results import SDCLUSTER, Results
from rich.console import Console
from servers import SERVERS, Server

PLANS = {**measures.PLANS, messages.MEASURE: messages.PLAN, deaths.MEASURE: deaths.PLAN}
report.MORE[messages.MEASURE] = messages.table
report.MORE[moving.MEASURE] = moving.table
report.MORE[deaths.MEASURE] = deaths.table
report.MORE.update(scheduling.TABLES)
Round = Callable[[Effort], Mapping[str, Sample]]
"""What takes a sample of each contender of its own, once."""
ROUNDS: Mapping[str, Round] = {
    **caching.ROUNDS,
    moving.MEASURE: moving.moves,
    **scheduling.ROUNDS,
}


def chosen(only: Sequence[str]) -> tuple[dict[str, Plan], list[Server], dict[str, Round]]:
    """Return the measures and the servers that were asked for; all where none was."""
    names = [name for name in only if name not in PLANS and name not in ROUNDS]
    plans = {name: plan for name, plan in PLANS.items() if name in only}
    others = {name: take for name, take in ROUNDS.items() if name in only}
    if not plans and not others:
        plans, others = dict(PLANS), {} if names else dict(ROUNDS)
    servers = [
        server
        for server in SERVERS
        if not names or any(server.name.startswith(name) for name in names)
    ]
    for name in names:
        if not any(server.name.startswith(name) for server in SERVERS):
            known = ", ".join([*PLANS, *ROUNDS, *(f"'{server.name}'" for server in SERVERS)])
            sys.exit(f"tests/bench/run: --only {name}: there is none such; known are {known}")
    return plans, servers, others


def measure(
    plans: dict[str, Plan], servers: Sequence[Server], effort: Effort, progress: Console
) -> Results:
    """Take all samples, interleaved: a round measures every server once."""
    results = Results()
    began = time.monotonic()
    for name, plan in plans.items():
        rounds = plan.rounds(effort)
        for turn in range(rounds):
            for server in servers:
                if server.kind not in plan.kinds:
                    continue
                elapsed = time.monotonic() - began
                progress.print(
                    f"{elapsed:5.0f} s  {name} {turn + 1}/{rounds}  {server.name}", highlight=False
                )
                try:
                    results.add(name, server.name, plan.measure(server, effort))
                except (ServerFailed, OSError) as failure:
                    results.add(name, server.name, str(failure))
                    progress.print(f"         {failure}", markup=False, highlight=False)
    return results


def measure_others(
    others: Mapping[str, Round], effort: Effort, results: Results, progress: Console
) -> None:
    """Take the samples of what is no server, in as many rounds."""
    for name, take in others.items():
        for turn in range(effort.rounds):
            progress.print(f"        {name} {turn + 1}/{effort.rounds}", highlight=False)
            try:
                for contender, sample in take(effort).items():
                    results.add(name, contender, sample)
            except (ServerFailed, OSError) as failure:
                results.add(name, SDCLUSTER, str(failure))
                progress.print(f"         {failure}", markup=False, highlight=False)


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    # An exception, so that the server under test is ended on the way out.
    raise KeyboardInterrupt


def run(given: Options) -> None:
    """Measure and report what was asked for."""
    plans, servers, others = chosen(given.only)
    processes.adopt_orphans()
    signal.signal(signal.SIGTERM, _interrupt)
    facts = report.host(given.effort)
    progress = Console(stderr=True)
    results = measure(plans, servers, given.effort, progress)
    measure_others(others, given.effort, results, progress)
    report.show(results, facts, Console())
    if given.markdown:
        given.markdown.write_text(report.to_markdown(results, facts))
    if given.json:
        report.write_json(given.json, results, facts)


if __name__ == "__main__":
    try:
        run(options.parse(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit("tests/bench/run: interrupted")

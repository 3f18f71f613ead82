"""Runs the measures, server after server and round after round, and reports.

Runs in the virtualenv that `run` has made. The exit status is 0 when it ran, whatever it found.
"""

import signal
import sys
import time
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

import options
import processes
import report
from instances import ServerFailed
from measures import PLANS, Plan
from options import Effort, Options
from results import Results
from rich.console import Console
from servers import SERVERS, Server


def chosen(only: Sequence[str]) -> tuple[dict[str, Plan], list[Server]]:
    """Return the measures and the servers that were asked for; all where none was."""
    names = [name for name in only if name not in PLANS]
    plans = {name: plan for name, plan in PLANS.items() if name in only} or dict(PLANS)
    servers = [
        server
        for server in SERVERS
        if not names or any(server.name.startswith(name) for name in names)
    ]
    for name in names:
        if not any(server.name.startswith(name) for server in SERVERS):
            known = ", ".join([*PLANS, *(f"'{server.name}'" for server in SERVERS)])
            sys.exit(f"tests/bench/run: --only {name}: there is none such; known are {known}")
    return plans, servers


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


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    # An exception, so that the server under test is ended on the way out.
    raise KeyboardInterrupt


def run(given: Options) -> None:
    """Measure and report what was asked for."""
    plans, servers = chosen(given.only)
    processes.adopt_orphans()
    signal.signal(signal.SIGTERM, _interrupt)
    facts = report.host(given.effort)
    results = measure(plans, servers, given.effort, Console(stderr=True))
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

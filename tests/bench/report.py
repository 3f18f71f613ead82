"""The tables: what was measured, as text for a terminal, for a README and for a program."""

import json
import os
import platform
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import caching
import rich.box
from measures import KILLS, MEMORY_WORKERS, RELOADS, WORKERS
from options import Effort
from results import Results, Verdict, verdicts
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable
from toolchain import folder

NOTHING = "-"
FAILED = " (failed)"
"""The reason is in the last table."""
PEERS = ("uvicorn", "gunicorn", "granian", "fastapi", "uvloop", "httptools", "lmdb", "redis")
ROUND_ROBIN = "node cluster round-robin"
GUNICORN = "gunicorn uvicorn"


@dataclass(frozen=True, slots=True)
class Table:
    """A title, the names of the columns, the rows; the first column is text."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


MORE: dict[str, Callable[[Results], Table]] = {}
"""The tables of measures that have a module of their own, which `bench` adds."""


def number(value: float | None, form: str = ",.0f") -> str:
    """Return a figure for a cell, if there is one."""
    return NOTHING if value is None else format(value, form)


def ratio(value: float | None) -> str:
    """Return a ratio for a cell, if there is one."""
    return NOTHING if value is None else f"{value:.2f} x"


def _throughput(results: Results) -> Table:
    measure = "throughput"
    rows = []
    for server in results.servers(measure):
        row = [server]
        for figure, to in (("keep-alive", "uvicorn"), ("close", ROUND_ROBIN), ("cpu", ROUND_ROBIN)):
            rate = number(results.median(measure, server, figure))
            if errors := results.total(measure, server, f"{figure} errors"):
                rate += f" ({errors:.0f} errors)"
            row += [
                rate,
                number(results.median(measure, server, f"{figure} p99"), ".1f"),
                ratio(results.ratio(measure, server, figure, to=to)),
            ]
        rows.append(row)
    columns = ["server", "keep-alive req/s", "p99 ms", "to uvicorn"]
    columns += ["connection each req/s", "p99 ms", "to Node rr"]
    columns += ["CPU-bound req/s", "p99 ms", "to Node rr"]
    return Table(f"Throughput, {WORKERS} workers, 64 connections (wrk)", columns, rows)


def _losses(results: Results, measure: str, title: str) -> Table:
    rows = []
    for server in results.servers(measure):
        row = [server]
        for kind in ("keep-alive", "close"):
            lost = number(results.total(measure, server, f"{kind} lost"))
            if results.has_failed(measure, server, kind):
                lost += FAILED
            row += [lost, number(results.total(measure, server, f"{kind} requests"))]
        rows.append(row)
    columns = ["server", "lost, keep-alive", "of", "lost, connection each", "of"]
    return Table(title, columns, rows)


def _respawn(results: Results) -> Table:
    measure = "respawn"
    rows = []
    for server in results.servers(measure):
        values = results.values(measure, server, "ms")
        rows.append(
            [
                server,
                number(results.median(measure, server, "ms"), ",.1f"),
                number(min(values, default=None), ",.1f"),
                number(max(values, default=None), ",.1f"),
                ratio(results.ratio(measure, server, "ms", to=GUNICORN)),
            ]
        )
    columns = ["server", "median ms", "least", "most", "to gunicorn"]
    return Table("From SIGKILL to the replacement's first answer, FastAPI app", columns, rows)


def _memory(results: Results) -> Table:
    measure = "memory"
    rows = []
    for server in results.servers(measure):
        row = [server, number(results.median(measure, server, "worker"), ".1f")]
        for figure in ("workers", "tree"):
            row += [
                number(results.median(measure, server, figure), ".1f"),
                ratio(results.ratio(measure, server, figure, to=GUNICORN)),
            ]
        rows.append(row)
    columns = ["server", "a worker", f"{MEMORY_WORKERS} workers", "to gunicorn"]
    columns += ["all processes", "to gunicorn"]
    return Table("Memory (PSS, MiB), FastAPI app", columns, rows)


def _idle(results: Results) -> Table:
    rows = [
        [
            server,
            number(results.median("idle", server, "rss"), ".1f"),
            number(results.median("idle", server, "wake-ups"), ".2f"),
        ]
        for server in results.servers("idle")
    ]
    return Table("The first process, idle", ["server", "RSS MiB", "wake-ups/s"], rows)


def _cache(results: Results) -> Table:
    rows = []
    for contender in results.servers("cache"):
        row = [contender]
        for figure in ("get", "set", "get JSON", "set JSON"):
            row += [
                number(results.median("cache", contender, figure)),
                ratio(results.ratio("cache", contender, figure, to=caching.REDIS_UNIX)),
            ]
        rows.append(row)
    columns = ["cache"]
    for figure in ("get", "set", "get JSON", "set JSON"):
        columns += [f"{figure} a second", "to redis-py"]
    return Table("The shared cache, one process, 100 keys with a time to live", columns, rows)


def _get_or_set(results: Results) -> Table:
    measure = "get_or_set"
    figures = ("requests", "lost", "made", "early")
    rows = [
        [name, *(number(results.total(measure, name, figure)) for figure in figures)]
        for name in results.servers(measure)
    ]
    columns = ["cache", "requests", "lost", "times the value was made", "before it had ended"]
    title = f"get_or_set, {caching.WORKERS} workers, {caching.CLIENTS} clients"
    return Table(title, columns, rows)


def _marked(table: Table, results: Results, measure: str) -> Table:
    """Name those who failed so badly that the first cell of their row has no figure."""
    rows = [
        [row[0], NOTHING + FAILED, *row[2:]]
        if row[1] == NOTHING and results.has_failed(measure, row[0])
        else row
        for row in table.rows
    ]
    return Table(table.title, table.columns, rows)


def _verdicts(judged: Sequence[Verdict]) -> Table:
    words = {True: "met", False: "missed", None: NOTHING}
    rows = [[one.target, one.server, one.reached, words[one.met]] for one in judged]
    return Table("Targets", ["target", "server", "reached", ""], rows)


def _failures(results: Results) -> Table:
    rows = []
    for measure, servers in results.failures.items():
        for server, reasons in servers.items():
            for reason in dict.fromkeys(reasons):
                count = f" ({reasons.count(reason)} times)" if reasons.count(reason) > 1 else ""
                rows.append([server, measure, f"{reason}{count}"])
    return Table("What did not work", ["server", "measure", "reason"], rows)


def tables(results: Results) -> list[Table]:
    """Return a table for everything that was measured."""
    made: dict[str, Callable[[], Table]] = {
        "throughput": lambda: _throughput(results),
        "reload": lambda: _losses(
            results, "reload", f"Requests lost over {RELOADS} reloads, 32 clients"
        ),
        "kill": lambda: _losses(
            results, "kill", f"Requests lost over {KILLS} SIGKILLs of a worker, 64 clients"
        ),
        "respawn": lambda: _respawn(results),
        "memory": lambda: _memory(results),
        "idle": lambda: _idle(results),
        "cache": lambda: _cache(results),
        "get_or_set": lambda: _get_or_set(results),
        **{measure: partial(make, results) for measure, make in MORE.items()},
    }
    found = [
        _marked(make(), results, measure)
        for measure, make in made.items()
        if results.servers(measure)
    ]
    found += [_verdicts(verdicts(results)), _failures(results)]
    return [table for table in found if table.rows]


def host(effort: Effort) -> dict[str, str]:
    """Return what the figures depend on."""
    pm2 = folder() / "node" / "node_modules" / "pm2" / "package.json"
    peers = {name: version(name) for name in PEERS}
    node = subprocess.run(["node", "--version"], capture_output=True, text=True, check=False)
    return {
        "cpus": str(len(os.sched_getaffinity(0))),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "node": node.stdout.strip().removeprefix("v"),
        "pm2": json.loads(pm2.read_text())["version"],
        **peers,
        "rounds": str(effort.rounds),
        "seconds": str(effort.load_s),
    }


def _summary(facts: dict[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in facts.items())


def show(results: Results, facts: dict[str, str], console: Console) -> None:
    """Print the tables: drawn on a terminal, else as Markdown."""
    if not console.is_terminal:
        console.file.write(to_markdown(results, facts))
        return
    for table in tables(results):
        drawn = RichTable(title=table.title, box=rich.box.SIMPLE_HEAD, title_justify="left")
        for index, column in enumerate(table.columns):
            drawn.add_column(column, justify="right" if _is_number(table, index) else "left")
        for row in table.rows:
            ours = row[0].startswith("sdcluster") and table.title != "Targets"
            style = {"met": "green", "missed": "red"}.get(row[-1], "bold" if ours else "")
            drawn.add_row(*(escape(cell) for cell in row), style=style)
        console.print(drawn)
    console.print(_summary(facts), style="dim")


def to_markdown(results: Results, facts: dict[str, str]) -> str:
    """Return the tables for a README."""
    lines = []
    for table in tables(results):
        lines += [f"### {table.title}", "", _line(table.columns)]
        numbers = [_is_number(table, index) for index in range(len(table.columns))]
        lines.append(_line(["--:" if number else "---" for number in numbers]))
        lines += [_line(row) for row in table.rows]
        lines.append("")
    lines += [
        f"Measured with {_summary(facts)}. Medians of interleaved rounds; a ratio is the median "
        "of the ratios of each round. PSS divides a page by the number of its users.",
        "",
    ]
    return "\n".join(lines)


def _is_number(table: Table, column: int) -> bool:
    return all(row[column][:1].isdigit() or row[column].startswith(NOTHING) for row in table.rows)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def write_json(path: Path, results: Results, facts: dict[str, str]) -> None:
    """Write every sample, the failures and the verdicts."""
    judged = [asdict(one) for one in verdicts(results)]
    content = {"host": facts, **results.to_dict(), "targets": judged}
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")

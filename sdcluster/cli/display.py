"""What people see of a running cluster: tables, lines and a progress bar."""

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from sdcluster import __version__
from sdcluster.core.states import label

WIDE = 200
_TO_INSTALLED = "a restart brings it over, and loses no request where its sockets are systemd's"


def show_reload(steps: Iterable[Mapping[str, Any]]) -> None:
    """Print a line for each step of a reload; on a terminal, with a progress bar below them."""
    console = _console()
    bar = Progress(
        TextColumn("reload"), BarColumn(), MofNCompleteColumn(), console=console, transient=True
    )
    with bar:
        task = bar.add_task("reload", total=None)
        bar.disable = not console.is_terminal
        for step in steps:
            bar.update(task, completed=step["done"], total=step["total"] or None)
            count = f" ({step['done']}/{step['total']})" if step["event"] == "replaced" else ""
            line = f"{step['event']}: {step['message']}{count}"
            console.print(Text(line), soft_wrap=True)


def show_status(status: Mapping[str, Any]) -> None:
    """Print the state of a cluster and a table of its workers."""
    console = _console()
    console.print(Text(f"{status['name']} (pid {status['pid']}): {status['status']}"))
    where = ", ".join(status["listen"])
    if where:
        scheduling = f", {status['scheduling']}" if status["scheduling"] else ""
        console.print(Text(f"listening on {where}{scheduling}"))
    if status["version"] != __version__:
        text = f"runs version {status['version']}, and {__version__} is installed: {_TO_INSTALLED}"
        console.print(Text(text))
    exits = {one["slot"]: one for one in status["last_exits"]}
    if not status["workers"] and not exits:
        return  # A start that waits: there is no worker, nor has there been one.
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("slot", "worker", "pid", "gen"):
        table.add_column(name, justify="right")
    table.add_column("state")
    for name in ("connections", "requests", "wrong", "uptime"):
        table.add_column(name, justify="right")
    table.add_column("last exit")
    for worker in status["workers"]:
        last = exits.pop(worker["slot"], None)
        table.add_row(
            label(worker["slot"]),
            *(str(worker[key]) for key in ("worker", "pid", "generation")),
            worker["state"],
            str(worker["connections"]),
            str(worker["requests"]),
            str(worker["wrong"]),
            _duration(worker["uptime_s"]),
            Text(_exit(last)),
        )
    for slot, last in exits.items():
        table.add_row(label(slot), "-", "-", "-", "empty", "-", "-", "-", "-", Text(_exit(last)))
    console.print(table)


def _console() -> Console:
    """Return the terminal, or a wide place: a log or a pipe has no width to fit."""
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = WIDE
    return console


def _exit(last: Mapping[str, Any] | None) -> str:
    if last is None:
        return ""
    return f"worker {last['worker']}: {last['reason']}, {last['status']}"


def _duration(seconds: float) -> str:
    whole = int(seconds)
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days}d {hours}h"
    if hours:
        return f"{hours}h {minutes}m"
    if minutes:
        return f"{minutes}m {whole % 60}s"
    return f"{whole}s"

"""The library's messages beside Node's: broadcasts, round trips, and connections among large ones.

The programs are `apps/messages.py` and `apps/messages.js`; what they print are the figures.
"""

import os
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from instances import ServerFailed, end_all, free_port
from measures import Plan, Sample
from options import Effort
from report import NOTHING, Table
from results import Results
from servers import Kind, Launch, Server
from toolchain import BENCH, folder

MEASURE = "messages"
OURS = "sdcluster messages"
NODE = "node cluster messages"
WORKERS = {"broadcast": 4, "requests": 1, "hand-off": 1}
CONNECTIONS = 500
START_TIMEOUT_S = 20.0
ANSWER_TIMEOUT_S = 5.0
UNITS = {"hand-off p50": "ms", "hand-off p99": "ms"}


def messages(server: Server, effort: Effort) -> Sample:
    """Messages and round trips a second, and milliseconds of a hand-off while 10 MB flow."""
    sample = Sample()
    for work, workers in WORKERS.items():
        home = Path(tempfile.mkdtemp(prefix="sdbench-"))
        port = free_port()
        launch = Launch(
            app=server.kind.value,
            workers=workers,
            port=port,
            name="messages",
            apps=BENCH / "apps",
            tools=folder(),
        )
        given = {"WORK": work, "SECONDS": str(effort.load_s), "PORT": str(port)}
        with (home / "log").open("wb") as log:
            process = subprocess.Popen(
                server.command(launch),
                env={**os.environ, **given, "WORKERS": str(workers)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            if work == "hand-off":
                sample.figures |= _hand_offs(process, home / "log", port)
            else:
                sample.figures |= _figures(process, home / "log", effort)
        finally:
            end_all(process)
            shutil.rmtree(home, ignore_errors=True)
    return sample


def _figures(process: "subprocess.Popen[bytes]", log: Path, effort: Effort) -> dict[str, float]:
    """Return what it prints, when it has ended."""
    try:
        status = process.wait(START_TIMEOUT_S + 8 * effort.load_s)
    except subprocess.TimeoutExpired as error:
        raise ServerFailed(f"goes on after {error.timeout:g} s") from error
    if status:
        raise ServerFailed(f"ended ({status}): {log.read_text(errors='replace')[-160:]}")
    return _read(log)


def _read(log: Path) -> dict[str, float]:
    lines = [line.split("\t") for line in log.read_text(errors="replace").splitlines()]
    return {line[0]: float(line[1]) for line in lines if len(line) == 2}


def _hand_offs(process: "subprocess.Popen[bytes]", log: Path, port: int) -> dict[str, float]:
    """Connect again and again while messages flow; time it until the worker answers."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while "flows" not in _read(log):
        if process.poll() is not None or time.monotonic() > deadline:
            raise ServerFailed(f"no messages flow: {log.read_text(errors='replace')[-160:]}")
        time.sleep(0.02)
    times_ms = sorted(_connect(port) for _ in range(CONNECTIONS))
    # The line that messages flow is no figure.
    return {
        "hand-off p50": statistics.median(times_ms),
        "hand-off p99": times_ms[int(0.99 * CONNECTIONS)],
    }


def _connect(port: int) -> float:
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), ANSWER_TIMEOUT_S) as connection:
        if not connection.recv(1):
            raise ServerFailed("a connection was closed without an answer")
    return (time.monotonic() - began) * 1000


PLAN = Plan(measure=messages, kinds=frozenset({Kind.LIBRARY}), rounds=lambda effort: effort.rounds)


def table(results: Results) -> Table:
    """Return a row for each figure, with the ratio to Node's: of a time, less is better."""
    servers = results.servers(MEASURE)
    samples = [one for server in servers for one in results.samples[MEASURE][server] if one]
    rows = []
    for figure in dict.fromkeys(name for one in samples for name in one.figures):
        row = [f"{figure} ({UNITS.get(figure, '/s')})"]
        form = ",.2f" if figure in UNITS else ",.0f"
        for server in servers:
            row.append(_cell(results.median(MEASURE, server, figure), form))
        row.append(_cell(results.ratio(MEASURE, OURS, figure, to=NODE), ".2f", " x"))
        rows.append(row)
    title = "Messages: 4 workers hear a broadcast; one answers, or gets 10 x 1 MB and connections"
    return Table(title, ["", *servers, "to Node"], rows)


def _cell(value: float | None, form: str, unit: str = "") -> str:
    return NOTHING if value is None else format(value, form) + unit

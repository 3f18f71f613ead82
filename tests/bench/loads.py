"""The load: wrk for rates, the client of the integration tests for losses."""

import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

from instances import ServerFailed
from toolchain import CHECKOUT

WRK_THREADS = 2
CONNECTIONS = 64
LOSS_CLIENT = CHECKOUT / "tests" / "load.py"
LONGEST_LOAD_S = 300
LAST_ANSWER_S = 30

_RATE = re.compile(r"^Requests/sec:\s+([\d.]+)", re.MULTILINE)
_P99 = re.compile(r"^\s+99%\s+([\d.]+)(us|ms|s)\s*$", re.MULTILINE)
_SOCKETS = re.compile(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)")
_STATUS = re.compile(r"Non-2xx or 3xx responses: (\d+)")
_MS = {"us": 0.001, "ms": 1.0, "s": 1000.0}


@dataclass(frozen=True, slots=True)
class Rate:
    """What wrk has seen."""

    per_s: float
    p99_ms: float
    errors: int


def parse_wrk(text: str) -> Rate:
    """Read the output of `wrk --latency`. Raises `ServerFailed` if it holds no rate."""
    rate, p99 = _RATE.search(text), _P99.search(text)
    if rate is None or p99 is None:
        raise ServerFailed(f"wrk: {text.strip()[-100:]}")
    errors = sum(int(number) for match in _SOCKETS.finditer(text) for number in match.groups())
    errors += sum(int(match[1]) for match in _STATUS.finditer(text))
    return Rate(float(rate[1]), round(float(p99[1]) * _MS[p99[2]], 3), errors)


def wrk(url: str, *, seconds: int, close: bool) -> Rate:
    """Load `url` as fast as it goes. Raises `ServerFailed` if nothing was answered."""
    command = ["wrk", f"-t{WRK_THREADS}", f"-c{CONNECTIONS}", f"-d{seconds}", "--latency"]
    if close:
        command += ["-H", "Connection: close"]
    done = subprocess.run(
        [*command, url], capture_output=True, text=True, check=False, timeout=seconds + 30
    )
    rate = parse_wrk(done.stdout + done.stderr)
    if not rate.per_s:
        raise ServerFailed(f"wrk got no answer, {rate.errors} errors")
    return rate


@dataclass(slots=True)
class Losses:
    """What the clients have counted; filled in when the load ends."""

    requests: int = 0
    lost: int = 0
    errors: dict[str, int] = field(default_factory=dict)


@contextlib.contextmanager
def counting_losses(url: str, *, clients: int, close: bool) -> Iterator[Losses]:
    """Load `url` while the body runs, and then tell what was lost."""
    command = [sys.executable, str(LOSS_CLIENT), url, "--clients", str(clients)]
    command += ["--seconds", str(LONGEST_LOAD_S)]
    if close:
        command.append("--close")
    client = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    losses = Losses()
    try:
        yield losses
    finally:
        client.terminate()
        try:
            output, _ = client.communicate(timeout=LAST_ANSWER_S)
        except subprocess.TimeoutExpired:
            client.kill()
            output, _ = client.communicate()
        if output.strip():
            counted = json.loads(output)
            losses.requests, losses.lost = counted["requests"], counted["lost"]
            losses.errors = counted["errors"]

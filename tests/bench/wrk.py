"""The load for rates: wrk."""

import re
import subprocess
from dataclasses import dataclass

from instances import ServerFailed

THREADS = 2
CONNECTIONS = 64

_REQUESTS = re.compile(r"^\s*(\d+) requests in", re.MULTILINE)
_RATE = re.compile(r"^Requests/sec:\s+([\d.]+)", re.MULTILINE)
_P99 = re.compile(r"^\s+99%\s+([\d.]+)(us|ms|s)\s*$", re.MULTILINE)
_SOCKETS = re.compile(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)")
_STATUS = re.compile(r"Non-2xx or 3xx responses: (\d+)")
_MS = {"us": 0.001, "ms": 1.0, "s": 1000.0}


@dataclass(frozen=True, slots=True)
class Rate:
    """What wrk has seen."""

    requests: int
    per_s: float
    p99_ms: float
    errors: int


def parse(text: str) -> Rate:
    """Read the output of `wrk --latency`. Raises `ServerFailed` if it holds no rate."""
    requests, rate, p99 = _REQUESTS.search(text), _RATE.search(text), _P99.search(text)
    if requests is None or rate is None or p99 is None:
        raise ServerFailed(f"wrk: {text.strip()[-100:]}")
    errors = sum(int(number) for match in _SOCKETS.finditer(text) for number in match.groups())
    errors += sum(int(match[1]) for match in _STATUS.finditer(text))
    p99_ms = round(float(p99[1]) * _MS[p99[2]], 3)
    return Rate(int(requests[1]), float(rate[1]), p99_ms, errors)


def rate(url: str, *, seconds: int, close: bool, connections: int = CONNECTIONS) -> Rate:
    """Load `url` as fast as it goes. Raises `ServerFailed` if nothing was answered."""
    command = ["wrk", f"-t{THREADS}", f"-c{connections}", f"-d{seconds}", "--latency"]
    if close:
        command += ["-H", "Connection: close"]
    done = subprocess.run(
        [*command, url], capture_output=True, text=True, check=False, timeout=seconds + 30
    )
    found = parse(done.stdout + done.stderr)
    if not found.per_s:
        raise ServerFailed(f"wrk got no answer, {found.errors} errors")
    return found

"""The sd_notify(3) datagram: `KEY=VALUE` lines that a supervised process sends about itself.

A worker command sends them to its NOTIFY_SOCKET; a Python worker sends the same text over its
control channel. So there is one vocabulary for every kind of worker:

    READY=1      it serves from now on
    STOPPING=1   it takes no new connection and is on its way out
    WATCHDOG=1   it is alive (a Python worker writes to the scoreboard instead)
    STATUS=…     one line for people
    X_WORN=1     it was told to stop, and serves until another does in its place (ours)
    X_TAKEN=1    it took or closed connections while the master was waiting for room (ours)
    X_STARVED=1  connections wait, or may, that it has no descriptors for (ours)
    X_KEEPER=PID its keeper runs, see `worker.moving.keeper` (ours)
    X_FAILED=…   why it could not become ready, one line (ours)

Unknown keys are ignored, and so are lines that make no sense, as systemd does.
"""

from dataclasses import dataclass

from sdcluster.errors import ProtocolError

MAX_DATAGRAM_BYTES = 4096
MAX_STATUS_CHARS = 256


@dataclass(frozen=True, slots=True)
class Notification:
    """What one datagram said. Keys that it did not hold keep their defaults."""

    ready: bool = False
    stopping: bool = False
    watchdog: bool = False
    worn: bool = False
    taken: bool = False
    starved: bool = False
    keeper: int = 0
    status: str | None = None
    failed: str | None = None


def encode(**assignments: str | int) -> bytes:
    """Build a datagram. A value becomes one line, and is cut where `decode` would cut it.

    Raises `ProtocolError` if they are more than fit, which takes at least four long values.
    """
    lines = (f"{key}={_one_line(str(value))}" for key, value in assignments.items())
    data = "\n".join(lines).encode("utf-8", "replace")
    if len(data) > MAX_DATAGRAM_BYTES:
        raise ProtocolError(f"notification of more than {MAX_DATAGRAM_BYTES} bytes")
    return data


def _one_line(text: str) -> str:
    return " ".join(text.splitlines())[:MAX_STATUS_CHARS]


def decode(data: bytes) -> Notification:
    """Read a datagram. Lines that make no sense are passed over, as systemd does.

    Raises `ProtocolError` if it is too large, or if none of its lines is `KEY=VALUE`.
    """
    if len(data) > MAX_DATAGRAM_BYTES:
        raise ProtocolError(f"notification of more than {MAX_DATAGRAM_BYTES} bytes")
    lines = data.removesuffix(b"\0").decode("utf-8", "replace").split("\n")
    values: dict[str, str] = {}
    for line in lines:
        key, separator, value = line.partition("=")
        if key and separator:
            values[key] = value
    if not values and any(lines):
        raise ProtocolError(f"notification without KEY=VALUE: {data[:40]!r}")
    return Notification(
        ready=values.get("READY") == "1",
        stopping=values.get("STOPPING") == "1",
        watchdog=values.get("WATCHDOG") == "1",
        worn=values.get("X_WORN") == "1",
        taken=values.get("X_TAKEN") == "1",
        starved=values.get("X_STARVED") == "1",
        keeper=_pid(values.get("X_KEEPER", "")),
        status=_line(values.get("STATUS")),
        failed=_line(values.get("X_FAILED")),
    )


def _pid(value: str) -> int:
    return int(value) if value.isdecimal() and value.isascii() and len(value) < 10 else 0


def _line(value: str | None) -> str | None:
    if value is None:
        return None
    return "".join(char if char.isprintable() else " " for char in value[:MAX_STATUS_CHARS])

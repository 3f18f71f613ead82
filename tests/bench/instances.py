"""One server under test: started in a session of its own, asked who answers, ended for certain.

A worker is a process that answers, as every app here says its pid. So there is one way to find the
workers of every server, and one that has been started but does not serve yet is none.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from processes import descendants, end_descendants, is_alive
from servers import Kind, Launch, Server
from toolchain import BENCH, folder

READY_TIMEOUT_S = 20.0
PATIENCE_S = 4.0
RELOAD_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 3.0
ANSWER_TIMEOUT_S = 2.0
LOG_CHARS = 160


class ServerFailed(Exception):  # noqa: N818  # It tells a fact about a server, not an error here.
    """A server did not do what was asked; the text is for its cell of the table."""


@dataclass(frozen=True, slots=True)
class Instance:
    """A running server."""

    server: Server
    launch: Launch
    process: subprocess.Popen[bytes]
    home: Path
    environment: dict[str, str]

    @property
    def url(self) -> str:
        """Where it answers, without a path."""
        return f"http://{self.launch.address}"

    @property
    def master(self) -> int:
        """The pid of its first process."""
        return self.process.pid

    def tree(self) -> list[int]:
        """Return all of its processes."""
        return [self.master, *descendants(self.master)]

    def wait_for_workers(self, *, without: frozenset[int] = frozenset()) -> list[int]:
        """Wait until as many workers answer as were asked for, none of them in `without`.

        With some servers one worker takes all for a long time, so after `PATIENCE_S` one is enough.
        """
        seen: set[int] = set()
        patient_until = time.monotonic() + PATIENCE_S

        def complete() -> bool:
            self.check()
            seen.update(answering_pids(self.launch.port, requests=4 * self.launch.workers))
            seen.difference_update({pid for pid in seen if not is_alive(pid)} | without)
            if time.monotonic() > patient_until:
                return bool(seen)
            return len(seen) >= self.launch.workers

        wait_until(complete, READY_TIMEOUT_S, "no worker answers")
        return sorted(seen)

    def reload(self, workers: list[int]) -> list[int]:
        """Reload, wait until others than `workers` answer and those are gone; return the new."""
        if isinstance(self.server.reload, signal.Signals):
            self.process.send_signal(self.server.reload)
        else:
            self._run(self.server.reload(self.launch))

        def gone() -> bool:
            self.check()
            return not any(is_alive(pid) for pid in workers)

        wait_until(gone, RELOAD_TIMEOUT_S, "old workers are still there")
        return self.wait_for_workers(without=frozenset(workers))

    def check(self) -> None:
        """Raise `ServerFailed` if it has ended."""
        if self.process.poll() is not None:
            raise ServerFailed(f"ended ({self.process.returncode}): {self.last_words()}")

    def last_words(self) -> str:
        """Return the end of its log, for a person."""
        lines = (self.home / "log").read_text(errors="replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        return said[-1][:LOG_CHARS] if said else "it said nothing"

    def _run(self, command: list[str]) -> None:
        try:
            done = subprocess.run(
                command,
                env=self.environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=RELOAD_TIMEOUT_S,
            )
        except subprocess.TimeoutExpired as error:
            raise ServerFailed(f"reload takes more than {RELOAD_TIMEOUT_S:g} s") from error
        if done.returncode != 0:
            raise ServerFailed(
                f"reload failed: {(done.stderr or done.stdout).strip()[-LOG_CHARS:]}"
            )


@contextlib.contextmanager
def running(server: Server, *, workers: int, app: str = "") -> Iterator[Instance]:
    """Start `server` and wait until its workers answer; end it and all it has left behind."""
    home = Path(tempfile.mkdtemp(prefix="sdbench-"))
    port = free_port()
    launch = Launch(
        app=app or server.kind.value,
        workers=workers,
        port=port,
        name=f"bench-{port}",
        apps=BENCH / "apps",
        tools=folder(),
    )
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("PYTHON")},
        "HOME": str(home),
        "PM2_HOME": str(home / "pm2"),
        "XDG_RUNTIME_DIR": str(home),
        "PYTHONPATH": str(launch.apps),
        "PORT": str(port),
        "WORKERS": str(workers),
        **server.environment,
    }
    if server.kind is Kind.NODE:
        environment["NODE_ENV"] = "production"
    try:
        with (home / "log").open("wb") as log:
            process = subprocess.Popen(
                server.command(launch),
                cwd=launch.apps,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            instance = Instance(server, launch, process, home, environment)
            instance.wait_for_workers()
            yield instance
        finally:
            end_all(process)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def end_all(process: subprocess.Popen[bytes]) -> None:
    """End a server, and all that it has left behind."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_TIMEOUT_S)
    end_descendants()


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answering_pids(port: int, *, requests: int) -> set[int]:
    """Return who answers `requests` requests that are all sent at once.

    The work keeps a worker busy, so that the others get their share also where the kernel wakes
    the same process again and again.
    """
    with contextlib.ExitStack() as stack:
        connections = []
        for _ in range(requests):
            with contextlib.suppress(OSError):
                connection = socket.create_connection(("127.0.0.1", port), ANSWER_TIMEOUT_S)
                stack.enter_context(connection)
                connection.sendall(_request("/cpu"))
                connections.append(connection)
        deadline = time.monotonic() + ANSWER_TIMEOUT_S
        answers = [_read_pid(connection, deadline) for connection in connections]
        return {pid for pid in answers if pid is not None}


def ask_pid(port: int) -> int | None:
    """Return who answers one request, or None if nobody does."""
    try:
        with socket.create_connection(("127.0.0.1", port), ANSWER_TIMEOUT_S) as connection:
            connection.sendall(_request("/"))
            return _read_pid(connection, time.monotonic() + ANSWER_TIMEOUT_S)
    except OSError:
        return None


def ask_again(client: socket.socket, *headers: str) -> bytes:
    """Return the body of an answer on a connection that is kept. Raises `ServerFailed`."""
    lines = ("GET / HTTP/1.1", "Host: bench", *headers, "", "")
    client.sendall("\r\n".join(lines).encode())
    answer = client.recv(4096)
    if not answer.startswith(b"HTTP/1.1 200 "):
        raise ServerFailed(f"the answer was {answer[:60]!r}")
    return answer.rpartition(b"\r\n\r\n")[2]


def _request(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n".encode()


def _read_pid(connection: socket.socket, deadline: float) -> int | None:
    answer = b""
    try:
        connection.settimeout(max(0.001, deadline - time.monotonic()))
        while chunk := connection.recv(4096):
            answer += chunk
            connection.settimeout(max(0.001, deadline - time.monotonic()))
    except OSError:
        return None
    body = answer.rpartition(b"\r\n\r\n")[2].split()
    return int(body[1]) if len(body) == 2 and body[0] == b"pid" else None


def wait_until(condition: Callable[[], bool], timeout_s: float, otherwise: str) -> None:
    """Wait for `condition`. Raises `ServerFailed`, saying what is `otherwise`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise ServerFailed(f"{otherwise} after {timeout_s:g} s")
        time.sleep(0.02)

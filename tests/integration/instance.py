"""A running `sdcluster run`, as the tests reach it: its log, its control socket, its signals."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import load
from waiting import TIMEOUT_S, wait_until

from sdcluster.cli.control_client import Master
from sdcluster.core.states import is_quarantine
from sdcluster.errors import ControlError

__all__ = ["TIMEOUT_S", "Instance", "sdcluster", "wait_until"]

ACTIVATE = Path(__file__).resolve().parent / "activate.py"


class Instance:
    """One master, with its workers, started in the foreground."""

    def __init__(
        self,
        command: list[str],
        *,
        name: str,
        cwd: Path,
        env: Mapping[str, str],
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.name = name
        self._begun: list[subprocess.Popen[str]] = []
        self._log = cwd / f"{name}.log"
        self._mark = f"SDCLUSTER_TEST={cwd}/{name}"
        environment = {**env, "SDCLUSTER_TEST": f"{cwd}/{name}"}
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                cwd=cwd,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=pass_fds,
            )

    @property
    def pid(self) -> int:
        """The master's."""
        return self.process.pid

    def log(self) -> str:
        """Return all that the master and the workers have said."""
        return self._log.read_text(errors="replace")

    def wait_log(self, text: str, timeout_s: float = TIMEOUT_S) -> str:
        """Wait until `text` is in the log and return the log."""
        wait_until(lambda: text in self.log(), f"{text!r} in the log", timeout_s)
        return self.log()

    def wait_ready(self) -> "Instance":
        """Wait until the cluster serves; fail if it ends before."""

        def ready() -> bool:
            assert self.process.poll() is None, f"ended with {self.process.returncode}"
            return "\nready\n" in self.log()

        wait_until(ready, "ready")
        return self

    @property
    def addresses(self) -> list[str]:
        """Where it listens, as it has printed them."""
        line = next(one for one in self.log().splitlines() if one.startswith("listening on "))
        return line.removeprefix("listening on ").split(", ")

    @property
    def address(self) -> str:
        """The first of them."""
        return self.addresses[0]

    @property
    def url(self) -> str:
        """The URL of its first address."""
        address = self.address
        return f"unix:{address}" if address.startswith("/") else f"http://{address}/"

    def status(self) -> Mapping[str, Any]:
        """Ask the master how it is."""
        with Master(self.name) as master:
            return master.call("Status")

    def wait_status(
        self, condition: Callable[[Mapping[str, Any]], object], what: str = "the status"
    ) -> Mapping[str, Any]:
        """Wait until `condition` holds for the status, and return that status."""

        def look() -> Mapping[str, Any] | None:
            with contextlib.suppress(ControlError):
                status = self.status()
                return status if condition(status) else None
            return None

        return wait_until(look, what)

    def worker_pids(self) -> list[int]:
        """Return the pids of the workers that serve, by slot; without those of the quarantine."""
        return [
            one["pid"]
            for one in self.status()["workers"]
            if one["state"] == "serving" and not is_quarantine(one["slot"])
        ]

    def quarantine_pids(self) -> list[int]:
        """Return the pids of the workers that serve in the quarantine."""
        workers = self.status()["workers"]
        return [one["pid"] for one in workers if is_quarantine(one["slot"])]

    def mold_pids(self) -> list[int]:
        """Return the pids of the molds: the master's children that have this title, and a session.

        A worker has its mold's title until it shows its own, and its mold's session.
        """
        path = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        found = []
        for pid in map(int, path.read_text().split()):
            with contextlib.suppress(OSError):
                title = Path(f"/proc/{pid}/cmdline").read_bytes()
                if title.startswith(b"sdcluster: mold ") and os.getsid(pid) == pid:
                    found.append(pid)
        return sorted(found)

    def reload(self) -> "subprocess.CompletedProcess[str]":
        """Run `sdcluster reload`."""
        return sdcluster("reload", self.name)

    def begin_reload(self) -> "subprocess.Popen[str]":
        """Run `sdcluster reload` beside the test; what it says comes by `communicate`."""
        command = [sys.executable, "-m", "sdcluster", "reload", self.name]
        begun = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._begun.append(begun)
        return begun

    def processes(self) -> list[int]:
        """Return the pids of all its processes, zombies excepted, whoever their parent is."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if self._mark.encode() in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
        return sorted(found)

    def signal(self, number: signal.Signals) -> None:
        """Send the master a signal."""
        self.process.send_signal(number)

    def wait(self, timeout_s: float = TIMEOUT_S) -> int:
        """Wait for the master's end and return its exit status."""
        return self.process.wait(timeout_s)

    def stop(self) -> int:
        """Stop it with SIGTERM, wait, and return its exit status."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def end(self) -> None:
        """End what is left of it, however it is."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for command in self._begun:
            command.kill()
            if command.stdout is not None and not command.stdout.closed:
                command.communicate()

    def under_load(
        self, *, close: bool, clients: int = 16, path: str = "", url: str = ""
    ) -> contextlib.AbstractContextManager[load.Result]:
        """Send requests while the body runs; the counts are there when it has ended."""
        return load.running((url or self.url) + path, close=close, clients=clients)

    def answered(self) -> int:
        """Return how many requests the workers of this moment have answered."""
        return sum(int(one["requests"]) for one in self.status()["workers"])

    def wait_answered(self, count: int) -> None:
        """Wait until the workers of this moment have answered so many more."""
        target = self.answered() + count
        wait_until(lambda: self.answered() >= target, f"{count} answers")


def sdcluster(
    *arguments: str, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run the command to its end and return what came of it."""
    return subprocess.run(
        [sys.executable, "-m", "sdcluster", *arguments],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

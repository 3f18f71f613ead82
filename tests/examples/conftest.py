"""Runs the examples: each in a copy of this folder, on a port of its own."""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from instance import Instance, wait_until
from web import dial, fetch_many

EXAMPLES = Path(__file__).resolve().parent
CPUS = os.cpu_count() or 1


class Example(Instance):
    """An example that runs."""

    def __init__(self, file: Path, port: int, command: Sequence[str] = ()) -> None:
        """With `command` it is run by that, in place of `python FILE`."""
        self.file = file
        self.web = f"127.0.0.1:{port}"
        words = [sys.executable, *(command or [file.name])]
        super().__init__(words, name=file.stem, cwd=file.parent, env=os.environ)

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://{self.web}/"

    def wait_ready(self) -> "Example":
        """Wait until it can be connected to."""

        def is_there() -> bool:
            assert self.process.poll() is None, f"ended with {self.process.returncode}"
            with contextlib.suppress(ConnectionRefusedError), dial(self.web):
                return True
            return False

        wait_until(is_there, "a listener")
        return self

    def curl(self) -> str:
        """Return what curl gets."""
        command = ["curl", "--fail", "--silent", "--show-error", self.url]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def answers(self, pattern: str, count: int) -> set[str]:
        """Return what a pattern finds in the answers, once it has found so many."""
        seen: set[str] = set()

        def ask() -> bool:
            for answer in fetch_many(self.web, 16):
                seen.update(re.findall(pattern, answer.text))
            return len(seen) >= count

        wait_until(ask, f"{count} answers with {pattern!r}")
        return seen

    def pids(self, count: int = CPUS) -> set[int]:
        """Return the processes that answer, once there are so many."""
        return {int(pid) for pid in self.answers(r"(?i:process) (\d+)", count)}


Run = Callable[..., Example]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Start an example and wait until it serves: `run("hello", CONSTANT=1)` changes a constant.

    With `source` it is that, and not a file of this folder. One whose text tells a command of
    `sdcluster run` is run by that.
    """
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("SDCLUSTER_CACHE", f"lmdb://{tmp_path}/cache")
    examples: list[Example] = []

    def begin(name: str, *, source: str | None = None, **constants: object) -> Example:
        for file in (*EXAMPLES.glob("*.py"), *EXAMPLES.glob("*.toml")):
            shutil.copy(file, tmp_path)
        file = tmp_path / f"{name}.py"
        text = file.read_text() if source is None else source
        for constant, value in constants.items():
            text, count = re.subn(rf"(?m)^{constant} = .*$", f"{constant} = {value!r}", text)
            assert count == 1
        port = free_port()
        served = re.search(r"^sdcluster (run .*)$", text, re.MULTILINE)
        if served is not None:
            command = ["-m", "sdcluster", *served[1].split(), "--listen", f"127.0.0.1:{port}"]
            examples.append(Example(file, port, command))
        else:
            text, count = re.subn(r"\b80[08]0\b", str(port), text)
            assert count
            examples.append(Example(file, port))
        file.write_text(text)
        return examples[-1].wait_ready()

    yield begin
    for example in examples:
        example.end()
        print(f"--- log of {example.name}\n{example.log()}")


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port

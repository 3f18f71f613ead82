"""The stores a cache may have, and processes that share one."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from waiting import TIMEOUT_S, wait_until

PREAMBLE = """
import os, pathlib, signal, sys, time
from sdcluster import cache as module
from sdcluster.errors import CacheError
cache = module.connect(sys.argv[1])

def done(name):
    pathlib.Path(name).touch()

def wait_for(name):
    deadline = time.monotonic() + 20
    while not os.path.exists(name):
        assert time.monotonic() < deadline, f"{name} is not there"
        time.sleep(0.002)
"""
"""What the code of a process that shares a cache has before it."""


class RedisServer:
    """A Redis of the test's own, on a port of its own, that keeps nothing."""

    def __init__(self, folder: Path) -> None:
        found = shutil.which("redis-server") or shutil.which("valkey-server")
        if found is None:
            pytest.skip("there is no redis-server: apt install redis-server")
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = int(free.getsockname()[1])
        self._command = [found, "--port", str(self.port), "--bind", "127.0.0.1"]
        self.socket = folder / "redis.sock"
        self._command += ["--unixsocket", str(self.socket)]
        self._command += ["--save", "", "--appendonly", "no", "--dir", str(folder)]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its URL."""
        return f"redis://127.0.0.1:{self.port}"

    def _answers(self) -> bool:
        assert self._process is not None and self._process.poll() is None, "redis-server ended"
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as client:
                client.sendall(b"PING\r\n")
                return client.recv(16).startswith(b"+PONG")
        except OSError:
            return False

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        wait_until(self._answers, "an answer of redis-server")

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self) -> None:
        """End it, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class Sharer:
    """A process that shares a cache, and runs some code; what it says is in `output`."""

    def __init__(
        self, code: str, url: str, folder: Path, *words: str, env: Mapping[str, str] | None = None
    ) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PREAMBLE + code, url, *words],
            cwd=folder,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    @property
    def pid(self) -> int:
        """Its pid."""
        return self.process.pid

    def output(self, timeout_s: float = TIMEOUT_S) -> str:
        """Wait for its good end and return what it has said."""
        told, _ = self.process.communicate(timeout=timeout_s)
        assert self.process.returncode == 0, told
        return told.strip()

    def kill(self) -> None:
        """End it with SIGKILL, and reap it."""
        self.process.kill()
        self.process.communicate()

    def end(self) -> None:
        """End it, however it is."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGKILL)
        if self.process.stdout is not None and not self.process.stdout.closed:
            self.process.communicate()

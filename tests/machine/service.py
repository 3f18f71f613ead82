"""One instance of sdcluster@.service on a booted machine, as an administrator reaches it."""

import contextlib
import json
import subprocess
from collections.abc import Mapping
from typing import Any

import load
from machine import Machine
from waiting import TIMEOUT_S, wait_until

HELLO = """
import os

VERSION = "one"

async def app(scope, receive, send):
    assert scope["type"] == "http"
    body = f"{VERSION} {os.getpid()}\\n".encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""
"""An ASGI app that answers with its version and pid."""


def versions(result: load.Result) -> set[str]:
    """Return the first words of the answers."""
    return {body.split()[0] for body in result.by_body}


class Service:
    """The units, files and journal of one instance."""

    def __init__(self, vm: Machine, name: str, port: int) -> None:
        self.vm = vm
        self.name = name
        self.port = port
        self.unit = f"sdcluster@{name}.service"
        self.socket = f"sdcluster@{name}.socket"

    def write_app(self, source: str) -> None:
        """Write the module `app`."""
        self.vm.write(f"/srv/{self.name}/app.py", source)

    def configure(
        self, source: str | None = HELLO, *, app: str = 'app = "app:app"', **keys: object
    ) -> None:
        """Write the app and its TOML file, and have systemd read it."""
        if source is not None:
            self.write_app(source)
        keys = {"workers": 2, "listen": f"127.0.0.1:{self.port}", **keys}
        lines = [app, *(f"{key} = {json.dumps(value)}" for key, value in keys.items())]
        self.vm.write(f"/etc/sdcluster/{self.name}.toml", "\n".join(lines) + "\n")
        self.vm.run("systemctl", "daemon-reload")

    def drop_in(self, text: str) -> None:
        """Add settings to the service unit."""
        self.vm.write(f"/etc/systemd/system/{self.unit}.d/test.conf", text)
        self.vm.run("systemctl", "daemon-reload")

    def systemctl(self, verb: str, *, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """Run systemctl on the service unit."""
        return self.vm.run("systemctl", verb, self.unit, check=check)

    def start(self) -> None:
        """Start the service; `systemctl` waits until it is ready."""
        self.systemctl("start")

    def show(self, *properties: str, unit: str = "") -> dict[str, str]:
        """Return properties of the service unit, or of another."""
        names = ",".join(properties)
        done = self.vm.run("systemctl", "show", unit or self.unit, f"--property={names}")
        return dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)

    def wait_show(self, timeout_s: float = TIMEOUT_S, unit: str = "", **wanted: str) -> None:
        """Wait until the unit has these properties, or another."""
        what = f"{unit or self.unit}: {wanted}"
        wait_until(lambda: self.show(*wanted, unit=unit) == wanted, what, timeout_s)

    def wait_text(self, text: str, timeout_s: float = TIMEOUT_S) -> str:
        """Wait until the status of the unit has `text` in it, and return that line."""

        def shown() -> str | None:
            line = self.show("StatusText").get("StatusText", "")
            return line if text in line else None

        return wait_until(shown, f"{text!r} in the status", timeout_s)

    @property
    def pid(self) -> int:
        """The master's, as seen inside."""
        return int(self.show("MainPID")["MainPID"])

    def get(self, path: str = "/") -> str:
        """Ask with curl; empty when there is no answer."""
        url = f"http://127.0.0.1:{self.port}{path}"
        return self.vm.run("curl", "-s", "-m", "10", url, check=False).stdout

    def wait_get(self, beginning: str, path: str = "/") -> str:
        """Ask until the answer begins so, and return it."""

        def ask() -> str | None:
            answer = self.get(path)
            return answer if answer.startswith(beginning) else None

        return wait_until(ask, f"an answer that begins with {beginning!r}")

    def status(self) -> Mapping[str, Any]:
        """Return what `sdcluster status` tells."""
        done = self.vm.run("sdcluster", "status", self.name, "--json")
        found: Mapping[str, Any] = json.loads(done.stdout)
        return found

    def worker_pids(self) -> list[int]:
        """Return the pids of the workers that serve."""
        return [one["pid"] for one in self.status()["workers"] if one["state"] == "serving"]

    def journal(self, *match: str) -> list[Mapping[str, Any]]:
        """Return the entries of the service that have these fields."""
        command = ["journalctl", "--sync"]
        self.vm.run(*command)
        command = ["journalctl", "-o", "json", "--no-pager", f"_SYSTEMD_UNIT={self.unit}", *match]
        return [json.loads(line) for line in self.vm.run(*command).stdout.splitlines()]

    def story(self) -> str:
        """Return the journal as an administrator reads it."""
        command = ("journalctl", "--no-pager", "-u", self.unit, "-u", self.socket)
        return self.vm.run(*command, check=False).stdout

    def under_load(
        self, *, close: bool, clients: int = 16, path: str = "/"
    ) -> contextlib.AbstractContextManager[load.Result]:
        """Send requests while the body runs; the counts are there when it has ended."""
        url = f"http://127.0.0.1:{self.port}{path}"
        return load.running(url, close=close, clients=clients, prefix=self.vm.on_loopback())

    def remove(self) -> None:
        """Stop it and forget it."""
        for unit in (self.socket, self.unit):
            self.vm.run("systemctl", "stop", unit, check=False)
        self.vm.run("systemctl", "reset-failed", self.unit, self.socket, check=False)
        files = (f"/etc/sdcluster/{self.name}.toml", f"/etc/systemd/system/{self.unit}.d")
        self.vm.run("rm", "-rf", *files)
        self.vm.run("systemctl", "daemon-reload")

"""Throwaway Debian machines, booted with systemd as PID 1.

A machine is a container of systemd-nspawn's on a writable view of a cached root file system: what
happens in it is gone with it. It has a loopback network only.
"""

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import roots
import rpms

STATE = Path("/run/sdcluster-machines")
"""A folder here for each machine: its root, its console's output, the pid of its nspawn."""
BOOT_TIMEOUT_S = 60.0
END_TIMEOUT_S = 30.0
ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
    "COLUMNS": "120",
    "DEBIAN_FRONTEND": "noninteractive",
}


_numbers = itertools.count(1)


class MachineError(Exception):
    """A machine could not be booted, or a command in it failed; the text says why."""


class Machine:
    """A booted machine. Use it as a context manager, and it is down at the end."""

    def __init__(self, name: str) -> None:
        """Refer to the machine that is called `name`."""
        self.name = name
        self.folder = STATE / name
        self.root = self.folder / "root"
        self._leader = 0
        self._nspawn: subprocess.Popen[bytes] | None = None

    @classmethod
    def boot(
        cls,
        release: str,
        *,
        packages: Sequence[Path] = (),
        layers: Sequence[Path] = (),
        prepare: Callable[[Path], None] | None = None,
    ) -> "Machine":
        """Boot a machine of a release and install the .deb files `packages` in it.

        `layers` lie above the release's root file system. `prepare` is called with the root before
        it boots. Raises `MachineError` and `roots.RootError`.
        """
        roots.prepare_host()
        lower = roots.root(release)
        machine = cls(f"sdcluster-{release}-{os.getpid()}-{next(_numbers)}")
        machine.folder.mkdir(parents=True)
        try:
            roots.mount_overlay(machine.folder, [*layers, lower])
            if prepare:
                prepare(machine.root)
            machine._boot()
            machine.install(packages)
        except BaseException:
            machine.end()
            raise
        return machine

    def __enter__(self) -> "Machine":
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def install(self, packages: Sequence[Path]) -> None:
        """Install .deb files; what they depend on is in the root file system already."""
        for package in packages:
            shutil.copy(package, self.root / "root")
        if packages:
            names = [f"/root/{package.name}" for package in packages]
            self.run("apt-get", "install", "-y", "--no-install-recommends", *names)

    def rpm(self, *arguments: str, files: Sequence[Path] = ()) -> str:
        """Run rpm inside, on copies of `files`, and return all that it says.

        The machine has to have a layer with rpm. Raises `MachineError`.
        """
        for file in files:
            shutil.copy(file, self.root / "root")
        names = [f"/root/{file.name}" for file in files]
        done = self.run("rpm", *rpms.DATABASE, *arguments, *names)
        return done.stdout + done.stderr

    def _boot(self) -> None:
        group = self._cgroup()
        group.mkdir()
        command = [
            "systemd-nspawn",
            f"--directory={self.root}",
            f"--machine={self.name}",
            "--register=no",
            "--keep-unit",
            "--private-network",
            "--boot",
            "--console=read-only",
        ]
        # A cgroup of its own: two machines in one would end each other's services.
        script = 'echo $$ > "$0/cgroup.procs" && exec "$@"'
        with (self.folder / "console").open("wb") as console:
            nspawn = subprocess.Popen(
                ["sh", "-c", script, str(group), *command],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            )
        self._nspawn = nspawn
        (self.folder / "pid").write_text(str(nspawn.pid))
        deadline = time.monotonic() + BOOT_TIMEOUT_S
        state = ""
        while state not in ("running", "degraded"):
            if nspawn.poll() is not None or time.monotonic() > deadline:
                console_text = (self.folder / "console").read_text(errors="replace")
                raise MachineError(f"{self.name} does not boot ({state}):\n{console_text[-3000:]}")
            time.sleep(0.05)
            self._leader = _only_child(nspawn.pid)  # At first it is one that sets things up.
            if self._leader:
                state = self.run("systemctl", "is-system-running", check=False).stdout.strip()

    def end(self) -> None:
        """Take the machine down and remove all that it was. Harmless a second time."""
        with contextlib.suppress(OSError, ValueError):
            nspawn = int((self.folder / "pid").read_text())
            # With its init killed the machine is down, and nspawn cleans up behind it.
            os.kill(_only_child(nspawn) or nspawn, signal.SIGKILL)
            if self._nspawn is not None:
                self._nspawn.wait(END_TIMEOUT_S)
            else:
                _wait_for_end(nspawn)
        roots.unmount_overlay(self.folder)
        _remove_cgroup(self._cgroup())

    def _cgroup(self) -> Path:
        for line in Path("/proc/mounts").read_text().splitlines():
            words = line.split()
            if words[2] == "cgroup2":
                return Path(words[1]) / self.name
        raise MachineError("this host has no cgroup2 mount")

    def entry(self) -> list[str]:
        """Return the command that runs another one inside."""
        return ["nsenter", "-t", str(self.leader), "-m", "-p", "-n", "-u", "-i", "-C"]

    def on_loopback(self) -> list[str]:
        """Return the command that runs a program of the host on the machine's loopback."""
        return ["nsenter", "-t", str(self.leader), "-n"]

    @property
    def leader(self) -> int:
        """The pid of the machine's init, as the host sees it. Raises `MachineError`."""
        if not self._leader:
            try:
                self._leader = _only_child(int((self.folder / "pid").read_text()))
            except (OSError, ValueError):
                raise MachineError(f"there is no machine {self.name}") from None
        return self._leader

    def run(
        self, *command: str, check: bool = True, timeout_s: float = 120.0
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command inside. Raises `MachineError` when it fails, unless `check` is False."""
        done = subprocess.run(
            [*self.entry(), *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=timeout_s,
            env=ENVIRONMENT,
        )
        if check and done.returncode != 0:
            raise MachineError(
                f"{' '.join(command)}: status {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return done

    def write(self, path: str, text: str) -> None:
        """Write a file inside, its folders included."""
        script = 'mkdir -p "$(dirname "$1")" && cat > "$1"'
        subprocess.run(
            [*self.entry(), "sh", "-c", script, "sh", path], input=text, text=True, check=True
        )


def _wait_for_end(pid: int) -> None:
    """Wait until a process that is no child of this one is gone. Raises `MachineError`."""
    deadline = time.monotonic() + END_TIMEOUT_S
    while Path(f"/proc/{pid}").exists():
        if time.monotonic() > deadline:
            raise MachineError(f"process {pid} does not end")
        time.sleep(0.02)


def _remove_cgroup(group: Path) -> None:
    deadline = time.monotonic() + 10
    while group.exists():
        try:
            for folder in sorted(group.rglob("*/"), reverse=True):
                folder.rmdir()
            group.rmdir()
        except OSError:  # The kernel still ends the last processes.
            if time.monotonic() > deadline:
                return
            time.sleep(0.05)


def _only_child(pid: int) -> int:
    try:
        words = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0
    return int(words[0]) if words else 0

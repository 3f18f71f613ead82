"""Throwaway Debian machines: a root file system per release, cached, and booted with systemd.

A machine is a container that systemd-nspawn boots with its own systemd as PID 1, on an overlay
whose upper layer is a tmpfs: what happens in it is gone with it. It has a loopback network only.
Needs root on a Debian host, with or without systemd, and installs there what it calls.
"""

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

RELEASES = ("bookworm", "trixie")
MIRROR = "http://deb.debian.org/debian"
BASE = ("systemd", "systemd-sysv", "dbus", "libpam-systemd", "ca-certificates")
RUNTIME = (
    "python3",
    "python3-click",
    "python3-httptools",
    "python3-rich",
    "python3-sdnotify",
    "python3-systemd",
    "python3-uvicorn",
    "python3-uvloop",
)
GUESTS = (
    "curl",
    "gunicorn",
    "iproute2",
    "man-db",
    "nodejs",
    "procps",
    "python3-flask",
    "python3-venv",
)
"""What the tests serve or call inside the machine."""
BUILD = (
    "build-essential",
    "debhelper",
    "dh-python",
    "fakeroot",
    "pybuild-plugin-pyproject",
    "python3-all",
    "python3-setuptools",
)
HOST_TOOLS = {"systemd-nspawn": "systemd-container", "debootstrap": "debootstrap"}
BOOT_TIMEOUT_S = 60.0
ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
    "COLUMNS": "120",
    "DEBIAN_FRONTEND": "noninteractive",
}
NEWER_PYTHON3_A2WSGI = "python3-a2wsgi"  # Packaged from trixie on.


class MachineError(Exception):
    """A machine could not be made or booted; the text says why."""


def cache_folder() -> Path:
    """Return where root file systems are kept: outside any checkout."""
    given = os.environ.get("SDCLUSTER_CACHE_DIR")
    return Path(given) if given else Path("/var/cache/sdcluster")


def _run(*command: str | Path, quiet: bool = True, **options: object) -> None:
    """Run a command. Raises `MachineError` with the end of its output."""
    done = subprocess.run(  # type: ignore[call-overload]
        [str(word) for word in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if quiet else None,
        stderr=subprocess.STDOUT if quiet else None,
        text=True,
        errors="replace",
        check=False,
        **options,
    )
    if done.returncode != 0:
        output = "\n".join((done.stdout or "").splitlines()[-15:])
        raise MachineError(f"{' '.join(map(str, command))}: status {done.returncode}\n{output}")


def prepare_host() -> None:
    """Install what this module calls. Raises `MachineError`."""
    if os.geteuid() != 0:
        raise MachineError("machines need root")
    missing = [package for tool, package in HOST_TOOLS.items() if shutil.which(tool) is None]
    if missing:
        _say(f"installing {', '.join(missing)} on this host")
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        _run("apt-get", "update", env=environment)
        install = ("apt-get", "install", "-y", "--no-install-recommends")
        _run(*install, *missing, env=environment)


def _say(text: str) -> None:
    print(f"-- {text}", file=sys.stderr, flush=True)


# Root file systems.


def root(release: str) -> Path:
    """Return the root file system of a release with all that runs in it; make it if need be."""
    packages = [*RUNTIME, *GUESTS]
    if release != "bookworm":
        packages.append(NEWER_PYTHON3_A2WSGI)
    folder = cache_folder() / f"{release}-{_key(release, BASE, packages)}"
    if not folder.exists():
        with _building(folder) as scratch:
            _say(f"making the {release} root file system (once; a minute or two)")
            include = f"--include={','.join(BASE)}"
            _run("debootstrap", "--variant=minbase", include, release, scratch, MIRROR)
            _copy_host_settings(scratch)
            _install(scratch, packages)
            _run("chroot", scratch, "apt-get", "clean")
    return folder


def build_layer() -> tuple[Path, Path]:
    """Return the root file system that packages are built in, and the layer above it."""
    lower = root("bookworm")
    layer = cache_folder() / f"build-{_key(lower.name, BUILD)}"
    if not layer.exists():
        with _building(layer) as scratch:
            _say("installing what building the package takes (once)")
            upper = scratch / "upper"
            upper.mkdir()
            with overlay([lower], upper=upper) as merged:
                _install(merged, BUILD)
    return lower, layer / "upper"


def _key(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


@contextlib.contextmanager
def _building(folder: Path) -> Iterator[Path]:
    """Make `folder` as a whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    scratch.chmod(0o755)
    try:
        yield scratch
        scratch.rename(folder)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def _copy_host_settings(folder: Path) -> None:
    """Let apt in the root reach what apt on the host reaches."""
    shutil.copy("/etc/resolv.conf", folder / "etc/resolv.conf")
    for file in Path("/etc/apt/apt.conf.d").iterdir():
        # What Debian's own packages put there stays theirs.
        if file.is_file() and not (folder / "etc/apt/apt.conf.d" / file.name).exists():
            text = file.read_text(errors="replace")
            if "Acquire" in text:
                shutil.copy(file, folder / "etc/apt/apt.conf.d" / file.name)


def _install(folder: Path, packages: Sequence[str]) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    policy = folder / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n")  # Nothing is to start in a chroot.
    policy.chmod(0o755)
    try:
        _run("chroot", folder, "apt-get", "update", env=environment)
        install = ("apt-get", "install", "-y", "--no-install-recommends")
        _run("chroot", folder, *install, *packages, env=environment)
    finally:
        policy.unlink()


@contextlib.contextmanager
def overlay(lowers: Sequence[Path], *, upper: Path | None = None) -> Iterator[Path]:
    """Mount a writable view of `lowers`; without `upper`, what is written is gone at the end."""
    scratch = Path(tempfile.mkdtemp(prefix="sdcluster-overlay-"))
    merged = scratch / "root"
    merged.mkdir()
    mounts: list[Path] = []
    try:
        if upper is None:
            memory = scratch / "memory"
            memory.mkdir()
            _run("mount", "-t", "tmpfs", "-o", "mode=755", "sdcluster", memory)
            mounts.append(memory)
            upper = memory / "upper"
            upper.mkdir()
        work = upper.parent / "work"
        work.mkdir(exist_ok=True)
        lower = ":".join(map(str, lowers))
        options = f"lowerdir={lower},upperdir={upper},workdir={work}"
        _run("mount", "-t", "overlay", "-o", options, "sdcluster", merged)
        mounts.append(merged)
        yield merged
    finally:
        for mount in reversed(mounts):
            _run("umount", "-R", mount)
        shutil.rmtree(scratch, ignore_errors=True)


# Machines.


class Machine:
    """A booted machine. Use it as a context manager; it is down at the end."""

    def __init__(self, release: str, *, packages: Sequence[Path] = ()) -> None:
        """Prepare a machine of a release with the .deb files `packages` installed."""
        self.release = release
        self.name = f"sdcluster-{release}-{os.getpid()}"
        self._packages = packages
        self._stack = contextlib.ExitStack()
        self._leader = 0

    def __enter__(self) -> "Machine":
        prepare_host()
        with contextlib.ExitStack() as stack:
            self.root = stack.enter_context(overlay([root(self.release)]))
            self._boot(stack)
            self._install_packages()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _install_packages(self) -> None:
        if self._packages:
            for package in self._packages:
                shutil.copy(package, self.root / "root")
            names = [f"/root/{package.name}" for package in self._packages]
            self.run("apt-get", "install", "-y", "--no-install-recommends", *names)

    def _boot(self, stack: contextlib.ExitStack) -> None:
        group = _cgroup_mount() / self.name
        group.mkdir()
        stack.callback(_remove_cgroup, group)
        log = stack.enter_context(tempfile.TemporaryFile("w+"))  # noqa: SIM115  # It is entered here.
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
        nspawn = subprocess.Popen(
            ["sh", "-c", script, str(group), *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
        )
        stack.callback(self._end, nspawn)
        deadline = time.monotonic() + BOOT_TIMEOUT_S
        state = ""
        while state not in ("running", "degraded"):
            if nspawn.poll() is not None or time.monotonic() > deadline:
                log.seek(0)
                raise MachineError(f"{self.name} does not boot ({state}):\n{log.read()[-3000:]}")
            time.sleep(0.05)
            self._leader = _only_child(nspawn.pid)  # At first it is one that sets things up.
            if self._leader:
                state = self.run("systemctl", "is-system-running", check=False).stdout.strip()

    def _end(self, nspawn: "subprocess.Popen[bytes]") -> None:
        if nspawn.poll() is None:
            # With its init killed the machine is down, and nspawn cleans up behind it.
            os.kill(_only_child(nspawn.pid) or nspawn.pid, signal.SIGKILL)
        nspawn.wait(30)

    def entry(self) -> list[str]:
        """Return the command that runs another one inside."""
        return ["nsenter", "-t", str(self._leader), "-m", "-p", "-n", "-u", "-i", "-C"]

    def on_loopback(self) -> list[str]:
        """Return the command that runs a program of the host on the machine's loopback."""
        return ["nsenter", "-t", str(self._leader), "-n"]

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
            env={
                "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                "LC_ALL": "C.UTF-8",
                "COLUMNS": "120",
                "DEBIAN_FRONTEND": "noninteractive",
            },
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


def _cgroup_mount() -> Path:
    for line in Path("/proc/mounts").read_text().splitlines():
        words = line.split()
        if words[2] == "cgroup2":
            return Path(words[1])
    raise MachineError("this host has no cgroup2 mount")


def _remove_cgroup(group: Path) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            for folder in sorted(group.rglob("*/"), reverse=True):
                folder.rmdir()
            group.rmdir()
            return
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


# The package.


def build_deb(checkout: Path, destination: Path) -> Path:
    """Build the .deb of a checkout and return its path in `destination`."""
    prepare_host()
    lower, layer = build_layer()
    destination.mkdir(parents=True, exist_ok=True)
    with overlay([layer, lower]) as merged:
        source = merged / "build" / "sdcluster"
        ignore = shutil.ignore_patterns(".git", "__pycache__", "*.egg-info", ".venv", ".*_cache")
        shutil.copytree(checkout, source, ignore=ignore)
        shutil.copytree(source / "packaging" / "debian", source / "debian")
        _say("building the .deb")
        build = "cd /build/sdcluster && dpkg-buildpackage -us -uc -b"
        _run("chroot", merged, "sh", "-c", build, env={**os.environ, "LC_ALL": "C.UTF-8"})
        (built,) = (merged / "build").glob("sdcluster_*.deb")
        shutil.copy(built, destination)
        return destination / built.name

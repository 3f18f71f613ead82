"""Root file systems of Debian releases, made once and cached, and writable views of them.

Needs root on a Debian host, with or without systemd, and installs there what it calls.
"""

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

RELEASES = ("bookworm", "trixie")
MIRROR = "http://deb.debian.org/debian"
BASE = ("systemd", "systemd-sysv", "dbus", "libpam-systemd", "ca-certificates")
RUNTIME = (
    "python3",
    "python3-click",
    "python3-httptools",
    "python3-lmdb",
    "python3-redis",
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
RPM = ("python3-pip", "python3-setuptools", "python3-wheel", "rpm", "rpmlint")
HOST_TOOLS = {"systemd-nspawn": "systemd-container", "debootstrap": "debootstrap"}
NEWER_PYTHON3_A2WSGI = "python3-a2wsgi"  # Packaged from trixie on.


class RootError(Exception):
    """A root file system could not be made; the text says why."""


def cache_folder() -> Path:
    """Return where root file systems are kept: outside any checkout."""
    given = os.environ.get("SDCLUSTER_CACHE_DIR")
    return Path(given) if given else Path("/var/cache/sdcluster")


def run(
    *command: str | Path, quiet: bool = True, **options: object
) -> "subprocess.CompletedProcess[str]":
    """Run a command, and return its status and its output, both kinds together."""
    done: subprocess.CompletedProcess[str] = subprocess.run(  # type: ignore[call-overload]
        [str(word) for word in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if quiet else None,
        stderr=subprocess.STDOUT if quiet else None,
        text=True,
        errors="replace",
        check=False,
        **options,
    )
    return done


def call(*command: str | Path, **options: object) -> None:
    """Run a command as `run` does. Raises `RootError` with the end of its output."""
    done = run(*command, **options)  # type: ignore[arg-type]
    if done.returncode != 0:
        output = "\n".join((done.stdout or "").splitlines()[-15:])
        raise RootError(f"{' '.join(map(str, command))}: status {done.returncode}\n{output}")


def prepare_host() -> None:
    """Install what this module calls. Raises `RootError`."""
    if os.geteuid() != 0:
        raise RootError("this needs root")
    missing = [package for tool, package in HOST_TOOLS.items() if shutil.which(tool) is None]
    if missing:
        say(f"installing {', '.join(missing)} on this host")
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        call("apt-get", "update", env=environment)
        install = ("apt-get", "install", "-y", "--no-install-recommends")
        call(*install, *missing, env=environment)


def say(text: str) -> None:
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
            say(f"making the {release} root file system (once; a minute or two)")
            include = f"--include={','.join(BASE)}"
            call("debootstrap", "--variant=minbase", include, release, scratch, MIRROR)
            _copy_host_settings(scratch)
            _install(scratch, packages)
            call("chroot", scratch, "apt-get", "clean")
    return folder


def build_layer() -> tuple[Path, Path]:
    """Return the root file system that the .deb is built in, and the layer above it."""
    return _layer("build", BUILD)


def rpm_layer() -> tuple[Path, Path]:
    """Return the root file system that rpms are built and used in, and the layer above it."""
    return _layer("rpm", RPM)


def _layer(name: str, packages: Sequence[str]) -> tuple[Path, Path]:
    lower = root("bookworm")
    layer = cache_folder() / f"{name}-{_key(lower.name, packages)}"
    if not layer.exists():
        with _building(layer) as scratch:
            say(f"installing {', '.join(packages)} (once)")
            upper = scratch / "upper"
            upper.mkdir()
            with overlay([lower], upper=upper) as merged:
                _install(merged, packages)
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
        call("chroot", folder, "apt-get", "update", env=environment)
        install = ("apt-get", "install", "-y", "--no-install-recommends")
        call("chroot", folder, *install, *packages, env=environment)
    finally:
        policy.unlink()


@contextlib.contextmanager
def overlay(lowers: Sequence[Path], *, upper: Path | None = None) -> Iterator[Path]:
    """Mount a writable view of `lowers`; without `upper`, what is written is gone at the end."""
    folder = Path(tempfile.mkdtemp(prefix="sdcluster-overlay-"))
    try:
        yield mount_overlay(folder, lowers, upper=upper)
    finally:
        unmount_overlay(folder)


def mount_overlay(folder: Path, lowers: Sequence[Path], *, upper: Path | None = None) -> Path:
    """Mount a writable view of `lowers` in `folder` and return its path."""
    merged = folder / "root"
    merged.mkdir()
    if upper is None:
        memory = folder / "memory"
        memory.mkdir()
        call("mount", "-t", "tmpfs", "-o", "mode=755", "sdcluster", memory)
        upper = memory / "upper"
        upper.mkdir()
    work = upper.parent / "work"
    work.mkdir(exist_ok=True)
    options = f"lowerdir={':'.join(map(str, lowers))},upperdir={upper},workdir={work}"
    call("mount", "-t", "overlay", "-o", options, "sdcluster", merged)
    return merged


def unmount_overlay(folder: Path) -> None:
    """Undo `mount_overlay`, wherever it had stopped, and remove `folder`."""
    for mount in (folder / "root", folder / "memory"):
        if mount.is_mount():
            call("umount", "-R", mount)
    shutil.rmtree(folder, ignore_errors=True)

"""What the benchmarks need, installed once: wrk, Node, PM2, and one virtualenv for all of Python.

The virtualenv is made of Debian's Python, as that is what sdcluster runs on in earnest, and every
peer gets the same. sdcluster itself is used from the checkout. Standard library only.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

BENCH = Path(__file__).resolve().parent
CHECKOUT = BENCH.parent.parent
PYTHON = "/usr/bin/python3"
REQUIREMENTS = BENCH / "requirements.txt"
PACKAGE_JSON = BENCH / "package.json"
INSTALL_TIMEOUT_S = 580

DEBIAN_ENVIRONMENT: Mapping[str, str] = {"DEBIAN_FRONTEND": "noninteractive"}


class ToolchainError(Exception):
    """Something could not be installed; the text says what."""


def folder() -> Path:
    """Return where the set-up is: another one for other requirements."""
    key = hashlib.sha256(REQUIREMENTS.read_bytes() + PACKAGE_JSON.read_bytes())
    key.update(f"{PYTHON} {os.path.realpath(PYTHON)} {CHECKOUT}".encode())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "/var/cache")
    return cache / "sdcluster" / f"bench-{key.hexdigest()[:12]}"


def prepare() -> Path:
    """Install what is missing and return the folder. Raises `ToolchainError`."""
    _install_packages()
    target = folder()
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ToolchainError(
            f"cannot write {target}: {error.strerror}; run as root, or set XDG_CACHE_HOME"
        ) from error
    with _locked(target):
        _make_once(target / "venv", _make_venv)
        _make_once(target / "node", _install_pm2)
    return target


@contextlib.contextmanager
def _locked(target: Path) -> Iterator[None]:
    with (target / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make_once(target: Path, make: Callable[[Path], None]) -> None:
    done = target / ".complete"
    if done.exists():
        return
    shutil.rmtree(target, ignore_errors=True)  # An earlier run was interrupted.
    make(target)
    done.touch()


def _missing_packages() -> list[str]:
    commands = {"wrk": "wrk", "node": "nodejs", "npm": "npm", "redis-server": "redis-server"}
    missing = [package for command, package in commands.items() if not shutil.which(command)]
    modules = {"ensurepip": "python3-venv", "systemd.daemon": "python3-systemd"}
    for module, package in modules.items():
        found = subprocess.run([PYTHON, "-c", f"import {module}"], capture_output=True, check=False)
        if found.returncode != 0:
            missing.append(package)
    return missing


def _install_packages() -> None:
    missing = _missing_packages()
    if not missing:
        return
    names = " ".join(missing)
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise ToolchainError(f"these packages are missing: {names}; as root: apt install {names}")
    _run(["apt-get", "update", "-q"], what="the package lists", environment=DEBIAN_ENVIRONMENT)
    _run(
        ["apt-get", "install", "-q", "-y", "--no-install-recommends", *missing],
        what=names,
        environment=DEBIAN_ENVIRONMENT,
    )


def _make_venv(target: Path) -> None:
    _run([PYTHON, "-m", "venv", str(target)], what="the virtualenv")
    pip = [str(target / "bin" / "python"), "-m", "pip", "install", "-q"]
    _run([*pip, "--disable-pip-version-check", "-r", str(REQUIREMENTS)], what="the peers")
    site = next((target / "lib").glob("python3*/site-packages"))
    (site / "sdcluster.pth").write_text(f"{CHECKOUT}\n")
    found = subprocess.run(
        [PYTHON, "-c", "import systemd; print(systemd.__path__[0])"],
        capture_output=True,
        text=True,
        check=True,
    )
    # A link to this one package, so that nothing else of Debian's gets into the virtualenv.
    (site / "systemd").symlink_to(found.stdout.strip())


def _install_pm2(target: Path) -> None:
    target.mkdir(parents=True)
    shutil.copy(PACKAGE_JSON, target / "package.json")
    command = ["npm", "install", "--prefix", str(target), "--no-audit", "--no-fund"]
    _run([*command, "--loglevel=error"], what="PM2")


def _run(
    command: Sequence[str], *, what: str, environment: Mapping[str, str] | None = None
) -> None:
    print(f"setting up: {what}", file=sys.stderr, flush=True)
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
            timeout=INSTALL_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ToolchainError(f"cannot install {what}: {error}") from error
    if done.returncode != 0:
        tail = "\n".join(done.stdout.splitlines()[-15:])
        raise ToolchainError(f"cannot install {what}: {' '.join(command)} failed:\n{tail}")

"""Run the tests, a part after the other, and install what they need.

    tests/run                    everything
    tests/run unit integration   these parts
    tests/run --skip-unavailable leave out, with the reason, what cannot run here
    tests/run --thorough         random tests for ten minutes, the fault suite ten times

Parts: lint, types, unit, integration, fuzz, bookworm, trixie, rpm; machine is bookworm and trixie.
fuzz sends random requests while workers are killed, reloaded and scaled, and knows what each answer
must be: see tests/fuzz/__main__.py. rpm builds and installs the rpms, see packaging/rpm/README.md.
The set-up wants root on Debian and is kept in $SDCLUSTER_CACHE_DIR, or in /var/cache/sdcluster.
"""

import argparse
import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

CHECKOUT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(CHECKOUT / "packaging"))

import deb  # noqa: E402  # These stand in packaging/, and need the standard library alone.
import roots  # noqa: E402
import rpms  # noqa: E402

MACHINES = roots.RELEASES
BOOTED = (*MACHINES, "rpm")
"""Parts that boot machines, and run side by side."""
PARTS = ("lint", "types", "unit", "integration", "fuzz", *BOOTED)
FUZZ_S, FUZZ_THOROUGHLY_S = 60, 600
SIDE_BY_SIDE = 2
"""Files of integration tests that run at a time."""
FAULT_RUNS = 10
"""How often the fault suite has to pass in a row in a thorough run."""
THOROUGH = {
    "SDCLUSTER_ROUTING_SECONDS": "50",  # Of each of twelve tests: ten minutes.
    "SDCLUSTER_ROUTING_CONNECTIONS": "200",
    "SDCLUSTER_ATTACK_SECONDS": "60",
}
"""What makes tests longer: `test_strays` and `test_quarantine` read it."""
PACKAGES = {
    "/usr/bin/gcc": "gcc",
    "/usr/bin/pkg-config": "pkg-config",
    "/usr/include/systemd/sd-daemon.h": "libsystemd-dev",
    "/usr/include/python3.*/Python.h": "python3-dev",
    "/usr/lib/python3*/ensurepip": "python3-venv",
    "/usr/bin/ab": "apache2-utils",
    "/usr/bin/curl": "curl",
    "/usr/bin/node": "nodejs",
    "/usr/lib/*/faketime/libfaketime.so.1": "libfaketime",
    "/usr/bin/setpriv": "util-linux",
    "/usr/bin/systemd-socket-activate": "systemd",
    "/usr/bin/redis-server": "redis-server",
    "/usr/sbin/nginx": "nginx",
}
"""What the tests on this host call, by a file that tells that it is there."""


class Unavailable(Exception):  # noqa: N818  # A fact about this host, not an error here.
    """A part cannot run here; the text says why."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a part went; `reason` tells why it did not run."""

    part: str
    passed: bool
    seconds: float
    reason: str = ""


def main() -> int:
    """Run what was asked for. Return 0 if all passed."""
    parser = argparse.ArgumentParser(
        prog="tests/run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART")
    parser.add_argument("--skip-unavailable", action="store_true")
    parser.add_argument("--thorough", action="store_true")
    given = parser.parse_args()
    parts: list[str] = []
    for part in given.parts or PARTS:
        if part not in (*PARTS, "machine"):
            parser.error(f"there is no part {part!r}; there are {', '.join(PARTS)}, and machine")
        parts += MACHINES if part == "machine" else [part]
    began = time.monotonic()
    try:
        python = prepare()
    except Unavailable as unavailable:
        print(f"tests/run: {unavailable}", file=sys.stderr)
        return 1
    stock = Stock(parts)
    try:
        if given.thorough:
            os.environ.update(THOROUGH)
        take = functools.partial(run, python=python, stock=stock, is_thorough=given.thorough)
        outcomes = [take(part) for part in parts if part not in BOOTED]
        # A machine test waits more than it works.
        with ThreadPoolExecutor() as pool:
            booted = [part for part in parts if part in BOOTED]
            outcomes += pool.map(take, booted)
    finally:
        stock.close()
    print()
    for one in outcomes:
        word = "passed" if one.passed else "skipped" if one.reason else "FAILED"
        reason = f": {one.reason}" if one.reason else ""
        print(f"{word:8} {one.part:12} {one.seconds:6.1f} s{reason}")
    print(f"{time.monotonic() - began:.0f} s in all")
    bad = [
        one for one in outcomes if not one.passed and not (one.reason and given.skip_unavailable)
    ]
    return 1 if bad else 0


class Stock:
    """The packages and the root file systems, made in the background while other parts run."""

    def __init__(self, parts: Sequence[str]) -> None:
        """Begin to make what the parts need."""
        self._error = ""
        self.folder = Path(tempfile.mkdtemp(prefix="sdcluster-packages-"))
        self._releases = [part for part in parts if part in MACHINES]
        self._needs_rpms = "rpm" in parts
        self._thread = threading.Thread(target=self._make, daemon=True)
        if any(part in BOOTED for part in parts):
            self._thread.start()

    def _make(self) -> None:
        try:
            deb.build(CHECKOUT, self.folder)
            for release in self._releases:
                roots.root(release)
            if self._needs_rpms:
                rpms.build(CHECKOUT, self.folder)
        except (roots.RootError, OSError) as error:
            self._error = str(error)

    def close(self) -> None:
        """Remove the packages."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def wait(self) -> Path:
        """Wait until all is there and return the .deb. Raises `Unavailable`."""
        self._thread.join()
        if self._error:
            raise Unavailable(self._error)
        (built,) = self.folder.glob("*.deb")
        return built


def run(part: str, *, python: Path, stock: Stock, is_thorough: bool) -> Outcome:
    """Run one part. The output of one that runs beside another is printed when it has ended."""
    began = time.monotonic()
    with tempfile.TemporaryFile("w+") if part in BOOTED else open(1, "w", closefd=False) as out:
        print(f"\n== {part}", file=out, flush=True)
        try:
            orders = commands(part, python, stock, is_thorough=is_thorough)
            passed = part != "integration" or _pass_side_by_side(python, out)
            passed = passed and all(_passes(command, out) for command in orders)
            reason = ""
        except Unavailable as unavailable:
            passed, reason = False, str(unavailable)
            print(reason, file=out)
        if part in BOOTED:
            out.seek(0)
            print(out.read(), end="", flush=True)
    return Outcome(part, passed, time.monotonic() - began, reason)


Command = Sequence[str | Path]


def commands(part: str, python: Path, stock: Stock, *, is_thorough: bool) -> Iterator[Command]:
    """Yield the commands of a part, each to be run when the one before has passed."""
    tool = python.parent
    match part:
        case "lint":
            yield [tool / "ruff", "check", "."]
            yield [tool / "ruff", "format", "--check", "."]
        case "types":
            yield [tool / "mypy"]
            # One after the other, as each folder has a conftest of its own.
            yield [tool / "mypy", *sorted((CHECKOUT / "packaging").glob("*.py"))]
            yield [tool / "mypy", "tests/integration"]
            yield [tool / "mypy", *sorted((CHECKOUT / "tests" / "examples").glob("*test*.py"))]
            yield [tool / "mypy", "tests/fuzz"]
            yield [tool / "mypy", "tests/machine"]
            yield [tool / "mypy", "tests/packages"]
            yield [tool / "mypy", "tests/runner.py", "tests/load.py"]
            yield [tool / "mypy", *sorted((CHECKOUT / "tests" / "bench").glob("*.py"))]
        case "unit":
            yield [tool / "coverage", "run", "-m", "pytest", "tests/unit", "-q"]
            yield [tool / "coverage", "report", "--fail-under=100"]
        case "integration":
            yield [python, "-m", "pytest", "tests/examples", "-q", "--durations=5"]
            for _ in range(FAULT_RUNS - 1 if is_thorough else 0):
                yield [python, "-m", "pytest", "tests/integration/test_faults.py", "-q"]
        case "fuzz":
            seconds = FUZZ_THOROUGHLY_S if is_thorough else FUZZ_S
            yield [python, "-m", "pytest", "tests/fuzz", "-q", "--durations=5"]
            yield [python, "-B", "tests/fuzz", "--seconds", str(seconds)]
        case "rpm":
            options = ("-q", "--durations=5", f"--deb={stock.wait()}", f"--rpms={stock.folder}")
            yield [python, "-m", "pytest", "tests/packages", *options]
        case _:
            options = ("-q", "--durations=5", f"--release={part}", f"--deb={stock.wait()}")
            yield [python, "-m", "pytest", "tests/machine", *options]


def _pass_side_by_side(python: Path, out: IO[str]) -> bool:
    """Run the files of the integration tests, two at a time: each waits more than it works."""
    files = sorted((CHECKOUT / "tests" / "integration").glob("test_*.py"))
    # The longest first, so that none of them is left for the end.
    files.sort(key=lambda file: file.stat().st_size, reverse=True)
    passed = True
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        for file, code, text, seconds in pool.map(functools.partial(_run_file, python), files):
            passed = passed and code == 0
            last = text.splitlines()[-1] if text else "nothing was printed"
            print(f"{file.name:36} {seconds:6.1f} s  {last}", file=out)
            if code:
                print(text, file=out)
            out.flush()
    return passed


def _run_file(python: Path, file: Path) -> tuple[Path, int, str, float]:
    began = time.monotonic()
    words = [str(python), "-m", "pytest", str(file), "-q"]
    done = subprocess.run(
        words,
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return file, done.returncode, done.stdout, time.monotonic() - began


def _passes(command: Command, out: IO[str]) -> bool:
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=CHECKOUT, stdout=out, stderr=out, check=False)
    return done.returncode == 0


# The set-up.


def prepare() -> Path:
    """Install what is missing; return the Python that has it. Raises `Unavailable`."""
    install_packages()
    key = hashlib.sha256((CHECKOUT / "pyproject.toml").read_bytes())
    key.update(str(CHECKOUT).encode())
    venv = roots.cache_folder() / f"test-venv-{key.hexdigest()[:12]}"
    venv.parent.mkdir(parents=True, exist_ok=True)
    with (venv.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (venv / "complete").exists():
            shutil.rmtree(venv, ignore_errors=True)
            say("making a virtualenv with what the tests need (once)")
            attempt("/usr/bin/python3", "-m", "venv", venv)
            pip = (venv / "bin/python", "-m", "pip", "install", "-q", "--disable-pip-version-check")
            attempt(*pip, "-e", f"{CHECKOUT}[fast,dev]")
            (venv / "complete").touch()
    return venv / "bin/python"


def install_packages() -> None:
    """Install the Debian packages that are missing. Raises `Unavailable`."""
    missing = [
        package
        for file, package in PACKAGES.items()
        if not any(Path("/").glob(file.removeprefix("/")))
    ]
    if not missing:
        return
    names = " ".join(missing)
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise Unavailable(f"these packages are missing: {names}; as root: apt install {names}")
    say(f"installing {names}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    attempt("apt-get", "update", "-q", env=environment)
    install = ("apt-get", "install", "-q", "-y", "--no-install-recommends")
    attempt(*install, *missing, env=environment)


def attempt(*command: str | Path, env: dict[str, str] | None = None) -> None:
    """Run a command of the set-up. Raises `Unavailable` with the end of its output."""
    words = [str(word) for word in command]
    done = subprocess.run(
        words, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode != 0:
        tail = "\n".join(done.stdout.splitlines()[-15:])
        raise Unavailable(f"{' '.join(words)} failed:\n{tail}")


def say(text: str) -> None:
    """Tell what goes on."""
    print(f"-- {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

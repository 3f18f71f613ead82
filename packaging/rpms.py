"""Builds the rpms: on Fedora and openSUSE with what is there, on Debian in a clean root.

On Debian, two more things are done here: packages are installed in the root of a machine, and what
Fedora's systemd does for packages is built as one of its own (rpm/standin.spec).
"""

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import roots
import sources

DATABASE = ("--dbpath", "/var/lib/rpm")
"""Options of rpm: where the installed packages are recorded. Debian's default is in $HOME."""
REPRODUCIBLE = {
    "_buildhost": "localhost",
    "clamp_mtime_to_source_date_epoch": "1",
    "source_date_epoch_from_changelog": "1",
    "use_source_date_epoch_as_buildtime": "1",
}
"""Macros by which a package has nothing in it of where and when it was built."""
AT = "/build/rpm"


@dataclass(frozen=True, slots=True)
class Rpms:
    """The packages of one build."""

    source: Path
    binary: Path


# The spec, as text.


def version_of(spec: str) -> str:
    """Return the version that a spec builds. Raises `RootError`."""
    found = re.search(r"^Version:\s*(\S+)", spec, re.MULTILINE)
    if not found:
        raise roots.RootError("the spec has no version")
    return found[1]


def time_of(spec: str) -> int:
    """Return the day of the newest entry in a spec's changelog: its first second, as rpm has it.

    Raises `RootError`.
    """
    found = re.search(r"^\* \w{3} (\w{3} \d+ \d{4}) ", spec, re.MULTILINE)
    if not found:
        raise roots.RootError("the spec has no changelog")
    day = datetime.strptime(found[1], "%b %d %Y").replace(tzinfo=UTC)
    return int(day.timestamp())


def has_own_macros(os_release: str) -> bool:
    """Tell from the text of os-release(5) whether it is Fedora, openSUSE or one of their kin."""
    found = re.findall(r"^ID(?:_LIKE)?=(.*)$", os_release, re.MULTILINE)
    names = {name for value in found for name in value.strip("\"'").split()}
    return any(name in {"fedora", "suse"} or name.startswith("opensuse") for name in names)


# Building.


def build(checkout: Path, destination: Path, *, at: str = AT) -> Rpms:
    """Build the rpms of a checkout and return their paths in `destination`. Raises `RootError`.

    `at` is where it is done in the clean root. The source package has that folder in it, as rpm
    records the spec with its macros expanded. So the binary package, which is to be the same
    wherever it is built, is made by a command of its own: else it has the digest of the other.
    """
    with _filled(checkout, at) as top:
        roots.say("building the rpms")
        top.rpmbuild("-bs", "sdcluster")
        top.rpmbuild("-bb", "sdcluster")
        return Rpms(*top.collect(destination))


def build_source(checkout: Path, destination: Path) -> Path:
    """Build the source package alone. Raises `RootError`."""
    with _filled(checkout, AT) as top:
        top.rpmbuild("-bs", "sdcluster")
        (source,) = top.collect(destination)
        return source


def build_standin(checkout: Path, destination: Path) -> Path:
    """Build what stands in for Fedora's systemd on a Debian machine. Raises `RootError`."""
    folder = checkout / "packaging" / "rpm"
    with tools() as merged:
        top = _Top(merged, AT)
        shutil.copy(folder / "macros", top.folder)
        shutil.copy(folder / "standin.spec", top.folder / "SPECS")
        shutil.copy(folder / "systemd-update-helper", top.folder / "SOURCES")
        top.rpmbuild("-bb", "standin")
        (binary,) = top.collect(destination)
        return binary


class _Top:
    """The folder that rpmbuild works in; with a clean root, in that."""

    def __init__(self, root: Path | None, at: str) -> None:
        self._root = root
        self._at = at
        self.folder = root / at.lstrip("/") if root else Path(at)
        for name in ("SOURCES", "SPECS"):
            (self.folder / name).mkdir(parents=True)

    def rpmbuild(self, stage: str, spec: str) -> None:
        """Build what `stage` says: -bs the source package, -bb the binary one."""
        defined = {"_topdir": self._at, **REPRODUCIBLE}
        options = [word for item in defined.items() for word in ("--define", " ".join(item))]
        command = ["rpmbuild", stage, *options, f"{self._at}/SPECS/{spec}.spec"]
        if self._root:
            # What is installed there, no rpm knows of.
            command += ["--nodeps", f"--load={self._at}/macros"]
            roots.call("chroot", self._root, *command, env={**os.environ, "LC_ALL": "C.UTF-8"})
            return
        try:
            roots.call(*command)
        except roots.RootError as error:
            hint = "to install what is needed: dnf builddep packaging/rpm/sdcluster.spec"
            raise roots.RootError(f"{error}\n{hint}") from error

    def collect(self, destination: Path) -> list[Path]:
        """Copy what was built; the source package is the first."""
        destination.mkdir(parents=True, exist_ok=True)
        built = [*self.folder.glob("SRPMS/*.rpm"), *self.folder.glob("RPMS/*/*.rpm")]
        return [Path(shutil.copy(file, destination)) for file in built]


@contextlib.contextmanager
def _filled(checkout: Path, at: str) -> Iterator[_Top]:
    """Make a folder with all that rpmbuild wants: the spec, its sources, the macros for Debian."""
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if has_own_macros(Path("/etc/os-release").read_text()):
            top = _Top(None, str(scratch / "rpm"))
        else:
            top = _Top(stack.enter_context(tools()), at)
        folder = checkout / "packaging" / "rpm"
        spec = (folder / "sdcluster.spec").read_text()
        shutil.copy(folder / "macros", top.folder)
        shutil.copy(folder / "sdcluster.spec", top.folder / "SPECS")
        shutil.copy(checkout / "units" / "sdcluster.conf", top.folder / "SOURCES")
        name = f"sdcluster-{version_of(spec)}"
        sources.copy(checkout, scratch / name)
        packed = top.folder / "SOURCES" / f"{name}.tar.gz"
        sources.archive(scratch / name, packed, name=name, time_s=time_of(spec))
        yield top


def lint(rpms: Rpms, checkout: Path) -> "subprocess.CompletedProcess[str]":
    """Run rpmlint, with the filters of the checkout, on packages and on the spec they are of."""
    folder = checkout / "packaging" / "rpm"
    files = (rpms.source, rpms.binary, folder / "sdcluster.spec", folder / "sdcluster.rpmlintrc")
    with tools() as merged:
        for file in files:
            shutil.copy(file, merged / "root")
        *given, filters = (f"/root/{file.name}" for file in files)
        return _run_in(merged, "rpmlint", f"--rpmlintrc={filters}", *given)


# Debian's rpm.


@contextlib.contextmanager
def tools() -> Iterator[Path]:
    """Mount a throwaway root that has Debian's rpm, rpmbuild and rpmlint. Raises `RootError`."""
    roots.prepare_host()
    lower, layer = roots.rpm_layer()
    with roots.overlay([layer, lower]) as merged:
        yield merged


def rpm(root: Path, *arguments: str, files: Sequence[Path] = ()) -> str:
    """Run `rpm --root` on the root of a machine that is not booted, and return what it says.

    Raises `RootError`.
    """
    with tools() as merged:
        target = merged / "mnt"
        roots.call("mount", "--bind", root, target)
        for file in files:
            shutil.copy(file, merged / "root")
        names = [f"/root/{file.name}" for file in files]
        done = _run_in(merged, "rpm", "--root", "/mnt", *DATABASE, *arguments, *names)
    if done.returncode != 0:
        raise roots.RootError(f"rpm {' '.join(arguments)}: {done.stdout[-3000:]}")
    return done.stdout


def _run_in(root: Path, *command: str) -> "subprocess.CompletedProcess[str]":
    return roots.run("chroot", root, *command, env={**os.environ, "LC_ALL": "C.UTF-8"})

"""Show sdcluster on a throwaway Debian machine: from the package to a reload under load.

packaging/try                     on Debian 12
packaging/try --release trixie    on Debian 13
packaging/try --rpm               with the rpm, on Debian 12 with Debian's rpm
packaging/try --keep              leave the machine running, and say how to enter it
packaging/try --stop NAME         end a machine that was kept
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import deb
import roots
import rpms
from machine import Machine, MachineError

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parent
sys.path.insert(0, str(CHECKOUT / "tests"))

import load  # noqa: E402  # The client of the tests, which counts what is lost.

URL = "http://127.0.0.1:8000/"
UNIT = "sdcluster@hello"
CONFIG = """\
app = "hello:app"
directory = "/srv/hello"
listen = "127.0.0.1:8000"
workers = 4
"""


class Failed(Exception):  # noqa: N818  # A fact that the tour found, told to the user.
    """Something did not go as it should; the text says what."""


def main() -> int:
    """Run the tour. Return the exit status."""
    parser = argparse.ArgumentParser(
        prog="packaging/try",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--release", choices=roots.RELEASES, default=roots.RELEASES[0])
    parser.add_argument("--rpm", action="store_true")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--stop", metavar="NAME")
    given = parser.parse_args()
    if given.rpm and given.release != "bookworm":
        parser.error("--rpm is for Debian 12: the rpm is built for its Python")
    try:
        if given.stop:
            Machine(given.stop).end()
            return 0
        with tempfile.TemporaryDirectory() as folder:
            boot = boot_for_rpm if given.rpm else boot_for_deb
            machine, install = boot(given.release, Path(folder))
            try:
                tour(machine, install)
                if given.rpm:
                    tour_of_the_rpm(machine, install)
            finally:
                if not given.keep:
                    machine.end()
        if given.keep:
            print(f"\n{machine.name} is left running.")
            print(f"  enter it:  {' '.join(machine.entry())} bash -l")
            print(f"  stop it:   packaging/try --stop {machine.name}")
        else:
            roots.say("the machine is gone")
    except (Failed, MachineError, roots.RootError, OSError) as error:
        print(f"packaging/try: {error}", file=sys.stderr)
        return 1
    return 0


Install = Callable[[], None]
"""Installs the package, or installs it again."""


def boot_for_deb(release: str, folder: Path) -> tuple[Machine, Install]:
    """Build the .deb and boot a machine for it."""
    package = deb.build(CHECKOUT, folder)
    roots.say(f"booting Debian {release}")
    machine = Machine.boot(release)

    def install() -> None:
        print(f"# apt install ./{package.name}")
        machine.install([package])

    return machine, install


def boot_for_rpm(release: str, folder: Path) -> tuple[Machine, Install]:
    """Build the rpm and boot a machine that has rpm, and what stands in for Fedora's systemd."""
    package = rpms.build(CHECKOUT, folder).binary
    standin = rpms.build_standin(CHECKOUT, folder)
    _, layer = roots.rpm_layer()
    roots.say(f"booting Debian {release} with rpm")

    def install_standin(root: Path) -> None:
        rpms.rpm(root, "-i", "--nodeps", files=[standin])

    machine = Machine.boot(release, layers=[layer], prepare=install_standin)

    def install() -> None:
        options = ("-U", "--replacepkgs", "--nodeps")
        print(f"# rpm {' '.join((*rpms.DATABASE, *options, package.name))}")
        print(machine.rpm(*options, files=[package]), end="")

    return machine, install


def tour(machine: Machine, install: Install) -> None:
    """Install, start, ask, reload under load, look. Raises `Failed`."""
    heading("Install the package, write one file, start")
    install()
    write(machine, "/srv/hello/hello.py", (HERE / "examples" / "hello.py").read_text())
    write(machine, "/etc/sdcluster/hello.toml", CONFIG)
    show(machine, "systemctl", "daemon-reload")
    show(machine, "systemctl", "start", UNIT)

    heading("Several workers answer")
    answers = [show(machine, "curl", "-s", URL) for _ in range(6)]
    if len(set(answers)) < 2:
        raise Failed("all answers came from one worker")

    heading("New code under load: a reload loses nothing")
    change_version(machine, 2)
    under_load(machine, lambda: show(machine, "systemctl", "reload", UNIT))
    if "version 2" not in show(machine, "curl", "-s", URL):
        raise Failed("the new code is not live")

    heading("Broken code changes nothing")
    machine.write("/srv/hello/hello.py", "import nowhere\n")
    print("# echo 'import nowhere' > /srv/hello/hello.py")
    if machine.run("systemctl", "reload", UNIT, check=False).returncode == 0:
        raise Failed("a reload to code that cannot be imported succeeded")
    print(f"# systemctl reload {UNIT}\n(fails, as it should)")
    if "version 2" not in show(machine, "curl", "-s", URL):
        raise Failed("the old code does not serve on")

    heading("What the administrator sees")
    show(machine, "systemctl", "status", UNIT, "--no-pager", "--lines=0")
    show(machine, "sdcluster", "status", "hello")
    show(machine, "journalctl", "--no-pager", "-u", UNIT, "-o", "short-precise")


def tour_of_the_rpm(machine: Machine, install: Install) -> None:
    """Look at the package, and install it again under load. Raises `Failed`."""
    heading("The rpm: installed again under load, it touches nothing")
    show(machine, "rpm", *rpms.DATABASE, "-qi", "sdcluster")
    before = show(machine, "systemctl", "show", UNIT, "--property=MainPID")
    under_load(machine, install)
    if show(machine, "systemctl", "show", UNIT, "--property=MainPID") != before:
        raise Failed("the service is another process now")


def under_load(machine: Machine, act: Callable[[], object]) -> None:
    """Do something while clients of two kinds ask. Raises `Failed` when one got no answer."""
    prefix = machine.on_loopback()
    with (
        load.running(URL, close=False, prefix=prefix) as kept_alive,
        load.running(URL, close=True, prefix=prefix) as one_each,
    ):
        act()
    for kind, result in {"kept alive": kept_alive, "one per request": one_each}.items():
        print(f"connections {kind}: {result.requests} requests, {result.lost} lost")
        if result.lost:
            raise Failed(f"requests were lost: {result.errors}")


def heading(text: str) -> None:
    """Print what comes next."""
    print(f"\n== {text}\n", flush=True)


def show(machine: Machine, *command: str) -> str:
    """Print a command of the administrator's and what it says; return that."""
    print(f"# {' '.join(command)}", flush=True)
    output = machine.run(*command).stdout
    print(output, end="", flush=True)
    return output


def write(machine: Machine, path: str, text: str) -> None:
    """Write a file, and print it if it is short."""
    print(f"# cat > {path}")
    if len(text.splitlines()) < 8:
        print(text, end="")
    machine.write(path, text)


def change_version(machine: Machine, version: int) -> None:
    """Edit the app, as a deployment does."""
    show(machine, "sed", "-i", f"s/^VERSION = .*/VERSION = {version}/", "/srv/hello/hello.py")


if __name__ == "__main__":
    sys.exit(main())

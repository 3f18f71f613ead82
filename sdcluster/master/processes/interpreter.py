"""The interpreter that becomes a mold: it is executed first, and is told later what to load.

Until then it imports what every mold needs. A start uses that: it begins one as soon as it knows
which interpreter that is, and the master imports its own modules meanwhile, on another CPU.
"""

import contextlib
import os
import pwd
import signal
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

from sdcluster.config.model import Config, python
from sdcluster.errors import SpawnError, reason_of
from sdcluster.master.host.systemd import PRIVATE_ENVIRONMENT

BOOTSTRAP = Path(__file__).parents[2] / "worker" / "mold" / "bootstrap.py"

_EARLY = "early"
_TITLE_ROOM = " " * 96
"""An argument that makes room for the process title, see `process.Label`."""


@dataclass(frozen=True, slots=True)
class Command:
    """How an interpreter is executed."""

    arguments: tuple[str, ...]
    folder: Path
    environment: dict[str, str]
    user: pwd.struct_passwd | None

    @classmethod
    def of(cls, config: Config, user: pwd.struct_passwd | None = None) -> "Command":
        """Return that of the app's interpreter, with the environment of this moment."""
        return cls(
            (python(config), *config.interpreter_options, str(BOOTSTRAP)),
            config.directory,
            _environment(config, user),
            user,
        )


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A process that waits to be told what it is to load, and the channel to it."""

    command: Command
    pid: int
    channel: socket.socket

    def is_alive(self) -> bool:
        """Tell whether it has not exited."""
        try:
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        except ChildProcessError:
            return False  # It was reaped as well.

    def end(self) -> None:
        """Kill it, if that is needed, and reap it."""
        self.channel.close()
        with contextlib.suppress(ChildProcessError):
            if self.is_alive():
                os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


_begun: Interpreter | None = None
"""One that nobody has asked for yet."""


def begin(config: Config) -> None:
    """Execute the interpreter that `start` is going to be asked for, if it is one for an app."""
    global _begun
    if not config.is_command and not config.script:
        with contextlib.suppress(SpawnError):  # `start` tries again, and tells.
            _begun = _execute(Command.of(config), _EARLY)


def start(config: Config, user: pwd.struct_passwd | None = None) -> Interpreter:
    """Return an interpreter that waits to be told what to load. Raises `SpawnError`.

    It runs as `user`, if one is given, which takes root. It is the one that was begun if that is
    what is wanted now.
    """
    global _begun
    command = Command.of(config, user)
    begun, _begun = _begun, None
    if begun is not None:
        if begun.command == command and begun.is_alive():
            return begun
        begun.end()
    return _execute(command)


def forget() -> None:
    """End the one that was begun and not used. Harmless when there is none."""
    global _begun
    begun, _begun = _begun, None
    if begun is not None:
        begun.end()


def _execute(command: Command, *arguments: str) -> Interpreter:
    user = command.user
    try:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    except OSError as error:
        raise SpawnError(f"cannot start a process: {reason_of(error)}") from error
    ours.setblocking(False)
    with theirs:
        try:
            process = subprocess.Popen(
                [*command.arguments, str(theirs.fileno()), _TITLE_ROOM, *arguments],
                cwd=command.folder,
                env=command.environment,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                user=user.pw_uid if user else None,
                group=user.pw_gid if user else None,
                extra_groups=os.getgrouplist(user.pw_name, user.pw_gid) if user else None,
            )
        except OSError as error:
            ours.close()
            what = f"cannot execute {command.arguments[0]}: {reason_of(error)}"
            raise SpawnError(what) from error
    process.returncode = 0  # Reaped by the cluster, with every other child.
    return Interpreter(command, process.pid, ours)


def _environment(config: Config, user: pwd.struct_passwd | None) -> dict[str, str]:
    """Return the environment of a generation, captured when it starts."""
    environment = {
        name: value for name, value in os.environ.items() if name not in PRIVATE_ENVIRONMENT
    }
    if user is not None:
        # As User= in a unit has it, see systemd.exec(5).
        environment |= {"HOME": user.pw_dir, "SHELL": user.pw_shell}
        environment |= {"USER": user.pw_name, "LOGNAME": user.pw_name}
    if config.venv is not None:
        environment["VIRTUAL_ENV"] = str(config.venv)
        path = environment.get("PATH", os.defpath)
        environment["PATH"] = f"{config.venv / 'bin'}{os.pathsep}{path}"
        environment.pop("PYTHONHOME", None)
    return environment | dict(config.environment)

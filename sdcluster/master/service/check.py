"""Tries a configuration out: loads its app in a mold, and lets the mold go. Binds nothing."""

import os
import pwd
import select
import signal
import subprocess
import time

from sdcluster.config.model import Config
from sdcluster.errors import AppError
from sdcluster.master.processes.molds import Mold
from sdcluster.wire import frames

SERVICE_USER = "sdcluster"
"""The User= of the unit."""


def service_user(name: str) -> pwd.struct_passwd | None:
    """Return the user that the unit of an instance runs as.

    None when there is no such user, or when the caller, who is not root, cannot become it.
    """
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(_user_of_unit(name) or SERVICE_USER)
    except KeyError:
        return None


def _user_of_unit(name: str) -> str:
    """Return what systemd says, which knows the drop-ins; empty where it does not run."""
    command = ["systemctl", "show", "--property=User", "--value", f"sdcluster@{name}.service"]
    try:
        shown = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return shown.stdout.strip()


def check_app(config: Config, *, user: pwd.struct_passwd | None = None) -> str:
    """Return what the app is (`asgi`, `wsgi`, `exec`). Raises `AppError` and `SpawnError`.

    It is imported as `user`, or as the caller.
    """
    mold = Mold(config, 0, listener_names=(), trial=True, user=user)
    try:
        return _wait(mold, config.ready_timeout_s)
    finally:
        mold.close()
        mold.kill(signal.SIGKILL)
        os.waitpid(mold.pid, 0)


def _wait(mold: Mold, timeout_s: float) -> str:
    deadline = time.monotonic() + timeout_s
    while True:
        ready, _, _ = select.select([mold.fileno()], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise AppError(f"the app did not load within {timeout_s:g} s (ready_timeout_s)")
        try:
            report = mold.read()
        except EOFError:
            raise AppError("the app ended the process while it was loaded") from None
        match report:
            case frames.Prepared(interface=interface):
                return interface
            case frames.PrepareFailed(reason=reason, detail=detail):
                raise AppError(f"{reason}\n{detail}".rstrip(), detail)
            case _:
                pass

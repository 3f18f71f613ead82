"""Tries a configuration out: loads its app in a mold, and lets the mold go. Binds nothing."""

import os
import select
import signal
import time

from sdcluster.config import Config
from sdcluster.errors import AppError
from sdcluster.master.molds import Mold
from sdcluster.wire import frames


def check_app(config: Config) -> str:
    """Return what the app is (`asgi`, `wsgi`, `exec`). Raises `AppError` and `SpawnError`."""
    mold = Mold(config, 0, listener_names=(), trial=True)
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

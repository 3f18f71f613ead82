"""What a program has set for its workers, and the configuration that comes of it."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sdcluster.config import cpus
from sdcluster.config.model import Config, Scheduling
from sdcluster.errors import ClusterError
from sdcluster.master.program.bulletin import READY
from sdcluster.system import command_line

SCHEDULING_VARIABLE = "SDCLUSTER_SCHEDULING"


class Settings:
    """The settings of `cluster.setup_master`: each counts until it is set anew."""

    def __init__(self) -> None:
        self.given: Mapping[str, Any] = MappingProxyType({})
        """What the program has named; another one after each change."""

    def change(self, settings: Mapping[str, Any], *, has_forked: bool) -> None:
        """Set what is not None. Raises `ClusterError`, and changes nothing then."""
        given = {name: value for name, value in settings.items() if value is not None}
        scheduling = given.get("scheduling")
        if scheduling is not None:
            _check_scheduling(scheduling)
            if has_forked:
                raise ClusterError("the scheduling is set before the first fork, and stays")
        if given.get("ready", "online") not in READY:
            raise ClusterError(f"ready is one of {', '.join(READY)}")
        if isinstance(given.get("script"), (str, os.PathLike)):
            given["script"] = [os.fspath(given["script"])]
        self.given = MappingProxyType({**self.given, **given})

    @property
    def ready_states(self) -> tuple[str, ...]:
        """The states of a worker that counts as started."""
        return READY[self.given.get("ready", "listening")]

    def config(self) -> Config:
        """Return what a mold is started with. Raises `ClusterError`."""
        own = command_line.script()
        script = self.given.get("script") or own
        if not script:
            raise ClusterError(
                "this program is no file that workers could run; name one: setup_master"
            )
        wanted = self.given.get("scheduling") or os.environ.get(SCHEDULING_VARIABLE)
        scheduling = _check_scheduling(wanted) if wanted else "round-robin"
        return Config(
            name=command_line.name(own or script),
            source="setup_master",
            script=tuple(script) + tuple(self.given.get("args", sys.argv[1:])),
            script_folder="" if "cwd" in self.given or script != own else command_line.folder(),
            interpreter_options=_interpreter_options(),
            directory=Path(self.given.get("cwd", ".")).absolute(),
            listen=(),
            listen_given=False,
            workers=cpus.usable(),
            ready_workers=1,
            scheduling=scheduling,
            heartbeat_timeout_s=0,
            drain_timeout_s=float(self.given.get("drain_timeout_s", 30.0)),
        )


def _interpreter_options() -> tuple[str, ...]:
    """Return the options of this interpreter, `-O` or `-X dev`, for those of the workers."""
    # Private, and what multiprocessing has for the same purpose.
    options: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    if getattr(sys.__stdout__, "write_through", False):
        options.append("-u")
    return tuple(options)


def _check_scheduling(wanted: str) -> Scheduling:
    for known in ("round-robin", "shared"):
        if wanted == known:
            return known
    raise ClusterError(f"there is no scheduling {wanted!r}; known are round-robin and shared")

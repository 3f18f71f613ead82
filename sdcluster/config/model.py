"""What one app's configuration is, once it is complete and valid."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from sdcluster.config import routing
from sdcluster.config.address import Address

MAX_WORKERS = 1024
MAX_REPLAY_KB = 128
MAX_WEIGHT = 100
DEFAULT_LISTEN = "127.0.0.1:8000"

Scheduling = Literal["round-robin", "least-connections", "least-latency", "shared", "reuseport"]
DISPATCHED = ("round-robin", "least-connections", "least-latency")
"""Where the master accepts, and gives each connection to a worker."""
Interface = Literal["auto", "asgi", "wsgi"]
ExecReady = Literal["notify", "started"]
Replay = Literal["idempotent", "all", "never"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """One app's configuration, complete and valid. Times in seconds; 0 is off for a limit."""

    name: str
    source: str
    """What messages call it: the file, or `command line`."""
    app: str = ""
    agent: str = ""
    """The function of the agent, `MODULE:FUNCTION`; empty when there is none."""
    exec: tuple[str, ...] = ()
    exec_ready: ExecReady = "notify"
    script: tuple[str, ...] = ()
    """A program that uses the library: `FILE` or `-m`, `MODULE`; then its arguments."""
    script_folder: str = ""
    """Where its module is looked for first; empty for `directory`."""
    interpreter_options: tuple[str, ...] = ()
    """For such a program: what its own interpreter was started with, `-O` say."""
    interface: Interface = "auto"
    directory: Path
    venv: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    listen: tuple[Address, ...]
    listen_given: bool
    """Whether the user named the addresses; else they are the default."""
    workers: int
    ready_workers: int
    scheduling: Scheduling
    weights: tuple[int, ...] = ()
    """By slot; 1 for those beyond."""
    rebalance: bool = False
    preload: bool = True
    threads: int = 4
    ready_timeout_s: float = 60.0
    drain_timeout_s: float = 30.0
    heartbeat_timeout_s: float = 30.0
    request_timeout_s: float = 0.0
    reload_probation_s: float = 0.2
    max_requests: int = 0
    max_requests_jitter: int = 0
    max_lifetime_s: float = 0.0
    max_memory_mb: int = 0
    max_connections: int = 0
    crash_recovery: bool = True
    replay: Replay = "idempotent"
    replay_max_kb: int = 64
    sticky: routing.Sticky | None = None
    shard: routing.Shard | None = None
    handoff_timeout_s: float = 1.0
    proxy_protocol: bool = False
    proxy_allow_ips: tuple[str, ...] = ("127.0.0.0/8", "::1/128", routing.UNIX)
    access_log: bool = False
    forwarded_allow_ips: str = ""
    root_path: str = ""

    @property
    def is_command(self) -> bool:
        """Whether the workers are a command of the user's choice, and no Python app."""
        return bool(self.exec)

    @property
    def is_dispatched(self) -> bool:
        """Whether the master accepts, and gives each connection to a worker."""
        return self.scheduling in DISPATCHED


def python(config: Config) -> str:
    """Return the interpreter that runs the app."""
    # Not resolved: the link in the virtualenv is what makes it the virtualenv's.
    return str(config.venv / "bin" / "python") if config.venv else sys.executable

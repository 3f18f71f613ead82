"""The servers compared: how each is started and how it is told to reload. A table, no logic."""

import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path


class Kind(Enum):
    """What a server runs; the value is its hello app."""

    ASGI = "hello_asgi:app"
    WSGI = "hello_wsgi:app"
    NODE = "server.js"
    LIBRARY = "messages"


FASTAPI = "hello_fastapi:app"
WSGI_THREADS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """One start of a server."""

    app: str
    workers: int
    port: int
    name: str
    """Unique among the instances of this run."""
    apps: Path
    """Where the apps are."""
    tools: Path
    """What `toolchain` has installed."""

    @property
    def address(self) -> str:
        """Where to listen."""
        return f"127.0.0.1:{self.port}"

    def tool(self, name: str) -> str:
        """Return the path of a command of the virtualenv."""
        return str(self.tools / "venv" / "bin" / name)

    @property
    def pm2(self) -> str:
        """The path of PM2."""
        return str(self.tools / "node" / "node_modules" / ".bin" / "pm2")


Command = Callable[[Launch], list[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A row of the tables."""

    name: str
    kind: Kind
    command: Command
    reload: Command | signal.Signals
    """A command that returns when it is done, or a signal for the first process."""
    environment: Mapping[str, str] = field(default_factory=dict)
    fewest_workers: int = 1
    """Workers from which on it has any beside its first process."""


def sdcluster(scheduling: str, *, config: str = "") -> Server:
    """Return sdcluster with the app of the launch, or what a config among the apps says."""

    def command(launch: Launch) -> list[str]:
        what = ["--config", str(launch.apps / config)] if config else [launch.app]
        return [
            *(launch.tool("python"), "-m", "sdcluster", "run", *what),
            *("--workers", str(launch.workers), "--listen", launch.address),
            *("--scheduling", scheduling, "--directory", str(launch.apps)),
            *("--name", launch.name),
        ]

    def reload(launch: Launch) -> list[str]:
        return [launch.tool("python"), "-m", "sdcluster", "reload", launch.name]

    return Server(name=f"sdcluster {scheduling}", kind=Kind.ASGI, command=command, reload=reload)


def _node(policy: str, name: str) -> Server:
    def command(launch: Launch) -> list[str]:
        return ["node", str(launch.apps / "cluster.js")]

    return Server(
        name=name,
        kind=Kind.NODE,
        command=command,
        reload=signal.SIGUSR2,
        environment={"NODE_CLUSTER_SCHED_POLICY": policy},
    )


def _pm2(launch: Launch) -> list[str]:
    script = str(launch.apps / launch.app)
    return [launch.pm2, "start", script, "-i", str(launch.workers), "--no-daemon"]


def _pm2_reload(launch: Launch) -> list[str]:
    return [launch.pm2, "reload", "all"]


def _uvicorn(launch: Launch) -> list[str]:
    return [
        *(launch.tool("uvicorn"), launch.app, "--workers", str(launch.workers)),
        *("--host", "127.0.0.1", "--port", str(launch.port)),
        *("--no-access-log", "--log-level", "warning"),
    ]


def _gunicorn(*options: str) -> Command:
    def command(launch: Launch) -> list[str]:
        return [
            *(launch.tool("gunicorn"), launch.app, "--workers", str(launch.workers)),
            *("--bind", launch.address, "--no-control-socket", *options),
        ]

    return command


def _granian(interface: str, *options: str) -> Command:
    def command(launch: Launch) -> list[str]:
        return [
            *(launch.tool("granian"), launch.app, "--interface", interface),
            *("--workers", str(launch.workers), "--host", "127.0.0.1"),
            *("--port", str(launch.port), "--respawn-failed-workers", *options),
        ]

    return command


def _library(launch: Launch) -> list[str]:
    return [launch.tool("python"), str(launch.apps / f"{launch.app}.py")]


def _node_library(launch: Launch) -> list[str]:
    return ["node", str(launch.apps / f"{launch.app}.js")]


SERVERS = (
    sdcluster("round-robin"),
    sdcluster("shared"),
    sdcluster("reuseport"),
    _node("rr", "node cluster round-robin"),
    _node("none", "node cluster os"),
    Server(name="pm2", kind=Kind.NODE, command=_pm2, reload=_pm2_reload),
    Server(
        name="uvicorn",
        kind=Kind.ASGI,
        command=_uvicorn,
        reload=signal.SIGHUP,
        fewest_workers=2,
    ),
    Server(
        name="gunicorn uvicorn",
        kind=Kind.ASGI,
        command=_gunicorn("--worker-class", "uvicorn_worker.UvicornWorker"),
        reload=signal.SIGHUP,
    ),
    Server(
        name="gunicorn gthread",
        kind=Kind.WSGI,
        command=_gunicorn("--worker-class", "gthread", "--threads", str(WSGI_THREADS)),
        reload=signal.SIGHUP,
    ),
    Server(name="sdcluster messages", kind=Kind.LIBRARY, command=_library, reload=signal.SIGHUP),
    Server(
        name="node cluster messages",
        kind=Kind.LIBRARY,
        command=_node_library,
        reload=signal.SIGHUP,
    ),
    Server(name="granian asgi", kind=Kind.ASGI, command=_granian("asgi"), reload=signal.SIGHUP),
    Server(
        name="granian wsgi",
        kind=Kind.WSGI,
        command=_granian("wsgi", "--blocking-threads", str(WSGI_THREADS)),
        reload=signal.SIGHUP,
    ),
)

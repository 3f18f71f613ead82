"""What is served: one value of each option, and the files that say so. Pure but for `write`."""

import json
import shutil
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

APP = Path(__file__).resolve().parent / "app.py"
WORKERS = 3
MISSING = 'raise ImportError("not here")\n'
"""A module that is not installed."""
PATH_NUMBER = 1
"""The segment of the path that is the key."""


class Routing(StrEnum):
    """Whose a request is."""

    ANYBODYS = "anybody's"
    COOKIE = "sticky cookie"
    CLIENT = "sticky client-ip"
    BY_HEADER = "shard header"
    BY_PATH = "shard path"
    BY_QUERY = "shard query"
    BY_COOKIE = "shard cookie"
    BY_FUNCTION = "shard function"


class Client(StrEnum):
    """Who says who the client is."""

    PEER = "peer"
    PROXY = "PROXY protocol"
    FORWARDED = "X-Forwarded-For"


class Faults(StrEnum):
    """What happens meanwhile."""

    NONE = "nothing"
    KILLS = "kills"
    KEEPERS = "keepers killed"
    MOLDS = "molds killed"
    RELOADS = "reloads"
    SCALING = "scaling"
    ENDS = "workers ended"
    ALL = "all faults"


OPTIONS: dict[str, tuple[object, ...]] = {
    "scheduling": ("round-robin", "least-connections", "least-latency", "shared", "reuseport"),
    "routing": tuple(Routing),
    "faults": tuple(Faults),
    "client": tuple(Client),
    "family": ("tcp", "unix"),
    "parser": ("httptools", "h11"),
    "loop": ("uvloop", "asyncio"),
    "interface": ("asgi", "wsgi"),
    "preload": (True, False),
    "root_path": ("", "/api"),
    "limits": ("none", "max_connections", "max_requests", "rebalance"),
}
"""What there is to choose; the names are those of the fields of `Configuration`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """One value of each option."""

    scheduling: str = "round-robin"
    routing: Routing = Routing.ANYBODYS
    faults: Faults = Faults.NONE
    client: Client = Client.PEER
    family: str = "tcp"
    parser: str = "httptools"
    loop: str = "uvloop"
    interface: str = "asgi"
    preload: bool = True
    root_path: str = ""
    limits: str = "none"

    def __str__(self) -> str:
        parts = [self.scheduling, self.routing, self.faults, self.client, self.family]
        parts += [self.parser, self.loop, self.interface]
        parts += [] if self.preload else ["no preload"]
        parts += [one for one in (self.root_path, self.limits) if one and one != "none"]
        return ", ".join(parts)

    @property
    def is_routed(self) -> bool:
        """Whether a request may be one certain worker's."""
        return self.routing is not Routing.ANYBODYS


_LIMITS = {
    "none": "",
    "max_connections": "max_connections = 24\n",
    "max_requests": "max_requests = 150\nmax_requests_jitter = 50\n",
    "rebalance": "rebalance = true\n",
}
_ROUTING = {
    Routing.ANYBODYS: "",
    Routing.COOKIE: 'sticky = "cookie"\n',
    Routing.CLIENT: 'sticky = "client-ip"\n',
    Routing.BY_HEADER: 'shard = { by = "header:X-Key" }\n',
    Routing.BY_PATH: f'shard = {{ by = "path:{PATH_NUMBER}" }}\n',
    Routing.BY_QUERY: 'shard = { by = "query:key" }\n',
    Routing.BY_COOKIE: 'shard = { by = "cookie:key" }\n',
    Routing.BY_FUNCTION: 'shard = "app:key"\n',
}
_CLIENT = {
    Client.PEER: "",
    Client.PROXY: "proxy_protocol = true\n",
    Client.FORWARDED: 'forwarded_allow_ips = "*"\n',
}


def text(config: Configuration, executions: Path, address: str) -> str:
    """Return the configuration file of an app that writes executions down in a file."""
    attribute = "app" if config.interface == "asgi" else "application"
    root_path = f'root_path = "{config.root_path}"\n' if config.root_path else ""
    # Not for requests that belong to somebody: the configuration refuses it.
    limits = "" if config.is_routed and config.limits == "rebalance" else _LIMITS[config.limits]
    return (
        f'app = "app:{attribute}"\n'
        f'interface = "{config.interface}"\n'
        f"listen = {json.dumps(address)}\n"
        f"workers = {WORKERS}\n"
        f'scheduling = "{config.scheduling}"\n'
        f"preload = {'true' if config.preload else 'false'}\n"
        f"environment = {{ FUZZ_EXECUTIONS = {json.dumps(str(executions))} }}\n"
        "reload_probation_s = 0.05\n"
        "drain_timeout_s = 20\n"
        f"{_ROUTING[config.routing]}{_CLIENT[config.client]}{root_path}{limits}"
    )


def write(
    config: Configuration, folder: Path, name: str, *, app: str = "", extra: str = ""
) -> Path:
    """Write all files into a folder; return that of the executions.

    `app` is another source, `extra` more of the configuration.
    """
    executions = folder / "executions"
    executions.touch()
    address = str(folder / "sock") if config.family == "unix" else "127.0.0.1:0"
    (folder / f"{name}.toml").write_text(text(config, executions, address) + extra)
    if app:
        (folder / "app.py").write_text(app)
    else:
        shutil.copy(APP, folder / "app.py")
    if config.parser == "h11":
        (folder / "httptools.py").write_text(MISSING)
    if config.loop == "asyncio":
        (folder / "uvloop.py").write_text(MISSING)
    return executions

"""The mold channel: one JSON object a frame, over `AF_UNIX SOCK_SEQPACKET`.

Master to mold: `Prepare` once, then `Fork` for each worker (its descriptors attached).
Mold to master: `Prepared` or `PrepareFailed` once, then `Forked` or `ForkFailed` for each `Fork`.

A mold is started from the files that are installed then, which may be of another version than the
master that runs. So `protocol` in `Prepare`, and `PrepareFailed`, are for all versions.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeAlias, get_args, get_origin, get_type_hints

from sdcluster.errors import ProtocolError

PROTOCOL = 9
"""The version of this module: one more with every change of a frame."""
UPGRADED = (
    "sdcluster was upgraded since this instance was started; restart it "
    "(systemctl restart sdcluster@NAME)"
)
MAX_FRAME_BYTES = 128 * 1024
MAX_DETAIL_CHARS = 16 * 1024

Interface = Literal["asgi", "wsgi", "exec", "script"]

ENGINE_PACKAGES = (
    *("uvicorn", "h11", "click", "httptools", "uvloop", "a2wsgi", "websockets"),
    *("wsproto", "typing_extensions", "asgiref"),
)
"""What a mold may take from `Prepare.engine_path`: the HTTP engine and what it imports."""
CACHE_PACKAGES = ("lmdb", "redis", "async_timeout", "deprecated", "wrapt", "packaging")
"""And what `sdcluster.cache` imports, with what Debian's redis-py does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepare:
    """Load the app. Everything a generation is made of, but its environment and directory."""

    name: str
    generation: int
    protocol: int = PROTOCOL
    app: str = ""
    """`module:attribute` or `module:factory()`; empty for a command."""
    agent: str = ""
    """`module:function` for the agent; empty when there is none."""
    interface: str = "auto"
    """`auto`, `asgi`, `wsgi`, `exec` or `script`."""
    command: tuple[str, ...] = ()
    script: tuple[str, ...] = ()
    """A program that each worker runs as `python` would: `FILE` or `-m`, `MODULE`; arguments."""
    script_folder: str = ""
    """Where its module is looked for first; empty for the folder that workers are in."""
    exec_ready: str = "notify"
    """For a command: ready at READY=1 (`notify`), or once it runs (`started`)."""
    preload: bool = True
    """Import the app before the fork (shared memory), or in each worker after it."""
    trial: bool = False
    """Import the app in any case: whether it loads is all that is asked."""
    threads: int = 1
    """Threads for WSGI."""
    access_log: bool = False
    forwarded_allow_ips: str = ""
    root_path: str = ""
    max_connections: int = 0
    """Open connections a worker may have when it accepts itself; 0 is no limit."""
    crash_recovery: bool = False
    """Each worker has a keeper, which holds its connections when it dies."""
    replay: str = "idempotent"
    """Which requests go to another worker when theirs dies: `idempotent`, `all` or `never`."""
    replay_max_kb: int = 64
    """KiB of a request that are kept for that."""
    sticky: str = ""
    """What keeps a client with its worker: `cookie` or `client-ip`; empty when nothing does."""
    cookie_name: str = ""
    cookie_attributes: str = ""
    cookie_secure: str = ""
    cookie_secret: str = ""
    """What it is signed with: hexadecimal digits."""
    shard_by: str = ""
    """What of a request is its key."""
    shard_function: str = ""
    """`module:function` that tells its key."""
    handoff_timeout_s: float = 1.0
    """How long a request that is for another worker waits for room in the channel to the master."""
    proxies: tuple[str, ...] = ()
    """Networks of the peers whose connections begin with the PROXY protocol; and `unix`."""
    heartbeat_interval_s: float = 1.0
    drain_timeout_s: float = 30.0
    track_requests: bool = False
    """Keep OLDEST_REQUEST_NS on the scoreboard; costs a little per request."""
    track_latency: bool = False
    """Keep how long answers take there; costs a little per request, too."""
    engine_path: tuple[str, ...] = ()
    """Where to find the HTTP engine when the app's own environment has none."""
    engine_python: str = ""
    """The Python, `3.11`, that engine_path is for."""
    listener_names: tuple[str, ...] = ()
    """A name for each listener that workers are given, as in LISTEN_FDNAMES."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fork:
    """Fork a worker.

    Attached: its control channel, its scoreboard, for Python its message channel, its listeners.
    """

    worker: int
    slot: int
    agent: bool = False
    """It is not to serve, but to be the agent."""
    notify_socket: str = ""
    """For a command: the path of its NOTIFY_SOCKET."""
    watchdog_usec: int = 0
    """For a command: WATCHDOG_USEC, 0 for none."""
    environment: tuple[str, ...] = ()
    """`NAME=VALUE`, over what the mold has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """The mold can fork workers now."""

    interface: Interface
    """What the app is: told by the app itself when `Prepare` said `auto`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareFailed:
    """The app did not load."""

    reason: str
    detail: str = ""
    """The traceback, if the app raised one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forked:
    """The worker runs. It is the master's child by now, as its parent in between has exited."""

    worker: int
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ForkFailed:
    """The worker could not be forked."""

    worker: int
    reason: str


_AGENT = b'"agent": true'
"""No text in a frame has it: there, quotation marks have a backslash before them."""

Order: TypeAlias = Prepare | Fork
Report: TypeAlias = Prepared | PrepareFailed | Forked | ForkFailed

_HINTS: Mapping[type, Mapping[str, Any]] = {
    kind: get_type_hints(kind) for kind in (*get_args(Order), *get_args(Report))
}


def encode(frame: Order | Report) -> bytes:
    """Serialize a frame. Raises `ProtocolError` if it is larger than the channel takes."""
    text = json.dumps({"kind": type(frame).__name__, **asdict(frame)}, ensure_ascii=False)
    data = text.encode("utf-8", "surrogatepass")  # A path need not be UTF-8, see os.fsdecode.
    if len(data) > MAX_FRAME_BYTES:
        raise ProtocolError(f"{type(frame).__name__} frame of {len(data)} bytes")
    return data


def decode_order(data: bytes) -> Order:
    """Read a frame from the master. Raises `ProtocolError`, with `UPGRADED` for another version."""
    frame = _decode(data, (Prepare, Fork))
    assert isinstance(frame, (Prepare, Fork))
    return frame


def is_for_agent(data: bytes) -> bool:
    """Tell whether an order, as `encode` has written it, is one to fork the agent.

    For a process that is to have little memory: to decode it takes some.
    """
    return _AGENT in data


def decode_report(data: bytes) -> Report:
    """Read a frame from a mold, its texts fit for the journal. Raises `ProtocolError`."""
    frame = _decode(data, (Prepared, PrepareFailed, Forked, ForkFailed))
    assert isinstance(frame, (Prepared, PrepareFailed, Forked, ForkFailed))
    texts: dict[str, Any] = {
        name: value.encode("utf-8", "replace").decode()
        for name, value in asdict(frame).items()
        if isinstance(value, str)
    }
    return replace(frame, **texts)


def _decode(data: bytes, kinds: tuple[type, ...]) -> object:
    if len(data) > MAX_FRAME_BYTES:
        raise ProtocolError(f"frame of more than {MAX_FRAME_BYTES} bytes")
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("frame is not JSON") from error
    if not isinstance(values, dict):
        raise ProtocolError("frame is not a JSON object")
    name = values.pop("kind", None)
    if name == Prepare.__name__ and values.get("protocol") != PROTOCOL:
        raise ProtocolError(UPGRADED)
    for kind in kinds:
        if kind.__name__ == name:
            return _made(kind, values)
    raise ProtocolError(f"unknown frame {str(name)[:40]!r}")


def _made(kind: type, values: dict[str, Any]) -> object:
    hints = _HINTS[kind]
    unknown = values.keys() - hints.keys()
    if unknown:
        raise ProtocolError(f"{kind.__name__}: unknown field {min(unknown)[:40]!r}")
    checked = {name: _value(kind, name, hints[name], value) for name, value in values.items()}
    try:
        return kind(**checked)
    except TypeError as error:
        raise ProtocolError(f"{kind.__name__}: a field is missing") from error


def _value(kind: type, name: str, hint: object, value: object) -> object:
    if type(value) is hint:
        return value
    if hint is float:
        if type(value) is int and abs(value) <= 2**53:
            return float(value)
    elif get_origin(hint) is tuple:
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
    elif get_origin(hint) is Literal and value in get_args(hint):
        return value
    raise ProtocolError(f"{kind.__name__}: {name} has a value of the wrong type")

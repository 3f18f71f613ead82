"""A cluster in one file, as Node's `cluster` has it: the same script is the master and each worker.

    from sdcluster import cluster

    if cluster.is_master:
        for _ in range(4):
            cluster.fork()
        cluster.run()
    else:
        ...  # cluster.listen("127.0.0.1:8000") is a socket that all workers share

The workers and the agent of a service use the same names; what is for the master alone is a
`ClusterError` there.
"""

import asyncio
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from sdcluster.config import address as addresses
from sdcluster.errors import AppError, ClusterError
from sdcluster.worker.messages import side

if TYPE_CHECKING:
    from sdcluster.master.program.peer import Worker
    from sdcluster.master.program.primary import Primary
    from sdcluster.worker.messages.agent import Agent, Peer
    from sdcluster.worker.messages.member import Member
    from sdcluster.worker.service.service import AgentPeer, ServiceMember

    is_master: bool
    is_primary: bool
    is_worker: bool
    is_agent: bool
    agent: AgentPeer
    worker: Member | None
    workers: dict[int, Worker] | dict[int, Peer]
    settings: Mapping[str, Any]

__all__ = [  # Without those that not every process has: agent, settings and workers.
    "ClusterError",
    "aserve",
    "broadcast",
    "disconnect",
    "every",
    "fork",
    "is_agent",
    "is_master",
    "is_primary",
    "is_worker",
    "listen",
    "off",
    "on",
    "on_message",
    "on_request",
    "on_signal",
    "once",
    "owner",
    "owns",
    "run",
    "serve",
    "setup_master",
    "worker",
]

H = TypeVar("H", bound=Callable[..., Any])
Address: TypeAlias = str | int | tuple[str, int] | os.PathLike[str]

_primary: "Primary | None" = None


def __getattr__(name: str) -> Any:
    match name:
        case "is_worker":
            return side.member is not None
        case "is_agent":
            return side.agent is not None
        case "is_master" | "is_primary":
            return side.member is None and side.agent is None
        case "worker":
            return side.member
        case "agent":
            return _agent()
        case "workers":
            return (side.agent or _master("workers")).workers
        case "settings":
            return _master("settings").settings
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _agent() -> "AgentPeer":
    if side.member is None:
        raise ClusterError("agent is for the workers of a service")
    found: AgentPeer = side.member.agent
    return found


def _here(what: str) -> "Member | Agent | Primary":
    return side.member or side.agent or _master(what)


def _master(what: str) -> "Primary":
    global _primary
    if side.member is not None:
        raise ClusterError(f"{what} is for the master, and this is {side.member.name}")
    if side.agent is not None:
        raise ClusterError(f"{what} is for the master, and this is the agent")
    if _primary is None:
        from sdcluster.master.program.primary import Primary

        _primary = Primary()
    return _primary


def setup_master(
    *,
    script: str | os.PathLike[str] | Sequence[str] | None = None,
    args: Sequence[str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    scheduling: str | None = None,
    drain_timeout_s: float | None = None,
    ready: str | None = None,
) -> None:
    """Change what later forks are made of; what is not named stays as it is.

    `script` is the program of the workers, a file or `-m` and a module; `args` are its arguments.
    `scheduling` is `round-robin` or `shared`, and stays from the first fork on; where the program
    does not set it, SDCLUSTER_SCHEDULING does. A worker that leaves has `drain_timeout_s`, 30 by
    default.
    `ready` is what a worker has to be for the service to count as started: `listening`, or
    `online` for programs that do not listen. Raises `ClusterError` for what cannot be set, and in a
    worker.
    """
    _master("setup_master").setup(
        script=script,
        args=args,
        cwd=cwd,
        scheduling=scheduling,
        drain_timeout_s=drain_timeout_s,
        ready=ready,
    )


def fork(env: Mapping[str, str] | None = None) -> "Worker":
    """Start a worker, which runs the same script. `env` is added to its environment.

    Raises `ClusterError` in a worker.
    """
    return _master("fork").fork(env)


def run() -> None:
    """Run the master until no worker is left; SIGTERM and SIGINT have the workers leave first."""
    _master("run").run()


def on(event: str) -> Callable[[Any], Any]:
    """Return a decorator for a handler, a function or a coroutine function, of an event.

    Of the master's: `setup`, `fork`, `online`, `listening`, `message`, `disconnect`, `exit`; of the
    agent's `message`, `online`, `disconnect`. Each is given the worker, and then what there is to
    it: `listening` the address, `message` the message, `exit` the exit status and the signal's
    name, of which one is None; `setup` is given the settings alone. Of a worker's: `message`,
    `disconnect`; in a service `message`. Raises ValueError for others.

    A handler of `message` that takes one argument more is given the socket that came with
    the message, and owns it; where it has to have that argument, it is None for other messages. A
    socket that no handler takes is closed.
    """
    return _here("on").on(event)


def once(event: str) -> Callable[[Any], Any]:
    """Return a decorator as `on` does, for a handler that is called a single time."""
    return _here("once").on(event, once=True)


def off(event: str, handler: Callable[..., Any]) -> None:
    """Call a handler no more. Harmless when it is none."""
    _here("off").off(event, handler)


def on_message(handler: H) -> H:
    """Call a handler for each message: `on("message")` as a decorator."""
    _here("on_message").on("message")(handler)
    return handler


def on_request(handler: H) -> H:
    """Answer requests with what a handler returns, a function or a coroutine function. A decorator.

    The handler is given the message, in the master and in the agent the worker before it. What it
    raises reaches the one that asked as a `ClusterError`.
    """
    _here("on_request").on_request(handler)
    return handler


def on_signal(number: int) -> Callable[[H], H]:
    """Return a decorator for what the master is to do when it gets a signal, say SIGUSR2.

    It runs as handlers of events do. Raises ValueError for SIGTERM and SIGINT, which end the
    cluster, and `ClusterError` in a worker.
    """

    def add(function: H) -> H:
        _master("on_signal").on_signal(number, function)
        return function

    return add


def every(seconds: float) -> Callable[[H], H]:
    """Return a decorator for what the master, or the agent, is to do every so many seconds.

    A time that comes while a coroutine of the time before still runs is left out. Raises ValueError
    when `seconds` is no time to wait, and `ClusterError` in a worker.
    """

    def add(function: H) -> H:
        (side.agent or _master("every")).every(seconds, function)
        return function

    return add


def broadcast(message: Any, *, everywhere: bool = False) -> bool:
    """Send every worker a message; False when one of them is slow to read.

    A worker may do that too, and gets it as the others do. `everywhere` is to the workers of all
    machines that have the instance's name and share its cache, in Redis or Valkey; those that are
    not connected to that at the moment miss it. Raises `ClusterError` when it cannot be sent, or
    one of the master's workers takes no more; all others have it then.
    """
    return _here("broadcast").broadcast(message, everywhere=everywhere)


def disconnect() -> "asyncio.Future[None]":
    """Have every worker leave: no more connections, and an exit when those there are have ended.

    What is returned can be awaited in a handler: it is done when all of them have left.
    """
    return _master("disconnect").disconnect()


def listen(
    address: Address = "",
    *,
    name: str = "",
    backlog: int = socket.SOMAXCONN,
    exclusive: bool = False,
    reuse_port: bool = False,
    ipv6_only: bool | None = None,
    max_connections: int = 0,
    datagrams: bool = False,
) -> socket.socket:
    """Return a socket that listens, the same for all workers that ask for the address.

    `address` is a port (of every address of the machine), `HOST:PORT`, `[V6]:PORT`, a path or a
    tuple of host and port. With port 0 the n-th call gets the same port in each worker. A path may
    be relative to the folder that this process is in: a `Path`, or text with a slash, `unix:NAME`
    or `NAME.sock`.
    `exclusive` is a socket for this worker alone. A worker that has `max_connections` of it open
    gets no more of them, others do, each by its own limit, and while all are full clients wait; 0
    is no limit. With `datagrams` it is a socket that is bound, for `recvfrom` or
    `create_datagram_endpoint`, and each datagram comes to one of the workers; with `reuse_port` as
    well each worker gets a socket of its own, and all datagrams of a client come to the same one.
    A socket that systemd has passed is taken where the address is its own, or by its `name`
    (FileDescriptorName=, systemd.socket(5)).

    When `close` has returned in the last worker that has it, the address is free; when workers end
    otherwise, clients wait for the next one.

    Raises ValueError for what is no address, OSError as bind(2) and listen(2) do, and
    `ClusterError` in the master.
    """
    if side.member is None:
        raise ClusterError("listen is for workers; the master accepts on their behalf")
    request = _request(
        address,
        name=name,
        backlog=backlog,
        exclusive=exclusive,
        reuse_port=reuse_port,
        ipv6_only=ipv6_only,
        max_connections=max_connections,
        datagrams=datagrams,
    )
    return side.member.listen(request)


def owner(key: str | bytes) -> int:
    """Return the slot that a key belongs to, of those of a service's workers: 0, 1, and so on.

    All workers agree on it, and few keys change hands when there is a slot more (rendezvous
    hashing). It is where the configuration's `shard` sends a request with that key. Raises
    `ClusterError` elsewhere than in a worker of a service that serves.
    """
    return _slotted("owner").owner(key)


def owns(key: str | bytes) -> bool:
    """Tell whether a key belongs to this worker's slot. Raises `ClusterError`, see `owner`."""
    return _slotted("owns").owns(key)


def _slotted(what: str) -> "ServiceMember":
    found: Any = side.member
    if not hasattr(found, "owner"):
        raise ClusterError(f"{what} is for the workers of a service")
    member: ServiceMember = found
    return member


def serve(
    app: Any,
    address: Address | list[Address],
    *,
    interface: str = "auto",
    threads: int = 4,
    max_connections: int = 0,
    access_log: bool = False,
    forwarded_allow_ips: str = "",
    root_path: str = "",
) -> None:
    """Serve an ASGI or WSGI app in a worker, until that is to leave and its requests are answered.

    It runs uvicorn on an event loop of its own, uvloop's where that is installed, and listens where
    `listen` would, once the app has started; `address` may be a list of several. When the worker is
    to leave, each connection gets one more answer, with `Connection: close`; what is open at the
    drain time-out is closed. Then the program goes on, and should end soon. `interface` is `auto`,
    `asgi` or `wsgi`; `threads` are for WSGI, `max_connections` is as for `listen`, the others are
    as in sdcluster.toml(5).

    Raises OSError when it cannot listen, and `ClusterError` when the app does not start, uvicorn or
    for WSGI a2wsgi is missing, or this is no worker of a program.
    """
    from sdcluster.worker.http.application import loop_factory

    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        serving = aserve(
            app,
            address,
            interface=interface,
            threads=threads,
            max_connections=max_connections,
            access_log=access_log,
            forwarded_allow_ips=forwarded_allow_ips,
            root_path=root_path,
        )
        runner.run(serving)


async def aserve(
    app: Any,
    address: Address | list[Address],
    *,
    interface: str = "auto",
    threads: int = 4,
    max_connections: int = 0,
    access_log: bool = False,
    forwarded_allow_ips: str = "",
    root_path: str = "",
) -> None:
    """As `serve`, on the event loop that runs."""
    if side.member is None:
        raise ClusterError("serve is for workers; the master accepts on their behalf")
    from sdcluster.worker.program import serving
    from sdcluster.worker.program.program_worker import ProgramMember

    if not isinstance(side.member, ProgramMember):
        raise ClusterError("the service serves for its workers: name the app in its configuration")
    where = address if isinstance(address, list) else [address]
    try:
        await serving.serve(
            serving.as_asgi(app, interface=interface, threads=threads),
            side.member,
            [_request(one, max_connections=max_connections) for one in where],
            access_log=access_log,
            forwarded_allow_ips=forwarded_allow_ips,
            root_path=root_path,
        )
    except AppError as error:
        raise ClusterError(str(error)) from None


def _request(
    address: Address,
    *,
    name: str = "",
    backlog: int = socket.SOMAXCONN,
    exclusive: bool = False,
    reuse_port: bool = False,
    ipv6_only: bool | None = None,
    max_connections: int = 0,
    datagrams: bool = False,
) -> Mapping[str, Any]:
    """Return what the master is asked for. Raises ValueError for what is no address."""
    return {
        "name": name,
        "address": "" if name else str(_parsed(address)),
        "backlog": backlog,
        "exclusive": exclusive,
        "reuse_port": reuse_port,
        "ipv6_only": ipv6_only,
        "max_connections": max_connections,
        "datagrams": datagrams,
    }


def _parsed(address: Address) -> addresses.Address:
    text = _text(address)
    path = addresses.relative_path(text)
    return addresses.seen_from_here(path) if path else addresses.parse(text)


def _text(address: Address) -> str:
    if isinstance(address, int):
        return f":{address}"
    if isinstance(address, tuple):
        host, port = address
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if isinstance(address, os.PathLike):
        return f"unix:{os.fsdecode(address)}"
    return address

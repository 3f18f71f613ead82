"""Serves an app in a program's worker, from its listeners until the worker is to leave."""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from sdcluster.worker.host import engine, loader
from sdcluster.worker.http.application import Application
from sdcluster.worker.http.gate import App, Gate
from sdcluster.worker.program.program_worker import ProgramMember
from sdcluster.worker.sockets.uvicorn_server import Server


def as_asgi(app: Any, *, interface: str, threads: int) -> App:
    """Return an app, which may be WSGI, as ASGI. Raises `AppError` when it is neither.

    Raises ValueError for an interface that is none.
    """
    if interface == "auto":
        interface = loader.interface_of(app)
    if interface not in ("asgi", "wsgi"):
        raise ValueError(f"interface is auto, asgi or wsgi, and not {interface!r}")
    asgi: App = app
    if interface == "wsgi":
        asgi = engine.wsgi_middleware()(app, workers=threads)
    return asgi


async def serve(
    app: App, member: ProgramMember, requests: Sequence[Mapping[str, Any]], **options: Any
) -> None:
    """Serve an ASGI app on the listeners that are asked for; `options` are of `Application`.

    Raises `AppError` when it cannot start, and OSError when it cannot listen.
    """
    engine.require()
    application = Application(Gate(app), **options)
    await application.start_up()
    loop = asyncio.get_running_loop()
    left = asyncio.Event()

    def leave() -> None:
        loop.call_soon_threadsafe(left.set)

    servers: list[Server] = []
    # Until it listens, a worker that is to leave is interrupted as any other.
    with contextlib.ExitStack() as stack:
        try:
            for request in requests:
                listener = await member.alisten(request)
                servers.append(Server(loop, listener, application.protocol_factory()))
                await servers[-1].start_serving()
            stack.enter_context(member.holding(leave))
            await left.wait()
            # They serve on: what the master has handed over is still to be taken.
            await application.drain(
                member.drain_timeout_s, has_others=lambda: any(one.is_arriving for one in servers)
            )
        except BaseException:
            for server in servers:
                server.close()
            await application.drain(0, has_others=lambda: any(one.is_arriving for one in servers))
            raise
        finally:
            for server in servers:
                server.close()
            await application.shut_down()

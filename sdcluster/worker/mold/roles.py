"""What a process becomes that a mold has forked: a worker, the agent, a command or a script."""

import asyncio
import contextlib
import functools
import logging
import mmap
import os
import socket
import sys
import traceback
from collections.abc import Sequence
from typing import Any, Literal, NoReturn, cast

from sdcluster.errors import AppError
from sdcluster.system.process import Label
from sdcluster.wire import frames
from sdcluster.wire.channel import QUARANTINE
from sdcluster.wire.scoreboard import SIZE_BYTES, Field, Scoreboard
from sdcluster.worker.host import engine, limits, loader, logs
from sdcluster.worker.http import routing
from sdcluster.worker.http.strays import Strays
from sdcluster.worker.http.turns import Pool, Turns
from sdcluster.worker.messages import agent, side
from sdcluster.worker.mold import command
from sdcluster.worker.mold.safety import Safety
from sdcluster.worker.moving.intake import tell
from sdcluster.worker.program import script
from sdcluster.worker.service import server
from sdcluster.worker.service.service import ServiceMember

EXIT_APP = 1
"""The exit status of a worker whose app does not start."""


def load_app(prepare: frames.Prepare) -> tuple[Any, Literal["asgi", "wsgi"]]:
    """Return the app and what it is. Raises `AppError`."""
    app = loader.load(prepare.app)
    if prepare.interface in ("asgi", "wsgi"):
        interface = cast(Literal["asgi", "wsgi"], prepare.interface)
    else:
        interface = loader.interface_of(app)
    if interface == "wsgi":
        engine.wsgi_middleware()
    return app, interface


def run_worker(
    app: Any,
    interface: str,
    prepare: frames.Prepare,
    order: frames.Fork,
    descriptors: Sequence[int],
    safety: Safety | None,
    *,
    master: int,
) -> NoReturn:
    """Be the worker, or the agent, in the child.

    `app` is None when it was not imported before the fork.
    """
    status = 0
    control = socket.socket(fileno=descriptors[0])
    try:
        _describe(prepare, order)
        if interface == "script":
            status = script.run(
                prepare.script,
                order,
                control,
                messages_fd=descriptors[2],
                folder=prepare.script_folder,
                drain_timeout_s=prepare.drain_timeout_s,
            )
        elif interface == "exec":
            command.execute(prepare, order, control, descriptors[2:], master=master)
        elif order.agent:
            _be_agent(prepare, control, descriptors)
        else:
            assert safety is not None
            _serve(app, interface, prepare, order, control, descriptors, safety)
    except AppError as error:
        if error.detail:
            sys.stderr.write(error.detail)
        tell(control, X_FAILED=str(error))
        status = EXIT_APP
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else EXIT_APP
    except BaseException as error:
        traceback.print_exc()
        tell(control, X_FAILED=traceback.format_exception_only(error)[-1])
        status = EXIT_APP
    finally:
        logging.shutdown()
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _describe(prepare: frames.Prepare, order: frames.Fork) -> None:
    fields = {
        "SDCLUSTER_INSTANCE": prepare.name,
        "SDCLUSTER_SLOT": "agent" if order.agent else str(order.slot),
        "SDCLUSTER_WORKER": str(order.worker),
        "SDCLUSTER_GENERATION": str(prepare.generation),
    }
    os.environ.update(fields)
    for line in order.environment:
        name, _, value = line.partition("=")
        os.environ[name] = value
    what, short = f"worker {order.slot}", f"w{order.slot}"
    if order.agent:
        what = short = "agent"
    elif order.slot <= QUARANTINE:
        what, short = "quarantine", "quar"
    title = f"sdcluster: {what} {prepare.name} gen {prepare.generation}"
    Label(title, f"sdcluster:{short}").show()
    if prepare.script:
        return  # What it logs, and where, is all its own.
    who = f"sdcluster[{prepare.name}] {'agent' if order.agent else f'worker {order.worker}'}"
    logs.set_up(fields, who, access_log=prepare.access_log)


def _be_agent(prepare: frames.Prepare, control: socket.socket, descriptors: Sequence[int]) -> None:
    # While it is imported, as in a mold that preloads: the handlers of an app are its workers'.
    function = loader.load_function(prepare.agent, "agent")
    side.member, side.agent = None, agent.Agent()
    logs.promote()
    agent.serve(
        function,
        prepare,
        side.agent,
        control=control,
        messages=socket.socket(fileno=descriptors[2]),
        board=Scoreboard(mmap.mmap(descriptors[1], SIZE_BYTES)),
    )


def _serve(
    app: Any,
    interface: str,
    prepare: frames.Prepare,
    order: frames.Fork,
    control: socket.socket,
    descriptors: Sequence[int],
    safety: Safety,
) -> None:
    safety.tell(control)
    board = Scoreboard(mmap.mmap(descriptors[1], SIZE_BYTES))
    if app is None:
        app, interface = load_app(prepare)
        limits.require_descriptors(like=control.fileno())
        logs.promote()
    if interface == "wsgi":
        app = engine.wsgi_middleware()(app, workers=prepare.threads)
        app.executor = Pool(prepare.threads, thread_name_prefix="WSGI")
        app = Turns(app, threads=prepare.threads)
    key: routing.KeyFunction | None = None
    if prepare.shard_function:
        key = loader.load_function(prepare.shard_function, "shard")
    slots = functools.partial(board.__getitem__, Field.SLOTS)
    is_quarantine = order.slot <= QUARANTINE
    if not is_quarantine:  # Which serves whatever it is given.
        app = routing.routed(
            app,
            routing.rule(prepare, order.slot, key),
            slot=order.slot,
            slots=slots,
            timeout_s=prepare.handoff_timeout_s,
            strays=Strays(board),
        )
    messages = socket.socket(fileno=descriptors[2])
    listeners = [socket.socket(fileno=fd) for fd in descriptors[3:]]
    member = side.member
    assert isinstance(member, ServiceMember)

    def join(loop: asyncio.AbstractEventLoop) -> None:
        member.join(order.worker, order.slot, slots, messages, control, loop)

    server.serve(
        app,
        prepare,
        control=control,
        listeners=listeners,
        board=board,
        ledger=safety.ledger(),
        keeper=safety.keeper,
        is_quarantine=is_quarantine,
        begins_late=interface == "wsgi",
        on_loop=join,
        flush=member.flush,
    )

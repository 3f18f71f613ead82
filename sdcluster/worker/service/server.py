"""A service's worker in Python: the app, the intake, the heartbeat, and the way to the end."""

import asyncio
import contextlib
import logging
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import cast

from sdcluster.wire.frames import Prepare
from sdcluster.wire.proxy_protocol import Trust
from sdcluster.wire.scoreboard import Field, Scoreboard
from sdcluster.worker.host import limits
from sdcluster.worker.http.application import Application, loop_factory
from sdcluster.worker.http.gate import App, Gate, Message, Receive, Send
from sdcluster.worker.http.latency import Timed
from sdcluster.worker.http.routing import Router
from sdcluster.worker.moving.exit import Exit
from sdcluster.worker.moving.intake import Intake
from sdcluster.worker.moving.keeper import Keeper
from sdcluster.worker.moving.ledger import Ledger
from sdcluster.worker.moving.movable import Moves
from sdcluster.worker.moving.refusals import Refusal
from sdcluster.worker.moving.replay import Policy
from sdcluster.worker.moving.signatures import Signatures

FLUSH_TIMEOUT_S = 1.0
"""How long the master may take to read the last messages of a worker."""

logger = logging.getLogger("sdcluster")


def serve(
    app: App,
    prepare: Prepare,
    *,
    control: socket.socket,
    listeners: Sequence[socket.socket],
    board: Scoreboard,
    ledger: Ledger,
    keeper: Keeper | None,
    is_quarantine: bool,
    begins_late: bool,
    on_loop: Callable[[asyncio.AbstractEventLoop], None],
    flush: Callable[[], Awaitable[None]],
) -> None:
    """Serve an ASGI app until the master says stop. Raises `AppError` if it does not start.

    `on_loop` is called in the loop, before the app is told that it starts. `flush` is called when
    all is done, to send what the app has said.
    """
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        on_loop(runner.get_loop())
        server = _Server(
            app,
            prepare,
            control,
            listeners,
            board,
            ledger,
            keeper,
            is_quarantine=is_quarantine,
            begins_late=begins_late,
        )
        runner.run(server.run(flush))


class _Server:
    def __init__(
        self,
        app: App,
        prepare: Prepare,
        control: socket.socket,
        listeners: Sequence[socket.socket],
        board: Scoreboard,
        ledger: Ledger,
        keeper: Keeper | None,
        *,
        is_quarantine: bool,
        begins_late: bool,
    ) -> None:
        self._app = app
        self._is_quarantine = is_quarantine
        self._has_worked: Callable[[], object] = lambda: None
        if is_quarantine:
            app = _telling(app, lambda: self._has_worked())
        self._begins_late = begins_late
        self._ledger = ledger
        self._keeper = keeper
        self._prepare = prepare
        self._control = control
        self._listeners = listeners
        self._board = board
        self._application = Application(
            Gate(
                Timed(app, board) if prepare.track_latency else app,
                board if prepare.track_requests else None,
            ),
            access_log=prepare.access_log,
            forwarded_allow_ips=prepare.forwarded_allow_ips,
            root_path=prepare.root_path,
        )
        self._ended = asyncio.Event()

    async def run(self, flush: Callable[[], Awaitable[None]]) -> None:
        loop, application = asyncio.get_running_loop(), self._application
        await application.start_up()
        limits.require_descriptors(like=self._control.fileno())
        limit = 1 if self._is_quarantine else self._prepare.max_connections
        replay = cast(Policy, self._prepare.replay)
        way_out = Exit(self._control)
        moves = Moves(
            self._ledger,
            way_out,
            replay=replay,
            signatures=Signatures(self._board, replay=replay),
            is_quarantine=self._is_quarantine,
            begins_late=self._begins_late,
            is_routed=isinstance(self._app, Router),
            proxies=Trust(self._prepare.proxies) if self._prepare.proxies else None,
            on_closed=lambda: intake.closed(),
            handoff_timeout_s=self._prepare.handoff_timeout_s,
            on_refused=self._refused,
        )
        intake = Intake(
            self._control,
            self._listeners,
            self._board,
            ledger=self._ledger,
            connection_factory=application.connection_factory(moves),
            connections=lambda: (
                application.busy if self._is_quarantine else application.connections
            ),
            max_connections=limit,
            on_finish=way_out.shut,
            on_hurry=application.hurry,
            on_move=application.move_some,
            on_end=self._ended.set,
        )
        # Two turns later: when the request's task has ended, and is known to have.
        self._has_worked = lambda: loop.call_soon(loop.call_soon, intake.closed)
        # It serves until the master has another in its place, or has heard SIGTERM as well.
        loop.add_signal_handler(signal.SIGTERM, lambda: intake.tell(X_WORN=1))
        if self._keeper is not None:
            loop.add_reader(self._keeper, self._has_lost_keeper, self._keeper, intake)
        beat = loop.create_task(self._beat(intake))
        # The app may block the loop before the task's first turn; that has to be seen as well.
        self._board[Field.HEARTBEAT_NS] = time.monotonic_ns()
        intake.tell(READY=1)
        await self._ended.wait()
        intake.stop_accepting()
        await application.drain(
            self._prepare.drain_timeout_s,
            has_others=lambda: intake.is_arriving or moves.is_awaited,
            moves=moves,
        )
        beat.cancel()
        await application.shut_down()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(flush(), FLUSH_TIMEOUT_S)

    def _refused(self, refusal: Refusal) -> None:
        if isinstance(self._app, Router):
            self._app.strays.refused(refusal)

    def _has_lost_keeper(self, keeper: Keeper, intake: Intake) -> None:
        """Be replaced by a worker that has one."""
        asyncio.get_running_loop().remove_reader(keeper)
        logger.warning("the keeper (pid %d) is dead: this worker is to be replaced", keeper.pid)
        intake.tell(X_WORN=1)

    async def _beat(self, intake: Intake) -> None:
        board, application = self._board, self._application
        interval_s = min(self._prepare.heartbeat_interval_s, 0.2 if intake.is_limited else 1.0)
        while True:
            board[Field.HEARTBEAT_NS] = time.monotonic_ns()
            board[Field.REQUESTS] = application.requests
            intake.count()
            intake.look_for_room()
            intake.look_for_leaks()
            await asyncio.sleep(interval_s)


def _telling(app: App, on_end: Callable[[], object]) -> App:
    """Return the app, which tells when a request has ended: also when its client had gone."""

    async def telling(scope: Message, receive: Receive, send: Send) -> None:
        try:
            await app(scope, receive, send)
        finally:
            on_end()

    return telling

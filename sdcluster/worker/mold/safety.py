"""What a worker has for the case that it dies: its ledger, and its keeper if it may have one."""

import logging
import socket
from typing import cast

from sdcluster.errors import reason_of
from sdcluster.system.process import Label
from sdcluster.wire.frames import Prepare
from sdcluster.wire.ledger import encode_head
from sdcluster.worker.moving import ledger
from sdcluster.worker.moving.intake import tell
from sdcluster.worker.moving.keeper import Keeper, Keeping
from sdcluster.worker.moving.ledger import Ledger
from sdcluster.worker.moving.replay import Policy


class Safety:
    """Made by the mold, once for all workers, and used up by each in a copy of its own.

    What is done here before the keeper runs is there once more in each keeper: so it is little.
    """

    def __init__(self, prepare: Prepare) -> None:
        self.keeper: Keeper | None = None
        self._layout = ledger.layout_for(prepare.replay_max_kb * 1024)
        self._size, self._head = self._layout.size, encode_head(self._layout)
        self._ledger_fd = -1
        self._keeping: Keeping | None = None
        self._failure: OSError | None = None
        if prepare.crash_recovery:
            title = f"sdcluster: keeper {prepare.name} gen {prepare.generation}"
            try:
                self._keeping = Keeping(
                    Label(title, "sdcluster:keep"),
                    self._layout,
                    replay=cast(Policy, prepare.replay),
                    drain_timeout_s=prepare.drain_timeout_s,
                )
            except OSError as error:
                self._failure = error

    def prepare(self) -> None:
        """Make the memory of the ledger, before the worker is forked. Raises OSError."""
        self._ledger_fd = ledger.memory(self._size, self._head)

    def start(self, control_fd: int) -> None:
        """Start the keeper, in the worker, before anything else is done there."""
        if self._keeping is not None:
            try:
                self.keeper = self._keeping.start(control_fd, self._ledger_fd)
            except OSError as error:
                self._failure = error

    def tell(self, control: socket.socket) -> None:
        """Say which keeper there is, or why there is none."""
        if self.keeper is not None:
            tell(control, X_KEEPER=self.keeper.pid)
        elif self._failure is not None:
            logging.getLogger("sdcluster").warning(
                "cannot start a keeper: %s; when this worker dies, its connections end with it",
                reason_of(self._failure),
            )

    def ledger(self) -> Ledger:
        """Return the worker's ledger. Raises OSError."""
        return Ledger(self._layout, self._ledger_fd)

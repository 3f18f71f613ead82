"""The keepers of the workers that have died, and the recovery of what each of them holds.

A keeper is its worker's child, and ours when that has ended. Which of the two ends is seen first is
not known: a worker whose threads are about to end may be seen after a keeper that was killed.
"""

import os
import signal
import socket
from collections.abc import Callable, Iterable

from sdcluster.core.states import is_quarantine
from sdcluster.master.connections.channels import Passage
from sdcluster.master.connections.recovery import Recovery, Summary
from sdcluster.master.processes.molds import send_signal
from sdcluster.master.processes.workers import WorkerProcess, is_child
from sdcluster.system.event_loop import EventLoop


class Keepers:
    """Those that hold something, or are to be collected."""

    def __init__(
        self,
        loop: EventLoop,
        *,
        is_ours: Callable[[socket.socket], bool],
        is_no_keeper: Callable[[int], bool],
        on_passage: Callable[[Passage], None],
        on_blame: Callable[[int], None],
        on_recovered: Callable[[WorkerProcess, Summary], None],
    ) -> None:
        """`is_no_keeper` tells whether a pid is that of a child of another kind.

        For the others see `Recovery`.
        """
        self._loop = loop
        self._is_ours = is_ours
        self._is_no_keeper = is_no_keeper
        self._on_passage = on_passage
        self._on_blame = on_blame
        self._on_recovered = on_recovered
        self._recoveries: dict[int, Recovery] = {}
        """By worker."""
        self._uncollected: dict[int, WorkerProcess] = {}
        """By the keeper's pid."""

    def recovery(self, process: WorkerProcess) -> Recovery | None:
        """Return the recovery of what a dead worker's keeper has; None when it has none."""
        if process.id in self._recoveries:
            return self._recoveries[process.id]
        if not process.keeper or not process.is_heard:
            return None
        if not is_child(process.keeper) or self._is_no_keeper(process.keeper):
            return None  # It would be ours by now, as all that a dead worker leaves.
        self._uncollected[process.keeper] = process
        return self._new_recovery(process)

    def _new_recovery(self, process: WorkerProcess) -> Recovery:
        def kill_keeper() -> None:
            if is_child(process.keeper):
                send_signal(process.keeper, signal.SIGKILL)

        def end(summary: Summary) -> None:
            del self._recoveries[process.id]
            self._on_recovered(process, summary)

        recovery = Recovery(
            self._loop,
            process.channel,
            is_quarantine=is_quarantine(process.slot),
            is_ours=self._is_ours,
            on_passage=self._on_passage,
            on_blame=self._on_blame,
            on_late=kill_keeper,
            on_end=end,
        )
        self._recoveries[process.id] = recovery
        return recovery

    def take_end(self, pid: int, workers: Iterable[WorkerProcess]) -> bool:
        """Take what the keeper of a dead worker, or of one of these, has sent before its end.

        Return False when the child that was collected is no keeper.
        """
        process = self._uncollected.pop(pid, None)
        if process is None:
            process = next((one for one in workers if one.keeper == pid), None)
            if process is None:
                return False
            if process.is_heard:
                # The worker has ended, if it has not lied: else its keeper were not our child.
                self._new_recovery(process)
        process.keeper = 0  # The pid may be somebody else's from now on.
        if process.id in self._recoveries:
            self._recoveries[process.id].keeper_is_gone()
        return True

    def close(self) -> None:
        """End all recoveries, and the keepers with them."""
        for recovery in self._recoveries.values():
            recovery.close()
        self._recoveries.clear()
        for pid in self._uncollected:
            if is_child(pid):
                send_signal(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        self._uncollected.clear()

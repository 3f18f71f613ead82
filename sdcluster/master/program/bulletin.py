"""What the master of a program tells the service manager: READY, STATUS, WATCHDOG, STOPPING.

The program need not know. It is ready when every worker that it has forked listens; a program whose
workers do not listen says so (`setup_master(ready="online")`).
"""

from collections import Counter
from collections.abc import Callable, Iterable

from sdcluster.master.host.systemd import ServiceManager
from sdcluster.system.event_loop import EventLoop

TICK_S = 1.0
READY = {"listening": ("listening",), "online": ("online", "listening")}
"""The states in which a worker counts as ready, by the setting."""


class Bulletin:
    """Tells how the workers are whenever that changes. `states` returns the state of each."""

    def __init__(
        self, manager: ServiceManager, loop: EventLoop, states: Callable[[], Iterable[str]]
    ) -> None:
        self.ready_states = READY["listening"]
        self._manager = manager
        self._loop = loop
        self._states = states
        self._is_ready = self._is_stopping = False
        self._restarts = 0

    def begin(self) -> None:
        """Tell from now on, and that the master lives, once a second or as often as is asked."""
        self.changed()
        self._tick()

    def _tick(self) -> None:
        self._manager.alive()
        interval_s = min(TICK_S, self._manager.watchdog_interval_s or TICK_S)
        self._loop.call_later(interval_s, self._tick)

    def crashed(self) -> None:
        """Count a worker that was lost."""
        self._restarts += 1

    def changed(self) -> None:
        """Tell how the workers are now."""
        counts = Counter(self._states())
        total = sum(counts.values())
        ready = sum(counts[state] for state in self.ready_states)
        if total and ready == total and not self._is_ready and not self._is_stopping:
            self._is_ready = True
            self._manager.ready()
        text = f"{ready}/{total} workers ready, {self._restarts} crashed"
        self._manager.status(f"{text}; stopping" if self._is_stopping else text)

    def stops(self) -> None:
        """The cluster ends."""
        if not self._is_stopping:
            self._is_stopping = True
            self._manager.stopping()
            self.changed()

    def close(self) -> None:
        """Release the socket."""
        self._manager.close()

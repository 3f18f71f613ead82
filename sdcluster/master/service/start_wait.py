"""The wait between two tries of a start: there is no cluster, but somebody who tells why.

systemd's sockets stay open, and clients wait in their backlogs; what a try has bound itself is
closed with it, and clients are refused until the next one. systemd is told that the start goes on,
`sdcluster status` is answered, and a changed configuration file ends the wait.
"""

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sdcluster.core.starts import Start, State
from sdcluster.master.host.loop import Loop
from sdcluster.master.service.api import Service
from sdcluster.master.service.chronicle import Chronicle
from sdcluster.master.service.control import Client, ControlServer
from sdcluster.wire import varlink

TICK_S = 1.0
"""How often systemd is told, and the configuration file is looked at."""

FileState = tuple[int, int, int]


def file_state(path: Path | None) -> FileState | None:
    """Return what changes when a file does; None when it cannot be looked at."""
    if path is None:
        return None
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_ino, found.st_size, found.st_mtime_ns)


class Waiting(Service):
    """One such wait."""

    def __init__(
        self,
        start: Start,
        reason: str,
        *,
        name: str,
        addresses: Sequence[str],
        loop: Loop,
        chronicle: Chronicle,
        control: ControlServer | None,
        watched: Path | None,
        seen: FileState | None,
    ) -> None:
        """`reason` is why the last try failed; `seen` is how the file `watched` was then."""
        super().__init__()
        self._methods |= {
            f"{varlink.INTERFACE}.Status": self._status,
            f"{varlink.INTERFACE}.Reload": self._reload,
            f"{varlink.INTERFACE}.Scale": self._scale,
        }
        self._start = start
        self._reason = reason
        self._name = name
        self._addresses = addresses
        self._loop = loop
        self._chronicle = chronicle
        self._control = control
        self._watched = watched
        self._seen = seen
        self._stopped = False

    def run(self) -> bool:
        """Wait until the next try is due. Return False when a signal has ended the start."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.on_signal(number, self._stop)
        for number in (signal.SIGHUP, signal.SIGUSR2):
            self._loop.on_signal(number, self._try_now)
        for number in (signal.SIGTTIN, signal.SIGTTOU, signal.SIGUSR1):
            self._loop.on_signal(number, lambda: None)
        self._loop.on_signal(signal.SIGCHLD, _reap)
        _reap()
        if self._control is not None:
            self._control.answer(self.handle)
        deadline = self._start.deadline()
        assert deadline is not None, "there is nothing to wait for"
        self._loop.call_at(deadline, self._time_passed)
        self._tick()
        self._loop.run()
        return not self._stopped

    def _time_passed(self) -> None:
        if self._start.time_passed(self._loop.time()) is State.TRYING:
            self._loop.stop()

    def _try_now(self) -> None:
        self._start.news()
        self._loop.stop()

    def _stop(self) -> None:
        self._stopped = True
        self._chronicle.stops()
        self._loop.stop()

    def _tick(self) -> None:
        if file_state(self._watched) != self._seen:
            self._try_now()
            return
        self._chronicle.waits(self._status_line())
        self._loop.call_later(TICK_S, self._tick)

    def _status_line(self) -> str:
        deadline = self._start.deadline()
        left_s = max(0.0, deadline - self._loop.time()) if deadline is not None else 0.0
        tries = self._start.tries
        count = "1 try has failed" if tries == 1 else f"{tries} tries have failed"
        return f"cannot start, the next try is in {left_s:.0f} s; {count}: {self._reason}"

    # What is asked over the control socket.

    def _status(self, client: Client, _call: varlink.Call) -> None:
        client.send(varlink.Reply(self._state()))

    def _state(self) -> dict[str, Any]:
        return {
            "name": self._name,
            "pid": os.getpid(),
            "state": self._start.state.value,
            "status": self._status_line(),
            "generation": 0,
            "wanted": 0,
            "ready": 0,
            "restarts": 0,
            "scheduling": "",
            "listen": list(self._addresses),
            "workers": [],
            "last_exits": [],
        }

    def _reload(self, client: Client, call: varlink.Call) -> None:
        self._scale(client, call)
        self._loop.call_later(0, self._try_now)

    def _scale(self, client: Client, _call: varlink.Call) -> None:
        error = f"{varlink.INTERFACE}.NotStarted"
        client.send(varlink.Reply({"reason": self._status_line()}, error=error))


def _reap() -> None:
    """Collect what earlier tries have left: the master is the parent of every orphan."""
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return

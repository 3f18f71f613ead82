"""What can be asked of the master over the control socket: `io.sdcluster.Control`."""

import os
from collections.abc import Callable, Mapping
from typing import Any

from sdcluster import __version__
from sdcluster.config.model import MAX_WORKERS
from sdcluster.core import actions as act
from sdcluster.core import events as ev
from sdcluster.core.states import Phase, ReloadCause, is_quarantine, place
from sdcluster.master.service.control import MAX_WAITING_CLIENTS, Client
from sdcluster.master.service.service_cluster import Cluster
from sdcluster.wire import varlink
from sdcluster.wire.scoreboard import Field

_SERVICE = varlink.SERVICE_INTERFACE
_DESCRIPTIONS = {
    _SERVICE: varlink.SERVICE_DESCRIPTION,
    varlink.INTERFACE: varlink.DESCRIPTION,
}


class Service:
    """What every Varlink service has: it finds the method of a call, and describes itself."""

    def __init__(self) -> None:
        self._methods: dict[str, Callable[[Client, varlink.Call], None]] = {
            f"{_SERVICE}.GetInfo": self._get_info,
            f"{_SERVICE}.GetInterfaceDescription": self._get_description,
        }

    def handle(self, client: Client, call: varlink.Call) -> None:
        """Answer a call."""
        method = self._methods.get(call.method)
        interface = call.method.rpartition(".")[0]
        if method is not None:
            method(client, call)
        elif interface in _DESCRIPTIONS:
            error = varlink.METHOD_NOT_FOUND
            client.send(varlink.Reply({"method": call.method}, error=error))
        else:
            error = varlink.INTERFACE_NOT_FOUND
            client.send(varlink.Reply({"interface": interface}, error=error))

    def _get_info(self, client: Client, _call: varlink.Call) -> None:
        client.send(
            varlink.Reply(
                {
                    "vendor": "sdcluster",
                    "product": "sdcluster",
                    "version": __version__,
                    "url": "",
                    "interfaces": list(_DESCRIPTIONS),
                }
            )
        )

    def _get_description(self, client: Client, call: varlink.Call) -> None:
        interface = call.parameters.get("interface")
        if not isinstance(interface, str):
            self._invalid(client, "interface")
        elif interface in _DESCRIPTIONS:
            client.send(varlink.Reply({"description": _DESCRIPTIONS[interface]}))
        else:
            error = varlink.INTERFACE_NOT_FOUND
            client.send(varlink.Reply({"interface": interface}, error=error))

    def _invalid(self, client: Client, parameter: str) -> None:
        error = varlink.INVALID_PARAMETER
        client.send(varlink.Reply({"parameter": parameter}, error=error))


class Api(Service):
    """Answers calls about one cluster, and tells those who wait how a reload goes.

    A reload that is asked for while one is under way runs after it; all who asked meanwhile wait
    for that one.
    """

    def __init__(self, cluster: Cluster, *, now: Callable[[], float]) -> None:
        super().__init__()
        self._cluster = cluster
        self._now = now
        self._next: list[tuple[Client, bool]] = []
        self._current: list[tuple[Client, bool]] = []
        self._total = 0
        self._methods |= {
            f"{varlink.INTERFACE}.Status": self._status,
            f"{varlink.INTERFACE}.Reload": self._reload,
            f"{varlink.INTERFACE}.Scale": self._scale,
        }

    # Methods.

    def _status(self, client: Client, _call: varlink.Call) -> None:
        client.send(varlink.Reply(self.status()))

    def status(self) -> Mapping[str, Any]:
        """Return the reply of `Status`."""
        cluster, supervisor, now = self._cluster, self._cluster.supervisor, self._now()
        return {
            "name": cluster.config.name,
            "pid": os.getpid(),
            "state": supervisor.phase.value,
            "status": cluster.status_line(),
            "generation": supervisor.current,
            "wanted": supervisor.wanted,
            "ready": supervisor.ready,
            "restarts": supervisor.restarts,
            "wrong": cluster.wrong(),
            "scheduling": cluster.config.scheduling,
            "listen": cluster.addresses(),
            "workers": [
                {
                    "slot": process.slot,
                    "worker": process.id,
                    "pid": process.pid,
                    "generation": process.generation,
                    "state": state.value,
                    "connections": process.channel.connections(),
                    "requests": process.channel.board[Field.REQUESTS],
                    "wrong": process.channel.wrong(),
                    "uptime_s": round(now - process.ready_at, 3) if process.ready_at else 0.0,
                    "status": process.status,
                }
                for process, state in cluster.states()
            ],
            "last_exits": [
                {
                    "slot": slot,
                    "worker": record.worker,
                    "reason": record.reason.value,
                    "status": record.status,
                }
                for slot, record in sorted(cluster.last_exits.items())
                if slot in supervisor.slots
            ],
        }

    def _scale(self, client: Client, call: varlink.Call) -> None:
        workers, delta = call.parameters.get("workers"), call.parameters.get("delta")
        if (workers is None) == (delta is None):
            self._invalid(client, "workers")
            return
        name, value = ("workers", workers) if delta is None else ("delta", delta)
        if type(value) is not int:
            self._invalid(client, name)
            return
        wanted = value if name == "workers" else self._cluster.supervisor.wanted + value
        if not 1 <= wanted <= MAX_WORKERS:
            self._invalid(client, name)
            return
        fewest = self._cluster.fewest_workers()
        if wanted < fewest:
            error = f"{varlink.INTERFACE}.TooFewWorkers"
            client.send(varlink.Reply({"fewest": fewest}, error=error))
            return
        self._cluster.scale(wanted)
        client.send(varlink.Reply({"workers": wanted}))

    def _reload(self, client: Client, call: varlink.Call) -> None:
        if self._cluster.supervisor.phase in (Phase.STOPPING, Phase.STOPPED):
            client.send(self._no_reload())
            return
        waiting = [one for one, _ in (*self._current, *self._next) if one.is_busy]
        if sum(one.uid == client.uid for one in waiting) >= MAX_WAITING_CLIENTS:
            client.send(varlink.Reply(error=f"{varlink.INTERFACE}.TooManyCallers"))
            return
        self._next.append((client, call.more))
        self._cluster.feed(ev.ReloadRequested())

    # What the cluster tells.

    def began(self, action: act.BeginReload) -> None:
        """Let those who asked until now wait for this reload."""
        slots = self._cluster.supervisor.slots
        self._total = sum(not is_quarantine(slot) for slot in slots)  # As in what follows.
        if action.cause is ReloadCause.REQUEST:
            self._current, self._next = self._next, []
        self._tell("begun", f"generation {action.generation} is loading", 0, action.generation)

    def progressed(self, action: act.ReportProgress) -> None:
        """Tell that a slot serves the new generation."""
        self._total = action.total
        pid = self._cluster.children.workers[action.worker].pid
        message = f"{place(action.slot)}: worker {action.worker} (pid {pid}) serves"
        self._tell("replaced", message, action.done, action.generation)

    def rolls_back(self, action: act.BeginRollback) -> None:
        """Tell that the new generation failed."""
        self._tell("rolling-back", action.reason, 0, action.generation)

    def ended(self, action: act.EndReload) -> None:
        """Tell those who waited how the reload ended."""
        if action.cause is not ReloadCause.REQUEST:
            return
        waiting, self._current = self._current, []
        for client, _ in waiting:
            if action.failure:
                error = f"{varlink.INTERFACE}.ReloadFailed"
                client.send(varlink.Reply({"reason": action.failure}, error=error))
            else:
                message = f"generation {action.generation} serves"
                client.send(
                    varlink.Reply(
                        self._step("done", message, self._total, action.generation),
                    )
                )

    def stops(self) -> None:
        """Tell those whose reload will not come."""
        waiting, self._next = self._next, []
        for client, _ in waiting:
            client.send(self._no_reload())

    def _no_reload(self) -> varlink.Reply:
        """Return why there is none: the cluster stops, or has not started at all."""
        failure = self._cluster.supervisor.failure
        if failure:
            error = f"{varlink.INTERFACE}.NotStarted"
            return varlink.Reply({"reason": f"cannot start: {failure}"}, error=error)
        return varlink.Reply(error=f"{varlink.INTERFACE}.Stopping")

    def _tell(self, event: str, message: str, done: int, generation: int) -> None:
        step = self._step(event, message, done, generation)
        for client, more in self._current:
            if more:
                client.send(varlink.Reply(step, continues=True))

    def _step(self, event: str, message: str, done: int, generation: int) -> dict[str, Any]:
        return {
            "event": event,
            "message": message,
            "done": done,
            "total": self._total,
            "generation": generation,
        }

"""The cluster: carries the supervisor's actions out and tells it what happened.

Every fact, from whatever source, becomes one event in one queue; `_perform` is the one place where
a decision becomes a deed. Nothing is decided here.
"""

import random
import signal
from collections.abc import Callable, Iterator
from typing import assert_never

from sdcluster.config.model import MAX_WORKERS, Config
from sdcluster.core import actions as act
from sdcluster.core import events as ev
from sdcluster.core.states import (
    AGENT,
    Generation,
    Phase,
    Policy,
    Slot,
    WorkerId,
    WorkerState,
    is_quarantine,
)
from sdcluster.core.supervisor import Supervisor
from sdcluster.errors import ConfigError, ListenError, SpawnError
from sdcluster.master.connections.channels import Passage, Untaken
from sdcluster.master.connections.quarantine import Quarantine
from sdcluster.master.host.driver import Driver
from sdcluster.master.host.journal import Journal
from sdcluster.master.host.loop import Loop
from sdcluster.master.processes.children import Children
from sdcluster.master.processes.workers import WorkerProcess
from sdcluster.master.service.chronicle import Chronicle
from sdcluster.master.service.estate import Estate
from sdcluster.master.service.relay import Relay
from sdcluster.master.service.traffic import Traffic

TICK_S = 1.0
"""How often the workers' health is looked at and systemd is told how things are."""


class Cluster:
    """One running instance."""

    def __init__(
        self,
        *,
        config: Config,
        reread: Callable[[], Config],
        traffic: Traffic,
        loop: Loop,
        journal: Journal,
        chronicle: Chronicle,
        estate: Estate,
        on_ready: Callable[[], None],
    ) -> None:
        """`reread` returns the config as it is now, for a reload.

        It raises nothing but `ConfigError` and `ListenError`.
        """
        self.config = config
        self.supervisor = Supervisor(jitter=random.random)
        self.last_exits: dict[int, act.RecordExit] = {}
        self.failure = ""
        """Why it could not start, once `run` has returned; empty after a stop."""
        self.is_told_to_stop = False
        self.children = Children(
            loop=loop,
            journal=journal,
            report=self._report,
            on_room=self._room,
            on_starved=self._relieve,
            on_gone=self._worker_gone,
            on_passage=self._hand_over,
            on_blame=lambda signature: self._quarantine.blame(signature),
            on_recovered=chronicle.connections_are_kept,
            is_ours=traffic.is_ours,
        )
        self._quarantine = Quarantine(
            loop,
            pass_on=traffic.hand_over,
            on_signatures=self.children.tell_signatures,
            on_workers=lambda workers: self.feed(ev.QuarantineResized(workers)),
        )
        self._relay = Relay(
            loop,
            on_offence=self.children.offended,
            on_dropped=chronicle.messages_are_dropped,
        )
        self._first_config: Config | None = config
        self._reread = reread
        self._traffic = traffic
        self._loop = loop
        self._chronicle = chronicle
        self._estate = estate
        self._on_ready = on_ready
        self._driver: Driver[ev.Event, act.Action] = Driver(
            self.supervisor,
            perform=self._perform,
            loop=loop,
            time_passed=ev.TimePassed(),
            on_settled=self._settle,
        )
        self._wrong_before = 0
        """Requests that workers which are gone have served in the place of another."""

    # The course of things.

    def run(self) -> None:
        """Run until the cluster is stopped or cannot start: `failure` tells."""
        self._handle_signals()
        self._chronicle.starts(self.config.workers, self._traffic.addresses())
        self._traffic.open()
        self._tick()
        self.feed(ev.StartRequested())
        self._loop.run()
        self.children.close()
        self._relay.close()
        self._bequeath()
        self._quarantine.close()
        self._traffic.close()

    def feed(self, event: ev.Event) -> None:
        """Tell the supervisor what happened and do what it says."""
        self._driver.feed(event)

    def _settle(self) -> None:
        """Have those who serve known to whoever gives connections."""
        self._traffic.settle(
            {slot.number for slot in self.supervisor.slots.values() if slot.serving is not None},
            slots=self.supervisor.wanted,
        )
        self.children.tell_slots(self.supervisor.wanted)

    def _handle_signals(self) -> None:
        def reload() -> None:
            self.feed(ev.ReloadRequested())

        def stop() -> None:
            at_once = self.supervisor.phase is Phase.STOPPING
            self.is_told_to_stop = True
            self.feed(ev.StopRequested(at_once=at_once))

        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.on_signal(number, stop)
        for number in (signal.SIGHUP, signal.SIGUSR2):
            self._loop.on_signal(number, reload)
        self._loop.on_signal(signal.SIGTTIN, lambda: self.scale(self.supervisor.wanted + 1))
        self._loop.on_signal(signal.SIGTTOU, lambda: self.scale(self.supervisor.wanted - 1))
        self._loop.on_signal(signal.SIGCHLD, self.children.reap)
        self._loop.on_signal(signal.SIGUSR1, lambda: None)

    def scale(self, workers: int) -> None:
        """Change the number of workers, within what there may be."""
        fewest = self._traffic.fewest_workers()
        self.feed(ev.ScaleRequested(min(max(fewest, workers), MAX_WORKERS)))

    def _report(self, event: ev.Event) -> None:
        """Take a finding of the children's."""
        if isinstance(event, (ev.WorkerExited, ev.ForkFailed)):
            self._relay.leaves(event.worker)
        self.feed(event)

    def _room(self) -> None:
        self._traffic.room()
        self._quarantine.room()

    def _hand_over(self, passage: Passage) -> None:
        if self._estate.is_open and self.supervisor.phase not in (Phase.BOOTING, Phase.RUNNING):
            self._estate.add(passage)
        elif not self._quarantine.takes(passage):
            self._traffic.hand_over(passage)

    def _relieve(self, process: WorkerProcess) -> None:
        try:
            if not self._quarantine.relieve(process.channel):
                self._traffic.relieve(process)
        except OSError:
            pass  # The worker says so again.

    def _worker_gone(self, process: WorkerProcess, untaken: Untaken) -> None:
        self._wrong_before += process.channel.wrong()
        if is_quarantine(process.slot):
            self._quarantine.died(process.channel, untaken)
            return
        self._dismiss(process)
        self._traffic.give_back(untaken)

    def _dismiss(self, process: WorkerProcess) -> None:
        self._traffic.dismiss(process)
        self._quarantine.remove(process.channel)

    # Decisions become deeds.

    def _perform(self, action: act.Action) -> None:
        workers, chronicle = self.children.workers, self._chronicle
        match action:
            case act.LoadGeneration(generation):
                self._load(generation)
            case act.StopMold(generation):
                self.children.stop_mold(generation)
            case act.AbortMold(generation):
                self.children.signal_mold(generation, signal.SIGABRT)
            case act.KillMold(generation):
                self.children.signal_mold(generation, signal.SIGKILL)
            case act.SpawnWorker(worker, slot, generation):
                self._spawn(worker, slot, generation)
            case act.AdmitWorker(worker):
                self._admit(workers[worker])
                chronicle.worker_serves(workers[worker])
            case act.EntrustAgent(worker):
                self._entrust(worker)
            case act.RetireWorker(worker, reason):
                self._retire(worker, reason.value)
            case act.AbortWorker(worker, text):
                self._strike(worker, signal.SIGABRT, text)
            case act.KillWorker(worker, text):
                self._strike(worker, signal.SIGKILL, text)
            case act.RecordExit(slot=slot):
                self.last_exits[slot] = action
                chronicle.worker_is_gone(action)
            case act.AnnounceReady():
                chronicle.is_ready(self.status_line(), self.supervisor.current)
                self._on_ready()
            case act.BeginReload():
                chronicle.reload_begins(action)
            case act.ReportProgress():
                chronicle.reload_progresses(action)
            case act.BeginRollback():
                chronicle.reload_rolls_back(action)
            case act.EndReload():
                self._end_reload(action)
            case act.BeginStop():
                chronicle.stops(for_good=not self.supervisor.failure)
                self._quarantine.stop()
                self._traffic.stop_listening(empty_backlog=chronicle.has_been_ready)
            case act.Finish(failure):
                self._finish(failure)
            case _:
                assert_never(action)

    def _load(self, generation: Generation) -> None:
        try:
            config = self._first_config or self._checked(self._reread())
            self._first_config = None
            self.children.start_mold(config, generation, listener_names=self._traffic.names())
        except (ConfigError, SpawnError, ListenError) as error:
            self.feed(ev.MoldFailed(generation, str(error)))
            return
        self.feed(ev.MoldStarted(generation, _policy(config)))

    def _checked(self, config: Config) -> Config:
        """Return a re-read config, if a running cluster can take it on. Raises `ConfigError`."""
        old = self.config
        changed = {
            "listen": config.listen_given and config.listen != old.listen,
            "scheduling": config.scheduling != old.scheduling,
            "exec": config.is_command != old.is_command,
        }
        for key, has_changed in changed.items():
            if has_changed:
                raise ConfigError(
                    f"{config.source}: {key} has changed; {self._traffic.how_to_restart()}"
                )
        self._traffic.check(config)
        return config

    def _spawn(self, worker: WorkerId, slot: Slot, generation: Generation) -> None:
        descriptors = []
        try:
            if not self.config.is_command:
                config = self.children.mold_config(generation) or self.config
                descriptors.append(
                    self._relay.open(worker, is_agent=slot == AGENT, has_agent=bool(config.agent))
                )
            if slot != AGENT and not is_quarantine(slot):
                descriptors += self._traffic.descriptors(slot)
            self.children.spawn(worker, slot, generation, listeners=descriptors)
        except (SpawnError, ListenError) as error:
            self._relay.leaves(worker)
            self.feed(ev.ForkFailed(worker, str(error)))
            return
        self._relay.given(worker)

    def _admit(self, process: WorkerProcess) -> None:
        if is_quarantine(process.slot):
            self._quarantine.add(process.channel)
        elif not process.is_agent:
            self._traffic.admit(process)
            for passage in self._estate.claim():
                self._hand_over(passage)
        self._relay.joins(
            process.id, slot=process.slot, generation=process.generation, pid=process.pid
        )

    def _entrust(self, worker: WorkerId) -> None:
        process = self.children.workers.get(worker)
        if process is not None:  # Else it has just died, which the supervisor learns next.
            process.channel.admit()

    def _retire(self, worker: WorkerId, reason: str) -> None:
        process = self.children.workers.get(worker)
        if process is None:
            return  # It could not be spawned, which the supervisor learns next.
        self._dismiss(process)
        self._relay.retires(worker)
        if self.supervisor.phase is Phase.STOPPING and not process.is_agent:
            if not self._estate.is_open:
                process.channel.finish()
            if self._traffic.are_inherited():
                process.channel.hurry()
        process.retire()
        self._chronicle.worker_retires(process, reason)

    def _bequeath(self) -> None:
        """Leave to the next cluster, of this master or another, what no worker has taken."""
        if self._estate.is_open:
            for passage in self._traffic.left():
                self._estate.add(passage)

    def _strike(self, worker: WorkerId, number: signal.Signals, reason: str) -> None:
        process = self.children.workers.get(worker)
        if process is None:
            return  # As above.
        self._dismiss(process)
        self._chronicle.worker_is_struck(process, number.name, reason)
        self.children.strike(process, number)

    def _end_reload(self, action: act.EndReload) -> None:
        if self.supervisor.current == action.generation:
            self.config = self.children.mold_config(action.generation) or self.config
            self._quarantine.renew()
        self._chronicle.reload_ends(
            action,
            self.status_line(),
            serving=self.supervisor.current,
            running=self.supervisor.phase is Phase.RUNNING,
        )

    def _finish(self, failure: str) -> None:
        self.failure = failure
        self._loop.stop()

    # Once a second.

    def _tick(self) -> None:
        self.children.check(self._loop.time())
        self._traffic.rebalance(self._loop.time())
        self._quarantine.look()
        self._chronicle.ticks(self.status_line(), progress=self._is_on_its_way())
        interval_s = min(TICK_S, self._chronicle.watchdog_interval_s or TICK_S)
        self._loop.call_later(interval_s, self._tick)

    def _is_on_its_way(self) -> bool:
        """Whether something is under way that ends by a deadline of ours: systemd has to wait."""
        supervisor = self.supervisor
        if supervisor.phase is Phase.BOOTING:
            # A slot that has failed is tried again and again; systemd's own time-out ends that.
            return not supervisor.slots or any(
                slot.serving is None and not slot.tried for slot in supervisor.slots.values()
            )
        return supervisor.phase is not Phase.RUNNING or supervisor.reload is not None

    def status_line(self) -> str:
        """Return how things are, in one line."""
        supervisor = self.supervisor
        text = (
            f"{supervisor.ready}/{supervisor.wanted} workers ready, gen {supervisor.current}, "
            f"{self.connections()} connections, {supervisor.restarts} restarts"
        )
        if wrong := self.wrong():
            text += f", {wrong} requests served by the wrong worker"
        if supervisor.reload is not None:
            text += f"; reload to gen {supervisor.reload.target}: {supervisor.reload.phase.value}"
        elif supervisor.phase is not Phase.RUNNING:
            text += f"; {supervisor.phase.value}"
            if self._chronicle.last_failure:
                text += f"; the last try failed: {self._chronicle.last_failure}"
        return text

    def connections(self) -> int:
        """Return how many connections are open in all workers."""
        return sum(process.channel.connections() for process in self.children.workers.values())

    def wrong(self) -> int:
        """Return how many requests were served by a worker of another slot than they were for."""
        alive = (process.channel.wrong() for process in self.children.workers.values())
        return self._wrong_before + sum(alive)

    def states(self) -> Iterator[tuple[WorkerProcess, WorkerState]]:
        """Return each worker process and its state, by slot."""
        for process in sorted(self.children.workers.values(), key=_row):
            worker = self.supervisor.workers.get(WorkerId(process.id))
            if worker is not None:
                yield process, worker.state

    def fewest_workers(self) -> int:
        """Return the least number of workers that `scale` may set."""
        return self._traffic.fewest_workers()

    def addresses(self) -> list[str]:
        """Return each address that is listened on."""
        return self._traffic.addresses()


def _row(process: WorkerProcess) -> tuple[bool, int, int]:
    """Return where in a table a worker stands: by slot, those of the quarantine last."""
    return is_quarantine(process.slot), process.slot, process.id


def _policy(config: Config) -> Policy:
    return Policy(
        workers=config.workers,
        ready_workers=config.ready_workers,
        ready_timeout_s=config.ready_timeout_s,
        drain_timeout_s=config.drain_timeout_s,
        probation_s=config.reload_probation_s,
        agent=bool(config.agent),
    )

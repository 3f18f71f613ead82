"""Who accepts on which listener, by the scheduling: the master, the workers, or both in turn.

    round-robin, least-connections, least-latency
                 the master accepts and gives each connection to a worker
    shared       all workers accept on the same listeners
    reuseport    each slot's worker accepts on the slot's own listeners; while a slot has no
                 worker, the master accepts there and gives the connections to the others

Commands always accept by themselves; what nobody accepts waits in the backlog. So with reuseport
a slot that has run a command keeps one: nobody else could empty the slot's socket.
"""

import os
import socket
from collections.abc import Callable, Set

from sdcluster.config.model import Config
from sdcluster.core.balance import Policy, Rules
from sdcluster.errors import ConfigError
from sdcluster.master.connections.channels import Passage, Untaken
from sdcluster.master.connections.dispatch import Dispatcher
from sdcluster.master.connections.listeners import RESTART, ListenerSet
from sdcluster.master.connections.rebalancing import Rebalancing
from sdcluster.master.host.loop import Loop
from sdcluster.master.processes.workers import WorkerProcess


def _place(sock: socket.socket) -> str | int | None:
    """Return the path or port that a socket is bound to; None for a family that has neither."""
    try:
        address = sock.getsockname()
    except OSError:
        return None
    if sock.family == socket.AF_UNIX:
        return os.fsdecode(address) or None
    match address:
        case (_, int(port), *_):
            return port
    return None


def _rules(config: Config) -> Rules:
    policy = Policy(config.scheduling) if config.is_dispatched else Policy.ROUND_ROBIN
    return Rules(policy=policy, weights=config.weights, max_connections=config.max_connections)


class Traffic:
    """The listeners of a cluster and the workers that get their connections."""

    def __init__(
        self,
        config: Config,
        listeners: ListenerSet,
        loop: Loop,
        *,
        on_exhausted: Callable[[OSError], None],
    ) -> None:
        self._scheduling = config.scheduling
        self._is_dispatched = config.is_dispatched
        self._is_command = config.is_command
        self._listeners = listeners
        self._closed = False
        self._places: set[str | int | None] = set()
        """The paths and ports of all listeners, those that are closed by now as well."""
        self._rules = _rules(config)
        self._dispatcher = Dispatcher(loop, self._rules, on_exhausted=on_exhausted)
        self._rebalancing: Rebalancing | None = None

    def fewest_workers(self) -> int:
        """Return how many workers there have to be for every socket to be accepted on."""
        return max(1, self._listeners.slots_with_own()) if self._is_command else 1

    def check(self, config: Config) -> None:
        """Raise `ConfigError` when a config has fewer workers than there have to be."""
        fewest = self.fewest_workers()
        if config.workers < fewest:
            raise ConfigError(
                f"{config.source}: workers: {config.workers} would leave a socket that nobody "
                f"accepts on: with 'exec' and reuseport each of the {fewest} sockets of an "
                f"address needs a worker of its own; {self.how_to_restart()}"
            )

    def how_to_restart(self) -> str:
        """Return what a user has to do for a change of the sockets."""
        return RESTART if self._listeners.are_inherited() else "that takes a restart"

    def open(self) -> None:
        """Begin; connections wait until there are workers."""
        self._note_places()
        if not self._is_command:
            self._listeners.set_nonblocking()
        if self._is_dispatched:
            for listener in self._listeners.all:
                self._dispatcher.watch(listener.socket)

    def addresses(self) -> list[str]:
        """Return each address that is listened on."""
        return self._listeners.addresses()

    def names(self) -> list[str]:
        """Return the names of the listeners that a worker is given."""
        return [listener.name for listener in self._listeners.for_slot(0)]

    def descriptors(self, slot: int) -> list[int]:
        """Return the listeners that a worker of the slot accepts on. Raises `ListenError`."""
        if self._is_dispatched:
            return []
        own = self._listeners.for_slot(slot)
        if not self._is_command:
            self._listeners.set_nonblocking()  # One may have been bound just now.
        return [listener.socket.fileno() for listener in own]

    def admit(self, process: WorkerProcess) -> None:
        """Give a worker connections from now on."""
        if not self._is_command:
            process.channel.admit()
            self._follow(process.mold.config)
            self._dispatcher.add(process.channel, generation=process.generation, slot=process.slot)

    def _follow(self, config: Config) -> None:
        """Do as the config of a generation says, from its first worker on."""
        self._rules = _rules(config)
        self._dispatcher.set_rules(self._rules)
        self._dispatcher.set_handoffs(timeout_s=config.handoff_timeout_s)
        if not config.rebalance:
            self._rebalancing = None
        elif self._rebalancing is None:
            self._rebalancing = Rebalancing()

    def rebalance(self, now: float) -> None:
        """Have connections move from workers with too many, if the config says so."""
        if self._rebalancing is not None:
            self._rebalancing.look(self._dispatcher.newest(), self._rules, now)

    def dismiss(self, process: WorkerProcess) -> None:
        """Give a worker nothing more. Harmless when it was not admitted."""
        self._dispatcher.remove(process.channel)

    def give_back(self, untaken: Untaken) -> None:
        """Give others what a worker had not taken before it died."""
        self._dispatcher.give_back(untaken)

    def relieve(self, process: WorkerProcess) -> None:
        """Give others what a worker was given and has no descriptors for."""
        self._dispatcher.relieve(process.channel)

    def is_ours(self, connection: socket.socket) -> bool:
        """Tell whether a connection has come to one of the listeners, by its own address."""
        own = _place(connection)
        if own not in self._places:
            self._note_places()  # There may be one more for a slot that is new.
        return own is not None and own in self._places

    def _note_places(self) -> None:
        self._places.update(_place(one.socket) for one in self._listeners.all)

    def hand_over(self, passage: Passage) -> None:
        """Give a connection that a worker had to another."""
        self._dispatcher.hand_over(passage)

    def room(self) -> None:
        """Go on: a worker has taken connections."""
        self._dispatcher.room()

    def settle(self, served: Set[int], *, slots: int) -> None:
        """Accept for others where a slot has no worker: `served` are the slots that have one."""
        self._dispatcher.set_slots(slots)
        if self._closed or self._scheduling != "reuseport" or self._is_command:
            return
        for listener in self._listeners.all:
            if (listener.slot or 0) in served:
                self._dispatcher.unwatch(listener.socket)
            else:
                self._dispatcher.watch(listener.socket)

    def stop_listening(self, *, empty_backlog: bool) -> None:
        """Accept no more. What the master has bound is closed, and its backlog ends with it.

        With `empty_backlog` the connections that wait there are given to workers before.
        """
        self._closed = True
        if not self._is_command:
            for listener in self._listeners.all:
                if not listener.inherited and empty_backlog:
                    self._dispatcher.accept_all(listener.socket)
                self._dispatcher.unwatch(listener.socket)
        self._listeners.close_bound()

    def are_inherited(self) -> bool:
        """Whether the listeners stay when this master ends, and clients wait there."""
        return self._listeners.are_inherited()

    def left(self) -> list[Passage]:
        """Return the connections that nobody took, which belong to the caller."""
        return self._dispatcher.left()

    def close(self) -> None:
        """Let go of the connections that nobody took."""
        self._dispatcher.close()

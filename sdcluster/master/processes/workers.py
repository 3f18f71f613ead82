"""The worker processes, as the master holds them from the order to fork until they are reaped."""

import os
import resource
import signal
from dataclasses import dataclass, field

from sdcluster.core.states import AGENT
from sdcluster.master.connections.channels import WorkerChannel
from sdcluster.master.host.journal import About
from sdcluster.master.processes.health import Figures, Limits
from sdcluster.master.processes.molds import Mold, send_signal
from sdcluster.master.processes.readiness import NotifySocket
from sdcluster.wire.scoreboard import Field

MAX_OFFENCES = 8
"""Frames that break the protocol, after which a worker is not listened to any more."""
COMMAND_SERVES_S = 1.0
"""A command that has lived for so long when it was ready is taken to have served somebody."""
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(slots=True, eq=False)
class WorkerProcess:
    """One worker. Its identity is the id and the channel; the pid comes later, and goes."""

    id: int
    slot: int
    generation: int
    mold: Mold
    channel: WorkerChannel
    limits: Limits
    notify_socket: NotifySocket | None = None
    """For a command; a Python worker sends its notifications over the channel."""
    pid: int = 0
    exited: bool = False
    """It was reaped: its pid may be somebody else's."""
    wait_status: int = 0
    """How it ended, see wait(2)."""
    ready_at: float = 0.0
    last_ping: float = 0.0
    """When a command last sent WATCHDOG=1."""
    status: str = ""
    finding: str = ""
    """Why it is to be recycled, once that was found."""
    suspected: bool = False
    """It seemed to be stuck when its health was last looked at."""
    keeper: int = 0
    """The pid of the process that holds its connections when it dies; 0 when there is none."""
    offences: int = 0
    """Frames of its that broke the protocol."""
    retired: bool = False
    """It was told that no more connections come."""
    status_at_exit: str = ""
    """How a command ended whose own children are still there."""
    _early: list[signal.Signals] = field(default_factory=list)

    @property
    def is_agent(self) -> bool:
        """Whether it gets no connections, as it is the agent."""
        return self.slot == AGENT

    @property
    def is_command(self) -> bool:
        """Whether it is a program of the user's choice that accepts by itself."""
        return self.notify_socket is not None

    @property
    def gets_connections(self) -> bool:
        """Whether there are connections that it may hand over."""
        return not (self.is_agent or self.is_command or self.mold.config.script)

    @property
    def is_heard(self) -> bool:
        """Whether what it sends is still read."""
        return self.offences < MAX_OFFENCES

    def is_dead(self) -> bool:
        """Tell whether it has ended, also when SIGCHLD is still to be heard."""
        return self.exited or (bool(self.pid) and _has_ended(self.pid))

    def about(self) -> About:
        """Return whom journal entries about it name."""
        return About(self.slot, self.id, self.generation)

    def sources(self) -> list[WorkerChannel | NotifySocket]:
        """Return where its notifications come from."""
        return [self.channel, self.notify_socket] if self.notify_socket else [self.channel]

    def started(self, pid: int) -> None:
        """Take note of the pid, and send the signals that could not be sent before."""
        self.pid = pid
        for number in self._early:
            self.kill(number)

    def kill(self, number: signal.Signals) -> None:
        """Send a signal, when there is no process yet as soon as there is. Harmless after it.

        SIGKILL is for all processes of a command.
        """
        if self.pid and self.is_command and number is signal.SIGKILL:
            self.kill_group(number)
        if self.exited:
            return
        if self.pid:
            send_signal(self.pid, number)  # Not reaped yet, so the pid is still its own.
        else:
            self._early.append(number)

    def kill_group(self, number: signal.Signals) -> None:
        """Send a signal to a command and to all that it has started. Harmless when none is left."""
        if self.has_group():
            send_signal(-self.pid, number)

    def has_group(self) -> bool:
        """Whether a command, or something that it has started, is there: kill(2), setsid(2).

        As long as there is, the kernel gives the pid of the leader to nobody else.
        """
        if not self.is_command or not self.pid:
            return False
        try:
            os.killpg(self.pid, 0)
        except (ProcessLookupError, PermissionError):
            return False
        return True

    def retire(self) -> None:
        """Tell it that no more connections will come: it is to answer what it has and exit.

        Of a command its first process is told, which may have a way of its own to end the others;
        what is left when that one has exited is told then.
        """
        self.retired = True
        if self.is_command:
            self.kill(signal.SIGTERM)
        self.channel.retire()

    def has_connections(self) -> bool:
        """Tell whether it has connections, or was given some that it has not taken."""
        return bool(self.channel.connections() or self.channel.outstanding())

    def had_requests(self, now: float) -> bool:
        """Tell whether its app was given any request, as far as that can be known of a command."""
        if self.is_command:
            return bool(self.ready_at) and now - self.ready_at >= COMMAND_SERVES_S
        return self.channel.has_begun()

    def figures(self, now: float) -> Figures:
        """Return how it is doing."""
        board = self.channel.board
        beat = self.last_ping if self.is_command else board[Field.HEARTBEAT_NS] / 1e9
        starved = self.channel.starved_ns() / 1e9
        return Figures(
            age_s=now - self.ready_at if self.ready_at else 0.0,
            last_beat=beat if self.ready_at else 0.0,
            oldest_request=board[Field.OLDEST_REQUEST_NS] / 1e9,
            requests=board[Field.REQUESTS],
            memory_mb=self._memory_mb() if self.limits.max_memory_mb else 0.0,
            starved_s=now - starved if starved else 0.0,
            connections=self.channel.connections(),
            max_descriptors=self._max_descriptors() if starved else 0,
        )

    def _max_descriptors(self) -> int:
        try:
            return resource.prlimit(self.pid, resource.RLIMIT_NOFILE)[0]
        except OSError:  # It runs as another user.
            return resource.getrlimit(resource.RLIMIT_NOFILE)[0]

    def _memory_mb(self) -> float:
        try:
            with open(f"/proc/{self.pid}/statm", "rb") as file:
                return int(file.read().split()[1]) * _PAGE_BYTES / 1e6
        except OSError:
            return 0.0

    def close(self, *, but_channel: bool = False) -> None:
        """Release what the master holds of it."""
        if not but_channel:
            self.channel.close()
        if self.notify_socket is not None:
            self.notify_socket.close()


def _has_ended(pid: int) -> bool:
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return False


def is_child(pid: int) -> bool:
    """Tell whether a pid that a mold has named is a child of ours, running or a zombie."""
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except (ChildProcessError, OverflowError, OSError):
        return False
    return pid > 0


def parent_of(pid: int) -> int | None:
    """Return the parent of a process; None when there is no such process: proc_pid_stat(5)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except OSError:
        return None


def exit_text(status: int) -> str:
    """Return a wait(2) status in words: `exit status 3`, `SIGSEGV`."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"exit status {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"

"""What was done to the server, and what its app has written down. Pure; times in seconds."""

import math
from dataclasses import dataclass, field


@dataclass(slots=True)
class Kill:
    """A process that is killed: between these two times it dies."""

    pid: int
    began_s: float
    ended_s: float = math.inf


@dataclass(slots=True)
class Scaled:
    """A number of slots, which comes into force between these two times."""

    slots: int
    began_s: float
    ended_s: float = math.inf


@dataclass(slots=True)
class Absence:
    """A slot that may have no worker between these times."""

    slot: int
    began_s: float
    ended_s: float = math.inf


@dataclass(slots=True)
class History:
    """All that a verdict needs to know beside the request and its answer."""

    kills: list[Kill] = field(default_factory=list)
    scaled: list[Scaled] = field(default_factory=list)
    """In order; the first is the number at the start."""
    absences: list[Absence] = field(default_factory=list)
    executions: dict[str, list[int]] = field(default_factory=dict)
    """By the id of a request: the pid of the worker, each time."""
    _rest: str = ""

    def feed(self, text: str) -> None:
        """Take what the app has written down since."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            identity, _, pid = line.split(" ")
            self.executions.setdefault(identity, []).append(int(pid))

    def pids(self, identity: str) -> list[int]:
        """Return who has executed a request."""
        return self.executions.get(identity, [])

    def deaths(self, began_s: float, ended_s: float) -> int:
        """Return how many workers died between these times."""
        return sum(one.began_s <= ended_s and one.ended_s >= began_s for one in self.kills)

    def is_absent(self, slot: int, began_s: float, ended_s: float) -> bool:
        """Tell whether a slot may have had no worker between these times."""
        return any(
            one.slot == slot and one.began_s <= ended_s and one.ended_s >= began_s
            for one in self.absences
        )

    def is_killed(self, pid: int) -> bool:
        """Tell whether a process was killed."""
        return any(kill.pid == pid for kill in self.kills)

    def slots(self, began_s: float, ended_s: float) -> set[int]:
        """Return how many slots there may have been between these times."""
        found: set[int] = set()
        for one in self.scaled:
            if one.began_s > ended_s:
                break
            if one.ended_s < began_s:
                found.clear()
            found.add(one.slots)
        return found

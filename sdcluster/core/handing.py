"""Whether a worker may say what it says of a connection that it hands over. Pure.

A worker can be wrong, or be somebody else's by now. What it says goes to another worker, which
believes it: so it is compared with what the worker was given, and with what the kernel has counted.
"""

from dataclasses import dataclass

MAX_TOLD_HOPS = 255
"""More cannot be told; one that has made so many is served where it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """The numbers of a hand-off; `wire.channel` says what each is."""

    slot: int
    hops: int
    crashes: int
    deaths: int
    serial: int
    consumed: int
    written: int


@dataclass(slots=True, kw_only=True)
class Given:
    """The most that a worker was given of each number, ever; and what it has said before."""

    slots: int = 0
    """How many slots it was told that there are, and has to do with."""
    hops: int = 0
    crashes: int = 0
    deaths: int = 0
    serial: int = 0
    """That of the last connection that it has handed over."""

    def covers(self, *, hops: int = 0, crashes: int, deaths: int) -> bool:
        """Tell whether it may have been given such a connection."""
        return hops <= self.hops and crashes <= self.crashes and deaths <= self.deaths

    def note(self, *, hops: int, crashes: int, deaths: int) -> None:
        """Take note of a connection that it is given."""
        self.hops = max(self.hops, hops)
        self.crashes = max(self.crashes, crashes)
        self.deaths = max(self.deaths, deaths)


def offence(said: Said, given: Given) -> str:
    """Say why a worker cannot say that; empty when it can."""
    if said.serial <= given.serial:
        return f"connection {said.serial} of those that it hands over comes after {given.serial}"
    if said.slot >= given.slots:
        return f"slot {said.slot} of the {given.slots} that it knows of"
    if said.hops > min(given.hops + 1, MAX_TOLD_HOPS):
        return f"{said.hops} hops, where it was given {given.hops} at the most"
    if not given.covers(crashes=said.crashes, deaths=said.deaths):
        return (
            f"{said.crashes} crashes and {said.deaths} deaths, where it was given "
            f"{given.crashes} and {given.deaths} at the most"
        )
    return ""


def miscount(said: Said, counted: tuple[int, int]) -> str:
    """Say why the totals cannot be, by the bytes read and written that the kernel has counted."""
    read, written = counted
    if said.consumed > read or said.written > written:
        return (
            f"{said.consumed} bytes read and {said.written} written, where the kernel has counted "
            f"{read} and {written}"
        )
    return ""

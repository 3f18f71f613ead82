"""Does to a server what is planned: kills, reloads, scaling. Notes when."""

import asyncio
import contextlib
import math
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from instance import Instance

from fuzz.configurations import WORKERS
from fuzz.crowd import Crowd
from fuzz.history import Absence, Kill, Scaled
from fuzz.plan import Deed, Fault
from sdcluster.cli.control_client import Master
from sdcluster.errors import ControlError

DEADLINE_S = 10.0
LOOK_S = 0.05
SETTLE_S = 0.05
"""From the reply to a call until all workers have seen what it has changed."""
SLOTS = (2, 3, 4)
"""What is scaled to."""


class Deeds:
    """Does what is planned to an instance, one after the other."""

    def __init__(self, instance: Instance, crowd: Crowd) -> None:
        self._instance = instance
        self._crowd = crowd
        self._history = crowd.history
        self._slots = WORKERS
        self._slot_of: dict[int, int] = {}
        self.done: Counter[Deed] = Counter()
        self.told: list[str] = []
        """What was done when, in seconds since the beginning."""
        self.problems: list[str] = []

    async def run(self, plan: Iterator[Fault]) -> None:
        """Do all of it, until the time is over."""
        watching = asyncio.create_task(self._watch())
        for fault in plan:
            await asyncio.sleep(fault.pause_s)
            if self._crowd.is_over:
                break
            try:
                await self._do(fault)
            except (ControlError, OSError) as error:
                self.problems.append(f"{fault.deed}: {error!r}")
        watching.cancel()

    async def _watch(self) -> None:
        """See soon when a slot has a worker again."""
        while True:
            await asyncio.sleep(LOOK_S)
            if any(one.ended_s == math.inf for one in self._history.absences):
                with contextlib.suppress(ControlError, OSError):
                    await self._serving()

    async def _do(self, fault: Fault) -> None:
        match fault.deed:
            case Deed.KILL:
                await self._kill_workers(fault, 1)
            case Deed.KILL_TWO:
                await self._kill_workers(fault, 2)
            case Deed.KILL_KEEPER:
                await self._kill_keeper(fault)
            case Deed.KILL_MOLD:
                for pid in self._instance.mold_pids():
                    # No kill of the history's: nothing may be lost by it.
                    self._tell(fault, f"pid {pid}")
                    _send(pid, signal.SIGKILL)
            case Deed.END:
                if pids := await self._kept_workers():
                    pid = _choose([*pids], fault)
                    self._tell(fault, f"pid {pid}")
                    _send(pid, signal.SIGTERM)
            case Deed.RELOAD:
                self._tell(fault, "begins")
                await self._call("Reload")
                self._tell(fault, "ends")
            case Deed.SCALE:
                await self._scale(fault)

    async def _kill_workers(self, fault: Fault, count: int) -> None:
        """Kill so many workers, or as many as there are."""
        pids = [*await self._kept_workers()]
        if pids:
            first = pids.index(_choose(pids, fault))
            victims = (pids[first:] + pids[:first])[:count]
            self._tell(fault, f"pids {victims} of {pids}")
            await self._kill(victims)

    async def _kill_keeper(self, fault: Fault) -> None:
        """Kill a keeper, and wait until its worker has been replaced: both at once is a loss."""
        pids = await self._kept_workers()
        if any(pids.values()):
            worker = _choose([*pids], fault)
            self._tell(fault, f"pid {pids[worker]}, of worker {worker}")
            _send(pids[worker], signal.SIGKILL)
            await self._wait_end(worker)

    async def _scale(self, fault: Fault) -> None:
        slots = _choose([one for one in SLOTS if one != self._slots], fault)
        self._tell(fault, f"to {slots}")
        scaled = Scaled(slots, time.monotonic())
        self._history.scaled.append(scaled)
        new = range(self._slots, slots)
        self._history.absences += [Absence(slot, scaled.began_s) for slot in new]
        await self._call("Scale", workers=slots)
        await asyncio.sleep(SETTLE_S)
        scaled.ended_s = time.monotonic()
        self._slots = slots

    async def _kept_workers(self) -> dict[int, int]:
        """Return the keepers' pids by those of their workers, of workers that serve and have one.

        When none has, as there is no recovery, it is all workers.
        """
        found = {}
        pids = [*await self._serving()]
        for pid in pids:
            with contextlib.suppress(OSError):
                for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
                    if b"keeper" in Path(f"/proc/{child}/cmdline").read_bytes():
                        found[pid] = int(child)
        return found or dict.fromkeys(pids, 0)

    async def _serving(self) -> dict[int, int]:
        """Return the slots of the workers that serve, by their pids; these are there again."""
        now = time.monotonic()
        status = await asyncio.to_thread(self._instance.status)
        workers = {one["pid"]: one["slot"] for one in status["workers"] if is_serving(one)}
        self._slot_of |= workers
        there = {slot for pid, slot in workers.items() if not self._history.is_killed(pid)}
        for absence in self._history.absences:
            if absence.slot in there and absence.ended_s == math.inf and absence.began_s < now:
                absence.ended_s = time.monotonic()
        return workers

    async def _kill(self, pids: list[int]) -> None:
        kills = [Kill(pid, time.monotonic()) for pid in pids]
        self._history.kills += kills
        slots = {self._slot_of[pid] for pid in pids if pid in self._slot_of}
        self._history.absences += [Absence(slot, kills[0].began_s) for slot in slots]
        for kill in kills:
            _send(kill.pid, signal.SIGKILL)
        for kill in kills:
            await self._wait_end(kill.pid)
            kill.ended_s = time.monotonic()

    async def _wait_end(self, pid: int) -> None:
        """Wait until a process has ended."""
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(fd, ended.set)
        try:
            async with asyncio.timeout(DEADLINE_S):
                await ended.wait()
        except TimeoutError:
            self.problems.append(f"process {pid} has not ended within {DEADLINE_S:g} s")
        finally:
            loop.remove_reader(fd)
            os.close(fd)

    async def _call(self, method: str, **parameters: int) -> None:
        def call() -> None:
            with Master(self._instance.name, timeout_s=2 * DEADLINE_S) as master:
                master.call(method, **parameters)

        await asyncio.to_thread(call)

    def _tell(self, fault: Fault, what: str) -> None:
        self.done[fault.deed] += 1
        at_s = time.monotonic() - self._crowd.began_s
        self.told.append(f"{at_s:.3f} s: {fault.deed}, {what}")


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def is_serving(worker: Mapping[str, object]) -> bool:
    """Tell whether a worker of a status serves, and has a slot: the quarantine's have none."""
    slot = worker["slot"]
    return worker["state"] == "serving" and isinstance(slot, int) and slot >= 0


def _choose(some: list[int], fault: Fault) -> int:
    return some[int(fault.choice * len(some)) % len(some)]

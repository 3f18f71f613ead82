"""One round: a configuration is served for some seconds, under fire; what came of it."""

import asyncio
import os
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from instance import Instance

from fuzz import clients, configurations, plan
from fuzz.configurations import OPTIONS, WORKERS, Configuration
from fuzz.cover import rows
from fuzz.crowd import Crowd
from fuzz.deeds import Deeds
from fuzz.history import History, Scaled
from fuzz.verdict import Outcome

STOP_S = 30.0
NAME = "fuzz"
LOG_LINES = 40
SIGNS = ("Traceback (most recent call last)", "broke the protocol")
"""What no log may have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """All that makes a round; with the same values it is planned in the same way."""

    seed: str
    number: int
    clients: int
    seconds: float
    app: str = ""
    """The source of another app."""
    serve: Configuration | None = None
    """What is served in place of what is planned: a test has it judged for what it is not."""
    extra: str = ""
    """More of the configuration's file."""
    judge: Configuration | None = None
    """What is planned, if it does not follow from the seed."""


@dataclass(slots=True, kw_only=True)
class Result:
    """What came of a round."""

    number: int
    config: Configuration
    seconds: float = 0.0
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    deeds: Counter[str] = field(default_factory=Counter)
    troubles: list[str] = field(default_factory=list)
    """What is wrong with the server, beside its answers."""
    shown: list[tuple[Outcome, str]] = field(default_factory=list)
    log: str = ""
    """The end of the log, and what was done, when something was wrong."""


def configuration(seed: str, number: int) -> Configuration:
    """Return what is served in a round."""
    chosen = rows(OPTIONS, Random(f"{seed} configurations"))
    for _ in range(number):
        next(chosen)
    return Configuration(**next(chosen))  # type: ignore[arg-type]  # OPTIONS has the right ones.


def play(setup: Setup) -> Result:
    """Play a round. Wants a process of its own, as a name is an instance's."""
    config = setup.judge or configuration(setup.seed, setup.number)
    result = Result(number=setup.number, config=config)
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="sdcluster-fuzz-") as path:
        folder = Path(path)
        executions = configurations.write(
            setup.serve or config, folder, NAME, app=setup.app, extra=setup.extra
        )
        instance = _start(folder)
        try:
            instance.wait_ready()
            deeds = asyncio.run(_attack(setup, config, instance, executions, result))
            _stop(instance, result)
            _look_at_log(instance, deeds, result)
        except AssertionError as error:
            result.troubles.append(f"{error}\n{_last(instance.log())}")
        finally:
            instance.end()
    result.seconds = time.monotonic() - began_s
    return result


def _start(folder: Path) -> Instance:
    runtime = folder / "run"
    runtime.mkdir()
    os.environ["XDG_RUNTIME_DIR"] = str(runtime)
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "sdcluster", "run", "--name", NAME, "--config", f"{NAME}.toml"]
    return Instance(command, name=NAME, cwd=folder, env=environment)


async def _attack(
    setup: Setup, config: Configuration, instance: Instance, executions: Path, result: Result
) -> Deeds:
    began_s = time.monotonic()
    crowd = Crowd(
        config,
        instance.address,
        os.open(executions, os.O_RDONLY),
        History(scaled=[Scaled(WORKERS, began_s, began_s)]),
        began_s,
        began_s + setup.seconds,
    )
    deeds = Deeds(instance, crowd)
    where = f"{setup.seed} {setup.number}"
    tasks = [
        clients.run(
            crowd, plan.connections(config, Random(f"{where} client {one}"), prefix=f"{one}")
        )
        for one in range(setup.clients)
    ]
    await asyncio.gather(*tasks, deeds.run(plan.faults(config, Random(f"{where} faults"))))
    crowd.look_back()
    os.close(crowd.executions)
    result.outcomes, result.shown = crowd.outcomes, crowd.shown
    result.deeds = Counter({str(deed): count for deed, count in deeds.done.items()})
    result.troubles += deeds.problems
    return deeds


def _stop(instance: Instance, result: Result) -> None:
    """Stop the instance, and see that all of it ends, and well."""
    instance.process.terminate()
    status = instance.wait(STOP_S)
    if status:
        result.troubles.append(f"the master has ended with {status}")
    if left := instance.processes():
        result.troubles.append(f"processes {left} have not ended")


def _look_at_log(instance: Instance, deeds: Deeds, result: Result) -> None:
    log = instance.log()
    for sign in SIGNS:
        at = log.find(sign)
        if at >= 0:
            result.troubles.append(f"in the log:\n{log[max(0, at - 500) : at + 3000]}")
    if result.troubles or result.shown:
        result.log = "\n".join([*deeds.told, _last(log)])


def _last(log: str) -> str:
    return "\n".join(log.splitlines()[-LOG_LINES:])

"""The README's cluster in one file, as it stands there: its first program, and what is added."""

import os
import re
import signal
from pathlib import Path

from conftest import CPUS, Run
from instance import wait_until

README = Path(__file__).resolve().parents[2] / "README.md"
RUN = "    cluster.run()\n"
SERVE = "    cluster.serve("


def snippets() -> list[str]:
    """Return the section's blocks of code."""
    section = README.read_text().split("\n## A cluster in one file\n")[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)


def whole() -> str:
    """Return the first block with all others in it, each where its first line says."""
    program, *steps = snippets()
    assert program.count(RUN) == program.count(SERVE) == 1
    for step in steps:
        where, code = step.split("\n", 1)
        place = {"# before cluster.run()": RUN, "# before cluster.serve(...)": SERVE}[where]
        indented = re.sub(r"(?m)^(?=.)", "    ", code)
        program = program.replace(place, indented + place)
    return program


def test_first_program_answers_from_every_cpu(run: Run) -> None:
    """Without a word more."""
    example = run("app", source=snippets()[0])
    assert "Hello from process " in example.curl()
    assert len(example.pids()) == CPUS
    assert example.stop() == 0


def test_steps_work_together(run: Run) -> None:
    """Messages arrive, a crash is mended, and new code goes live."""
    example = run("app", source=whole())
    old = example.pids()
    wait_until(lambda: example.log().count("Users: 25\n") >= CPUS, "the messages")
    crashed = min(old)
    os.kill(crashed, signal.SIGKILL)
    wait_until(lambda: crashed not in example.pids(), "another worker")
    example.file.write_text(example.file.read_text().replace("Hello from", "Good day from"))
    example.signal(signal.SIGUSR2)
    wait_until(lambda: not example.answers("(Hello|Good day)", 1) - {"Good day"}, "the new code")
    wait_until(lambda: not example.pids() & old, "the end of the old")
    assert example.stop() == 0


SHOW = """
    @cluster.every(0.05)
    def show():
        print("Workers:", *cluster.workers)

"""


def test_restarts_that_overlap_leave_as_many_workers_as_before(run: Run) -> None:
    """The second begins before the first has replaced anybody."""
    call = "replace(list(cluster.workers.values()))"
    source = whole().replace(call, f"{call}; {call}").replace(RUN, SHOW + RUN)
    example = run("app", source=source)
    old = {str(number + 1) for number in range(CPUS)}
    example.pids()
    example.signal(signal.SIGUSR2)

    def is_over() -> bool:
        workers = re.findall(r"(?m)^Workers: (.*)\n", example.log())[-1].split()
        return len(workers) == CPUS and old.isdisjoint(workers)

    wait_until(is_over, "new workers, as many as the old")
    assert example.stop() == 0

"""What a program's worker gets of its master: what is there at the time of its fork, as in Node."""

import os
from pathlib import Path

import pytest
from conftest import Play

SHOWN = {
    "environment": (
        'os.environ["LATER"] = "yes"; del os.environ["GONE"]; os.environ["OLD"] = "new"',
        'os.environ.get("LATER"), os.environ.get("GONE"), os.environ["OLD"]',
        ["1 None here old", "2 yes None new"],
    ),
    "interpreter": (
        'os.environ["PYTHONPATH"] = "/nowhere"',
        '"/nowhere" in sys.path',
        ["1 False", "2 True"],
    ),
    "folder": ('os.chdir("sub")', "os.path.basename(os.getcwd())", ["1 top", "2 sub"]),
    "mask": ("os.umask(0o077)", "oct(os.umask(0))", ["1 0o27", "2 0o77"]),
    "arguments": ('sys.argv[1:] = ["b"]', "*sys.argv[1:]", ["1 a", "2 b"]),
    "output": (
        'os.dup2(os.open("other", os.O_WRONLY | os.O_CREAT), 1)',
        "os.fstat(1).st_ino == (os.path.exists('other') and os.stat('other').st_ino)",
        ["1 False"],
    ),
    "limit": (
        "resource.setrlimit(resource.RLIMIT_CORE, (0, 5))",
        "resource.getrlimit(resource.RLIMIT_CORE)",
        ["1 (0, 7)", "2 (0, 5)"],
    ),
    "niceness": ("os.nice(1)", "os.nice(0) - int(os.environ['NICE'])", ["1 0", "2 1"]),
}
"""What a master changes between two forks, what its workers look at, and what they see."""


@pytest.mark.parametrize("what", SHOWN)
def test_later_fork_sees_what_is_there_then(play: Play, tmp_path: Path, what: str) -> None:
    """The first worker has it as it was, the second as it is, whenever they come to run."""
    change, look, seen = SHOWN[what]
    (tmp_path / "top" / "sub").mkdir(parents=True)
    program = play(
        f"""
import resource
if cluster.is_master:
    os.chdir("top")
    os.umask(0o027)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 7))
    cluster.fork()
    {change}
    cluster.fork()
    cluster.run()
else:
    say("sees", cluster.worker.id, {look})
""",
        "a",
        env={"GONE": "here", "OLD": "old", "NICE": str(os.nice(0))},
    )
    assert program.wait() == 0
    assert sorted(program.lines("sees")) == seen
    if what == "output":
        assert (tmp_path / "top" / "other").read_text() == "sees 2 True\n"


def test_fork_long_after_another_sees_what_is_there_then(play: Play) -> None:
    """Also one that takes the place of a worker that has ended; its own names count more."""
    program = play(
        """
if cluster.is_master:
    cluster.fork()

    @cluster.on("exit")
    def refork(worker, code, signal):
        os.environ["N"] = str(worker.id)
        if worker.id < 3:
            cluster.fork({"OWN": f"own {worker.id}"} if worker.id == 2 else None)

    cluster.run()
else:
    say("sees", cluster.worker.id, os.environ.get("N"), os.environ.get("OWN"))
"""
    )
    assert program.wait() == 0
    assert program.lines("sees") == ["1 None None", "2 1 None", "3 2 own 2"]


def test_forks_between_which_nothing_changes_have_one_mold(play: Play) -> None:
    """An interpreter is started anew only when it would see something else."""
    program = play(
        """
if cluster.is_master:
    narrate()
    for _ in range(3):
        os.environ["SAME"] = "same"
        cluster.fork()
    cluster.run()
else:
    say("generation", os.environ["SDCLUSTER_GENERATION"], os.environ["SAME"])
"""
    )
    assert program.wait() == 0
    assert program.lines("generation") == ["1 same"] * 3


def test_module_is_found_when_the_folder_has_changed(play: Play, tmp_path: Path) -> None:
    """`python -m` looks where the master was started, and so do its workers."""
    (tmp_path / "other").mkdir()
    program = play(
        """
if cluster.is_master:
    cluster.fork()
    os.chdir("other")
    cluster.fork()
    cluster.run()
else:
    say("in", os.path.basename(os.getcwd()))
""",
        command=["-m", "program"],
    )
    assert program.wait() == 0
    assert sorted(program.lines("in")) == ["other", tmp_path.name]

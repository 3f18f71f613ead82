"""What `rpm -vv` tells of a transaction: which scriptlets run, and what they call."""

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scriptlet:
    """A scriptlet that has run: its kind, its package, and the commands of its shell."""

    kind: str
    package: str
    commands: tuple[str, ...] = ()


def scriptlets(output: str) -> list[Scriptlet]:
    """Return the scriptlets in their order. rpm traces the shell of each, when it is so verbose."""
    found: list[Scriptlet] = []
    commands: list[str] = []
    for line in output.splitlines():
        if start := re.fullmatch(r"D: (%\w+)\((\S+)\.noarch\): scriptlet start", line):
            commands = []
            found.append(Scriptlet(start[1], start[2]))
        elif line.startswith("+ "):
            commands.append(line.removeprefix("+ ").strip())
        elif found and re.match(r"D: %\w+\(\S+\): waitpid\(", line):
            found[-1] = Scriptlet(found[-1].kind, found[-1].package, tuple(commands))
    return found

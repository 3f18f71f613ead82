"""The rooms of sdcluster, and which of them may import which.

python -m tests.architecture    prints the arrows that there are
"""

import ast
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent / "sdcluster"
MODULES = sorted(ROOT.rglob("*.py"))

ROOMS: Mapping[str, frozenset[str]] = {
    room: frozenset(below.split())
    for room, below in {
        "errors": "",
        "core": "",
        "system": "errors",
        "wire": "errors",
        "config": "errors wire",
        "cache": "errors system wire",
        "messaging": "cache errors system wire",
        "worker": "errors messaging system wire",
        "master": "config core errors messaging system wire",
        "cli": "config core errors master system wire",
        "cluster": "config errors master worker",
        "__main__": "cli",
    }.items()
}
"""From the bottom to the top: each room, and those below that it imports. Everybody may import
`sdcluster` itself, which has the version alone."""


def name_of(module: Path) -> str:
    """Return the dotted name of a module."""
    parts = module.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(name: str) -> str:
    """Return the room that a module is in; empty for what is not in one."""
    top, _, rest = name.partition(".")
    return rest.partition(".")[0] if top == "sdcluster" else ""


@functools.cache
def imports(module: Path) -> list[str]:
    """Return the dotted name of each module that a module imports, at its top or inside."""
    names = {name_of(one) for one in MODULES}
    found: list[str] = []
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{module} has a relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.append(whole if whole in names else node.module)
    return found


def arrows() -> Iterator[tuple[str, str]]:
    """Yield the two rooms of each import from one to another."""
    for module in MODULES:
        room = room_of(name_of(module))
        for name in imports(module):
            other = room_of(name)
            if other and other != room:
                yield room, other


def main() -> None:
    """Print each room with those that it imports, and how often."""
    found = list(arrows())
    for room in ROOMS:
        below = [other for other in ROOMS if (room, other) in found]
        print(f"{room:10}", *(f"{other} ({found.count((room, other))})" for other in below))
    print(f"{len(ROOMS)} rooms, {len(set(found))} arrows")


if __name__ == "__main__":
    main()

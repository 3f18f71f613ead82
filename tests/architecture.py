"""The rooms of sdcluster, and which of them may import which.

python -m tests.architecture    prints the arrows that there are
"""

import ast
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent / "sdcluster"
MODULES = sorted(ROOT.rglob("*.py"))

Rooms = Mapping[str, frozenset[str]]


def _rooms(**below: str) -> Rooms:
    return {room: frozenset(names.split()) for room, names in below.items()}


ROOMS = _rooms(
    errors="",
    core="",
    system="errors",
    wire="errors",
    config="errors wire",
    cache="errors system wire",
    messaging="cache errors system wire",
    worker="errors messaging system wire",
    master="config core errors messaging system wire",
    cli="config core errors master system wire",
    cluster="config errors master worker",
    __main__="cli",
)
"""From the bottom to the top: each room, and those below that it imports. Everybody may import
`sdcluster` itself, which has the version alone."""

INNER = {
    "master": _rooms(
        host="",
        connections="host",
        processes="host connections",
        service="host connections processes",
        program="host connections processes",
    ),
    "worker": _rooms(
        host="",
        moving="",
        sockets="moving",
        http="moving",
        messages="host moving",
        service="host http messages moving",
        program="host http messages moving sockets",
        mold="host http messages moving program service",
    ),
}
"""The same within a room that has rooms of its own."""


def name_of(module: Path) -> str:
    """Return the dotted name of a module."""
    parts = module.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(name: str, within: str = "sdcluster") -> str:
    """Return the room that a module is in; empty for what is not in one."""
    return (
        name.removeprefix(f"{within}.").partition(".")[0] if name.startswith(f"{within}.") else ""
    )


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


def arrows(within: str = "sdcluster") -> Iterator[tuple[str, str]]:
    """Yield the two rooms of each import from one to another."""
    for module in MODULES:
        room = room_of(name_of(module), within)
        for name in imports(module) if room else ():
            other = room_of(name, within)
            if other and other != room:
                yield room, other


def main() -> None:
    """Print each room with those that it imports, and how often."""
    print_arrows("sdcluster", ROOMS)
    for room, inner in INNER.items():
        print()
        print_arrows(f"sdcluster.{room}", inner)


def print_arrows(within: str, rooms: Rooms) -> None:
    """Print the arrows between some rooms."""
    found = list(arrows(within))
    print(f"{within}: {len(rooms)} rooms, {len(set(found))} arrows")
    for room in rooms:
        below = [other for other in rooms if (room, other) in found]
        print(f"  {room:12}", *(f"{other} ({found.count((room, other))})" for other in below))


if __name__ == "__main__":
    main()

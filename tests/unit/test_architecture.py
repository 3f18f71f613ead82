"""The arrows between the packages, and other promises that no single module can keep."""

import ast
import re
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from architecture import INNER, MODULES, ROOMS, ROOT, arrows, imports, name_of, room_of

from sdcluster.master.host.journal import EventKind

ARCHITECTURE = ROOT.parent / "docs" / "architecture.md"
CATALOG = ROOT.parent / "units" / "sdcluster.catalog"

PURE = {"collections", "dataclasses", "enum", "functools", "itertools", "math", "typing"}
"""What the core may have of the standard library: no clock, no system, no loop."""

ENGINE = {"uvicorn", "uvloop", "httptools", "h11", "a2wsgi"}
"""What a worker finds in the app's own environment, or is lent by ours."""

FRAMEWORKS = {"cachelib", "django"}
"""What an app brings along, and the module of the cache that is named after it."""

LIBRARIES = {
    "cache": {"lmdb", "redis", *FRAMEWORKS},
    "cli": {"click", "rich"},
    "master": {"systemd", "sdnotify"},
    "worker": ENGINE,
}
"""What the rooms import beside the standard library."""


EVERY = {"sdcluster": ROOMS, **{f"sdcluster.{room}": inner for room, inner in INNER.items()}}


@pytest.mark.parametrize(("within", "room"), [(one, room) for one in EVERY for room in EVERY[one]])
def test_room_imports_what_is_below_it(within: str, room: str) -> None:
    """Its own arrows alone, and each of them: a room tells in which process it is."""
    assert {other for one, other in arrows(within) if one == room} == EVERY[within][room]


@pytest.mark.parametrize("within", EVERY)
def test_no_arrow_goes_up_or_round(within: str) -> None:
    """The rooms are in order, so there is no circle."""
    rooms = list(EVERY[within])
    for index, room in enumerate(rooms):
        assert EVERY[within][room] <= set(rooms[:index]), room


def test_documentation_has_each_room_and_what_it_imports() -> None:
    """In the order of the rooms, so that it can be read from the top."""
    rows = re.findall(r"^\| `([a-z_/]+)` \| .* \| (.*)\|$", ARCHITECTURE.read_text(), re.MULTILINE)
    inner = {f"{room}/{one}": INNER[room][one] for room in INNER for one in INNER[room]}
    rooms = {**ROOMS, **inner}
    assert [room for room, _ in rows] == list(rooms)
    for room, below in rows:
        if below.strip() != "all of these but `sockets`":
            assert set(re.findall(r"`(\w+)`", below)) == rooms[room], room
    assert rooms["worker/mold"] == INNER["worker"].keys() - {"mold", "sockets"}


def test_documentation_names_modules_that_there_are() -> None:
    """Whoever follows it finds them."""
    names = set(
        re.findall(
            r"`((?:cli|config|core|master|messaging|worker)/[a-z_/]+)(?:\.py)?`",
            ARCHITECTURE.read_text(),
        )
    )
    for name in names:
        assert (ROOT / f"{name}.py").exists() or (ROOT / name).is_dir(), name


def test_no_modules_import_each_other() -> None:
    """Not in a larger circle either, at run time or for types alone."""
    graph = {name_of(module): set(imports(module)) - {"sdcluster"} for module in MODULES}
    TopologicalSorter(graph).prepare()  # Raises CycleError.


@pytest.mark.parametrize("within", EVERY)
def test_every_module_is_in_a_room(within: str) -> None:
    """A new folder has to say where it stands."""
    assert {room_of(name_of(module), within) for module in MODULES} == {"", *EVERY[within]}


@pytest.mark.parametrize("room", ROOMS)
def test_room_has_the_libraries_that_it_may_have(room: str) -> None:
    """The core has no clock, no system and no loop."""
    standard = PURE if room == "core" else sys.stdlib_module_names
    for module in MODULES:
        for name in imports(module) if room_of(name_of(module)) == room else ():
            top = name.partition(".")[0]
            allowed = top == "sdcluster" or top in standard or top in LIBRARIES.get(room, ())
            assert allowed, f"{name_of(module)} imports {name}"


def test_framework_is_imported_by_its_own_module_alone() -> None:
    """Nobody else may need it, and nobody of ours imports that module."""
    for module in MODULES:
        for name in imports(module):
            if (top := name.split(".")[0]) in FRAMEWORKS:
                assert name_of(module) == f"sdcluster.cache.{top}"
            assert name not in {f"sdcluster.cache.{one}" for one in FRAMEWORKS}


def test_generator_needs_the_standard_library_alone() -> None:
    """It runs early at boot, and must not fail for a package that is missing."""
    needed = {"sdcluster.cli.generator"}
    while True:
        found = {
            name
            for module in MODULES
            if name_of(module) in needed
            for name in imports(module)
            if name.split(".")[0] not in sys.stdlib_module_names
        }
        if found <= needed:
            break
        needed |= found
    assert all(name.partition(".")[0] == "sdcluster" for name in needed), needed


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_module_says_what_it_is_for(module: Path) -> None:
    """Each begins with a docstring."""
    assert ast.get_docstring(ast.parse(module.read_text()))


def test_every_kind_of_log_entry_is_explained_in_the_catalog() -> None:
    """And the catalog explains nothing that is never logged; each entry is complete."""
    entries = re.split(r"^-- ", CATALOG.read_text(), flags=re.MULTILINE)[1:]
    explained = [entry.split("\n")[0] for entry in entries]
    assert len(explained) == len(set(explained))
    assert set(explained) == {kind.value for kind in EventKind}
    for entry in entries:
        header, _, text = entry.partition("\n\n")
        assert re.search(r"^Subject: \S", header, re.MULTILINE), entry
        assert "Defined-By: sdcluster" in header and text.strip(), entry

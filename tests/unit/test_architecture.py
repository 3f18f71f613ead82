"""The arrows between the packages, and other promises that no single module can keep."""

import ast
import functools
import re
import sys
from pathlib import Path

import pytest

import sdcluster
from sdcluster.master.journal import EventKind

ROOT = Path(sdcluster.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))
CATALOG = ROOT.parent / "units" / "sdcluster.catalog"

PURE = {"collections", "dataclasses", "enum", "functools", "itertools", "math", "typing"}
"""What the core may have of the standard library: no clock, no system, no loop."""

ENGINE = {"uvicorn", "uvloop", "httptools", "h11", "a2wsgi"}
"""What a worker finds in the app's own environment, or is lent by ours."""

FRAMEWORKS = {"cachelib", "django"}
"""What an app brings along, and the module of the cache that is named after it."""

SHARED = {
    "sdcluster",
    "sdcluster.cacheurl",
    "sdcluster.config",
    "sdcluster.errors",
    "sdcluster.folders",
    "sdcluster.process",
    "sdcluster.program",
    "sdcluster.runtime",
}
"""What everybody in the master may import, below the command line."""

BOTH_SIDES = {
    "sdcluster.attachment",
    "sdcluster.cacheurl",
    "sdcluster.descriptors",
    "sdcluster.emitter",
    "sdcluster.errors",
    "sdcluster.everywhere",
    "sdcluster.loops",
    "sdcluster.messaging",
    "sdcluster.process",
    "sdcluster.repeating",
    "sdcluster.requests",
    "sdcluster.side",
}
"""The modules that belong to no package, and that workers need as well."""

ARROWS = {
    # package: (own modules it may import, other packages beside the standard library)
    "cache": (
        {
            "sdcluster.cache",
            "sdcluster.cacheurl",
            "sdcluster.errors",
            "sdcluster.folders",
            "sdcluster.program",
        },
        {"lmdb", "redis", *FRAMEWORKS},
    ),
    "core": ({"sdcluster.core"}, set()),
    "wire": ({"sdcluster.wire", "sdcluster.errors"}, set()),
    "worker": (
        {"sdcluster.worker", "sdcluster.wire", *BOTH_SIDES},
        ENGINE,
    ),
    "master": (
        {"sdcluster.master", "sdcluster.core", "sdcluster.wire", *SHARED, *BOTH_SIDES},
        {"systemd", "sdnotify"},
    ),
}


def name_of(module: Path) -> str:
    """Return the dotted name of a module."""
    parts = module.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


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


def belongs(name: str, packages: set[str]) -> bool:
    """Tell whether a module is one of `packages`, or inside one; `sdcluster` is itself alone."""
    return name in packages or any(
        name.startswith(f"{one}.") for one in packages if one != "sdcluster"
    )


@pytest.mark.parametrize("package", ARROWS)
def test_package_imports_what_its_arrows_allow(package: str) -> None:
    """Which folder a module is in tells which process it is in, and what it may know."""
    own, others = ARROWS[package]
    library = PURE if package == "core" else sys.stdlib_module_names
    for module in (ROOT / package).rglob("*.py"):
        for name in imports(module):
            top = name.split(".")[0]
            allowed = belongs(name, own) or top in others or top in library
            assert allowed, f"{name_of(module)} imports {name}"


def test_master_and_worker_never_import_each_other() -> None:
    """`wire` is their contract."""
    for package, other in (("master", "sdcluster.worker"), ("worker", "sdcluster.master")):
        for module in (ROOT / package).rglob("*.py"):
            assert not [name for name in imports(module) if belongs(name, {other})]


@pytest.mark.parametrize("name", sorted(SHARED - {"sdcluster"}))
def test_shared_module_knows_no_package(name: str) -> None:
    """What everybody may import must not bring the others in by the back door."""
    for module in MODULES:
        for imported in imports(module) if belongs(name_of(module), {name}) else ():
            top = imported.split(".")[0]
            assert top in sys.stdlib_module_names or belongs(imported, SHARED), imported


def test_framework_is_imported_by_its_own_module_alone() -> None:
    """Nobody else may need it, and nobody of ours imports that module."""
    for module in MODULES:
        for name in imports(module):
            if (top := name.split(".")[0]) in FRAMEWORKS:
                assert name_of(module) == f"sdcluster.cache.{top}"
            assert name not in {f"sdcluster.cache.{one}" for one in FRAMEWORKS}


def test_nobody_imports_the_command_line() -> None:
    """It stands at the top."""
    for module in MODULES:
        if module.name != "__main__.py":
            assert "sdcluster.cli" not in set(imports(module)), module


def test_generator_needs_the_standard_library_alone() -> None:
    """It runs early at boot, and must not fail for a package that is missing."""
    needed = {"sdcluster.generator"}
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
    assert all(belongs(name, SHARED | {"sdcluster.generator"}) for name in needed), needed


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

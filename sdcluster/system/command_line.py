"""The program that this process runs, as its command line has it."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path


def script() -> list[str]:
    """Return what this process runs: a file, or `-m` and a module; empty when it is neither."""
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name != "__main__":
        return ["-m", spec.name.removesuffix(".__main__")]
    path = getattr(main, "__file__", None) if spec is None else sys.argv[0]
    if not path or not os.path.exists(path):
        return []
    return [os.path.abspath(path)]


def folder() -> str:
    """Return where `python -m` has found the module that this process runs; empty when unsure.

    That is the folder where it was started, which it may have left since.
    """
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is None or spec.name == "__main__" or not spec.has_location or not spec.origin:
        return ""
    found = Path(spec.origin)
    for _ in spec.name.split("."):
        found = found.parent
    return str(found) if str(found) == sys.path[0] else ""


def name(words: Sequence[str]) -> str:
    """Return what a program is called: its file or module, without folder or package."""
    if words[0] == "-m":
        return words[1].rpartition(".")[2]
    return Path(words[0]).stem

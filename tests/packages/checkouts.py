"""The checkout under test, and copies of it that differ."""

import os
import shutil
from pathlib import Path

import rpms

CHECKOUT = Path(__file__).resolve().parent.parent.parent
SPEC = (CHECKOUT / "packaging/rpm/sdcluster.spec").read_text()
OLDER = "0.0.9"


def copy(destination: Path) -> Path:
    """Copy the checkout to a folder, and return that."""
    return shutil.copytree(CHECKOUT, destination, ignore=shutil.ignore_patterns(".git", ".*_cache"))


def make_older_version(destination: Path) -> Path:
    """Copy the checkout and lower its version; a unit has another description in it."""
    checkout = copy(destination)
    for name in ("packaging/rpm/sdcluster.spec", "sdcluster/__init__.py"):
        change(checkout / name, rpms.version_of(SPEC), OLDER)
    change(checkout / "units/sdcluster@.service", "served by", f"served by {OLDER} of")
    return checkout


def make_aged(destination: Path) -> Path:
    """Copy the checkout and make its files older than any changelog."""
    checkout = copy(destination)
    for path in checkout.rglob("*"):
        os.utime(path, (0, 1_000_000_000))
    return checkout


def change(file: Path, old: str, new: str) -> None:
    """Replace a text that the file must have."""
    text = file.read_text()
    assert old in text, f"{file} has no {old!r}"
    file.write_text(text.replace(old, new))

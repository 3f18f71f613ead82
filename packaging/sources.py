"""The sources of a checkout, as packages are built from: without what tools have left in it."""

import gzip
import shutil
import tarfile
from pathlib import Path

IGNORED = (
    ".git",
    "__pycache__",
    "*.egg-info",
    ".venv",
    ".*_cache",
    ".coverage*",
    ".hypothesis",
    "build",
    "dist",
)
"""Names of files and folders, as in .gitignore."""


def copy(checkout: Path, destination: Path) -> None:
    """Copy the sources to a folder, which is made.

    All files are new: an age that a checkout gives them would go into the packages.
    """
    ignore = shutil.ignore_patterns(*IGNORED)
    shutil.copytree(checkout, destination, ignore=ignore, copy_function=shutil.copy)


def archive(folder: Path, destination: Path, *, name: str, time_s: int) -> None:
    """Write a .tar.gz of a folder, called `name` in it: of equal files, an equal archive.

    So all files are the superuser's, of the time `time_s`, and in order.
    """
    with (
        destination.open("wb") as raw,
        gzip.GzipFile("", "wb", fileobj=raw, mtime=time_s) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for path in [folder, *sorted(folder.rglob("*"))]:
            entry = tar.gettarinfo(path, str(Path(name) / path.relative_to(folder)))
            entry.uid = entry.gid = 0
            entry.uname = entry.gname = "root"
            entry.mtime = time_s
            entry.mode = 0o755 if path.is_dir() or entry.mode & 0o100 else 0o644
            if path.is_file() and not path.is_symlink():
                with path.open("rb") as content:
                    tar.addfile(entry, content)
            else:
                tar.addfile(entry)

"""Folders that are one user's alone, made where others may be faster: below /tmp, say.

What is found is looked at by its descriptor, and what is missing is made below the descriptor of
the folder above it. So nothing can change between the look and the use.
"""

import errno
import os
import stat
from pathlib import Path

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class NotOursError(OSError):
    """A folder is somebody else's, or somebody else may put what they like in its place."""


def make_private(folder: Path, *, above: int = 0o700, is_strict: bool = True) -> None:
    """Make a folder that is for this user alone, whatever the umask; it may be there already.

    Those above it that are missing get the mode `above`. With `is_strict` nobody but root and this
    user may be able to replace it, or to put anything there; else what is there is taken as it is,
    if it belongs to this user. Raises `NotOursError`, and OSError.
    """
    missing = [folder.name]
    base = folder.parent
    while not base.exists() and base != base.parent:
        missing.insert(0, base.name)
        base = base.parent
    parent = os.open(base, _FOLDER)
    try:
        if is_strict:
            _check_parent(base, parent)
        for number, name in enumerate(missing, 1):
            base /= name
            child = _made(parent, name, 0o700 if number == len(missing) else above)
            os.close(parent)
            parent = child
            _check(base, child)
        if is_strict:
            _check_mode(base, parent)
    finally:
        os.close(parent)


def _made(parent: int, name: str, mode: int) -> int:
    """Return the descriptor of a folder, which is made if it is missing."""
    try:
        os.mkdir(name, mode & ~_OTHERS_WRITE, dir_fd=parent)
        is_new = True
    except FileExistsError:
        is_new = False
    child = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=parent)
    if is_new and os.fstat(child).st_uid == os.geteuid():
        os.fchmod(child, mode)  # The umask may have taken something away.
    return child


def _check(folder: Path, descriptor: int) -> None:
    owner = os.fstat(descriptor).st_uid
    if owner != os.geteuid():
        raise NotOursError(errno.EPERM, f"it belongs to the user {owner}", str(folder))


def _check_mode(folder: Path, descriptor: int) -> None:
    mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
    if mode & _OTHERS_WRITE:
        raise NotOursError(errno.EPERM, "others may write there", str(folder))
    if mode & stat.S_IRWXO:
        os.fchmod(descriptor, mode & ~stat.S_IRWXO)


def _check_parent(folder: Path, descriptor: int) -> None:
    found = os.fstat(descriptor)
    if found.st_uid not in (0, os.geteuid()):
        raise NotOursError(errno.EPERM, f"it belongs to the user {found.st_uid}", str(folder))
    if found.st_mode & _OTHERS_WRITE and not found.st_mode & stat.S_ISVTX:
        raise NotOursError(errno.EPERM, "others may write there", str(folder))

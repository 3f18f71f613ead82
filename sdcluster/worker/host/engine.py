"""Finds the HTTP engine and what the cache needs: the app's own, or else sdcluster's.

A program of the library has its own alone.
"""

import contextlib
import importlib
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType

from sdcluster.errors import AppError
from sdcluster.wire.frames import CACHE_PACKAGES, ENGINE_PACKAGES, Prepare


class _Finder:
    """Finds some packages, and these alone, in folders the interpreter does not search."""

    def __init__(self, packages: Sequence[str], folders: Sequence[str]) -> None:
        self._packages = frozenset(packages)
        self._folders = list(folders)

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        if path is None and fullname in self._packages:
            return importlib.machinery.PathFinder.find_spec(fullname, self._folders, target)
        return None


def find(prepare: Prepare) -> None:
    """Import uvicorn and its fast parts where they are. Raises `AppError` if there is none.

    Done in the mold, so that the workers share it. What the cache needs is found when it is used.
    """
    ours = f"{sys.version_info.major}.{sys.version_info.minor}"
    if importlib.util.find_spec("uvicorn") is None:
        if ours != prepare.engine_python or not prepare.engine_path:
            raise AppError(
                f"{sys.prefix} has no uvicorn and runs Python {ours}, while sdcluster's own is "
                f"for Python {prepare.engine_python}: {sys.prefix}/bin/pip install uvicorn"
            )
        sys.meta_path.append(_Finder(ENGINE_PACKAGES, prepare.engine_path))
    if ours == prepare.engine_python:
        sys.meta_path.append(_Finder(CACHE_PACKAGES, prepare.engine_path))
    _import_all()


def import_own() -> None:
    """Import that of the app's own environment, if there is one; else `find` does."""
    with contextlib.suppress(Exception):  # Then `find` tells what is wrong.
        if importlib.util.find_spec("uvicorn") is not None:
            _import_all()


def _import_all() -> None:
    for name in ("uvicorn.config", "uvicorn.server", "uvicorn.lifespan.on"):
        importlib.import_module(name)
    if not _import_if_there("uvicorn.protocols.http.httptools_impl"):
        _import_if_there("uvicorn.protocols.http.h11_impl")
    for name in ("uvloop", "uvicorn.protocols.http.auto", "uvicorn.protocols.websockets.auto"):
        _import_if_there(name)


def _import_if_there(name: str) -> bool:
    """Import a module; who needs one that is not there says what is wrong with it."""
    try:
        importlib.import_module(name)
    except Exception:
        return False
    return True


def require() -> None:
    """Raise `AppError` where the environment has no uvicorn."""
    if importlib.util.find_spec("uvicorn") is None:
        raise AppError(f"serving needs uvicorn: {sys.prefix}/bin/pip install uvicorn")


def wsgi_middleware() -> type:
    """Return a2wsgi's middleware, or that of an uvicorn old enough. Raises `AppError`."""
    for name in ("a2wsgi", "uvicorn.middleware.wsgi"):
        if _import_if_there(name):
            found = getattr(sys.modules[name], "WSGIMiddleware", None)
            if isinstance(found, type):
                return found
    raise AppError(f"WSGI needs a2wsgi: {sys.prefix}/bin/pip install a2wsgi")

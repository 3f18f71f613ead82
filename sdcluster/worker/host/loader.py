"""Finds the app that `module:attribute` names, and tells what it is."""

import difflib
import functools
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any, Literal, cast

from sdcluster.errors import AppError

_OURS = (__file__, os.path.join(os.path.dirname(os.path.dirname(__file__)), "messages", "agent.py"))
_USUAL_NAMES = ("app", "application", "api", "asgi", "wsgi", "create_app", "make_app")


def load_function(target: str, what: str) -> Callable[..., Any]:
    """Import and return a function of the app's, which is to be `what`. Raises `AppError`."""
    found = _find(target)
    if not callable(found):
        kind = type(found).__name__
        raise AppError(f"{target}: a {kind} is no {what}; name a function")
    return cast(Callable[..., Any], found)


def load(target: str) -> Any:
    """Import and return the app; call it when `target` ends with `()`. Raises `AppError`.

    Whatever the app raises, SystemExit included, becomes the reason, with its traceback.
    """
    found = _find(target.removesuffix("()"))
    if not callable(found):
        kind = type(found).__name__
        raise AppError(f"{target}: a {kind} is not an app; it cannot be called")
    if target.endswith("()"):
        found = guarded(f"{target} failed", found)
        if not callable(found):
            kind = type(found).__name__
            raise AppError(f"{target} returned a {kind}, which is not an app")
    return found


def _find(target: str) -> Any:
    module_name, _, path = target.partition(":")
    module = guarded(f"cannot import {module_name!r}", lambda: _import(module_name))
    found: Any = module
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise AppError(_no_attribute(found, module_name, name)) from None
    return found


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(error.name + ".")):
            raise AppError(
                f"cannot import {name!r}: there is no module {error.name!r} in {os.getcwd()}, "
                f"nor in the packages of {sys.prefix}"
            ) from None
        raise


def guarded(what: str, action: Callable[[], Any]) -> Any:
    """Return what the app's `action` does. Raises `AppError`, whatever the app raises."""
    try:
        return action()
    except AppError:
        raise
    except SystemExit as error:
        reason = f"{what}: it calls sys.exit({error.code!r})"
        raise AppError(reason, _traceback(error)) from None
    except BaseException as error:
        last = traceback.format_exception_only(error)[-1].strip()
        raise AppError(f"{what}: {last}", _traceback(error)) from None


def _traceback(error: BaseException) -> str:
    """Return the traceback from the app's first own line on."""
    frames = error.__traceback__
    while frames is not None and _is_ours(frames.tb_frame.f_code.co_filename):
        frames = frames.tb_next
    return "".join(traceback.format_exception(type(error), error, frames))


def _is_ours(file: str) -> bool:
    return file in _OURS or file.startswith("<frozen importlib") or "/importlib/" in file


def _no_attribute(owner: object, module: str, name: str) -> str:
    near = difflib.get_close_matches(name, dir(owner), 3, 0.5)
    near = near or [one for one in _USUAL_NAMES if hasattr(owner, one)]
    hint = f"; there is {', '.join(near)}" if near else ""
    return f"{module!r} has no attribute {name!r}{hint}"


def interface_of(app: Any) -> Literal["asgi", "wsgi"]:
    """Tell what an app is by how it is called. Raises `AppError` when that cannot be told."""
    while isinstance(app, functools.partial):
        app = app.func
    if inspect.isclass(app):
        raise AppError(f"{app.__name__} is a class; name an instance of it, or a factory MAKE()")
    if inspect.iscoroutinefunction(app) or inspect.iscoroutinefunction(type(app).__call__):
        return "asgi"
    try:
        signature = inspect.signature(app)
    except (TypeError, ValueError):
        signature = inspect.Signature()
    positional = [
        one
        for one in signature.parameters.values()
        if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD) and one.default is one.empty
    ]
    if len(positional) == 2:
        return "wsgi"
    if len(positional) == 3:
        return "asgi"
    raise AppError("cannot tell whether the app is ASGI or WSGI; set interface")

"""Finding the app, and telling what it is."""

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sdcluster.errors import AppError
from sdcluster.worker.host.loader import interface_of, load

Write = Callable[[str], str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write a module that can be imported, and return its name, a new one each time."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)

    def write(source: str) -> str:
        name = f"shop_{tmp_path.name}"
        (tmp_path / f"{name}.py").write_text(source)
        monkeypatch.delitem(sys.modules, name, raising=False)
        return name

    return write


# What is found.


def test_app_is_an_attribute_of_a_module(write: Write) -> None:
    """Also of an object in it."""
    name = write("class site:\n    def app(self): pass\ndef app(): pass\n")
    assert load(f"{name}:app").__name__ == "app"
    assert load(f"{name}:site.app").__qualname__ == "site.app"


def test_factory_is_called(write: Write) -> None:
    """Parentheses say so."""
    name = write("def make():\n    return print\n")
    assert load(f"{name}:make()") is print
    assert load(f"{name}:make").__name__ == "make"


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("", ":app", "has no attribute 'app'$"),
        ("application = print", ":app", "has no attribute 'app'; there is application"),
        ("create_app = print", ":zzz", "has no attribute 'zzz'; there is create_app"),
        ("app = 1", ":app", ":app: a int is not an app; it cannot be called"),
        ("def make(): return 1", ":make()", r":make\(\) returned a int, which is not an app"),
        ("def make(x): pass", ":make()", r":make\(\) failed: TypeError: make\(\) missing 1"),
        ("1 / 0", ":app", "cannot import 'shop_.*': ZeroDivisionError: division by zero"),
        ("import none_such", ":app", "cannot import .*: ModuleNotFoundError: .*'none_such'"),
        ("import sys\nsys.exit(3)", ":app", r"cannot import .*: it calls sys.exit\(3\)"),
        ("raise KeyboardInterrupt", ":app", "cannot import .*: KeyboardInterrupt"),
        ("def", ":app", "cannot import .*: SyntaxError: "),
    ],
)
def test_app_that_cannot_be_had_is_told_with_the_reason(
    write: Write, source: str, target: str, message: str
) -> None:
    """Whatever the app raises becomes one line."""
    name = write(source)
    with pytest.raises(AppError, match=message):
        load(name + target)


def test_missing_module_is_told_with_where_it_was_looked_for(write: Write, tmp_path: Path) -> None:
    """The most frequent mistake: the wrong directory, or the wrong virtualenv."""
    write("")
    with pytest.raises(AppError) as caught:
        load("none_such.web:app")
    assert str(caught.value) == (
        f"cannot import 'none_such.web': there is no module 'none_such' in {tmp_path}, "
        f"nor in the packages of {sys.prefix}"
    )
    assert caught.value.detail == ""


def test_traceback_begins_with_the_app_itself(write: Write) -> None:
    """The frames of the loader are of no interest to anybody."""
    name = write("def fail():\n    raise ValueError('no')\nfail()\n")
    with pytest.raises(AppError) as caught:
        load(f"{name}:app")
    assert caught.value.detail.count("File ") == 2
    assert f"{name}.py" in caught.value.detail and "loader.py" not in caught.value.detail


def test_reason_that_the_app_gives_itself_is_kept(write: Write) -> None:
    """An AppError is not wrapped in another."""
    name = write("from sdcluster.errors import AppError\nraise AppError('not today')\n")
    with pytest.raises(AppError, match=r"^not today$"):
        load(f"{name}:app")


# What it is.


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    """An ASGI app."""


def old_asgi(scope: Any, receive: Any, send: Any) -> None:
    """A function that returns a coroutine, as decorators make them."""


def wsgi(environ: Any, start_response: Any, extra: Any = None) -> list[bytes]:
    """A WSGI app."""
    return [str((environ, start_response, extra)).encode()]


async def anything(*args: Any, **options: Any) -> None:
    """An ASGI app behind a decorator."""


class AsgiObject:
    """An ASGI app that is an object."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer."""

    def wsgi(self, environ: Any, start_response: Any) -> None:
        """Be another app."""


class WsgiObject:
    """A WSGI app that is an object."""

    def __call__(self, environ: Any, start_response: Any) -> None:
        """Answer."""


@pytest.mark.parametrize(
    ("app", "expected"),
    [
        (asgi, "asgi"),
        (old_asgi, "asgi"),
        (anything, "asgi"),
        (AsgiObject(), "asgi"),
        (functools.partial(asgi, None), "asgi"),
        (functools.partial(functools.partial(asgi), None), "asgi"),
        (wsgi, "wsgi"),
        (WsgiObject(), "wsgi"),
        (AsgiObject().wsgi, "wsgi"),
        (functools.partial(wsgi, extra=1), "wsgi"),
    ],
)
def test_interface_is_told_by_how_the_app_is_called(app: Any, expected: str) -> None:
    """A coroutine or three arguments is ASGI, two are WSGI; defaults do not count."""
    assert interface_of(app) == expected


@pytest.mark.parametrize("app", [lambda *args: args, lambda scope: scope, print, max])
def test_app_that_could_be_either_is_not_guessed(app: Any) -> None:
    """The user can say it."""
    with pytest.raises(AppError, match="cannot tell whether the app is ASGI or WSGI"):
        interface_of(app)


def test_class_is_no_app() -> None:
    """ASGI 2, or parentheses forgotten."""
    with pytest.raises(AppError, match="AsgiObject is a class; name an instance of it"):
        interface_of(AsgiObject)

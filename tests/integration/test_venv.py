"""An app in a virtualenv: of another Python, with its own engine, or with none."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Start
from web import connection, fetch

EX_SOFTWARE = 70

TELLING = """
import importlib.util
import json
import os
import sys

import uvicorn

def package(name):
    found = importlib.util.find_spec(name)
    return found and found.origin

async def app(scope, receive, send):
    assert scope["type"] == "http"
    told = {
        "python": list(sys.version_info[:2]),
        "prefix": sys.prefix,
        "uvicorn": uvicorn.__version__,
        "engine": uvicorn.__file__,
        "rich": package("rich"),
        "sdnotify": package("sdnotify"),
        "only_here": package("only_here"),
        "environment": [os.environ["VIRTUAL_ENV"], os.environ["PATH"].split(":")[0]],
    }
    body = json.dumps(told).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""
"""An app that tells where it runs and what it can import."""

WSGI = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "4")])
    return [b"wsgi"]
"""

CACHING = """
import importlib.util
import json
import sys

from sdcluster import cache

def app(environ, start_response):
    told = {"count": cache.incr("n"), "prefix": sys.prefix}
    told["found"] = {
        name: importlib.util.find_spec(name).origin for name in ("lmdb", "uvicorn", "redis")
    }
    body = json.dumps(told).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""
"""An app that counts in the shared cache, and tells where it is from."""

MakeVenv = Callable[..., Path]


def interpreter(version: str) -> str:
    """Return the path of a Python; skip the test when this machine does not have it."""
    found = [str(path) for path in Path.home().glob(f".pyenv/versions/{version}.*/bin/python")]
    on_path = shutil.which(f"python{version}")
    for python in [*([on_path] if on_path else []), *found]:
        # A shim may be there for a Python that is not.
        told = subprocess.run([python, "-V"], capture_output=True, text=True, check=False)
        if f"Python {version}." in told.stdout:
            return python
    pytest.skip(f"there is no Python {version}")


@pytest.fixture(scope="session")
def make_venv(tmp_path_factory: pytest.TempPathFactory) -> MakeVenv:
    """Make a virtualenv of a Python, with packages; each combination once."""
    made: dict[tuple[str, ...], Path] = {}

    def make(version: str, *packages: str) -> Path:
        key = (version, *packages)
        if key not in made:
            venv = tmp_path_factory.mktemp("venv") / "env"
            bare = [] if packages else ["--without-pip"]
            subprocess.run([interpreter(version), "-m", "venv", *bare, venv], check=True)
            if packages:
                # The virtualenv's own pip: that of another Python may be too old to run in it.
                pip = [str(venv / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
                subprocess.run([*pip, "install", "-q", *packages], check=True)
            made[key] = venv
        return made[key]

    return make


OURS = f"{sys.version_info.major}.{sys.version_info.minor}"
OTHER = "3.13" if OURS != "3.13" else "3.12"


def config(venv: Path, *lines: str) -> str:
    """Return a config file for the app in a virtualenv."""
    return "\n".join(['app = "app:app"', "workers = 1", f'venv = "{venv}"', *lines]) + "\n"


@pytest.mark.parametrize("version", ["3.12", "3.13"])
def test_app_runs_in_another_python_with_its_own_engine(
    start: Start, make_venv: MakeVenv, version: str
) -> None:
    """The virtualenv's interpreter runs the app, with the uvicorn that is installed there."""
    venv = make_venv(version, "uvicorn")
    instance = start(TELLING, config=config(venv))
    told = json.loads(fetch(instance.address).body)
    assert ".".join(map(str, told["python"])) == version
    assert told["prefix"] == str(venv)
    assert told["engine"].startswith(str(venv))
    assert instance.reload().returncode == 0
    assert fetch(instance.address).status == 200


@pytest.mark.parametrize("version", ["3.12", "3.13"])
@pytest.mark.parametrize("scheduling", ["round-robin", "shared"])
def test_reload_in_another_python_loses_nothing(
    start: Start, make_venv: MakeVenv, version: str, scheduling: str
) -> None:
    """With asyncio's own loop and h11, kept-alive clients get every answer during a reload."""
    venv = make_venv(version, "uvicorn")
    instance = start(TELLING, config=config(venv, f'scheduling = "{scheduling}"'))
    with instance.under_load(close=False, clients=8) as load:
        assert instance.reload().returncode == 0
    assert load.requests > 20
    assert load.lost == 0, load.errors


def test_virtualenv_without_an_engine_uses_that_of_sdcluster(
    start: Start, make_venv: MakeVenv
) -> None:
    """In the same Python the engine beside sdcluster is used, and nothing else from there."""
    venv = make_venv(OURS)
    site = next(venv.glob("lib/python*/site-packages"))
    (site / "only_here.py").touch()
    instance = start(TELLING, config=config(venv))
    told = json.loads(fetch(instance.address).body)
    assert told["prefix"] == str(venv)
    assert not told["engine"].startswith(str(venv))
    assert told["only_here"] == str(site / "only_here.py")
    assert (told["rich"], told["sdnotify"]) == (None, None)


def test_wsgi_works_with_the_engine_of_sdcluster(start: Start, make_venv: MakeVenv) -> None:
    """A WSGI app needs nothing in its virtualenv."""
    instance = start(WSGI, config=config(make_venv(OURS)))
    assert fetch(instance.address).text == "wsgi"


def test_virtualenv_is_in_the_environment(start: Start, make_venv: MakeVenv) -> None:
    """VIRTUAL_ENV and PATH are as after `activate`."""
    venv = make_venv(OURS)
    told = json.loads(fetch(start(TELLING, config=config(venv)).address).body)
    assert told["environment"] == [str(venv), f"{venv}/bin"]


def test_virtualenv_may_be_named_from_the_apps_directory(
    start: Start, make_venv: MakeVenv, tmp_path: Path
) -> None:
    """`venv` is taken from the app's directory, and may be a symlink."""
    venv = make_venv(OURS)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / ".venv").symlink_to(venv)
    (tmp_path / "site" / "app.py").write_text(TELLING)
    instance = start(None, config=config(Path(".venv"), 'directory = "site"'))
    assert json.loads(fetch(instance.address).body)["prefix"] == f"{tmp_path}/site/.venv"


def test_own_engine_wins_over_that_of_sdcluster(start: Start, make_venv: MakeVenv) -> None:
    """An uvicorn in the virtualenv is used, the oldest supported one too; reload and drain work."""
    venv = make_venv(OURS, "uvicorn==0.17.6")
    instance = start(TELLING, config=config(venv))
    with instance.under_load(close=False, clients=4) as load:
        assert instance.reload().returncode == 0
    assert load.lost == 0, load.errors
    told = json.loads(fetch(instance.address).body)
    assert told["uvicorn"] == "0.17.6"
    assert told["engine"].startswith(str(venv))
    with connection(instance.address) as client:
        assert client.fetch().status == 200
    assert instance.stop() == 0


def test_wsgi_works_with_the_oldest_engine(start: Start, make_venv: MakeVenv) -> None:
    """Without a2wsgi an old uvicorn's own middleware serves WSGI."""
    instance = start(WSGI, config=config(make_venv(OURS, "uvicorn==0.17.6")))
    assert fetch(instance.address).text == "wsgi"


def test_another_python_without_an_engine_is_told_what_to_install(
    start: Start, make_venv: MakeVenv
) -> None:
    """The engine of sdcluster's Python is not for another one; the message has the command."""
    venv = make_venv(OTHER)
    instance = start(TELLING, config=config(venv), wait=False)
    assert instance.wait(10) == EX_SOFTWARE
    assert f"cannot start: {venv} has no uvicorn and runs Python {OTHER}" in instance.log()
    assert f"{venv}/bin/pip install uvicorn" in instance.log()


def test_wsgi_without_its_middleware_is_told_what_to_install(
    start: Start, make_venv: MakeVenv
) -> None:
    """An uvicorn that has no WSGI of its own needs a2wsgi, and the message has the command."""
    venv = make_venv("3.12", "uvicorn")
    has_own = list(venv.glob("lib/python*/site-packages/uvicorn/middleware/wsgi.py"))
    instance = start(WSGI, config=config(venv), wait=False)
    if has_own:
        assert fetch(instance.wait_ready().address).text == "wsgi"
    else:
        assert instance.wait(10) == EX_SOFTWARE
        assert f"WSGI needs a2wsgi: {venv}/bin/pip install a2wsgi" in instance.log()


@pytest.mark.parametrize("version", ["3.10", "3.8"])
def test_python_that_is_too_old_is_told(start: Start, make_venv: MakeVenv, version: str) -> None:
    """A virtualenv of a Python before 3.11 ends the start with the version that is needed."""
    venv = make_venv(version)
    instance = start(TELLING, config=config(venv), wait=False)
    assert instance.wait(10) == EX_SOFTWARE
    message = f"sdcluster: {venv}/bin/python is Python {version}; 3.11 or newer is needed"
    assert message in instance.log().splitlines()
    assert "Traceback" not in instance.log()


def test_interpreter_that_cannot_be_executed_is_told(start: Start, tmp_path: Path) -> None:
    """A bin/python that is no program ends the start with the system's reason."""
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "bin" / "python").write_bytes(b"\0\0\0\0")
    (tmp_path / "venv" / "bin" / "python").chmod(0o755)
    instance = start(TELLING, config=config(tmp_path / "venv"), wait=False)
    assert instance.wait(10) == EX_SOFTWARE
    python = f"{tmp_path}/venv/bin/python"
    assert f"cannot start: cannot execute {python}: Exec format error" in instance.log()


@pytest.mark.parametrize("packages", [(), ("uvicorn==0.17.6",)], ids=["bare", "own-engine"])
def test_virtualenv_without_lmdb_has_the_cache_of_sdcluster(
    start: Start,
    make_venv: MakeVenv,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    packages: tuple[str, ...],
) -> None:
    """The package that is beside sdcluster is used, whichever engine the app has."""
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "run"))
    venv = make_venv(OURS, *packages)
    instance = start(CACHING, config=config(venv))
    told = json.loads(fetch(instance.address).body)
    assert told["prefix"] == str(venv)
    assert not told["found"]["lmdb"].startswith(str(venv))
    assert not told["found"]["redis"].startswith(str(venv))
    assert told["found"]["uvicorn"].startswith(str(venv)) == bool(packages)
    assert told["count"] == 1
    assert instance.reload().returncode == 0
    assert json.loads(fetch(instance.address).body)["count"] == 2


def test_another_python_without_lmdb_is_told_what_to_install(
    start: Start, make_venv: MakeVenv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of sdcluster's Python is not for another one; the message has the command."""
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "run"))
    venv = make_venv(OTHER, "uvicorn")
    source = "from sdcluster import cache\ncache.incr('n')\n" + TELLING
    instance = start(source, config=config(venv), wait=False)
    assert instance.wait(10) == EX_SOFTWARE
    assert f"the embedded cache needs lmdb: {venv}/bin/pip install lmdb" in instance.log()

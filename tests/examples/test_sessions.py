"""The examples with a login: what one worker was told, all know."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from waiting import wait_until

HERE = Path(__file__).resolve().parent
WORKERS = 3
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@dataclass
class Browser:
    """A client that keeps its cookies, and opens a connection for each request."""

    address: str
    cookies: dict[str, str] = field(default_factory=dict)

    def ask(self, method: str, target: str, **form: str) -> dict[str, Any]:
        """Send a request and return the JSON that it is answered with."""
        cookies = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        headers = {**FORM, "Cookie": cookies, "Connection": "close"}
        with contextlib.closing(HTTPConnection(self.address, timeout=20)) as connection:
            connection.request(method, target, urlencode(form), headers)
            response = connection.getresponse()
            body = response.read()
        for header in response.headers.get_all("Set-Cookie", []):
            for name, cookie in SimpleCookie(header).items():
                self.cookies[name] = cookie.value
        told: dict[str, Any] = json.loads(body)
        return told


class Served:
    """An example that is served by some workers."""

    def __init__(self, example: str, folder: Path, *options: str) -> None:
        shutil.copy(HERE / f"{example}.py", folder)
        self._log = folder / "log"
        command = [sys.executable, "-m", "sdcluster", "run", f"{example}:app"]
        command += ["--listen", "127.0.0.1:0", "--workers", str(WORKERS), *options]
        environment = {
            **os.environ,
            "PYTHONUNBUFFERED": "1",
            "XDG_RUNTIME_DIR": str(folder),
            "RUNTIME_DIRECTORY": str(folder / "run"),  # The cache is there.
            "SECRET_KEY": "of the test",
        }
        environment.pop("SDCLUSTER_CACHE", None)
        with self._log.open("wb") as log:
            self._master = subprocess.Popen(
                command, cwd=folder, env=environment, stdout=log, stderr=log
            )

    def log(self) -> str:
        """Return what was said."""
        return self._log.read_text(errors="replace")

    def address(self) -> str:
        """Wait until it serves, and return where."""

        def ready() -> bool:
            assert self._master.poll() is None, "it ended"
            return "\nready\n" in self.log()

        wait_until(ready, "ready")
        found = re.search(r"^listening on (\S+)$", self.log(), re.MULTILINE)
        assert found is not None
        return found[1]

    def replace_workers(self) -> None:
        """Begin a reload."""
        self._master.send_signal(signal.SIGHUP)

    def end(self) -> None:
        """End it, and print what it said."""
        self._master.terminate()
        try:
            self._master.wait(20)
        finally:
            self._master.kill()
            print(self.log())


Serve = Callable[..., Served]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Serve an example, and end it afterwards: `serve("session_flask")`."""
    (tmp_path / "run").mkdir()
    served: list[Served] = []

    def begin(example: str, *options: str) -> Served:
        served.append(Served(example, tmp_path, *options))
        return served[-1]

    yield begin
    for one in served:
        one.end()


def whom_all_know(browser: Browser, without: frozenset[int] = frozenset()) -> tuple[Any, set[int]]:
    """Ask until every worker has answered; return whom they all know, and their pids."""
    told: dict[int, set[Any]] = {}

    def complete() -> bool:
        answer = browser.ask("GET", "/me")
        told.setdefault(answer["worker"], set()).add(answer["user"])
        return len(told.keys() - without) >= WORKERS

    wait_until(complete, "an answer of each worker")
    (known,) = set.union(*told.values())  # Whoever has answered, before a reload too.
    return known, set(told) - without


def check_login(served: Served, **login: str) -> None:
    """Log in and out, and ask all workers in between; a reload in between as well."""
    browser, other = Browser(served.address()), Browser(served.address())
    assert whom_all_know(browser)[0] is None
    target = f"/login?{urlencode(login)}"
    assert browser.ask("POST", target, **login)["user"] == "ada"
    known, workers = whom_all_know(browser)
    assert known == "ada"
    assert whom_all_know(other)[0] is None
    served.replace_workers()
    assert whom_all_know(browser, frozenset(workers))[0] == "ada"
    stolen = Browser(browser.address, dict(browser.cookies))
    assert browser.ask("POST", "/logout")["user"] is None
    assert whom_all_know(browser)[0] is None
    assert whom_all_know(stolen)[0] is None  # The session has gone, and not its cookie alone.


LOGINS = {
    "session_flask": ("flask_session", {"user": "ada"}),
    "session_starlette": ("starlette", {"user": "ada"}),
    "session_django": ("django", {"user": "ada", "password": "lovelace"}),
}


@pytest.mark.parametrize("example", LOGINS)
def test_login_on_one_worker_is_known_on_all(serve: Serve, example: str) -> None:
    """And a logout; a reload changes nothing."""
    package, login = LOGINS[example]
    pytest.importorskip(package)
    check_login(serve(example), **login)


@pytest.fixture(scope="module")
def venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a virtualenv that has what is installed here, and no sdcluster."""
    venv = tmp_path_factory.mktemp("venv") / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    packages = [Path(package.__path__[0]) for package in map(pytest.importorskip, PACKAGES)]
    (site,) = venv.glob("lib/python3*/site-packages")
    for package in packages:
        for one in package.parent.iterdir():
            if not one.name.startswith(("sdcluster", "__editable__", "lmdb", "redis")):
                with contextlib.suppress(FileExistsError):
                    (site / one.name).symlink_to(one)
    return venv


PACKAGES = ("flask", "flask_session", "django")


@pytest.mark.parametrize("example", ["session_flask", "session_django"])
def test_virtualenv_of_the_app_need_not_have_sdcluster(
    serve: Serve, venv: Path, example: str
) -> None:
    """Nor lmdb: what is beside sdcluster is used."""
    for module in ("sdcluster", "lmdb"):
        command = [str(venv / "bin" / "python"), "-c", f"import {module}"]
        assert subprocess.run(command, capture_output=True, cwd=venv, check=False).returncode != 0
    check_login(serve(example, "--venv", str(venv)), **LOGINS[example][1])

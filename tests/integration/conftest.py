"""Fixtures for tests with real processes: an instance started in a folder of its own."""

import itertools
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from instance import ACTIVATE, Instance
from program import Program, launched
from stores import RedisServer, Sharer

HELLO = """
import os

async def app(scope, receive, send):
    assert scope["type"] == "http"
    body = f"{os.environ['SDCLUSTER_SLOT']} {os.getpid()}\\n".encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""
"""An ASGI app that answers with its slot and pid."""

SCHEDULINGS = ("round-robin", "shared", "reuseport")
"""Who accepts: the master, or the workers in one of two ways."""

SCHEDULED = 'app = "app:app"\nworkers = 2\nscheduling = "{}"\nreload_probation_s = 0.05\n'
"""A configuration for one of them, whose reloads are soon over."""

MISSING = 'raise ImportError("not here")\n'
"""A module that is not installed."""

_numbers = itertools.count()

Start = Callable[..., Instance]
Launch = Callable[..., Instance]
Play = Callable[..., Program]
Share = Callable[..., Sharer]


@pytest.fixture(autouse=True)
def runtime_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep control sockets in the test's own folder, for master and clients alike."""
    folder = tmp_path / "run"  # Not `sdcluster` beside the app, which -m would take for a package.
    folder.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")
    # Else an app that is written twice within a second may be run as it was at first.
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    return folder


@pytest.fixture
def one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the test and the processes that it starts be of one instance."""
    monkeypatch.setenv("SDCLUSTER_INSTANCE", "default")


def end_all(instances: Sequence[Instance]) -> None:
    """End what a test has started; the logs are printed, so that a failure shows them."""
    for instance in instances:
        instance.end()
        print(f"--- log of {instance.name}\n{instance.log()}")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start `sdcluster run` on the module `app` with the given source, and end it afterwards.

    `start(SOURCE, "--workers", "3", config='key = 1', env={}, wait=True)`; the listener is a free
    port unless `--listen` is given, or `sockets`, which are passed the way systemd does, with the
    LISTEN_FDNAMES `names`. Logs are printed, so that a failure shows them.
    """
    instances: list[Instance] = []

    def begin(
        source: str | None = HELLO,
        *options: str,
        config: str | None = None,
        env: Mapping[str, str] | None = None,
        wait: bool = True,
        prefix: tuple[str, ...] = (),
        listen: str | None = "127.0.0.1:0",
        sockets: Sequence[socket.socket] = (),
        names: str = "",
    ) -> Instance:
        name = f"test{len(instances)}"
        if source is not None:
            (tmp_path / "app.py").write_text(source)
        command = [*prefix, sys.executable, "-m", "sdcluster", "run", "--name", name]
        if config is None:
            command += ["app:app"]
        else:
            (tmp_path / f"{name}.toml").write_text(config)
            command += ["--config", f"{name}.toml"]
        pass_fds = [sock.fileno() for sock in sockets]
        if sockets:
            listen = None
            fds = ",".join(str(fd) for fd in pass_fds)
            command = [sys.executable, str(ACTIVATE), fds, names, *command]
        if listen is not None and not {"--listen", "-l"} & {*options}:
            command += ["--listen", listen]
        environment = {**os.environ, **(env or {})}
        command += options
        instance = Instance(command, name=name, cwd=tmp_path, env=environment, pass_fds=pass_fds)
        instances.append(instance)
        return instance.wait_ready() if wait else instance

    yield begin
    end_all(instances)


@pytest.fixture(params=["uvloop and httptools", "asyncio and h11"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Have the engine with each loop and each parser."""
    if request.param == "asyncio and h11":
        for name in ("uvloop", "httptools"):
            (tmp_path / f"{name}.py").write_text(MISSING)
    return str(request.param)


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    """Start `sdcluster` with any arguments as the instance `name`, and end it afterwards."""
    instances: list[Instance] = []

    def begin(*arguments: str, name: str) -> Instance:
        command = [sys.executable, "-m", "sdcluster", *arguments]
        instances.append(Instance(command, name=name, cwd=tmp_path, env=os.environ))
        return instances[-1]

    yield begin
    end_all(instances)


@pytest.fixture
def play(tmp_path: Path) -> Iterator[Play]:
    """Start a program that uses the library, and end it afterwards.

    `play(SOURCE, "argument", env={}, command=["-m", "package"], sockets={"web": sock})`;
    see `program.PRELUDE` for what the source may use.
    """
    programs: list[Program] = []

    def begin(
        source: str,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        command: Sequence[str] | None = None,
        sockets: Mapping[str, socket.socket] | None = None,
    ) -> Program:
        environment = {**os.environ, **(env or {})}
        name = f"program{len(programs) or ''}"
        one = launched(
            source,
            *arguments,
            cwd=tmp_path,
            env=environment,
            name=name,
            command=command,
            sockets=sockets,
        )
        programs.append(one)
        return one

    yield begin
    end_all(programs)


@pytest.fixture
def share(tmp_path: Path) -> Iterator[Share]:
    """Start a process that shares the cache at a URL: `share(CODE, URL, *WORDS)`."""
    sharers: list[Sharer] = []

    def begin(code: str, url: str, *words: str, env: Mapping[str, str] | None = None) -> Sharer:
        sharers.append(Sharer(code, url, tmp_path, *words, env=env))
        return sharers[-1]

    yield begin
    for sharer in sharers:
        sharer.end()


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Run a Redis that the tests share; none may stop it."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(params=["lmdb", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return where a new cache is, in each kind of store."""
    monkeypatch.setenv("SDCLUSTER_INSTANCE", f"test{os.getpid()}-{next(_numbers)}")
    if request.param == "redis":
        return str(request.getfixturevalue("redis_server").url)
    return f"lmdb://{tmp_path}/cache?size_mb=4"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """Have a Redis of the test's own, that is not started."""
    server = RedisServer(tmp_path)
    yield server
    server.stop()


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """Return a file system in memory that takes 2 MB."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("nothing can be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)

"""The cache of an instance, as its workers have it."""

import os
import signal
from pathlib import Path

import pytest
from conftest import Start
from web import fetch, fetch_many

COUNTING = """
import os

from sdcluster import cache

cache.incr("imports")

async def app(scope, receive, send):
    assert scope["type"] == "http"
    if scope["path"] == "/imports":
        body = str(await cache.aget("imports")).encode()
    else:
        body = f"{await cache.aincr('n')} {os.getpid()}".encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""
"""An ASGI app that counts its requests, and how often it was imported, in the shared cache."""


@pytest.fixture(autouse=True)
def runtime_directory(runtime_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have a runtime folder as systemd gives it, for the master and for its clients."""
    folder = runtime_folder / "given"
    folder.mkdir()
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(folder))
    return folder


@pytest.mark.parametrize("preload", ["true", "false"])
def test_workers_count_together_whatever_happens_to_them(
    start: Start, runtime_directory: Path, preload: str
) -> None:
    """Across a worker's SIGKILL and a reload, also when the app has used it before the fork."""
    config = f'app = "app:app"\nworkers = 3\npreload = {preload}\n'
    instance = start(COUNTING, config=config)
    counted: list[int] = []
    pids: set[int] = set()

    def count() -> None:
        for answer in fetch_many(instance.address, 30):
            number, pid = answer.text.split()
            counted.append(int(number))
            pids.add(int(pid))

    count()
    first = set(instance.worker_pids())
    assert len(pids) > 1 and pids <= first

    killed = min(pids)
    os.kill(killed, signal.SIGKILL)
    instance.wait_status(
        lambda status: (
            sum(one["state"] == "serving" and one["pid"] != killed for one in status["workers"])
            == 3
        )
    )
    count()
    assert instance.reload().returncode == 0
    count()
    assert pids - first - {killed}
    assert sorted(counted) == list(range(1, 91))
    assert int(fetch(instance.address, "/imports").text) == (2 if preload == "true" else 7)
    assert (runtime_directory / "cache" / "data.mdb").exists()


def test_configuration_says_where_it_is(
    start: Start, tmp_path: Path, runtime_directory: Path
) -> None:
    """All workers of a generation have the cache of its key; a reload takes a new one."""

    def config(folder: str) -> str:
        return f'app = "app:app"\nworkers = 2\ncache = "lmdb://{tmp_path}/{folder}?size_mb=1"\n'

    instance = start(COUNTING, config=config("first"))
    counted = [int(answer.text.split()[0]) for answer in fetch_many(instance.address, 20)]
    assert sorted(counted) == list(range(1, 21))
    (tmp_path / "test0.toml").write_text(config("second"))
    assert instance.reload().returncode == 0
    assert fetch(instance.address).text.split()[0] == "1"
    for folder in ("first", "second"):
        assert (tmp_path / folder / "data.mdb").exists()
    assert not (runtime_directory / "cache").exists()

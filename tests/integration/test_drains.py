"""Workers that leave: whatever they have begun is finished, and nothing keeps them for ever."""

import socket
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from conftest import SCHEDULINGS, Start
from instance import Instance, wait_until
from web import Answer, connection, dial, fetch
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

APP = """
import asyncio
import os
import time

def begun():
    open(f"begun-{os.getpid()}", "w").close()

async def gate():
    while not os.path.exists("go"):
        await asyncio.sleep(0.01)

async def http(scope, receive, send):
    path = scope["path"]
    headers = []
    body = str(os.getpid()).encode()
    if path == "/slow":
        begun()
        await gate()
    if path == "/block":
        begun()
        while not os.path.exists("go"):
            time.sleep(0.01)
    if path == "/upload":
        begun()
        size = 0
        more = True
        while more:
            message = await receive()
            size += len(message.get("body", b""))
            more = message.get("more_body", False)
        body = str(size).encode()
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    if path == "/stream":
        begun()
        for _ in range(100):
            await send({"type": "http.response.body", "body": b"x" * 1000, "more_body": True})
        await gate()
        for _ in range(100):
            await send({"type": "http.response.body", "body": b"x" * 1000, "more_body": True})
    if path == "/huge":
        begun()
        for _ in range(1000):
            await send({"type": "http.response.body", "body": b"x" * 100000, "more_body": True})
    await send({"type": "http.response.body", "body": body})
    if path == "/after":
        begun()
        await gate()
        open("after", "w").close()

async def websocket(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            open("disconnected", "w").close()
            return
        await send({"type": "websocket.send", "text": message["text"]})

async def lifespan(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    if os.path.exists("hang"):
        time.sleep(1000)
    open(f"shut-down-{os.getpid()}", "w").close()
    await send({"type": "lifespan.shutdown.complete"})

async def app(scope, receive, send):
    await {"http": http, "websocket": websocket, "lifespan": lifespan}[scope["type"]](
        scope, receive, send
    )
"""
"""An app with requests of many kinds; those that wait go on when the file `go` is there."""

WSGI = """
import os
import time

def app(environ, start_response):
    if environ["PATH_INFO"] == "/slow":
        open(f"begun-{os.getpid()}", "w").close()
        while not os.path.exists("go"):
            time.sleep(0.01)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
"""

CONFIG = 'app = "app:app"\nworkers = 1\nreload_probation_s = 0\ndrain_timeout_s = {}\n'


class Reload:
    """A reload of a cluster of one worker, begun and known to be draining the old one."""

    def __init__(self, instance: Instance) -> None:
        (self.old,) = instance.worker_pids()
        self.began = time.monotonic()
        self._instance = instance
        self._process = instance.begin_reload()
        instance.wait_log(f"(pid {self.old}) is retired: reload")
        assert self._process.poll() is None

    def finish(self) -> float:
        """Wait for its end, which must be a success; return how long it took."""
        output, _ = self._process.communicate(timeout=20)
        assert self._process.returncode == 0, output
        return time.monotonic() - self.began


def begin(instance: Instance, folder: Path, path: str) -> "Future[Answer]":
    """Send a request and wait until the app has it."""
    pool = ThreadPoolExecutor(1)
    future = pool.submit(fetch, instance.address, path)
    pool.shutdown(wait=False)
    wait_until(lambda: list(folder.glob("begun-*")), "the request has begun")
    return future


def read_to_end(sock: socket.socket) -> bytes:
    """Return what comes until the connection is closed; a reset is an error."""
    data = b""
    while more := sock.recv(65536):
        data += more
    return data


@pytest.mark.parametrize(
    ("scheduling", "source"),
    [("round-robin", APP), ("shared", APP), ("reuseport", APP), ("round-robin", WSGI)],
    ids=["round-robin", "shared", "reuseport", "wsgi"],
)
def test_a_slow_request_is_finished_by_the_worker_that_leaves(
    start: Start, tmp_path: Path, scheduling: str, source: str
) -> None:
    """A request under way is answered by the old worker, while the new one answers others."""
    config = CONFIG.format(20) + f'scheduling = "{scheduling}"\n'
    instance = start(source, config=config)
    answer = begin(instance, tmp_path, "/slow")
    reload = Reload(instance)
    # The old worker may accept itself until it has heard that it is to leave.
    wait_until(lambda: int(fetch(instance.address).text) != reload.old, "the new worker answers")
    assert not answer.done()
    (tmp_path / "go").touch()
    assert int(answer.result().text) == reload.old
    reload.finish()


@pytest.mark.parametrize("scheduling", SCHEDULINGS)
def test_a_kept_alive_connection_goes_to_the_new_worker(start: Start, scheduling: str) -> None:
    """It is neither closed nor told that it will be."""
    config = CONFIG.format(20) + f'scheduling = "{scheduling}"\n'
    instance = start(APP, config=config)
    with connection(instance.address) as kept:
        kept.fetch()
        sock = kept.sock
        reload = Reload(instance)
        reload.finish()
        second = kept.fetch()
        assert second.status == 200
        assert "connection" not in second.headers
        assert int(second.text) != reload.old
        assert kept.sock is sock


def test_a_response_that_streams_is_whole(start: Start, tmp_path: Path) -> None:
    """A response begun before the drain is sent to its end during it."""
    instance = start(APP, config=CONFIG.format(20))
    answer = begin(instance, tmp_path, "/stream")
    reload = Reload(instance)
    (tmp_path / "go").touch()
    assert len(answer.result().body) == 200_000 + len(str(reload.old))
    reload.finish()


def test_an_upload_is_taken_to_its_end(start: Start, tmp_path: Path) -> None:
    """A request whose body is still coming is read and answered during the drain."""
    instance = start(APP, config=CONFIG.format(20))
    with dial(instance.address) as sock:
        sock.sendall(b"POST /upload HTTP/1.1\r\nHost: test\r\nContent-Length: 100000\r\n\r\n")
        sock.sendall(b"x" * 50_000)
        wait_until(lambda: list(tmp_path.glob("begun-*")), "the request has begun")
        reload = Reload(instance)
        sock.sendall(b"x" * 50_000)
        answer = b""
        while not answer.endswith(b"\r\n0\r\n\r\n"):
            answer += sock.recv(65536)
        assert b"\r\n100000\r\n" in answer
        assert b"\r\nconnection:" not in answer.lower()
        assert reload.finish() < 4  # The connection is served elsewhere.


def test_a_connection_leaves_when_its_request_is_answered(start: Start, tmp_path: Path) -> None:
    """The worker that leaves answers what it has begun, and is free of the connection then."""
    instance = start(APP, config=CONFIG.format(20))
    with connection(instance.address) as kept, ThreadPoolExecutor(1) as pool:
        kept.fetch()
        answer = pool.submit(kept.fetch, "/slow")
        wait_until(lambda: list(tmp_path.glob("begun-*")), "the request has begun")
        reload = Reload(instance)
        (tmp_path / "go").touch()
        assert int(answer.result().text) == reload.old
        assert reload.finish() < 4
        assert int(kept.fetch().text) != reload.old


def test_work_after_the_response_is_finished(start: Start, tmp_path: Path) -> None:
    """What the app does behind an answered request keeps its worker until it is done."""
    instance = start(APP, config=CONFIG.format(20))
    begin(instance, tmp_path, "/after").result()
    reload = Reload(instance)
    assert not (tmp_path / "after").exists()
    (tmp_path / "go").touch()
    reload.finish()
    assert (tmp_path / "after").exists()


def test_the_lifespan_is_shut_down(start: Start, tmp_path: Path) -> None:
    """A worker that leaves lets the app shut down, by a reload as well as by a stop."""
    instance = start(APP, config=CONFIG.format(20))
    (old,) = instance.worker_pids()
    assert instance.reload().returncode == 0
    assert (tmp_path / f"shut-down-{old}").exists()
    (new,) = instance.worker_pids()
    assert instance.stop() == 0
    assert (tmp_path / f"shut-down-{new}").exists()


def test_a_client_that_never_finishes_is_closed_at_the_deadline(start: Start) -> None:
    """At `drain_timeout_s` a request whose body does not come is closed; the reload goes on."""
    instance = start(APP, config=CONFIG.format(0.5))
    with dial(instance.address) as sock:
        sock.sendall(b"POST /upload HTTP/1.1\r\nContent-Length: 9\r\n\r\nx")
        instance.wait_status(lambda _: instance.status()["workers"][0]["connections"] == 1)
        reload = Reload(instance)
        assert 0.4 < reload.finish() < 3
        answer = read_to_end(sock)
        assert answer == b"" or answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 500 "))
    assert "1 connections are open at the drain deadline" in instance.log()
    assert "SIGKILL" not in instance.log()


def test_a_client_that_never_reads_is_closed_at_the_deadline(start: Start, tmp_path: Path) -> None:
    """A response that nobody takes does not keep the worker."""
    instance = start(APP, config=CONFIG.format(0.5))
    with dial(instance.address) as sock:
        sock.sendall(b"GET /huge HTTP/1.1\r\nHost: test\r\n\r\n")
        wait_until(lambda: list(tmp_path.glob("begun-*")), "the request has begun")
        reload = Reload(instance)
        assert reload.finish() < 5
    assert "SIGKILL" not in instance.log()


def test_a_websocket_is_closed_at_the_deadline(start: Start, tmp_path: Path) -> None:
    """It works until `drain_timeout_s`, then gets the close code for a restart, 1012."""
    instance = start(APP, config=CONFIG.format(1))
    with connect(f"ws://{instance.address}/") as websocket:
        websocket.send("before")
        assert websocket.recv(5) == "before"
        reload = Reload(instance)
        websocket.send("during")
        assert websocket.recv(5) == "during"
        with pytest.raises(ConnectionClosed) as closed:
            websocket.recv(5)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012
    assert 0.9 < reload.finish() < 4
    assert (tmp_path / "disconnected").exists()
    assert "SIGKILL" not in instance.log()


def test_a_websocket_that_the_client_closes_lets_the_worker_go(start: Start) -> None:
    """The worker leaves as soon as its last WebSocket is closed, long before the deadline."""
    instance = start(APP, config=CONFIG.format(20))
    with connect(f"ws://{instance.address}/") as websocket:
        websocket.send("hello")
        assert websocket.recv(5) == "hello"
        reload = Reload(instance)
    assert reload.finish() < 5


def test_an_app_that_does_not_shut_down_is_killed(start: Start, tmp_path: Path) -> None:
    """A lifespan shutdown that hangs ends with SIGKILL, and the reload succeeds."""
    instance = start(APP, config=CONFIG.format(0.5))
    (tmp_path / "hang").touch()
    reload = Reload(instance)
    assert reload.finish() < 8
    assert "did not end within its drain time: SIGKILL" in instance.log()
    (tmp_path / "hang").unlink()


def test_a_second_sigterm_ends_the_drain(start: Start, tmp_path: Path) -> None:
    """The first SIGTERM to the master waits for the slow request, the second one does not."""
    instance = start(APP, config=CONFIG.format(20))
    begin(instance, tmp_path, "/slow")
    instance.process.terminate()
    instance.wait_log("stopping: the workers drain")
    assert instance.status()["state"] == "stopping"
    instance.process.terminate()
    assert instance.wait(5) == 0
    assert "is stopped at once: SIGKILL" in instance.log()
    assert not instance.processes()


@pytest.mark.parametrize("scheduling", SCHEDULINGS)
def test_a_stop_answers_all_that_wait_in_the_backlog(
    start: Start, tmp_path: Path, scheduling: str
) -> None:
    """Also many more than the workers have taken, when the master's own sockets end with it."""
    config = f'scheduling = "{scheduling}"\nmax_connections = 50\n'
    instance = start(APP, config=CONFIG.format(20).replace("workers = 1", "workers = 2") + config)
    with ExitStack() as stack:
        clients: list[socket.socket] = []

        def ask(path: str) -> None:
            clients.append(stack.enter_context(dial(instance.address)))
            clients[-1].sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())

        def are_busy(workers: int) -> bool:
            if len(list(tmp_path.glob("begun-*"))) < workers:
                ask("/block")  # With reuseport it may come to the one that is blocked already.
                return False
            return True

        wait_until(lambda: are_busy(2), "both workers are blocked")
        for _ in range(200):
            ask("/")
        instance.process.terminate()
        instance.wait_log("is retired: stop")
        (tmp_path / "go").touch()
        answers = [read_to_end(client) for client in clients]
    assert Counter(one.split(b"\r\n")[0] for one in answers) == {b"HTTP/1.1 200 OK": len(clients)}
    assert instance.wait() == 0


@pytest.mark.parametrize("scheduling", SCHEDULINGS)
def test_a_stop_refuses_new_clients_while_the_workers_drain(
    start: Start, tmp_path: Path, scheduling: str
) -> None:
    """The master's own sockets are closed by all that hold them: nobody waits there in vain."""
    instance = start(APP, config=CONFIG.format(20) + f'scheduling = "{scheduling}"\n')
    answer = begin(instance, tmp_path, "/slow")
    instance.process.terminate()

    def is_refused() -> bool:
        try:
            dial(instance.address).close()
        except ConnectionRefusedError:
            return True
        return False

    wait_until(is_refused, "a new client is refused")
    assert not answer.done()
    (tmp_path / "go").touch()
    assert answer.result().status == 200
    assert instance.wait() == 0

"""What becomes of a request whose worker dies before it has begun to answer."""

import signal
import socket
from contextlib import ExitStack
from functools import partial
from os import kill
from pathlib import Path

import pytest
from conftest import Start
from instance import Instance, wait_until
from processes import stop
from web import dial, is_read

CONFIG = 'app = "app:app"\nworkers = 2\n'
APP = """
import os
import signal
import time
from pathlib import Path

async def app(scope, receive, send):
    assert scope["type"] == "http"
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    name = scope["path"].strip("/") or "none"
    with Path(name).open("a") as file:
        print(os.getpid(), file=file)
    if name == "dies" or (name == "dies-once" and len(Path(name).read_text().split()) == 1):
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "hangs":
        time.sleep(60)
    body = body or b"nothing"
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""
"""Writes down who is given each request, by its path; some kill it."""


def request(method: str, path: str, *headers: str, body: bytes = b"") -> bytes:
    """Return a request that ends its connection."""
    lines = (f"{method} /{path} HTTP/1.1", "Host: test", "Connection: close", *headers)
    length = f"Content-Length: {len(body)}"
    return "\r\n".join((*lines, length, "", "")).encode() + body


def ask(instance: Instance, data: bytes) -> tuple[str, bytes]:
    """Send a request; return the status and the body, or two times nothing at an end without."""
    with dial(instance.address) as client:
        client.sendall(data)
        received = all_of(client)
    head, _, body = received.partition(b"\r\n\r\n")
    return head.partition(b"\r\n")[0].decode(), body


def all_of(client: socket.socket) -> bytes:
    """Return what comes until the connection ends."""
    received = b""
    while more := client.recv(65536):
        received += more
    return received


def seen(tmp_path: Path, path: str) -> int:
    """Return how often the app was given a request."""
    file = tmp_path / path
    return len(file.read_text().split()) if file.exists() else 0


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_request_is_served_by_another_worker(
    start: Start, tmp_path: Path, engine: str, method: str
) -> None:
    """With all of its body, and the client sees nothing of it."""
    instance = start(APP, config=CONFIG)
    body = bytes(range(256)) * 200
    data = request(method, "dies-once", body=body)
    assert ask(instance, data) == ("HTTP/1.1 200 OK", body), engine
    assert seen(tmp_path, "dies-once") == 2


def test_request_of_death_is_answered_502(start: Start, tmp_path: Path, engine: str) -> None:
    """It takes two workers down, and no more; the journal names it."""
    instance = start(APP, config=CONFIG)
    status, body = ask(instance, request("GET", "dies"))
    assert (status, body) == ("HTTP/1.1 502 Bad Gateway", b"Bad Gateway"), engine
    assert seen(tmp_path, "dies") == 2
    assert ask(instance, request("GET", ""))[0] == "HTTP/1.1 200 OK"
    assert instance.log().count("died with the request 'GET /dies HTTP/1.1'") == 1
    assert instance.status()["restarts"] == 2


def test_refusal_of_head_has_no_body(start: Start) -> None:
    """The client would take it for the answer to its next request: RFC 9110, 9.3.2."""
    instance = start(APP, config=CONFIG)
    assert ask(instance, request("HEAD", "dies")) == ("HTTP/1.1 502 Bad Gateway", b"")


@pytest.mark.parametrize("replay", ["idempotent", "all", "never"])
@pytest.mark.parametrize("kind", ["GET", "POST", "POST with a key"])
def test_config_says_what_may_be_served_twice(
    start: Start, tmp_path: Path, replay: str, kind: str
) -> None:
    """The connections of others are closed, without an answer and without a reset."""
    instance = start(APP, config=CONFIG + f'replay = "{replay}"\n')
    headers = ["Idempotency-Key: 1"] if "key" in kind else []
    data = request(kind.split()[0], "dies-once", *headers, body=b"all of it")
    if replay == "all" or (replay == "idempotent" and kind != "POST"):
        assert ask(instance, data) == ("HTTP/1.1 200 OK", b"all of it")
        assert seen(tmp_path, "dies-once") == 2
    else:
        assert ask(instance, data) == ("", b"")
        assert seen(tmp_path, "dies-once") == 1
        assert instance.log().count("which may not be sent to an app twice") == 1


def test_request_that_is_too_long_to_keep_ends(start: Start, tmp_path: Path) -> None:
    """Its connection is closed; one that is not is served."""
    config = CONFIG + "replay_max_kb = 4\n"
    assert ask(start(APP, config=config), request("PUT", "dies-once", body=b"x" * 4096)) == (
        "",
        b"",
    )
    (tmp_path / "dies-once").unlink()
    instance = start(APP, config=config)  # One that has not been killed by such a request.
    body = b"x" * 3500
    assert ask(instance, request("PUT", "dies-once", body=body)) == ("HTTP/1.1 200 OK", body)


def test_request_that_the_app_has_not_seen_is_served_whatever_dies(
    start: Start, tmp_path: Path
) -> None:
    """Also when two workers die with it, and when it may not be served twice.

    A worker reads many requests before its app is given the first: that one hangs. The worker that
    gets the rest hangs in the next one; each is tried once more, in the quarantine.
    """
    count, hanging = 8, 2
    instance = start(APP, config=CONFIG.replace("2", "1"))
    (pid,) = instance.worker_pids()
    clients = [dial(instance.address) for _ in range(hanging + count)]
    wait_until(lambda: _connections(instance) == len(clients), "all have come")
    stop(pid)
    for client in clients[:hanging]:
        client.sendall(request("GET", "hangs"))
    for client in clients[hanging:]:
        client.sendall(request("POST", "", body=b"all of it"))
    kill(pid, signal.SIGCONT)
    wait_until(partial(_is_seen, tmp_path, "hangs", 1), "the app hangs")
    kill(pid, signal.SIGKILL)
    # In the next worker, and in that of the quarantine.
    wait_until(partial(_is_seen, tmp_path, "hangs", 3), "the app hangs again")
    assert seen(tmp_path, "none") < count  # Those that came before the one that hangs are served.
    kill(instance.worker_pids()[0], signal.SIGKILL)
    for client in clients[hanging:]:
        assert client.recv(65536).endswith(b"\r\n\r\nall of it")
    # Each has a worker of the quarantine, as the first one takes long.
    wait_until(partial(_is_seen, tmp_path, "hangs", 4), "both hang in the quarantine")
    for pid in instance.quarantine_pids():
        kill(pid, signal.SIGKILL)
    for client in clients[:hanging]:
        assert client.recv(65536).startswith(b"HTTP/1.1 502 ")
    for client in clients:
        client.close()
    assert seen(tmp_path, "none") == count


WSGI = """
import os
import time
from pathlib import Path

def app(environ, start_response):
    name = environ["PATH_INFO"].strip("/") or "none"
    with Path(name).open("a") as file:
        print(os.getpid(), file=file)
    if name == "hangs":
        time.sleep(60)
    body = environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""
"""Writes down who is given each request, by its path; one takes its thread."""


def test_request_that_waits_for_a_thread_is_served_whatever_dies(
    start: Start, tmp_path: Path, engine: str
) -> None:
    """A WSGI app has not been given it: so it goes to another worker, and once."""
    count = 6
    instance = start(WSGI, config=CONFIG.replace("2", "1") + "threads = 1\n")
    with ExitStack() as stack:
        clients = [stack.enter_context(dial(instance.address)) for _ in range(1 + count)]
        clients[0].sendall(request("GET", "hangs"))
        wait_until(partial(_is_seen, tmp_path, "hangs", 1), "the only thread hangs")
        for client in clients[1:]:
            client.sendall(request("POST", "", body=b"all of it"))
            wait_until(is_read(client), "the worker has read it")
        kill(instance.worker_pids()[0], signal.SIGKILL)
        for client in clients[1:]:
            assert all_of(client).endswith(b"\r\n\r\nall of it"), engine
    assert seen(tmp_path, "none") == count


def _is_seen(tmp_path: Path, path: str, times: int) -> bool:
    return seen(tmp_path, path) == times


def _connections(instance: Instance) -> int:
    return sum(int(one["connections"]) for one in instance.status()["workers"])


@pytest.mark.parametrize("kind", ["GET", "POST with a key"])
def test_nothing_is_served_twice_without_recovery(start: Start, tmp_path: Path, kind: str) -> None:
    """Connections end with their worker."""
    instance = start(APP, config=CONFIG + "crash_recovery = false\n")
    try:
        answer = ask(instance, request(kind.split()[0], "dies-once", "Idempotency-Key: 1"))
    except ConnectionResetError:
        answer = ("", b"")
    assert answer == ("", b"")
    assert seen(tmp_path, "dies-once") == 1

"""What lies behind other requests, and before the end of others, when a worker dies."""

import re
import signal
from os import kill
from pathlib import Path
from socket import socket

import pytest
from conftest import Start
from instance import Instance, wait_until
from web import dial

CONFIG = 'app = "app:app"\nworkers = 2\n'
APP = """
import os
import signal
from pathlib import Path

async def app(scope, receive, send):
    assert scope["type"] == "http"
    name = scope["path"].strip("/")
    body = b""
    more = not name.startswith("early")
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    with Path(name).open("a") as file:
        print(os.getpid(), file=file)
    if name.startswith("dies") and len(Path(name).read_text().split()) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    body = b"x" * 250_000 if name == "large" else f"{name} {len(body)}".encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""
"""Writes down who is given each request, by its path, and says how much body it had.

It answers /early-... without the body, and dies of the first /dies-... of each path.
"""

BODY = b"GET /body HTTP/1.1\r\nHost: test\r\n\r\n0\r\n\r\n" * 3000
"""A body of more than is kept, which looks like requests, and like the end of one in chunks."""


def asked(method: str, path: str, *headers: str, body: bytes = b"") -> bytes:
    """Return a request."""
    lines = [f"{method} /{path} HTTP/1.1", "Host: test", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join((*lines, "", "")).encode() + body


def chunked(method: str, path: str, body: bytes) -> bytes:
    """Return a request whose body comes in chunks, with a trailer."""
    half = len(body) // 2
    chunks = b"".join(b"%x;a=b\r\n%b\r\n" % (len(one), one) for one in (body[:half], body[half:]))
    return asked(method, path, "Transfer-Encoding: chunked") + chunks + b"0\r\nA: b\r\n\r\n"


def answers(client: socket, count: int) -> list[str]:
    """Return the bodies of so many answers, in their order."""
    received = b""
    bodies: list[str] = []
    while len(bodies) < count:
        match = re.match(
            rb"HTTP/1.1 200 .*?content-length: (\d+).*?\r\n\r\n", received, re.S | re.I
        )
        if received.startswith(b"HTTP/1.1 100 Continue\r\n\r\n"):
            received = received.partition(b"\r\n\r\n")[2]
        elif match and len(received) >= match.end() + int(match[1]):
            end = match.end() + int(match[1])
            bodies.append(received[match.end() : end].decode())
            received = received[end:]
        else:
            more = client.recv(65536)
            assert more, (bodies, received)
            received += more
    assert not received
    return bodies


def seen(tmp_path: Path, path: str) -> int:
    """Return how often the app was given a request."""
    file = tmp_path / path
    return len(file.read_text().split()) if file.exists() else 0


@pytest.fixture(params=["TCP", "Unix"])
def instance(request: pytest.FixtureRequest, start: Start, tmp_path: Path, engine: str) -> Instance:
    """A cluster on an address of each kind, with each engine."""
    print(engine)
    address = "127.0.0.1:0" if request.param == "TCP" else str(tmp_path / "listener")
    return start(APP, config=CONFIG, listen=address)


@pytest.mark.parametrize("waits", [True, False], ids=["after it", "with it"])
def test_request_behind_one_that_was_answered_unread_is_replayed(
    instance: Instance, tmp_path: Path, waits: bool
) -> None:
    """Whether it comes by itself, or with the end of a body of more than is kept."""
    with dial(instance.address) as client:
        post, get = asked("POST", "early-1", body=BODY), asked("GET", "dies-1")
        if waits:
            client.sendall(post)
            assert answers(client, 1) == ["early-1 0"]
            client.sendall(get)
            assert answers(client, 1) == ["dies-1 0"]
        else:
            client.sendall(post[:-10_000])
            assert answers(client, 1) == ["early-1 0"]
            client.sendall(post[-10_000:] + get)
            assert answers(client, 1) == ["dies-1 0"]
        client.sendall(asked("GET", "last"))
        assert answers(client, 1) == ["last 0"]
    assert (seen(tmp_path, "early-1"), seen(tmp_path, "dies-1")) == (1, 2)


@pytest.mark.parametrize("form", ["length", "chunks"])
@pytest.mark.parametrize("deaths", [1, 2])
@pytest.mark.parametrize("rest", [0, 1, 700], ids=["end", "part", "most"])
def test_rest_of_a_body_that_nobody_reads_comes_to_another_worker(
    instance: Instance, tmp_path: Path, form: str, deaths: int, rest: int
) -> None:
    """Its request was answered before, by a worker that is dead: the next one is not lost."""
    body = b"GET / HTTP/1.1\r\n\r\n" * 50
    is_chunked = form == "chunks"
    whole = chunked("POST", "early", body) if is_chunked else asked("POST", "early", body=body)
    cut = len(whole) - 1 - rest
    with dial(instance.address) as client:
        client.sendall(whole[:cut])
        assert answers(client, 1) == ["early 0"]
        for _ in range(deaths):
            kill_all(instance)
            wait_until(lambda: is_taken(instance), "another worker has it")
        client.sendall(whole[cut:] + asked("GET", "fine") + asked("GET", "dies"))
        assert answers(client, 2) == ["fine 0", "dies 0"]
        client.sendall(asked("GET", "last"))
        assert answers(client, 1) == ["last 0"]
    assert [seen(tmp_path, path) for path in ("early", "fine", "dies", "last")] == [1, 1, 2, 1]


def kill_all(instance: Instance) -> None:
    """Kill all workers, and have it known that they are dead."""
    old = instance.worker_pids()
    for pid in old:
        kill(pid, signal.SIGKILL)
    wait_until(lambda: not {*old} & {*instance.worker_pids()}, "they are dead")


def is_taken(instance: Instance) -> bool:
    """Tell whether a worker has the connection."""
    workers = instance.status()["workers"]
    return any(one["connections"] for one in workers if one["state"] == "serving")


@pytest.mark.parametrize("form", ["length", "chunks"])
def test_requests_that_came_together_are_all_answered(
    instance: Instance, tmp_path: Path, form: str
) -> None:
    """In their order, whichever of them kills the worker; who was answered is not asked twice."""
    for dies in range(4):
        ask_four(instance, tmp_path, dies, form)


def ask_four(instance: Instance, tmp_path: Path, dies: int, form: str) -> None:
    """Have four requests come together, and one of them kill its worker."""
    paths = [f"{'dies' if number == dies else 'fine'}-{dies}-{number}" for number in range(4)]
    body = b"\r\n\r\nGET / HTTP/1.1\r\n\r\n"
    put = asked("PUT", paths[1], body=body) if form == "length" else chunked("PUT", paths[1], body)
    requests = [asked("GET", paths[0]), put, asked("GET", paths[2]), asked("GET", paths[3])]
    lengths = [0, len(body), 0, 0]
    with dial(instance.address) as client:
        for _ in range(2):  # The second time, none of them dies.
            client.sendall(b"".join(requests))
            assert answers(client, 4) == [
                f"{path} {length}" for path, length in zip(paths, lengths, strict=True)
            ]
    assert [seen(tmp_path, path) for path in paths] == [2 + (one == dies) for one in range(4)]


def test_post_behind_another_request_is_never_made_twice(
    instance: Instance, tmp_path: Path
) -> None:
    """The one before it is answered, and its own connection ends with the worker."""
    with dial(instance.address) as client:
        requests = (asked("GET", "fine"), asked("POST", "dies", body=b"x"), asked("GET", "after"))
        client.sendall(b"".join(requests))
        assert answers(client, 1) == ["fine 0"]
        assert client.recv(100) == b""
    assert [seen(tmp_path, path) for path in ("fine", "dies", "after")] == [1, 1, 0]


def test_post_behind_a_request_that_dies_is_made_once(instance: Instance, tmp_path: Path) -> None:
    """The app of the worker that died was not given it."""
    with dial(instance.address) as client:
        client.sendall(asked("GET", "dies") + asked("POST", "post", body=b"x"))
        assert answers(client, 2) == ["dies 0", "post 1"]
    assert [seen(tmp_path, path) for path in ("dies", "post")] == [2, 1]


def test_more_requests_than_are_kept_come_together(instance: Instance, tmp_path: Path) -> None:
    """They are answered, and the last of them is replayed."""
    count = 300
    with dial(instance.address) as client:
        one = asked("GET", "fine", "X: " + "x" * 500)
        client.sendall(one * count + asked("GET", "dies"))
        assert answers(client, count + 1) == ["fine 0"] * count + ["dies 0"]
    assert [seen(tmp_path, path) for path in ("fine", "dies")] == [count, 2]


@pytest.mark.parametrize("path", ["dies", "kept"])
def test_request_is_replayed_after_100_continue(
    instance: Instance, tmp_path: Path, path: str
) -> None:
    """Its client may be told to go on a second time, and gets one answer."""
    data = asked("PUT", path, "Expect: 100-continue", body=b"x" * 1000)
    head, _, body = data.partition(b"\r\n\r\n")
    with dial(instance.address) as client:
        client.sendall(head + b"\r\n\r\n")
        assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        if path == "kept":  # It dies before all is there.
            for pid in instance.worker_pids():
                kill(pid, signal.SIGKILL)
        client.sendall(body)
        assert answers(client, 1) == [f"{path} 1000"]
    assert seen(tmp_path, path) == (2 if path == "dies" else 1)


def test_idle_connection_outlives_its_worker_after_a_large_answer(
    instance: Instance, tmp_path: Path
) -> None:
    """Also when the answer did not fit into the socket at once."""
    with dial(instance.address) as client:
        client.sendall(asked("GET", "large"))
        wait_until((tmp_path / "large").exists, "it is answered")
        assert answers(client, 1) == ["x" * 250_000]
        kill_all(instance)
        client.sendall(asked("GET", "fine"))
        assert answers(client, 1) == ["fine 0"]

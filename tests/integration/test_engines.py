"""What an app can rely on: ASGI, WebSocket and WSGI, served by the workers' HTTP engine."""

import hashlib
import json
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import HELLO, SCHEDULINGS, Start
from instance import wait_until
from web import connection, dial, fetch, fetch_many
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

ANSWER = """
async def answer(send, body, status=200):
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

async def read(receive):
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body
"""
"""Source: `answer` and `read`, what a framework would do for an ASGI app."""

REPORT = (
    ANSWER
    + """
import json
import os

async def app(scope, receive, send):
    assert scope["type"] == "http"
    keys = ("client", "scheme", "root_path", "path", "http_version", "method")
    shown = {key: scope[key] for key in keys}
    shown["query"] = scope["query_string"].decode()
    await answer(send, json.dumps(shown).encode())
"""
)
"""An app that answers with what the engine has told it."""

WSGI = """
def app(environ, start_response):
    told = [environ[name] for name in ("REQUEST_METHOD", "SCRIPT_NAME", "PATH_INFO")]
    text = " ".join([*told, str(len(environ["wsgi.input"].read()))])
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [text.encode()]
"""

LIFESPAN = (
    ANSWER
    + """
import os

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        open(f"started-{os.getpid()}", "w").close()
        scope["state"]["greeting"] = "hello from the lifespan"
        await send({"type": "lifespan.startup.complete"})
        await receive()
        open(f"stopped-{os.getpid()}", "w").close()
        await send({"type": "lifespan.shutdown.complete"})
    else:
        await answer(send, scope["state"]["greeting"].encode())
"""
)

ECHO = """
async def app(scope, receive, send):
    assert scope["type"] == "websocket"
    await receive()
    await send({"type": "websocket.accept", "subprotocol": None})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"].upper()})
"""


# Lifespan.


def test_lifespan_runs_in_each_worker(start: Start, tmp_path: Path) -> None:
    """Startup has run before a worker serves, shutdown after its last request."""
    instance = start(LIFESPAN, "--workers", "2")
    pids = instance.worker_pids()
    assert all((tmp_path / f"started-{pid}").exists() for pid in pids)
    assert not list(tmp_path.glob("stopped-*"))
    assert instance.stop() == 0
    assert {one.name for one in tmp_path.glob("stopped-*")} == {f"stopped-{pid}" for pid in pids}


def test_lifespan_state_reaches_the_requests(start: Start) -> None:
    """What startup puts into the state is there in each request."""
    instance = start(LIFESPAN, "--workers", "1")
    assert fetch(instance.address).text == "hello from the lifespan"


def test_app_without_lifespan_is_served(start: Start) -> None:
    """An app that raises for the lifespan scope simply has none."""
    instance = start(HELLO, "--workers", "1")
    assert fetch(instance.address).status == 200
    assert "AssertionError" not in instance.log()


def test_failed_shutdown_is_shown_and_ends(start: Start) -> None:
    """A shutdown that fails is logged, and the cluster ends all the same."""
    failed = '"lifespan.shutdown.failed", "message": "cannot flush"'
    source = LIFESPAN.replace('"lifespan.shutdown.complete"', failed)
    instance = start(source, "--workers", "1")
    assert instance.stop() == 0
    assert "cannot flush" in instance.log()


# HTTP.


def test_request_is_told_as_it_came(start: Start) -> None:
    """Path, query, method, version and the client's address reach the app."""
    instance = start(REPORT, "--workers", "1")
    with connection(instance.address) as client:
        told = json.loads(client.fetch("/a%20b?c=d&e", method="PUT", body=b"x").body)
        port = client.sock.getsockname()[1]
    assert told == {
        "client": ["127.0.0.1", port],
        "scheme": "http",
        "root_path": "",
        "path": "/a b",
        "http_version": "1.1",
        "method": "PUT",
        "query": "c=d&e",
    }


@pytest.mark.parametrize("scheduling", SCHEDULINGS)
def test_kept_alive_connection_stays_with_its_worker(start: Start, scheduling: str) -> None:
    """Requests on one connection are answered by one worker."""
    instance = start(HELLO, "--workers", "3", "--scheduling", scheduling)
    with connection(instance.address) as client:
        assert len({client.fetch().text for _ in range(10)}) == 1


def test_pipelined_requests_are_answered_in_order(start: Start) -> None:
    """Three requests sent at once get three answers, in their order."""
    instance = start(REPORT, "--workers", "2")
    with dial(instance.address) as sock:
        for path in ("one", "two"):
            sock.sendall(f"GET /{path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
        sock.sendall(b"GET /three HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        received = b"".join(iter(lambda: sock.recv(65536), b"")).decode()
    assert received.count("HTTP/1.1 200 OK") == 3
    assert [received.index(f'"/{path}"') for path in ("one", "two", "three")] == sorted(
        received.index(f'"/{path}"') for path in ("one", "two", "three")
    )


def test_http_1_0_is_answered_and_closed(start: Start) -> None:
    """A client of HTTP/1.0 gets its answer and the end of the connection."""
    instance = start(HELLO, "--workers", "1")
    with dial(instance.address) as sock:
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
        received = b"".join(iter(lambda: sock.recv(65536), b""))
    assert received.startswith(b"HTTP/1.1 200 OK")


def test_response_is_streamed(start: Start, tmp_path: Path) -> None:
    """The first part of a response arrives before the last one exists."""
    source = """
import asyncio
import os

async def app(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"first", "more_body": True})
    while not os.path.exists("go"):
        await asyncio.sleep(0.01)
    await send({"type": "http.response.body", "body": b"last"})
"""
    instance = start(source, "--workers", "1")
    with connection(instance.address) as client:
        client.request("GET", "/")
        response = client.getresponse()
        assert response.read(5) == b"first"
        (tmp_path / "go").touch()
        assert response.read() == b"last"
        assert response.getheader("transfer-encoding") == "chunked"


def test_head_has_the_headers_and_no_body(start: Start) -> None:
    """HEAD is answered with the length, and the connection can be used again."""
    instance = start(HELLO, "--workers", "1")
    with connection(instance.address) as client:
        head = client.fetch(method="HEAD")
        get = client.fetch()
    assert (head.status, head.body) == (200, b"")
    assert int(head.headers["content-length"]) == len(get.body)
    assert head.headers["date"]


UPLOAD = (
    ANSWER
    + """
import hashlib

async def app(scope, receive, send):
    assert scope["type"] == "http"
    if scope["method"] == "POST":
        await answer(send, hashlib.sha256(await read(receive)).hexdigest().encode())
    else:
        await answer(send, bytes(range(256)) * 65536)
"""
)


def test_big_upload_arrives_whole(start: Start) -> None:
    """16 MB in a request body reach the app as they were sent."""
    body = bytes(range(256)) * 65536
    instance = start(UPLOAD, "--workers", "1")
    assert (
        fetch(instance.address, method="POST", body=body).text == hashlib.sha256(body).hexdigest()
    )


def test_big_response_arrives_whole(start: Start) -> None:
    """16 MB in a response reach the client as they were sent."""
    instance = start(UPLOAD, "--workers", "1")
    assert fetch(instance.address).body == bytes(range(256)) * 65536


def test_expected_continue_is_sent(start: Start) -> None:
    """A client that waits for `100 Continue` before it sends its body gets it."""
    instance = start(UPLOAD, "--workers", "1")
    with dial(instance.address) as sock:
        head = "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n"
        sock.sendall(f"{head}Expect: 100-continue\r\nConnection: close\r\n\r\n".encode())
        assert sock.recv(1024).startswith(b"HTTP/1.1 100 Continue")
        sock.sendall(b"body")
        received = b"".join(iter(lambda: sock.recv(65536), b""))
    assert received.endswith(hashlib.sha256(b"body").hexdigest().encode())


def test_nonsense_gets_400_and_harms_nobody(start: Start) -> None:
    """Bytes that are no HTTP are answered with 400; the worker serves on."""
    instance = start(HELLO, "--workers", "1")
    with dial(instance.address) as sock:
        sock.sendall(b"\x16\x03\x01 hello?\r\n\r\n")
        assert sock.recv(1024).startswith(b"HTTP/1.1 400")
    assert fetch(instance.address).status == 200
    assert instance.status()["restarts"] == 0


def test_slow_client_holds_up_nobody(start: Start) -> None:
    """A client that sends half a request does not keep others waiting, and gets its answer."""
    instance = start(HELLO, "--workers", "1")
    with dial(instance.address) as slow:
        slow.sendall(b"GET / HTTP/1.1\r\nHo")
        assert all(one.status == 200 for one in fetch_many(instance.address, 20))
        slow.sendall(b"st: test\r\n\r\n")
        assert slow.recv(1024).startswith(b"HTTP/1.1 200")


def test_client_that_goes_away_harms_nobody(start: Start) -> None:
    """A connection reset in the middle of a response leaves no error and no connection."""
    instance = start(UPLOAD, "--workers", "1")
    with dial(instance.address) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        sock.recv(1024)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    instance.wait_status(lambda status: status["workers"][0]["connections"] == 0)
    assert fetch(instance.address).status == 200
    assert "Traceback" not in instance.log()


def test_cpu_work_is_spread_over_the_workers(start: Start) -> None:
    """Requests that compute are done by all workers at a time, and each gets its own result."""
    source = (
        ANSWER
        + """
import os

def compute(n):
    total = 0
    for number in range(n):
        total += number * number % 7
    return total

async def app(scope, receive, send):
    assert scope["type"] == "http"
    n = int(scope["path"].strip("/"))
    await answer(send, f"{os.environ['SDCLUSTER_SLOT']} {compute(n)}".encode())
"""
    )
    instance = start(source, "--workers", "2")
    with ThreadPoolExecutor(8) as pool:
        numbers = [100_000 + index for index in range(16)]
        answers = list(pool.map(lambda n: fetch(instance.address, f"/{n}").text.split(), numbers))
    expected = [sum(one * one % 7 for one in range(n)) for n in numbers]
    assert [int(total) for _, total in answers] == expected
    assert [slot for slot, _ in answers].count("0") == 8


# WebSocket.


@pytest.mark.parametrize("scheduling", SCHEDULINGS)
def test_websocket_echoes(start: Start, scheduling: str) -> None:
    """A WebSocket is accepted, carries messages both ways, and is closed in an orderly way."""
    instance = start(ECHO, "--workers", "2", "--scheduling", scheduling)
    with connect(f"ws://{instance.address}/") as websocket:
        for text in ("one", "two", "x" * 100_000):
            websocket.send(text)
            assert websocket.recv(timeout=10) == text.upper()
        websocket.close()
        assert websocket.close_code == 1000
    assert "Warning" not in instance.log()


def test_websocket_is_told_of_the_end(start: Start) -> None:
    """At the drain deadline an open WebSocket is closed with 1012, service restart."""
    config = 'app = "app:app"\nworkers = 1\ndrain_timeout_s = 0.3\n'
    instance = start(ECHO, config=config)
    with connect(f"ws://{instance.address}/") as websocket:
        websocket.send("one")
        assert websocket.recv(timeout=10) == "ONE"
        assert instance.stop() == 0
        with pytest.raises(ConnectionClosed) as closed:
            websocket.recv(timeout=10)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1012


# WSGI.


def test_wsgi_app_is_served(start: Start) -> None:
    """A WSGI app is told by how it is called, and gets method, path and body."""
    instance = start(WSGI, "--workers", "2")
    assert fetch(instance.address, "/a", method="POST", body=b"12345").text == "POST  /a 5"


def test_wsgi_requests_run_in_threads(start: Start) -> None:
    """With threads = 4 four requests are in the app at the same time."""
    source = """
import threading

together = threading.Barrier(4)

def app(environ, start_response):
    together.wait(10)
    start_response("200 OK", [])
    return [b"met"]
"""
    instance = start(source, config='app = "app:app"\nworkers = 1\nthreads = 4\n')
    assert [one.text for one in fetch_many(instance.address, 4, at_once=4)] == ["met"] * 4


def test_wsgi_response_may_be_an_iterator_that_is_closed(start: Start, tmp_path: Path) -> None:
    """Each part is sent, and `close` of the iterable is called: PEP 3333."""
    source = """
class Parts:
    def __iter__(self):
        return iter([b"one ", b"two ", b"three"])

    def close(self):
        open("closed", "w").close()

def app(environ, start_response):
    start_response("200 OK", [])
    return Parts()
"""
    instance = start(source, "--workers", "1")
    assert fetch(instance.address).text == "one two three"
    wait_until((tmp_path / "closed").exists, "closed")


def test_wsgi_app_gets_the_root_path(start: Start) -> None:
    """`root_path` is SCRIPT_NAME."""
    instance = start(WSGI, config='app = "app:app"\nworkers = 1\nroot_path = "/api"\n')
    assert fetch(instance.address, "/a").text == "GET /api /a 0"


# What is an app.

TRACE = (
    ANSWER
    + """
import functools

async def plain(scope, receive, send):
    assert scope["type"] == "http"
    await answer(send, b"asgi")

def wsgi(environ, start_response):
    start_response("200 OK", [])
    return [b"wsgi"]

class Site:
    async def __call__(self, scope, receive, send):
        await plain(scope, receive, send)

    def handle(self, scope, receive, send):
        return plain(scope, receive, send)

async def greeting(text, scope, receive, send):
    assert scope["type"] == "http"
    await answer(send, text)

def anything(*arguments):
    return plain(*arguments) if len(arguments) == 3 else wsgi(*arguments)

def make():
    return plain

def make_wsgi():
    return wsgi

site = Site()
partial = functools.partial(greeting, b"asgi")
"""
)


@pytest.mark.parametrize(
    ("app", "interface", "served"),
    [
        ("plain", "auto", "asgi"),
        ("wsgi", "auto", "wsgi"),
        ("site", "auto", "asgi"),
        ("site.handle", "auto", "asgi"),
        ("partial", "auto", "asgi"),
        ("make()", "auto", "asgi"),
        ("make_wsgi()", "auto", "wsgi"),
        ("Site()", "auto", "asgi"),
        ("anything", "asgi", "asgi"),
        ("anything", "wsgi", "wsgi"),
    ],
)
def test_each_kind_of_app_is_served(start: Start, app: str, interface: str, served: str) -> None:
    """Functions, instances, methods, partials and factories, ASGI and WSGI, told or given."""
    config = f'app = "app:{app}"\ninterface = "{interface}"\nworkers = 1\n'
    instance = start(TRACE, config=config)
    assert fetch(instance.address).text == served


@pytest.mark.parametrize("app", ["plain", "wsgi"])
def test_interface_is_told_without_preload_too(start: Start, app: str) -> None:
    """When the import is left to the workers, each tells for itself what the app is."""
    config = f'app = "app:{app}"\npreload = false\nworkers = 1\n'
    instance = start(TRACE, config=config)
    assert fetch(instance.address).text == {"plain": "asgi"}.get(app, app)


def test_app_may_be_in_a_package(start: Start, tmp_path: Path) -> None:
    """MODULE may have dots."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "web.py").write_text(HELLO)
    instance = start(None, config='app = "shop.web:app"\nworkers = 1\n')
    assert fetch(instance.address).status == 200


# What the configuration does to requests.


def test_root_path_reaches_the_app(start: Start) -> None:
    """`root_path` is in the scope of each request."""
    instance = start(REPORT, config='app = "app:app"\nworkers = 1\nroot_path = "/api"\n')
    assert json.loads(fetch(instance.address, "/a").body)["root_path"] == "/api"


FORWARDED = {"X-Forwarded-For": "203.0.113.7", "X-Forwarded-Proto": "https"}


@pytest.mark.parametrize(
    ("allowed", "client", "scheme"),
    [
        ('forwarded_allow_ips = "127.0.0.1"', "203.0.113.7", "https"),
        ('forwarded_allow_ips = ["10.0.0.1", "127.0.0.1"]', "203.0.113.7", "https"),
        ('forwarded_allow_ips = "*"', "203.0.113.7", "https"),
        ('forwarded_allow_ips = "10.0.0.1"', "127.0.0.1", "http"),
        ("", "127.0.0.1", "http"),
    ],
)
def test_forwarded_headers_count_from_allowed_addresses_only(
    start: Start, monkeypatch: pytest.MonkeyPatch, allowed: str, client: str, scheme: str
) -> None:
    """The client's address is that of X-Forwarded-For where the proxy is allowed to say so."""
    monkeypatch.delenv("FORWARDED_ALLOW_IPS", raising=False)
    instance = start(REPORT, config=f'app = "app:app"\nworkers = 1\n{allowed}\n')
    told = json.loads(fetch(instance.address, headers=FORWARDED).body)
    assert (told["client"][0], told["scheme"]) == (client, scheme)


def test_forwarded_headers_count_on_a_unix_socket(start: Start, tmp_path: Path) -> None:
    """Behind a proxy on a Unix socket, `*` lets it name the client."""
    options = ("--listen", f"{tmp_path}/app.sock")
    config = 'app = "app:app"\nworkers = 1\nforwarded_allow_ips = "*"\n'
    instance = start(REPORT, *options, config=config)
    told = json.loads(fetch(instance.address, headers=FORWARDED).body)
    assert told["client"][0] == "203.0.113.7"


def test_environment_reaches_the_app_at_import(start: Start, tmp_path: Path) -> None:
    """environment_file and environment are set before the import; the table wins over the file."""
    (tmp_path / "app.env").write_text("# secrets\nONE='from file'\nTWO=file\\\ncontinued\n")
    config = (
        'app = "app:app"\nworkers = 1\nenvironment_file = "app.env"\n'
        'environment = { ONE = "from table", THREE = "é" }\n'
    )
    source = (
        ANSWER
        + """
import os

SEEN = " ".join(os.environ[name] for name in ("ONE", "TWO", "THREE", "INHERITED"))

async def app(scope, receive, send):
    assert scope["type"] == "http"
    await answer(send, SEEN.encode())
"""
    )
    instance = start(source, config=config, env={"INHERITED": "inherited"})
    assert fetch(instance.address).text == "from table filecontinued é inherited"


def test_missing_environment_file_is_right_with_a_dash(start: Start) -> None:
    """`-` before the name of environment_file allows that it does not exist."""
    config = 'app = "app:app"\nworkers = 1\nenvironment_file = "-no.env"\n'
    assert fetch(start(HELLO, config=config).address).status == 200


def test_worker_knows_who_it_is(start: Start) -> None:
    """Instance, slot, worker and generation are in the environment of each worker."""
    source = (
        ANSWER
        + """
import os

NAMES = ("INSTANCE", "SLOT", "WORKER", "GENERATION")

async def app(scope, receive, send):
    assert scope["type"] == "http"
    told = " ".join(os.environ[f"SDCLUSTER_{name}"] for name in NAMES)
    await answer(send, told.encode())
"""
    )
    instance = start(source, "--workers", "2")
    assert {fetch(instance.address).text for _ in range(2)} == {
        f"{instance.name} 0 1 1",
        f"{instance.name} 1 2 1",
    }
    assert instance.reload().returncode == 0
    assert {fetch(instance.address).text for _ in range(2)} == {
        f"{instance.name} 0 3 2",
        f"{instance.name} 1 4 2",
    }


def test_children_of_the_app_inherit_no_socket(start: Start) -> None:
    """A process that the app starts has none of the worker's descriptors."""
    source = (
        ANSWER
        + """
import subprocess

async def app(scope, receive, send):
    assert scope["type"] == "http"
    listing = subprocess.run(["ls", "/proc/self/fd"], capture_output=True, close_fds=False)
    await answer(send, b" ".join(listing.stdout.split()))
"""
    )
    instance = start(source, "--workers", "1", "--scheduling", "shared")
    assert fetch(instance.address).text == "0 1 2 3"  # The last one is that of the listing.

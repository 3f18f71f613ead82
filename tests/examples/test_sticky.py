"""The article's sticky sessions: what one process remembers of a user is enough."""

import collections
import itertools
import json
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import pytest
from conftest import EXAMPLES, Example, Run, free_port
from instance import wait_until
from web import dial

pytest.importorskip("flask")

USERS = 1000
VISITS = 3
CLIENTS = 16
"""Connections that the users share, to the proxy; it has no more to the workers."""
ESTABLISHED = "01"

NGINX = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream workers {{
        server {server};
        keepalive 32;
        keepalive_requests 100000;
    }}
    server {{
        listen 127.0.0.1:{port};
        keepalive_requests 100000;
        location / {{
            proxy_pass http://workers;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_next_upstream off;
        }}
    }}
}}
"""


@contextmanager
def nginx(server: str, folder: Path) -> Iterator[str]:
    """Run a proxy before a server, that keeps its connections to it; return where it listens."""
    folder.mkdir()
    port = free_port()
    config, log = folder / "nginx.conf", folder / "log"
    config.write_text(NGINX.format(folder=folder, server=server, port=port))
    command = ["/usr/sbin/nginx", "-p", str(folder), "-e", "stderr", "-c", str(config)]
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)

    def is_there() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            dial(f"127.0.0.1:{port}").close()
        except ConnectionRefusedError:
            return False
        return True

    try:
        wait_until(is_there, "nginx")
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)
        print(f"--- log of nginx\n{log.read_text()}")


def connections_to(address: str) -> int:
    """Return how many connections are open to an address of this machine: proc(5), net/tcp."""
    port = f":{int(address.rpartition(':')[2]):04X}"
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    return sum(words[2].endswith(port) and words[3] == ESTABLISHED for words in lines)


@dataclass
class User:
    """Somebody with a browser, who keeps his cookies."""

    name: str
    cookies: dict[str, str] = field(default_factory=dict)

    def ask(self, connection: HTTPConnection, method: str, target: str, body: str = "") -> Any:
        """Send a request over a connection of the proxy's, and return the JSON of its answer."""
        headers = {"Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items())}
        if body:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        connection.request(method, target, body or None, headers)
        response = connection.getresponse()
        told = json.loads(response.read())
        for header in response.headers.get_all("Set-Cookie", []):
            for name, cookie in SimpleCookie(header).items():
                self.cookies[name] = cookie.value
        return told


@dataclass
class Outcome:
    """What became of what the users did."""

    answers: int = 0
    failed: int = 0
    workers: set[int] = field(default_factory=set)
    pooled: int = 0
    """The most connections that the proxy has kept to the workers."""


def let_users_in(example: Example, proxy: str) -> Outcome:
    """Have each user log in and come back, over whichever connection is free."""
    example.wait_log("4/4 workers ready")  # Else the first has all connections of the proxy.
    outcome = Outcome()
    users = [User(f"user{number}") for number in range(USERS)]
    with ExitStack() as stack:
        pool = collections.deque(
            stack.enter_context(closing(HTTPConnection(proxy, timeout=20))) for _ in range(CLIENTS)
        )
        lock = threading.Lock()

        def do(user: User, visit: int) -> None:
            with lock:
                connection = pool.popleft()
            if not visit:
                told = user.ask(connection, "POST", "/login", f"user={user.name}")
                is_right = True
            else:
                told = user.ask(connection, "GET", "/me")
                is_right = (told.get("user"), told.get("visits")) == (user.name, visit)
            with lock:
                pool.append(connection)
                outcome.answers += 1
                outcome.failed += not is_right
                outcome.workers.add(told["worker"])

        with ThreadPoolExecutor(CLIENTS) as threads:
            for visit in range(VISITS + 1):
                list(threads.map(do, users, itertools.repeat(visit)))
                outcome.pooled = max(outcome.pooled, connections_to(example.web))
    print(outcome)
    return outcome


def test_users_find_their_sessions_behind_a_proxy(run: Run, tmp_path: Path) -> None:
    """A thousand of them, over four workers and the few connections that the proxy keeps."""
    example = run("sticky_flask")
    with nginx(example.web, tmp_path / "nginx") as proxy:
        outcome = let_users_in(example, proxy)
    assert outcome.answers == USERS * (VISITS + 1)
    assert outcome.failed == 0
    assert len(outcome.workers) == 4
    assert 0 < outcome.pooled <= CLIENTS


def test_users_do_not_find_them_without(run: Run, tmp_path: Path) -> None:
    """Else the test above would show nothing."""
    source = (EXAMPLES / "sticky_flask.py").read_text()
    command = "run sticky_flask:app --workers 4"
    source = source.replace("run --config sticky_flask.toml", command)
    example = run("sticky_flask", source=source)
    with nginx(example.web, tmp_path / "nginx") as proxy:
        outcome = let_users_in(example, proxy)
    assert outcome.answers == USERS * (VISITS + 1)
    assert outcome.failed > USERS

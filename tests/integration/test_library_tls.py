"""TLS in a program's workers, in each of the ways in which Python programs have it."""

import shutil
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import Play
from instance import wait_until
from web import dial

both = pytest.mark.parametrize("scheduling", ["round-robin", "shared"])

SERVE = """
if cluster.is_master:
    narrate()
    cluster.fork()
    cluster.fork()
    cluster.on("message")(lambda worker, message: worker.disconnect())
    cluster.run()
else:
    import ssl
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            body = f"{cluster.worker.id} {self.connection.version()}\\n".encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            if self.path == "/leave":
                cluster.worker.send("leave")

        def log_message(self, *_):
            pass

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain("cert.pem", "key.pem")

    def http(kind, listener):
        server = kind(("127.0.0.1", 0), Handler, bind_and_activate=False)
        server.socket.close()
        server.socket = listener
        server.server_name, server.server_port = "test", 0
        server.serve_forever()

    def accept_forever(listener):
        while True:
            connection, address = listener.accept()
            threading.Thread(target=wrap_late, args=[connection, address]).start()

    def wrap_late(connection, address):
        try:
            with context.wrap_socket(connection, server_side=True) as secured:
                Handler(secured, address, None)
        except OSError:
            pass

    async def answer_tls(reader, writer):
        await reader.readuntil(b"\\r\\n\\r\\n")
        version = writer.get_extra_info("ssl_object").version()
        body = f"{cluster.worker.id} {version}\\n".encode()
        writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(body) + body)
        await writer.drain()
        await reader.read()
        writer.close()

    async def start(listener):
        server = await asyncio.start_server(answer_tls, sock=listener, ssl=context)
        await server.serve_forever()

    listener = cluster.listen("127.0.0.1:0")
"""

WRAP = "context.wrap_socket(listener, server_side=True)"
WAYS = {
    "ThreadingHTTPServer": f"http(ThreadingHTTPServer, {WRAP})",
    "HTTPServer": f"http(HTTPServer, {WRAP})",
    "wrapped when accepted": "accept_forever(listener)",
    "asyncio": "asyncio.run(start(listener))",
    "uvloop": "import uvloop; uvloop.run(start(listener))",
}


@pytest.fixture(autouse=True)
def certificate(tmp_path: Path) -> None:
    """Make a certificate in the program's folder."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make a certificate with")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    words = [*command.split(), "-subj", "/CN=test", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run(words, cwd=tmp_path, check=True, capture_output=True)


@contextmanager
def secured(address: str, folder: Path) -> Iterator[ssl.SSLSocket]:
    """Connect, and check that the other end has the certificate."""
    context = ssl.create_default_context(cafile=str(folder / "cert.pem"))
    context.check_hostname = False
    with dial(address) as plain, context.wrap_socket(plain) as client:
        yield client


def ask(client: ssl.SSLSocket, path: str = "/") -> str:
    """Send a request and return the id of the worker that has answered it, in TLS."""
    client.sendall(f"GET {path} HTTP/1.1\r\n\r\n".encode())
    data = b""
    while not data.endswith(b"\n") or b"\r\n\r\n" not in data or data.endswith(b"\r\n"):
        some = client.recv(4096)
        assert some, data
        data += some
    worker, version = data.decode().split("\r\n\r\n")[1].split()
    assert version.startswith("TLSv1.")
    return worker


@both
@pytest.mark.parametrize("way", WAYS)
def test_tls_is_served_in_every_way(play: Play, tmp_path: Path, scheduling: str, way: str) -> None:
    """By all workers; a client that speaks no TLS harms nobody."""
    if way == "uvloop":
        pytest.importorskip(way)
    program = play(SERVE + "    " + WAYS[way], env={"SDCLUSTER_SCHEDULING": scheduling})
    address = program.web()
    program.wait_event("listening", 2)
    for _ in range(2):
        with dial(address) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
            try:
                while plain.recv(1000):
                    pass
            except ConnectionResetError:
                pass  # It has been closed with something unread.
    seen: set[str] = set()

    def ask_anew() -> bool:
        with secured(address, tmp_path) as client:
            seen.add(ask(client))
        return seen == {"1", "2"}

    wait_until(ask_anew, "answers from both")
    assert program.stop() == 0
    assert [program.wait_event("exit", one) for one in (1, 2)] == ["0 None", "0 None"]


@both
@pytest.mark.parametrize("way", ["ThreadingHTTPServer", "wrapped when accepted"])
def test_worker_lives_until_its_tls_connections_close(
    play: Play, tmp_path: Path, scheduling: str, way: str
) -> None:
    """They count as others do; when they are closed it ends."""
    program = play(SERVE + "    " + WAYS[way], env={"SDCLUSTER_SCHEDULING": scheduling})
    address = program.web()
    program.wait_event("listening", 2)
    with secured(address, tmp_path) as client:
        worker = ask(client, "/leave")
        program.wait_event("disconnect", int(worker))
        for _ in range(20):
            with secured(address, tmp_path) as other:
                assert ask(other) != worker
        assert ask(client) == worker
    program.wait_event("exit", int(worker))
    assert program.stop() == 0


def test_sockets_that_are_not_ours_are_wrapped_as_ever(play: Play) -> None:
    """In a worker as anywhere; a context makes the class that it was told to."""
    program = play(
        SERVE
        + """
    import socket

    class Own(ssl.SSLSocket):
        pass

    def shake(server):
        trust = ssl.create_default_context(cafile="cert.pem")
        trust.check_hostname = False
        client = trust.wrap_socket(theirs, do_handshake_on_connect=False)
        thread = threading.Thread(target=client.do_handshake)
        thread.start()
        server.do_handshake()
        thread.join()
        client.close()

    context.sslsocket_class = Own
    ours, theirs = socket.socketpair()
    wrapped = context.wrap_socket(ours, server_side=True, do_handshake_on_connect=False)
    shake(wrapped)
    say("class", type(wrapped) is Own)
    wrapped.close()
"""
    )
    assert program.wait() == 0
    assert program.lines("class") == ["True", "True"]

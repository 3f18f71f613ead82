"""Listening sockets: passed by a service manager or bound by the master, in each scheduling."""

import shutil
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import HELLO, SCHEDULINGS, Start
from web import backlog, connection, dial, fetch, fetch_many, slots

ACTIVATOR = shutil.which("systemd-socket-activate")

GATED = """
import asyncio
import os

async def app(scope, receive, send):
    assert scope["type"] == "http"
    while not os.path.exists("go"):
        await asyncio.sleep(0.01)
    headers = [(b"content-length", b"5")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"done\\n"})
"""
"""An app whose answers wait for the file `go`."""


def tcp(*, reuse_port: bool = False, port: int = 0, backlog: int = 128) -> socket.socket:
    """Return a listening socket, as a socket unit's."""
    return socket.create_server(("127.0.0.1", port), reuse_port=reuse_port, backlog=backlog)


def port_of(listener: socket.socket) -> int:
    """Return the port of a socket."""
    return int(listener.getsockname()[1])


def free_port(host: str) -> int:
    """Return a port that nobody listens on."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind((host, 0))
        return port_of(probe)


# Passed by systemd's own tool.


def activated(*listen: str, options: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Return the words that put a command under systemd-socket-activate."""
    if ACTIVATOR is None:
        pytest.skip("there is no systemd-socket-activate")
    kept = ("XDG_RUNTIME_DIR", "PYTHONUNBUFFERED", "SDCLUSTER_TEST")
    words = [word for name in kept for word in ("-E", name)]
    words += [word for address in listen for word in ("-l", address)]
    return (ACTIVATOR, *words, *options)


@pytest.mark.parametrize("kind", ["tcp", "tcp6", "unix"])
def test_first_client_of_an_activated_socket_is_answered(
    start: Start, tmp_path: Path, kind: str
) -> None:
    """The connection that starts the service waits in the backlog and gets its answer."""
    hosts = {"tcp": "127.0.0.1", "tcp6": "[::1]"}
    address = f"{tmp_path}/app.sock"
    if kind in hosts:
        address = f"{hosts[kind]}:{free_port(hosts[kind].strip('[]'))}"
    prefix = activated(address)
    instance = start(HELLO, "--workers", "2", prefix=prefix, listen=None, wait=False)
    instance.wait_log(f"Listening on {address} as 3.")
    assert fetch(address).status == 200
    assert instance.wait_ready().addresses == [address]
    assert slots(instance, 2) == {"0", "1"}
    assert instance.stop() == 0
    if kind == "unix":
        assert Path(address).is_socket()


def test_several_activated_sockets_are_served(start: Start, tmp_path: Path) -> None:
    """A TCP and a Unix socket, passed together and with names, are both served."""
    addresses = [f"127.0.0.1:{free_port('127.0.0.1')}", f"{tmp_path}/app.sock"]
    prefix = activated(*addresses, options=("--fdname=web:local",))
    instance = start(HELLO, "--workers", "1", prefix=prefix, listen=None, wait=False)
    instance.wait_log(f"Listening on {addresses[1]} as 4.")
    assert fetch(addresses[1]).status == 200
    assert fetch(addresses[0]).status == 200
    assert instance.wait_ready().addresses == addresses


# Passed by a launcher of the tests' own.


@pytest.mark.parametrize("scheduling", SCHEDULINGS)
def test_passed_socket_is_served_by_all_workers(start: Start, scheduling: str) -> None:
    """In each scheduling every worker gets connections of the one socket passed."""
    with tcp() as listener:
        options = ("--workers", "3", "--scheduling", scheduling)
        instance = start(HELLO, *options, sockets=[listener], names="web")
        assert instance.addresses == [f"127.0.0.1:{port_of(listener)}"]
        assert slots(instance, 3) == {"0", "1", "2"}


def test_each_slot_has_its_own_of_the_sockets_passed(start: Start) -> None:
    """With reuseport and a socket per slot, all sockets of the port are served, and no other."""
    with tcp(reuse_port=True) as first, tcp(reuse_port=True, port=port_of(first)) as second:
        options = ("--workers", "2", "--scheduling", "reuseport")
        instance = start(HELLO, *options, sockets=[first, second])
        assert instance.addresses == [f"127.0.0.1:{port_of(first)}"]
        assert slots(instance, 2) == {"0", "1"}
        instance.wait_status(
            lambda status: not any(one["connections"] for one in status["workers"])
        )
        assert [backlog(one)[0] for one in (first, second)] == [0, 0]


def test_more_sockets_than_workers_are_served_too(start: Start) -> None:
    """A socket that no worker owns is served by the master: nobody waits in it for ever."""
    with tcp(reuse_port=True) as first, tcp(reuse_port=True, port=port_of(first)) as second:
        options = ("--workers", "1", "--scheduling", "reuseport")
        instance = start(HELLO, *options, sockets=[first, second])
        assert all(one.status == 200 for one in fetch_many(instance.address, 40))


OPTIONS = [
    (socket.SOL_SOCKET, name)
    for name in (
        socket.SO_REUSEADDR,
        socket.SO_REUSEPORT,
        socket.SO_KEEPALIVE,
        socket.SO_LINGER,
        socket.SO_RCVBUF,
        socket.SO_SNDBUF,
        socket.SO_ACCEPTCONN,
        socket.SO_PRIORITY,
        socket.SO_RCVLOWAT,
    )
] + [
    (socket.IPPROTO_TCP, name)
    for name in (
        socket.TCP_NODELAY,
        socket.TCP_DEFER_ACCEPT,
        socket.TCP_FASTOPEN,
        socket.TCP_KEEPIDLE,
        socket.TCP_QUICKACK,
    )
]


@pytest.mark.parametrize("scheduling", SCHEDULINGS)
def test_passed_socket_keeps_its_options_and_backlog(start: Start, scheduling: str) -> None:
    """Serving, reloading and stopping change nothing of a socket that was passed."""
    with tcp(backlog=7) as listener:
        before = [listener.getsockopt(*option) for option in OPTIONS]
        options = ("--workers", "2", "--scheduling", scheduling)
        instance = start(HELLO, *options, sockets=[listener])
        fetch_many(instance.address, 8)
        assert instance.reload().returncode == 0
        fetch_many(instance.address, 8)
        assert backlog(listener)[1] == 7
        assert instance.stop() == 0
        assert [listener.getsockopt(*option) for option in OPTIONS] == before
        assert backlog(listener) == (0, 7)


@pytest.mark.parametrize("scheduling", SCHEDULINGS)
def test_connection_made_while_the_service_is_down_is_answered_later(
    start: Start, scheduling: str
) -> None:
    """What waits in a passed socket when one master stops is answered by the next."""
    with tcp() as listener:
        options = ("--workers", "2", "--scheduling", scheduling)
        first = start(HELLO, *options, sockets=[listener])
        assert first.stop() == 0
        with connection(first.address) as client:
            client.request("GET", "/")
            start(HELLO, *options, sockets=[listener])
            assert client.getresponse().status == 200


def test_unix_socket_passed_is_never_removed(start: Start, tmp_path: Path) -> None:
    """The path of a passed socket stays when the service stops: it is the manager's."""
    path = f"{tmp_path}/app.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        instance = start(HELLO, "--workers", "1", sockets=[listener])
        assert fetch(path).status == 200
        assert instance.stop() == 0
        assert Path(path).is_socket()


def test_configured_address_may_be_the_one_passed(start: Start) -> None:
    """`listen` that names what systemd passes is right, in one spelling or another."""
    with socket.create_server(("::", 0), family=socket.AF_INET6) as listener:
        config = f'app = "app:app"\nworkers = 1\nlisten = {port_of(listener)}\n'
        instance = start(HELLO, config=config, sockets=[listener])
        assert fetch(f"[::1]:{port_of(listener)}").status == 200
        assert instance.addresses == [f"[::]:{port_of(listener)}"]


# Bound by the master.


@pytest.mark.parametrize("scheduling", SCHEDULINGS)
def test_port_0_is_one_port_for_all_workers(start: Start, scheduling: str) -> None:
    """With port 0 the kernel chooses, the choice is printed, and every slot has it."""
    instance = start(HELLO, "--workers", "3", "--scheduling", scheduling)
    assert len(instance.addresses) == 1
    assert slots(instance, 3) == {"0", "1", "2"}


def test_any_address_is_both_ipv4_and_ipv6(start: Start) -> None:
    """A bare port listens on all addresses of both kinds, and `[::1]` on that one alone."""
    instance = start(HELLO, "--workers", "1", "-l", "[::]:0", "-l", "[::1]:0")
    port = instance.address.rpartition(":")[2]
    assert fetch(f"127.0.0.1:{port}").status == 200
    assert fetch(f"[::1]:{port}").status == 200
    only = instance.addresses[1].rpartition(":")[2]
    with pytest.raises(ConnectionRefusedError):
        fetch(f"127.0.0.1:{only}")


@pytest.mark.parametrize("scheduling", ["round-robin", "shared"])
def test_unix_socket_is_served_by_all_workers(
    start: Start, tmp_path: Path, scheduling: str
) -> None:
    """A Unix socket is shared like any other."""
    listen = f"{tmp_path}/app.sock"
    instance = start(HELLO, "--workers", "2", "--scheduling", scheduling, "--listen", listen)
    assert slots(instance, 2) == {"0", "1"}


def test_unix_socket_serves_with_reuseport_as_well(start: Start, tmp_path: Path) -> None:
    """SO_REUSEPORT means nothing for a Unix socket: all slots share it, also after a reload."""
    listen = f"{tmp_path}/app.sock"
    instance = start(HELLO, "--workers", "2", "--scheduling", "reuseport", "--listen", listen)
    assert slots(instance, 2) == {"0", "1"}
    assert instance.reload().returncode == 0
    assert slots(instance, 2) == {"0", "1"}


def test_port_is_free_once_the_master_has_ended(start: Start) -> None:
    """The next master can bind the same port at once."""
    first = start(HELLO, "--workers", "1")
    fetch(first.address)
    assert first.stop() == 0
    second = start(HELLO, "--workers", "1", "--listen", first.address)
    assert fetch(second.address).status == 200


# Limits.


@pytest.mark.parametrize("scheduling", SCHEDULINGS)
def test_connections_beyond_the_limit_wait_and_are_answered(
    start: Start, tmp_path: Path, scheduling: str
) -> None:
    """With max_connections = 2 and two workers, four are open, the rest waits, none is refused."""
    config = 'app = "app:app"\nworkers = 2\nmax_connections = 2\n'
    instance = start(GATED, "--scheduling", scheduling, config=config)

    def open_now() -> list[int]:
        return [one["connections"] for one in instance.status()["workers"]]

    with ThreadPoolExecutor(12) as pool:
        answers = [pool.submit(fetch, instance.address) for _ in range(12)]
        instance.wait_status(lambda _: max(open_now()) == 2, "a worker is full")
        for _ in range(20):
            assert max(open_now()) <= 2
        assert not any(one.done() for one in answers)
        (tmp_path / "go").touch()
        assert [one.result().status for one in answers] == [200] * 12


@pytest.mark.parametrize("scheduling", SCHEDULINGS)
def test_room_is_used_as_soon_as_it_is_there(start: Start, tmp_path: Path, scheduling: str) -> None:
    """With max_connections = 1 forty requests, one by one, wait for no heartbeat or timer."""
    config = 'app = "app:app"\nworkers = 1\nmax_connections = 1\n'
    (tmp_path / "go").touch()
    instance = start(GATED, "--scheduling", scheduling, config=config)
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(fetch, instance.address, timeout_s=2) for _ in range(40)]
        assert [one.result().status for one in answers] == [200] * 40


def test_idle_client_of_a_full_worker_makes_others_wait_only(start: Start) -> None:
    """A connection that is closed makes room for the one that waits."""
    config = 'app = "app:app"\nworkers = 1\nmax_connections = 1\n'
    instance = start(HELLO, config=config)
    with dial(instance.address) as idle, ThreadPoolExecutor(1) as pool:
        instance.wait_status(lambda status: status["workers"][0]["connections"] == 1)
        answer = pool.submit(fetch, instance.address)
        idle.close()
        assert answer.result().status == 200


def test_descriptor_limit_is_raised_to_the_hard_one(start: Start) -> None:
    """A soft limit of descriptors below the hard one is raised, for the workers too."""
    source = HELLO.replace(
        "{os.getpid()}", "{__import__('resource').getrlimit(__import__('resource').RLIMIT_NOFILE)}"
    )
    prefix = ("prlimit", "--nofile=200:300")
    instance = start(source, "--workers", "1", prefix=prefix)
    assert fetch(instance.address).text == "0 (300, 300)"


def test_many_connections_below_a_low_limit_are_all_answered(start: Start) -> None:
    """With fewer descriptors than clients, clients wait in the backlog and are answered."""
    prefix = ("prlimit", "--nofile=64:64")
    instance = start(HELLO, "--workers", "1", prefix=prefix)
    sockets = [dial(instance.address) for _ in range(90)]
    request = b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
    for sock in sockets:
        sock.sendall(request)
    for sock in sockets:
        with sock:
            assert sock.recv(100).startswith(b"HTTP/1.1 200")

"""Sticky sessions: each request is answered by the worker that its client has had."""

import random
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from conftest import SCHEDULINGS, Start
from control import reloading
from instance import wait_until
from routed import APP, CONFIG, cookie, cookies, replace_one, slot_of, with_cookie
from web import connection, dial, fetch, is_read

from sdcluster.wire.rendezvous import owner


@pytest.mark.parametrize("scheduling", SCHEDULINGS)
def test_cookie_keeps_a_client_with_its_worker(start: Start, engine: str, scheduling: str) -> None:
    """Whichever connection it uses; and it gets one cookie, once."""
    instance = start(APP, config=CONFIG.format(scheduling) + 'sticky = "cookie"\n')
    for slot, value in cookies(instance).items():
        for _ in range(10):
            answer = fetch(instance.address, headers={"Cookie": value})
            assert slot_of(answer) == slot, engine
            assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("scheduling", SCHEDULINGS)
def test_users_share_kept_alive_connections(start: Start, engine: str, scheduling: str) -> None:
    """As behind a proxy: each request goes where its user belongs, on whichever connection."""
    instance = start(APP, config=CONFIG.format(scheduling) + 'sticky = "cookie"\n')
    users = cookies(instance)
    with ExitStack() as stack:
        pool = [stack.enter_context(connection(instance.address)) for _ in range(6)]
        for client in pool:
            client.fetch()
        sockets = [client.sock for client in pool]
        for _ in range(100):
            slot = random.choice([*users])
            assert slot_of(with_cookie(random.choice(pool), users[slot])) == slot, engine
        assert [client.sock for client in pool] == sockets


def test_uploads_go_where_they_belong(start: Start, engine: str) -> None:
    """Also those of which much comes at once, and more than is kept of a request."""
    instance = start(APP, config=CONFIG.format("round-robin") + 'sticky = "cookie"\n')
    users = cookies(instance)
    for size in (10, 65_000, 70_000, 3_000_000):
        for slot, value in users.items():
            with connection(instance.address) as client:
                for _ in range(3):
                    headers = {"Cookie": value}
                    answer = client.fetch(method="POST", body=bytes(size), headers=headers)
                    assert answer.text.split()[2] == str(size), engine
                    assert slot_of(answer) == slot, f"{size} bytes, {engine}"


def test_client_that_waits_for_100_continue_is_handed_over(start: Start, engine: str) -> None:
    """It is told to go on by the worker that it belongs to."""
    instance = start(APP, config=CONFIG.format("round-robin") + 'sticky = "cookie"\n')
    for slot, value in cookies(instance).items():
        for _ in range(4):
            with dial(instance.address) as client:
                head = f"POST / HTTP/1.1\r\nHost: test\r\nCookie: {value}\r\n"
                client.sendall(f"{head}Content-Length: 5\r\nExpect: 100-continue\r\n\r\n".encode())
                begin = client.recv(1000)
                assert begin.lower().startswith(b"http/1.1 100 "), engine
                client.sendall(b"hello")
                answer = client.recv(10_000)
                assert answer.startswith(b"HTTP/1.1 200 ")
                assert answer.partition(b"\r\n\r\n")[2].split()[:3:2] == [b"%d" % slot, b"5"]


LATE = """
import asyncio
import os

async def app(scope, receive, send):
    assert scope["type"] == "http"
    slot = os.environ["SDCLUSTER_SLOT"].encode()
    if scope["path"] != "/early":
        while (await receive()).get("more_body"):
            pass
    headers = [(b"content-length", b"1")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": slot, "more_body": True})
    while scope["path"] == "/late" and not os.path.exists("go"):
        await asyncio.sleep(0.01)
    await send({"type": "http.response.body"})
"""
"""An app that answers with its slot; /late is not over then, and /early reads no body."""


@pytest.mark.parametrize("requests", [1, 3])
def test_request_that_comes_before_the_last_is_over_is_handed_over(
    start: Start, tmp_path: Path, engine: str, requests: int
) -> None:
    """Apps of WSGI say that a response is over after the client has all of it."""
    instance = start(LATE, config=CONFIG.format("round-robin") + 'sticky = "cookie"\n')
    users = cookies(instance)
    with connection(instance.address) as client:
        for number in range(requests):
            slot = slot_of(client.fetch("/late"))  # Without the cookie: it stays where it is.
            mine = users[(slot + 1 + number % 3) % 4]
            client.request("GET", "/", headers={"Cookie": mine})
            wait_until(is_read(client.sock), "it is read")
            (tmp_path / "go").touch()
            assert client.getresponse().read() == mine.partition("=")[2][:1].encode(), engine
            (tmp_path / "go").unlink()


def test_request_after_an_upload_that_nobody_read_is_handed_over(start: Start, engine: str) -> None:
    """It was answered before all of it had come."""
    instance = start(LATE, config=CONFIG.format("round-robin") + 'sticky = "cookie"\n')
    head = b"POST /early HTTP/1.1\r\nHost: test\r\nContent-Length: 10000\r\n\r\n"
    for slot, value in cookies(instance).items():
        request = f"GET / HTTP/1.1\r\nHost: test\r\nCookie: {value}\r\n\r\n".encode()
        for _ in range(4):
            with dial(instance.address) as client:
                client.sendall(head + bytes(5000))
                assert client.recv(1000).startswith(b"HTTP/1.1 200 ")
                client.sendall(bytes(5000))
                wait_until(is_read(client), "it is read")
                client.sendall(request)
                assert client.recv(1000).endswith(b"\r\n\r\n%d" % slot), engine


def test_websockets_go_where_they_belong(start: Start) -> None:
    """Their handshake is a request as any other."""
    from websockets.sync.client import connect

    instance = start(APP, config=CONFIG.format("round-robin") + 'sticky = "cookie"\n')
    for slot, value in cookies(instance).items():
        for _ in range(6):
            url = f"ws://{instance.address}/"
            with connect(url, additional_headers={"Cookie": value}) as client:
                assert client.recv() == str(slot)
    assert "ERROR" not in instance.log()


def test_cookie_that_is_not_ours_is_replaced(start: Start) -> None:
    """Who has forged one is a new client."""
    instance = start(APP, config=CONFIG.format("round-robin") + 'sticky = "cookie"\n')
    true = cookies(instance)[3]
    for false in ("sdcluster=3", true[:-1], true.replace("=3.", "=2.")):
        answer = fetch(instance.address, headers={"Cookie": false})
        assert cookie(answer).startswith(f"sdcluster={slot_of(answer)}.")


def test_cookie_of_a_slot_that_is_gone_is_replaced(start: Start) -> None:
    """When the cluster has shrunk; the others keep theirs."""
    instance = start(APP, config=CONFIG.format("round-robin") + 'sticky = "cookie"\n')
    users = cookies(instance)
    instance.signal(signal.SIGTTOU)
    wait_until(lambda: len(instance.status()["workers"]) == 3, "one is gone")
    for slot in range(3):
        answer = fetch(instance.address, headers={"Cookie": users[slot]})
        assert (slot_of(answer), "set-cookie" in answer.headers) == (slot, False)
    answer = fetch(instance.address, headers={"Cookie": users[3]})
    assert cookie(answer).startswith(f"sdcluster={slot_of(answer)}.")


def test_cookie_outlives_reloads_crashes_and_restarts(start: Start) -> None:
    """The slot is what it names, and the secret is kept."""
    config = CONFIG.format("round-robin") + 'sticky = "cookie"\n'
    instance = start(APP, config=config)
    users = cookies(instance)
    assert instance.reload().returncode == 0
    replace_one(instance)
    for slot, value in users.items():
        assert slot_of(fetch(instance.address, headers={"Cookie": value})) == slot
    assert instance.stop() == 0
    again = start(APP, "--name", instance.name, config=config)
    for slot, value in users.items():
        assert slot_of(fetch(again.address, headers={"Cookie": value})) == slot


@pytest.mark.parametrize("scheduling", SCHEDULINGS)
def test_nothing_is_lost_while_the_cluster_reloads(
    start: Start, engine: str, scheduling: str
) -> None:
    """Again and again; each request is answered on its connection, by the slot of its user."""
    config = CONFIG.format(scheduling) + 'sticky = "cookie"\nreload_probation_s = 0.05\n'
    instance = start(APP, config=config)
    users = cookies(instance)
    with reloading(instance) as reloads:

        def ask(number: int) -> list[tuple[int, int]]:
            found: list[tuple[int, int]] = []
            with connection(instance.address) as client:
                client.fetch()
                sock = client.sock
                while len(reloads) < 3 or len(found) < 50:
                    slot = (number + len(found)) % 4
                    found.append((slot, slot_of(with_cookie(client, users[slot]))))
                assert client.sock is sock, engine
            return found

        with ThreadPoolExecutor(8) as pool:
            answers = [pair for found in pool.map(ask, range(8)) for pair in found]
    assert len(answers) >= 400
    strayed = sum(expected != found for expected, found in answers)
    assert strayed == 0, f"{strayed} of {len(answers)}"


@pytest.mark.parametrize("scheduling", SCHEDULINGS)
def test_address_keeps_a_client_with_its_worker(start: Start, scheduling: str) -> None:
    """As many as there are; a worker that is started again has the same ones."""
    config = CONFIG.format(scheduling) + 'sticky = "client-ip"\nforwarded_allow_ips = "127.0.0.1"\n'
    instance = start(APP, config=config)
    addresses = [f"192.0.2.{number}" for number in range(64)]

    def ask() -> dict[str, int]:
        with connection(instance.address) as client:
            return {
                one: slot_of(client.fetch(headers={"X-Forwarded-For": one})) for one in addresses
            }

    expected = {one: owner(one, 4) for one in addresses}
    assert ask() == expected
    replace_one(instance)
    assert ask() == expected


def test_address_is_that_of_the_socket_when_there_is_no_proxy(start: Start) -> None:
    """All clients of this machine have one worker."""
    instance = start(APP, config=CONFIG.format("shared") + 'sticky = "client-ip"\n')
    assert {slot_of(fetch(instance.address)) for _ in range(30)} == {owner("127.0.0.1", 4)}

"""Nobody gets past the router: what cannot be handed over is refused, and not served elsewhere."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Start
from instance import Instance, wait_until
from routed import APP, CONFIG, cookies, slot_of
from test_sticky import LATE
from web import dial, fetch, is_read

from sdcluster.wire.rendezvous import owner

STICKY = CONFIG.format("round-robin") + 'sticky = "cookie"\n'


def request(cookie: str, *, head: str = "GET / HTTP/1.1", extra: str = "") -> bytes:
    """Return a request of the user with a cookie."""
    return f"{head}\r\nHost: test\r\nCookie: {cookie}\r\n{extra}\r\n".encode()


def answers(sock: object, count: int) -> list[tuple[int, str]]:
    """Return status and body of so many responses; fewer when the connection ends before."""
    found: list[tuple[int, str]] = []
    with sock.makefile("rb") as file:  # type: ignore[attr-defined]
        while len(found) < count and (line := file.readline()):
            length = 0
            while name := file.readline().strip().lower():
                if name.startswith(b"content-length:"):
                    length = int(name.partition(b":")[2])
            found.append((int(line.split()[1]), file.read(length).decode()))
    return found


def wrong(instance: Instance) -> int:
    """Return how many requests were served by another worker than their own."""
    status = instance.status()
    assert status["wrong"] >= sum(one["wrong"] for one in status["workers"])
    return int(status["wrong"])


@pytest.mark.parametrize("count", [2, 3])
def test_pipelined_requests_are_each_answered_where_they_belong(
    start: Start, engine: str, count: int
) -> None:
    """In order; each is handed over when the one before it is answered."""
    instance = start(APP, config=STICKY)
    users = cookies(instance)
    for first in users:
        order = [(first + 3 * number) % 4 for number in range(count)]
        body = "x" * 500
        extra = f"Content-Length: {len(body)}\r\n"
        with dial(instance.address) as client:
            posts = [
                request(users[slot], head="POST / HTTP/1.1", extra=extra) + body.encode()
                for slot in order
            ]
            client.sendall(b"".join(posts) + request(users[first]))
            found = answers(client, count + 1)
        assert [status for status, _ in found] == [200] * (count + 1), engine
        assert [int(text.split()[0]) for _, text in found] == [*order, first], engine
        assert [text.split()[2] for _, text in found] == ["500"] * count + ["0"]
    assert wrong(instance) == 0


def test_request_of_which_it_is_not_certain_where_it_ends_is_never_served_elsewhere(
    start: Start, engine: str
) -> None:
    """Nor is what came with it: what is not at home is refused."""
    instance = start(APP, config=STICKY)
    users = cookies(instance)
    statuses = set()
    for first in users:
        second = (first + 1) % 4
        uncertain = request(users[first], extra="Upgrade: h2c\r\n")
        for _ in range(4):
            with dial(instance.address) as client:
                client.sendall(uncertain + request(users[second]))
                found = answers(client, 2)
            for (status, text), slot in zip(found, (first, second), strict=False):
                statuses.add(status)
                assert status == 503 or int(text.split()[0]) == slot, engine
    # h11 tells what is behind a request in any case.
    assert statuses == ({200} if "h11" in engine else {200, 503})
    assert wrong(instance) == 0


def test_response_to_head_that_is_refused_has_no_body(start: Start) -> None:
    """Else it would be taken for another response: RFC 9110, 9.3.2."""
    instance = start(APP, config=STICKY)
    users = cookies(instance)
    uncertain = request(users[0], extra="Upgrade: h2c\r\n")
    head = request(users[1], head="HEAD / HTTP/1.1", extra="Connection: close\r\n")
    refused = 0
    for _ in range(16):
        with dial(instance.address) as client:
            client.sendall(uncertain + head)
            received = b""
            while part := client.recv(65536):
                received += part
        _, first, second = (*received.split(b"HTTP/1.1 "), b"")[:3]
        if first.startswith(b"200 ") and second.startswith(b"503 "):
            refused += 1
            assert second.endswith(b"\r\n\r\n")
    assert refused


def test_head_that_is_too_long_to_be_handed_over_is_refused(start: Start) -> None:
    """Wherever it comes to, so that it is not served now and then; and no other."""
    instance = start(APP, config=STICKY)
    for slot, cookie in cookies(instance).items():
        for size, expected in ((60_000, 200), (65_600, 431), (120_000, 431)):
            for _ in range(4):
                with dial(instance.address) as client:
                    client.sendall(request(cookie, extra=f"X-Long: {'x' * size}\r\n"))
                    ((status, text),) = answers(client, 1)
                assert status == expected
                if status == 200:
                    assert int(text.split()[0]) == slot
    assert wrong(instance) == 0
    assert "refused with status 431, as their head is longer than replay_max_kb" in instance.log()


@pytest.mark.parametrize(("size", "refused"), [(10_000, 0), (150_000, None)])
def test_request_in_one_go_with_the_end_of_an_unread_body_is_never_served_elsewhere(
    start: Start, engine: str, size: int, refused: int | None
) -> None:
    """It is handed over if all is kept, else refused."""
    instance = start(LATE, config=STICKY)
    head = b"POST /early HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n" % size
    count = 0
    for slot, cookie in cookies(instance).items():
        for _ in range(6):
            with dial(instance.address) as client:
                client.sendall(head + bytes(size // 2))
                assert client.recv(1000).startswith(b"HTTP/1.1 200 ")
                wait_until(is_read(client), "it is read")
                client.sendall(bytes(size - size // 2) + request(cookie))
                received = client.recv(1000)
            if received.startswith(b"HTTP/1.1 503 "):
                count += 1
            else:
                assert received.endswith(b"\r\n\r\n%d" % slot), engine
    assert wrong(instance) == 0
    if refused is not None:
        assert count == refused


def test_request_behind_a_long_upload_is_handed_over(
    start: Start, tmp_path: Path, engine: str
) -> None:
    """The app says that it is over after the client has all of it, as those of WSGI do."""
    instance = start(LATE, config=STICKY)
    users = cookies(instance)
    head = b"POST /late HTTP/1.1\r\nHost: test\r\nContent-Length: 150000\r\n\r\n"
    with dial(instance.address) as client, client.makefile("rb") as file:

        def slot_that_answers() -> int:
            while file.readline().strip():
                pass
            return int(file.read(1))

        for number in range(3):
            # In parts, or the engine would read no more until the answer is complete.
            for part in (head, *[bytes(30_000)] * 5):
                client.sendall(part)
                wait_until(is_read(client), "it is read")
            mine = (slot_that_answers() + 1 + number) % 4
            client.sendall(request(users[mine]))
            wait_until(is_read(client), "it is read")
            (tmp_path / "go").touch()
            assert slot_that_answers() == mine, engine
            (tmp_path / "go").unlink()
    assert wrong(instance) == 0


@pytest.mark.parametrize("size", [10_000, 100_000])
@pytest.mark.parametrize("behind", [0, 40_000, 120_000])
def test_long_request_is_read_to_its_end_behind_two_others(
    start: Start, engine: str, size: int, behind: int
) -> None:
    """Whether or not it is known where the others end: they came in one go, behind much."""
    instance = start(APP, config=STICKY)
    users = cookies(instance)
    for slot, cookie in users.items():
        put, chunked, last = (
            request(cookie, head="POST / HTTP/1.1", extra=extra)
            for extra in (
                f"Content-Length: {size}\r\n",
                "Transfer-Encoding: chunked\r\n",
                "Content-Length: 130000\r\n",
            )
        )
        parts = [
            put + bytes(size - 100),
            bytes(100) + chunked + b"0\r\n\r\n" + last + bytes(behind),
            bytes(130_000 - behind),
        ]
        with dial(instance.address) as client:
            for part in parts:
                client.sendall(part)
                if part is parts[0]:
                    wait_until(is_read(client), "it is read")
            found = answers(client, 3)
        assert [status for status, _ in found] == [200] * 3, (engine, found)
        assert [text.split()[:3:2] for _, text in found] == [
            [str(slot), str(length)] for length in (size, 0, 130_000)
        ]
    assert wrong(instance) == 0


def test_websocket_behind_another_request_goes_where_it_belongs(start: Start, engine: str) -> None:
    """When that is answered."""
    instance = start(APP, config=STICKY)
    users = cookies(instance)
    handshake = (
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    )
    for first in users:
        second = (first + 1) % 4
        with dial(instance.address) as client:
            client.sendall(request(users[first]) + request(users[second], extra=handshake))
            with client.makefile("rb") as file:
                seen = []
                while line := file.readline().strip():
                    seen.append(line)
                length = next(int(one.split()[1]) for one in seen if b"content-length" in one)
                assert file.read(length).split()[0] == b"%d" % first, engine
                assert file.readline().startswith(b"HTTP/1.1 101 "), engine
                while file.readline().strip():
                    pass
                assert file.read(3) == b"\x81\x01%d" % second, engine
    assert wrong(instance) == 0


def test_path_counts_behind_the_root_path(start: Start, engine: str) -> None:
    """Whether or not the engine puts that before the path."""
    config = CONFIG.format("round-robin") + 'shard = { by = "path:1" }\nroot_path = "/api/v1"\n'
    instance = start(APP, config=config)
    found = {
        slot_of(fetch(instance.address, f"/{name}/5")) == owner(name, 4)
        for name in ("tom", "tina", "jim", "joe", "ann")
    }
    assert found == {True}, engine


@pytest.fixture
def frozen(start: Start) -> "Callable[[str], tuple[Instance, str]]":
    """Have an instance, and the cookie of a worker that does not go on."""

    def freeze(config: str) -> tuple[Instance, str]:
        instance = start(APP, config=STICKY + config)
        found = cookies(instance)
        pid = next(one["pid"] for one in instance.status()["workers"] if one["slot"] == 2)
        os.kill(pid, signal.SIGSTOP)
        return instance, found[2]

    return freeze


def test_request_of_a_slot_that_has_no_worker_is_served_elsewhere_and_counted(
    start: Start,
) -> None:
    """After the time that is set; and the log says so, not once for each."""
    app = APP.replace(
        "async def app(", 'if os.path.exists("broken"):\n    os._exit(3)\n\nasync def app(', 1
    )
    config = STICKY + "handoff_timeout_s = 0.3\npreload = false\n"
    instance = start(app, config=config)
    cookie = cookies(instance)[2]
    pid = next(one["pid"] for one in instance.status()["workers"] if one["slot"] == 2)
    folder = Path(f"/proc/{instance.pid}/cwd").resolve()
    (folder / "broken").touch()
    os.kill(pid, signal.SIGKILL)
    instance.wait_status(lambda status: status["ready"] == 3, "it is gone")
    served = [slot_of(fetch(instance.address, headers={"Cookie": cookie})) for _ in range(5)]
    assert 2 not in served
    assert wrong(instance) == 5
    assert "5 requests served by the wrong worker" in instance.status()["status"]
    assert 1 <= instance.log().count("served by another worker than they are for") <= 4
    (folder / "broken").unlink()
    instance.wait_status(lambda status: status["ready"] == 4, "it is back")
    assert slot_of(fetch(instance.address, headers={"Cookie": cookie})) == 2
    assert wrong(instance) == 5


def test_request_whose_worker_has_no_room_in_time_is_refused(
    frozen: "Callable[[str], tuple[Instance, str]]",
) -> None:
    """It is served by nobody else, and the others are served meanwhile."""
    instance, cookie = frozen("handoff_timeout_s = 0.2\n")
    large = f"X-Large: {'x' * 60_000}\r\n"
    clients = [dial(instance.address) for _ in range(16)]
    for client in clients:
        client.sendall(request(cookie, extra=large))

    def is_told() -> bool:
        return "refused with status 503, as the worker that they are for" in instance.log()

    wait_until(is_told, "some are refused")
    assert slot_of(fetch(instance.address)) != 2
    pid = next(one["pid"] for one in instance.status()["workers"] if one["slot"] == 2)
    os.kill(pid, signal.SIGCONT)
    found = [answers(client, 1)[0] for client in clients]
    for client in clients:
        client.close()
    assert {status for status, _ in found} == {200, 503}
    assert {text.split()[0] for status, text in found if status == 200} == {"2"}
    assert wrong(instance) == 0

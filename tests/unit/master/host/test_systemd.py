"""What systemd is told, and that the master never waits for it to listen."""

import contextlib
import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from waiting import at_once

from sdcluster.master.host.systemd import ServiceManager
from unit.master.receivers import fill, read, receiver


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Return the socket of a service manager that watches: what it is told is read there."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    with receiver(tmp_path / "notify") as sock:
        yield sock


@pytest.fixture
def told(manager: socket.socket) -> Iterator[ServiceManager]:
    """Return what the master tells it with."""
    assert manager
    with contextlib.closing(ServiceManager()) as made:
        yield made


def test_nobody_is_told_without_a_service_manager(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it is harmless."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    with contextlib.closing(ServiceManager()) as told:
        told.ready()
        told.status("fine")
        told.alive()


def test_service_manager_that_is_gone_is_not_missed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its socket is dead: the master goes on."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    with contextlib.ExitStack() as stack:
        with receiver(tmp_path / "notify"):
            told = stack.enter_context(contextlib.closing(ServiceManager()))
        told.ready()
        told.alive()


@pytest.mark.parametrize(
    ("text", "told_as"),
    [
        ("größe … 日本", "größe … 日本"),
        ("two\n lines\t", "two lines"),
        ("half \ud83d, byte \udce9", "half \\ud83d, byte \\udce9"),
        ("nul \0 and bell \a", "nul and bell"),
    ],
)
def test_status_is_a_line_of_text_in_any_script(
    manager: socket.socket, told: ServiceManager, text: str, told_as: str
) -> None:
    """UTF-8, which systemd asks for; it drops a message with a NUL in it as a whole."""
    told.status(text)
    assert read(manager) == [f"STATUS={told_as}".encode()]


def test_status_that_is_too_long_is_cut(manager: socket.socket, told: ServiceManager) -> None:
    """Systemd drops a message of more than 4096 bytes; what is cut is still UTF-8."""
    told.status("…" * 4096)
    (message,) = read(manager)
    assert len(message) <= 4096
    assert set(message.decode().removeprefix("STATUS=")) == {"…"}


def test_readiness_is_told_again_when_it_did_not_arrive(
    manager: socket.socket, told: ServiceManager
) -> None:
    """A socket that is full costs the master no time, and READY=1 comes with a later tick."""
    fill(manager)
    with at_once():
        told.ready()
        told.alive()
    assert read(manager) == []
    told.alive()
    assert read(manager) == [b"READY=1", b"WATCHDOG=1"]


def test_what_did_not_arrive_is_told_in_its_order_and_the_last_of_each(
    manager: socket.socket, told: ServiceManager
) -> None:
    """A start and two reloads that nobody heard of end with the last status, and with READY=1."""
    fill(manager)
    with at_once():
        told.ready()
        for number in range(2):
            told.reloading()
            told.status(f"reload {number}")
            told.ready()
    read(manager)
    told.alive()
    messages = read(manager)
    assert messages[0].startswith(b"RELOADING=1\nMONOTONIC_USEC=")
    assert messages[1:] == [b"STATUS=reload 1", b"READY=1", b"WATCHDOG=1"]


def test_news_do_not_overtake_what_did_not_arrive(
    manager: socket.socket, told: ServiceManager
) -> None:
    """READY=1 of the start is told before the reload that followed."""
    fill(manager)
    told.ready()
    read(manager)
    told.reloading()
    ready, reloading = read(manager)
    assert (ready, reloading[:11]) == (b"READY=1", b"RELOADING=1")


def test_ping_and_extension_are_of_their_moment(
    manager: socket.socket, told: ServiceManager
) -> None:
    """What says `now` is not told later: the next tick says it anew."""
    fill(manager)
    with at_once():
        told.alive()
        told.extend_timeout()
    read(manager)
    told.status("fine")
    assert read(manager) == [b"STATUS=fine"]


def test_state_is_told_again_without_a_watchdog(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tick tells what is due, whether anybody watches or not."""
    monkeypatch.delenv("WATCHDOG_USEC")
    with contextlib.closing(ServiceManager()) as unwatched:
        fill(manager)
        with at_once():
            unwatched.ready()
        read(manager)
        unwatched.alive()
    assert read(manager) == [b"READY=1"]


def test_descriptors_are_stored_and_it_is_waited_until_that_is_heard(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They go with a message, and the barrier is over when its descriptor is closed."""
    monkeypatch.setenv("FDSTORE", "100")
    with contextlib.closing(ServiceManager()) as told, ThreadPoolExecutor(1) as pool:
        assert told.store_size == 100
        assert "FDSTORE" not in os.environ
        assert told.store("kept", [0, 1])
        waiting = pool.submit(told.wait_until_heard)
        heard = []
        manager.settimeout(5.0)
        for _ in range(2):
            data, fds, _, _ = socket.recv_fds(manager, 4096, 16)
            heard.append((data, len(fds)))
            assert not waiting.done()
            for fd in fds:
                os.close(fd)
        waiting.result(timeout=5.0)
        assert heard == [(b"FDSTORE=1\nFDNAME=kept", 2), (b"BARRIER=1", 1)]
        told.forget("kept")
        assert manager.recv(4096) == b"FDSTOREREMOVE=1\nFDNAME=kept"


@pytest.mark.parametrize("size", ["", "many", "-1"])
def test_nothing_is_stored_where_there_is_no_store(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch, size: str
) -> None:
    """Systemd would close what it is given."""
    assert manager
    monkeypatch.setenv("FDSTORE", size)
    with contextlib.closing(ServiceManager()) as told:
        assert told.store_size == 0


def test_nothing_is_stored_without_a_service_manager(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it is harmless."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.setenv("FDSTORE", "100")
    with contextlib.closing(ServiceManager()) as told:
        assert told.store_size == 0
        assert not told.store("kept", [0])
        told.forget("kept")
        told.wait_until_heard()

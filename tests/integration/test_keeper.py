"""The keeper of each worker: small, unseen by the app, and gone with its worker."""

import platform
import re
import signal
import time
from os import kill
from pathlib import Path

import pytest
from conftest import HELLO, SCHEDULINGS, Start
from instance import Instance, wait_until
from processes import end, is_running, stop
from web import connection, fetch

CONFIG = 'app = "app:app"\nworkers = 2\n'

MAX_PRIVATE_KB = 1024
"""What a keeper may have to itself: mostly what Python writes to in whatever it does."""
MAX_GROWTH_KB = 256

WAITING = """
import asyncio
import os
import subprocess

async def app(scope, receive, send):
    assert scope["type"] == "http"
    body = "nothing"
    match scope["path"]:
        case "/wait":
            try:
                body = str(os.waitpid(-1, os.WNOHANG))
            except ChildProcessError:
                body = "no children"
        case "/wait-any":
            try:
                body = str(os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG))
            except ChildProcessError:
                body = "no children"
        case "/run":
            body = subprocess.run(["echo", "run"], stdout=subprocess.PIPE, text=True).stdout
        case "/asyncio":
            child = await asyncio.create_subprocess_exec("true")
            body = f"status {await child.wait()}"
    data = body.strip().encode()
    headers = [(b"content-length", str(len(data)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": data})
"""
"""An app that has children, and asks for any."""


def keepers(instance: Instance) -> list[int]:
    """Return the pids of the keepers."""
    found = []
    for pid in instance.processes():
        try:
            title = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode()
        except OSError:
            continue  # Gone since.
        if re.fullmatch(rf"sdcluster: keeper {instance.name} gen \d+", title):
            found.append(pid)
    return found


def wait_keepers(instance: Instance, count: int) -> list[int]:
    """Wait until there are so many keepers."""
    wait_until(lambda: len(keepers(instance)) == count, f"{count} keepers")
    return keepers(instance)


def keeper_of(instance: Instance, worker: int) -> int:
    """Return the pid of a worker's keeper: it is the worker's child."""
    children = Path(f"/proc/{worker}/task/{worker}/children").read_text().split()
    (pid,) = {*map(int, children)} & {*keepers(instance)}
    return pid


def private_kb(pid: int) -> int:
    """Return the memory that nobody but this process has."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(map(int, re.findall(r"^Private_(?:Clean|Dirty): +(\d+) kB", text, re.MULTILINE)))


@pytest.mark.parametrize("preload", ["true", "false"])
def test_keeper_stays_small(start: Start, preload: str) -> None:
    """Also when its worker has imported the app, and served thousands of requests."""
    ballast = "ballast = [str(number) for number in range(300_000)]\n"  # Some 20 MB.
    instance = start(HELLO + ballast, config=CONFIG + f"preload = {preload}\n")
    before = {pid: private_kb(pid) for pid in wait_keepers(instance, 2)}
    with instance.under_load(close=False):
        wait_until(lambda: requests(instance) > 5000, "thousands of requests")
    for pid, private in before.items():
        assert private_kb(pid) < MAX_PRIVATE_KB
        assert private_kb(pid) - private < MAX_GROWTH_KB


def requests(instance: Instance) -> int:
    """Return how many requests the worker that has the fewest has answered."""
    return min(int(one["requests"]) for one in instance.status()["workers"])


def test_app_does_not_see_the_keeper(start: Start) -> None:
    """It is no child that wait(2) tells of, and those of the app's are found as ever."""
    instance = start(WAITING, config=CONFIG)
    wait_keepers(instance, 2)
    assert fetch(instance.address, "/wait").text == "no children"
    assert fetch(instance.address, "/wait-any").text == "no children"
    assert fetch(instance.address, "/run").text == "run"
    assert fetch(instance.address, "/asyncio").text == "status 0"
    assert fetch(instance.address, "/wait").text == "no children"


@pytest.mark.parametrize("way", ["reload", "scale", "kill"])
def test_worker_that_ends_leaves_no_keeper_behind(start: Start, way: str) -> None:
    """However it ends; and the master has no zombie, and no more descriptors than before."""
    instance = start(HELLO, config=CONFIG)
    before = wait_keepers(instance, 2)
    descriptors = count_descriptors(instance)
    match way:
        case "reload":
            assert instance.reload().returncode == 0
        case "scale":
            instance.signal(signal.SIGTTOU)
        case "kill":
            kill(instance.worker_pids()[0], signal.SIGKILL)
    left = {"reload": 0, "scale": 1, "kill": 1}[way]
    wait_until(
        lambda: sum(Path(f"/proc/{pid}").exists() for pid in before) == left, "they are gone"
    )
    wait_keepers(instance, 1 if way == "scale" else 2)
    wait_until(lambda: count_descriptors(instance) <= descriptors, "its descriptors are closed")


def count_descriptors(instance: Instance) -> int:
    """Return how many descriptors the master has."""
    return len(list(Path(f"/proc/{instance.pid}/fd").iterdir()))


def test_stop_leaves_no_process(start: Start) -> None:
    """Neither a keeper, nor what it keeps."""
    instance = start(HELLO, config=CONFIG)
    wait_keepers(instance, 2)
    with connection(instance.address) as client:
        client.fetch()
        assert instance.stop() == 0
    assert not instance.processes()


def test_stop_does_not_wait_for_a_keeper_that_is_stuck(start: Start) -> None:
    """The master ends it."""
    instance = start(HELLO, config=CONFIG)
    for pid in wait_keepers(instance, 2):
        stop(pid)
    began = time.monotonic()
    assert instance.stop() == 0
    assert time.monotonic() - began < 5
    assert not instance.processes()


def test_death_of_the_master_ends_the_keepers(start: Start) -> None:
    """Their workers drain and end, and they have nobody to give anything to."""
    instance = start(HELLO, config=CONFIG)
    wait_keepers(instance, 2)
    instance.signal(signal.SIGKILL)
    instance.wait()
    wait_until(lambda: not instance.processes(), "all have ended")


def test_keeper_is_not_to_be_stopped_by_a_signal(start: Start) -> None:
    """Those that a service manager or a terminal sends to all processes are for the others."""
    instance = start(HELLO, config=CONFIG)
    (keeper, _) = wait_keepers(instance, 2)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGABRT):
        kill(keeper, number)
    fetch(instance.address)
    assert is_running(keeper)
    assert keepers(instance)[0] == keeper


def test_worker_whose_keeper_has_died_is_replaced(start: Start) -> None:
    """By one that has a keeper, and no request is lost."""
    instance = start(HELLO, config=CONFIG)
    old = instance.worker_pids()[0]
    keeper = keeper_of(instance, old)
    with instance.under_load(close=False) as load:
        kill(keeper, signal.SIGKILL)
        wait_until(lambda: old not in instance.worker_pids(), "another worker serves")
        wait_until(lambda: not is_running(old), "the old one is gone")
        wait_keepers(instance, 2)
    assert load.requests > 100
    assert load.lost == 0, load.errors
    assert f"the keeper (pid {keeper}) is dead: this worker is to be replaced" in instance.log()
    assert "broke the protocol" not in instance.log()
    assert not Path(f"/proc/{keeper}").exists()


def test_worker_that_dies_after_its_keeper_is_replaced_at_once(start: Start) -> None:
    """Nothing is recovered, and nothing is waited for."""
    instance = start(HELLO, config=CONFIG.replace("2", "1"))
    (old,) = instance.worker_pids()
    keeper = keeper_of(instance, old)
    stop(old)  # So that it does not find out.
    end(keeper)
    kill(old, signal.SIGKILL)
    assert int(fetch(instance.address).text.split()[1]) != old
    assert "broke the protocol" not in instance.log()
    wait_until(lambda: not Path(f"/proc/{keeper}").exists(), "there is no zombie")


def test_keeper_that_is_stuck_holds_nothing_up(start: Start) -> None:
    """Its worker is replaced at once; the recovery ends after its time, and the keeper with it."""
    instance = start(HELLO, config=CONFIG.replace("2", "1"))
    (old,) = instance.worker_pids()
    keeper = keeper_of(instance, old)
    with connection(instance.address) as client:
        client.fetch()
        stop(keeper)
        began = time.monotonic()
        kill(old, signal.SIGKILL)
        assert int(fetch(instance.address).text.split()[1]) != old
        assert time.monotonic() - began < 1.5
        wait_until(lambda: not Path(f"/proc/{keeper}").exists(), "the keeper is gone")
        assert 1.8 < time.monotonic() - began < 5
        assert client.sock.recv(1) == b""
    assert instance.stop() == 0


def test_without_crash_recovery_there_is_no_keeper(start: Start) -> None:
    """A worker that dies takes its connections along then."""
    instance = start(HELLO, config=CONFIG + "crash_recovery = false\n")
    assert keepers(instance) == []
    with connection(instance.address) as client:
        client.fetch()
        for pid in instance.worker_pids():
            kill(pid, signal.SIGKILL)
        assert client.sock.recv(1) == b""
    fetch(instance.address)
    assert "broke the protocol" not in instance.log()
    assert "of the connections of worker" not in instance.log()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="one that can pass for another")
def test_worker_serves_without_a_keeper_when_there_can_be_none(start: Start) -> None:
    """It says so, once. Here the number of clone(2) is that of another architecture."""
    instance = start(HELLO, config=CONFIG.replace("2", "1"), prefix=("setarch", "i686"))
    fetch(instance.address)
    assert keepers(instance) == []
    assert instance.log().count("cannot start a keeper: ") == 1
    kill(instance.worker_pids()[0], signal.SIGKILL)
    fetch(instance.address)
    assert "broke the protocol" not in instance.log()


def test_command_has_no_keeper(start: Start) -> None:
    """It accepts by itself, and what it has is not known."""
    command = '["python3", "-m", "http.server", "0"]'
    config = f'exec = {command}\nexec_ready = "started"\nworkers = 1\n'
    instance = start(None, config=config)
    assert keepers(instance) == []


@pytest.mark.parametrize("scheduling", SCHEDULINGS)
def test_clients_do_not_notice_that_a_worker_dies(start: Start, scheduling: str) -> None:
    """Their connections live on, and what they have asked for is answered by another."""
    instance = start(HELLO, config=CONFIG + f'scheduling = "{scheduling}"\n')
    with instance.under_load(close=False, clients=16) as load:
        for turn in range(4):
            pid = instance.worker_pids()[turn % 2]
            kill(pid, signal.SIGKILL)
            wait_until(lambda: _has_another(instance, pid), "another worker serves")
            instance.wait_answered(100)
    assert load.lost == 0, load.errors
    assert load.connections == 16
    assert "of the connections of worker " in instance.log()
    assert "broke the protocol" not in instance.log()


def _has_another(instance: Instance, pid: int) -> bool:
    pids = instance.worker_pids()
    return pid not in pids and len(pids) == 2


def test_many_idle_connections_outlive_their_worker(start: Start) -> None:
    """More than a few frames of them, and more than are taken in one turn."""
    instance = start(HELLO, config=CONFIG.replace("2", "1"))
    (old,) = instance.worker_pids()
    clients = [connection(instance.address) for _ in range(600)]
    opened = [client.__enter__() for client in clients]
    try:
        for client in opened:
            assert int(client.fetch().text.split()[1]) == old
        sockets = [client.sock for client in opened]
        kill(old, signal.SIGKILL)
        for client in opened:
            assert int(client.fetch().text.split()[1]) != old
        assert [client.sock for client in opened] == sockets
    finally:
        for one in clients:
            one.__exit__(None, None, None)
    assert "which is dead, 600 go on" in instance.log()

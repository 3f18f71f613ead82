"""Connections outlive the workers that have them: reloads, kills, and sticky sessions, counted."""

import random

import pytest
from service import HELLO, Service, versions
from waiting import wait_until

SCHEDULINGS = ("round-robin", "shared", "reuseport")
RELOADS = 5
KILLS = 5
CLIENTS = 64
USERS = 40

EXITS = (
    HELLO
    + """
import random
import threading

threading.Timer(random.uniform(0.5, 1.5), os._exit, (1,)).start()
"""
)
"""Each worker exits with 1 after a while, whatever it is at: the module is loaded in the worker."""

SESSIONS = """
import http.client
import sys

host, users = sys.argv[1], int(sys.argv[2])
pool, seen = [], set()
while len(pool) < 8 or (len(seen) < 2 and len(pool) < 200):
    pool.append(http.client.HTTPConnection(host))
    pool[-1].request("GET", "/")
    seen.add(pool[-1].getresponse().read())
pool = pool[-8:]
homes, lost = {}, 0
for turn in range(10):
    for user in range(users):
        connection = pool[(turn + user) % len(pool)]
        cookie, home = homes.get(user, ("", ""))
        connection.request("GET", "/", headers={"Cookie": cookie} if cookie else {})
        answer = connection.getresponse()
        pid = answer.read().split()[1]
        given = (answer.getheader("set-cookie") or "").partition(";")[0]
        if not cookie:
            homes[user] = (given, pid)
        elif given or pid != home:
            lost += 1
print(lost, len({home for _, home in homes.values()}))
"""
"""Users that share some kept-alive connections, as behind a proxy: prints how many lost theirs.

Not all of these are one worker's: connections are made until that is so.
"""


@pytest.mark.parametrize("scheduling", SCHEDULINGS)
def test_reloads_close_no_connection(service: Service, scheduling: str) -> None:
    """A client that never reconnects sees no close, no reset and no `Connection: close`."""
    service.configure(scheduling=scheduling, reload_probation_s=0.05)
    service.start()
    with service.under_load(close=False) as load:
        for number in range(RELOADS):
            service.write_app(HELLO.replace('"one"', f'"{number}"'))
            service.systemctl("reload")
    assert len(versions(load)) >= RELOADS
    assert load.lost == 0, load.errors
    assert load.connections == 16


@pytest.mark.parametrize("close", [True, False], ids=["close", "keep-alive"])
@pytest.mark.parametrize("scheduling", SCHEDULINGS)
def test_kills_of_workers_lose_no_request(service: Service, scheduling: str, close: bool) -> None:
    """SIGKILL of a random worker, five times at 64 connections; in a unit that is sandboxed."""
    service.configure(scheduling=scheduling)
    service.start()
    with service.under_load(close=close, clients=CLIENTS) as load:
        for _ in range(KILLS):
            kill_one(service)
    assert load.requests > 500
    assert load.lost == 0, load.errors
    if not close:
        assert load.connections == CLIENTS
    assert "of the connections of worker " in service.story()


def kill_one(service: Service) -> None:
    """Kill a worker, and wait until another serves in its place."""
    pid = random.choice(service.worker_pids())
    service.vm.run("kill", "-KILL", str(pid))

    def is_so() -> bool:
        pids = service.worker_pids()
        return len(pids) == 2 and pid not in pids

    wait_until(is_so, "another worker serves")


@pytest.mark.parametrize("close", [True, False], ids=["close", "keep-alive"])
@pytest.mark.parametrize("scheduling", SCHEDULINGS)
def test_workers_that_exit_at_random_lose_no_request(
    service: Service, scheduling: str, close: bool
) -> None:
    """All of them, again and again, at any point of their work."""
    service.configure(EXITS, scheduling=scheduling, preload=False)
    service.start()
    with service.under_load(close=close, clients=CLIENTS) as load:
        wait_until(lambda: service.status()["restarts"] >= 2 * KILLS, "ten exits", 60)
    assert load.requests > 500
    assert load.lost == 0, load.errors
    if not close:
        assert load.connections == CLIENTS


@pytest.mark.parametrize("scheduling", SCHEDULINGS)
def test_users_keep_their_worker(service: Service, scheduling: str) -> None:
    """Though they share connections; no request of theirs goes to another worker."""
    service.configure(scheduling=scheduling, sticky="cookie", workers=4)
    service.start()
    host = f"127.0.0.1:{service.port}"
    done = service.vm.run("python3", "-c", SESSIONS, host, str(USERS))
    lost, homes = map(int, done.stdout.split())
    assert lost == 0
    assert homes > 1

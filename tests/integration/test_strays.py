"""No request strays: each is answered by the worker it is for, however much there is to hand over.

`SDCLUSTER_ROUTING_SECONDS` and `SDCLUSTER_ROUTING_CONNECTIONS` make the random tests longer.
"""

import os

import pytest
from conftest import SCHEDULINGS, Start
from routed import CONFIG, cookies
from users import APP, Count, User, ask

from sdcluster.wire.rendezvous import owner

SECONDS = float(os.environ.get("SDCLUSTER_ROUTING_SECONDS", "1.5"))
CONNECTIONS = int(os.environ.get("SDCLUSTER_ROUTING_CONNECTIONS", "64"))
PATIENT = CONFIG + "handoff_timeout_s = 20\n"
"""On a machine that has much else to do, a worker may have no room for a second or two."""


def _asked(address: str, users: list[User]) -> Count:
    return ask(address, users, connections=CONNECTIONS, seconds=SECONDS)


@pytest.mark.parametrize("scheduling", SCHEDULINGS)
def test_no_request_with_a_cookie_strays(start: Start, engine: str, scheduling: str) -> None:
    """Many connections at once, large heads, bodies, and two requests on each other's heels."""
    instance = start(APP, config=PATIENT.format(scheduling) + 'sticky = "cookie"\n')
    users = [
        User(slot, "/", {"Cookie": value})
        for slot, value in cookies(instance, {"X-Mark": "none"}).items()
    ]
    count = _asked(instance.address, users)
    assert instance.status()["wrong"] == 0
    print(engine, scheduling, count)
    assert (count.wrong, count.refused, count.faults) == (0, 0, []), f"{count}, {engine}"
    assert count.right > CONNECTIONS


@pytest.mark.parametrize("scheduling", SCHEDULINGS)
def test_no_request_with_a_key_strays(start: Start, engine: str, scheduling: str) -> None:
    """As those with a cookie."""
    instance = start(APP, config=PATIENT.format(scheduling) + 'shard = { by = "path:1" }\n')
    users = [User(owner(f"user{n}", 4), f"/user{n}/5", {}) for n in range(40)]
    count = _asked(instance.address, users)
    assert instance.status()["wrong"] == 0
    print(engine, scheduling, count)
    assert (count.wrong, count.refused, count.faults) == (0, 0, []), f"{count}, {engine}"
    assert count.right > CONNECTIONS

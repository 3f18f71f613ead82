"""`systemctl restart` beside connections that ask nothing whole: nobody waits for those."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from service import HELLO, Service

READS_BODIES = HELLO.replace(
    '    body = f"',
    '    if scope["method"] == "POST":\n'
    "        while (await receive()).get('more_body'):\n"
    "            pass\n"
    '    body = f"',
)
"""An app that reads the whole body of a request before it answers."""

SECONDS = 4.0
"""Less than an idle connection is kept for, which is 5 s."""
SOON_S = 5.0
"""How long a stop may take on a busy machine, or a client to be answered; a drain takes 30 s."""


def restarted(service: Service) -> dict[str, Any]:
    """Restart the service while new clients come, and return what `waits` found."""
    script = Path(__file__).with_name("waits.py")
    command = [sys.executable, "-B", str(script), str(service.port), str(SECONDS)]
    process = subprocess.Popen(
        [*service.vm.on_loopback(), *command], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    service.systemctl("restart")
    output, _ = process.communicate(timeout=100.0)
    found: dict[str, Any] = json.loads(output)
    names = ("ActiveExit", "ExecMainStart", "ActiveEnter")
    shown = service.show(*(f"{name}TimestampMonotonic" for name in names))
    stop, start, ready = (int(shown[f"{name}TimestampMonotonic"]) / 1e6 for name in names)
    found["stop_s"], found["start_s"] = round(start - stop, 3), round(ready - start, 3)
    print(f"restart: {found}")
    return found


@pytest.mark.parametrize("scheduling", ["round-robin", "shared", "reuseport"])
def test_new_clients_do_not_wait_for_those_that_ask_nothing_whole(
    service: Service, scheduling: str
) -> None:
    """Whoever is silent, or has sent half a head, or nothing since an answer, is served after it.

    A request whose body does not come is given up: it cannot go to another app, nor be waited for.
    How long the start takes is the machine's, and the app's.
    """
    service.configure(READS_BODIES, scheduling=scheduling)
    service.start()
    found = restarted(service)
    assert found["lost"] == []
    assert found["stop_s"] <= SOON_S
    assert found["longest_s"] <= found["stop_s"] + found["start_s"] + SOON_S
    assert (found["silent"], found["head"], found["kept"]) == ("200", "200", "200")
    assert found["body"] == "408"


def test_kept_alive_connections_outlive_restarts_under_load(service: Service) -> None:
    """No request is lost of clients that keep their connections, across three restarts."""
    service.configure()
    service.start()
    with service.under_load(close=False) as load:
        for _ in range(3):
            service.systemctl("restart")
    assert load.requests > 100
    assert load.lost == 0, load.errors

"""The control socket: it answers those that may ask, and nothing a client does harms the master."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from conftest import HELLO, Start
from control import INTERFACE, Client, path
from instance import Instance, wait_until
from processes import cpu_s, descriptors
from web import fetch

from sdcluster import __version__
from sdcluster.master.service.control import MAX_WAITING_CLIENTS

SERVICE = "org.varlink.service"
NOBODY = "65534"


@pytest.fixture
def instance(start: Start) -> Iterator[Instance]:
    """Return a cluster, which must serve and answer, and have no client left, at the end."""
    instance = start(HELLO, "--workers", "1")
    before = len(descriptors(instance.pid))
    yield instance
    assert instance.process.poll() is None
    assert fetch(instance.address).status == 200
    assert instance.status()["state"] == "running"
    wait_until(lambda: len(descriptors(instance.pid)) <= before, "the clients are forgotten")


NO_CALLS = [
    b"\0",
    b"garbage\0",
    b"\xff\xfe\0",
    b"[]\0",
    b"{}\0",
    b'{"method": 5}\0',
    b'{"method": "Status"}\0',
    b'{"method": "io.sdcluster.Control.Status", "parameters": []}\0',
    b"[" * 60_000 + b"\0",
    b'{"method": "' + b"x" * 70_000,
    b"x" * 1_000_000,
    b"\0" * 100_000,
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n\0",
]


def test_what_is_no_call_ends_the_connection(instance: Instance) -> None:
    """Garbage and frames that are too large are not answered; others are."""
    for data in NO_CALLS:
        with Client(instance) as client, Client(instance) as other:
            try:
                client.send(data)
            except (BrokenPipeError, ConnectionResetError):
                pass  # Closed before all of it was sent.
            assert other.call("Status")["parameters"]["ready"] == 1
            client.wait_end()


def test_a_flood_of_calls_ends_the_connection(instance: Instance) -> None:
    """A client that asks far more than it could want is dropped, and holds nobody up."""
    with Client(instance) as flood, Client(instance) as other:
        flood.ask("Reload")  # The calls behind it have to wait.
        call = b'{"method": "io.sdcluster.Control.Status"}\0'
        try:
            flood.send(call * 10_000)
        except (BrokenPipeError, ConnectionResetError):
            pass
        assert other.call("Status")["parameters"]["ready"] == 1
        flood.wait_end()
    instance.wait_status(lambda status: "reload" not in status["status"])


def test_several_calls_at_once_are_answered_in_order(instance: Instance) -> None:
    """Calls may be sent before the answer to the first one is there."""
    with Client(instance) as client:
        client.ask("Status")
        client.ask("Nothing")
        client.ask("Scale", workers=1)
        assert client.answer()["parameters"]["ready"] == 1
        assert client.answer()["error"] == f"{SERVICE}.MethodNotFound"
        assert client.answer()["parameters"] == {"workers": 1}


def test_a_call_may_come_byte_by_byte(instance: Instance) -> None:
    """A call is complete with its NUL, however it was cut on its way."""
    with Client(instance) as client:
        for byte in b'{"method": "io.sdcluster.Control.Status"}\0':
            client.send(bytes([byte]))
        assert client.answer()["parameters"]["ready"] == 1


def test_a_half_call_left_open_is_forgotten(instance: Instance) -> None:
    """A client that does not finish its call is dropped after some seconds; others are answered."""
    with Client(instance) as half, Client(instance) as silent:
        half.send(b'{"method": "io.sdcl')
        assert instance.status()["ready"] == 1
        half.wait_end()
        silent.wait_end()


def test_clients_beyond_the_limit_leave_room_for_others(instance: Instance) -> None:
    """Hundreds of silent clients neither exhaust the master nor keep others from being answered."""
    with ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(Client(instance))
        assert instance.status()["ready"] == 1
        assert len(descriptors(instance.pid)) < 100


SLOW_TO_LOAD = f"""
import os
import time

if os.path.exists("slow"):
    while os.path.exists("slow"):
        time.sleep(0.01)
{HELLO}
"""
"""An app whose import ends when the file `slow` is gone."""


def test_callers_that_wait_for_a_reload_keep_nobody_from_asking(
    start: Start, tmp_path: Path
) -> None:
    """They are counted apart, up to a limit; when it is over they all are told."""
    instance = start(SLOW_TO_LOAD, "--workers", "1")
    (tmp_path / "slow").touch()
    with ExitStack() as stack:
        waiting = []
        for number in range(MAX_WAITING_CLIENTS):
            waiting.append(stack.enter_context(Client(instance)))
            waiting[-1].ask("Reload")
            if number % 16 == 0:
                assert instance.status()["ready"] == 1
        assert instance.status()["ready"] == 1
        with Client(instance) as one_more:
            assert one_more.call("Reload")["error"] == f"{INTERFACE}.TooManyCallers"
        assert instance.status()["ready"] == 1
        (tmp_path / "slow").unlink()
        for client in waiting:
            assert client.answer()["parameters"]["event"] == "done"


def test_a_client_that_never_reads_is_dropped(instance: Instance) -> None:
    """Answers that nobody takes are not kept without end."""
    with Client(instance) as client, Client(instance) as other:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.socket.settimeout(0.2)
        call = f'{{"method": "{SERVICE}.GetInterfaceDescription", "parameters": {{"interface": '
        data = (call + f'"{INTERFACE}"}}}}\0').encode()
        try:
            for _ in range(2000):
                client.send(data)
        except TimeoutError:
            pass  # The master does not read on: that is a limit too.
        except (BrokenPipeError, ConnectionResetError):
            pass
        assert other.call("Status")["parameters"]["ready"] == 1


def test_clients_that_leave_during_a_reload_do_not_matter(instance: Instance) -> None:
    """The reload goes on when those who wait for it have closed their connections."""
    for _ in range(3):
        with Client(instance) as client:
            client.ask("Reload", more=True)
            client.answer()
    instance.wait_log("generation 3 serves")
    instance.wait_status(lambda status: "reload" not in status["status"])


def test_clients_that_come_and_go_leave_nothing_behind(instance: Instance) -> None:
    """A thousand calls, one connection each, neither leak descriptors nor take long."""
    for number in range(1000):
        with Client(instance) as client:
            if number % 2:
                client.ask("Status")
            else:
                assert client.call("Status")["parameters"]["ready"] == 1


def other_user(control: Path) -> "subprocess.CompletedProcess[str]":
    """Ask for the status as a user who is neither root nor the service's own."""
    command = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    code = (
        "import socket, sys\n"
        "connection = socket.socket(socket.AF_UNIX)\n"
        "connection.connect(sys.argv[1])\n"
        "try:\n"
        '    connection.sendall(b\'{"method": "io.sdcluster.Control.Status"}\\0\')\n'
        "    print(len(connection.recv(65536)))\n"
        "except OSError:\n"
        "    print(0)\n"
    )
    return subprocess.run(
        [*command, sys.executable, "-c", code, str(control)],
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs root")
def test_another_user_is_refused_by_the_file_mode(instance: Instance) -> None:
    """The socket and its folder are for their owner alone."""
    control = path(instance)
    assert control.stat().st_mode & 0o777 == 0o600
    assert control.parent.stat().st_mode & 0o777 == 0o700
    assert "PermissionError" in other_user(control).stderr


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs root")
def test_another_user_is_refused_even_when_the_mode_allows(instance: Instance) -> None:
    """Who connects is known from the kernel: another user's calls are not answered."""
    control = path(instance)
    control.chmod(0o666)
    folder = Path(f"/tmp/sdcluster-test-{os.getpid()}")
    folder.mkdir(mode=0o755)
    try:
        os.link(control, folder / "control")
        done = other_user(folder / "control")
    finally:
        shutil.rmtree(folder)
    assert (done.stdout, done.returncode) == ("0\n", 0), done.stderr


def test_the_service_describes_itself(instance: Instance) -> None:
    """GetInfo names product, version and interfaces; GetInterfaceDescription describes each."""
    with Client(instance) as client:
        info = client.call(f"{SERVICE}.GetInfo")["parameters"]
        assert (info["product"], info["version"]) == ("sdcluster", __version__)
        assert info["interfaces"] == [SERVICE, INTERFACE]
        describe = f"{SERVICE}.GetInterfaceDescription"
        text = client.call(describe, interface=INTERFACE)["parameters"]["description"]
        assert f"interface {INTERFACE}\n" in text
        for method in ("Status", "Reload", "Scale"):
            assert f"method {method}(" in text
        text = client.call(describe, interface=SERVICE)["parameters"]["description"]
        assert f"interface {SERVICE}\n" in text
        wrong = client.call(describe, interface="org.example.Nothing")
        assert wrong["error"] == f"{SERVICE}.InterfaceNotFound"
        assert wrong["parameters"] == {"interface": "org.example.Nothing"}
        for parameters in ({}, {"interface": 5}):
            wrong = client.call(describe, **parameters)
            assert wrong["error"] == f"{SERVICE}.InvalidParameter"
            assert wrong["parameters"] == {"parameter": "interface"}


def test_unknown_methods_are_told_as_varlink_has_it(instance: Instance) -> None:
    """An unknown method of a known interface, and an unknown interface, are different errors."""
    with Client(instance) as client:
        for method in (f"{INTERFACE}.Nothing", f"{SERVICE}.Nothing"):
            error = f"{SERVICE}.MethodNotFound"
            assert client.call(method) == {"error": error, "parameters": {"method": method}}
        error, unknown = f"{SERVICE}.InterfaceNotFound", {"interface": "org.example.Thing"}
        assert client.call("org.example.Thing.Do") == {"error": error, "parameters": unknown}


BAD_PARAMETERS: tuple[tuple[dict[str, object], str], ...] = (
    ({}, "workers"),
    ({"workers": 0}, "workers"),
    ({"workers": 10_000}, "workers"),
    ({"workers": "2"}, "workers"),
    ({"workers": True}, "workers"),
    ({"workers": 1.5}, "workers"),
    ({"delta": -1}, "delta"),
    ({"delta": 10**30}, "delta"),
    ({"workers": 2, "delta": 1}, "workers"),
)


def test_bad_parameters_are_told(instance: Instance) -> None:
    """Scale names the parameter that is wrong, and changes nothing."""
    with Client(instance) as client:
        for parameters, wrong in BAD_PARAMETERS:
            answer = client.call("Scale", **parameters)
            assert answer["error"] == f"{SERVICE}.InvalidParameter", parameters
            assert answer["parameters"] == {"parameter": wrong}
        assert client.call("Status")["parameters"]["wanted"] == 1


def test_more_brings_a_reply_for_each_step(instance: Instance) -> None:
    """With `more` a reload is told step by step; the last reply alone does not continue."""
    with Client(instance) as client:
        client.ask("Reload", more=True)
        replies = [client.answer()]
        while replies[-1].get("continues"):
            replies.append(client.answer())
    events = [reply["parameters"]["event"] for reply in replies]
    assert events == ["begun", "replaced", "done"]
    assert [reply["parameters"]["generation"] for reply in replies] == [2, 2, 2]
    assert [reply["parameters"]["done"] for reply in replies] == [0, 1, 1]


def test_without_more_there_is_one_reply(instance: Instance) -> None:
    """A plain call of Reload is answered once, at the end."""
    with Client(instance) as client:
        answer = client.call("Reload")
        assert "continues" not in answer
        assert answer["parameters"]["event"] == "done"
        assert client.call("Status")["parameters"]["generation"] == 2


def test_a_oneway_call_has_no_reply(instance: Instance) -> None:
    """Varlink's `oneway` asks for silence: the next call's answer is the next thing sent."""
    with Client(instance) as client:
        client.send(b'{"method": "io.sdcluster.Control.Status", "oneway": true}\0')
        assert client.call("Scale", workers=1)["parameters"] == {"workers": 1}


def test_polling_the_status_costs_little(instance: Instance) -> None:
    """A status costs the master about a millisecond at the most."""
    used = cpu_s(instance.pid)
    with Client(instance) as client:
        for _ in range(500):
            client.call("Status")
    assert cpu_s(instance.pid) - used < 1.0


def test_a_client_may_send_and_close_its_sending_side(instance: Instance) -> None:
    """A client that shuts down its sending side after a call still gets the answer."""
    for method in ("Status", "Reload"):
        with Client(instance) as client:
            client.ask(method)
            client.socket.shutdown(socket.SHUT_WR)
            began = time.monotonic()
            assert "error" not in client.answer()
            assert time.monotonic() - began < 10

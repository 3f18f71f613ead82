"""Workers that are a program of the user's choice, in any language: `exec`."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import Start
from instance import Instance, sdcluster, wait_until
from web import fetch, fetch_many

SERVER = '''
"""Serves on the sockets it was passed, and speaks sd_notify(3) when asked to."""

import json
import os
import signal
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def notify(text):
    if "silent" not in sys.argv:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(text.encode(), os.environ["NOTIFY_SOCKET"])


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"{os.environ['SDCLUSTER_SLOT']} {os.getpid()}\\n".encode()
        if self.path == "/inside":
            body = json.dumps(inside).encode()
        if self.path == "/gated":
            open("asked", "w").close()
            while not os.path.exists("go"):
                time.sleep(0.01)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = False

    def __init__(self, fd):
        super().__init__(("", 0), Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = socket.socket(fileno=fd)
        self.socket.setblocking(False)  # A sibling may be faster.


fds = range(3, 3 + int(os.environ["LISTEN_FDS"]))
inside = {
    "environment": dict(os.environ),
    "pid": os.getpid(),
    "addresses": [str(socket.socket(fileno=os.dup(fd)).getsockname()) for fd in fds],
}
servers = [Server(fd) for fd in fds]
threads = [threading.Thread(target=one.serve_forever, args=(0.05,)) for one in servers]
ended = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: ended.set())
for thread in threads:
    thread.start()
notify("READY=1\\nSTATUS=in good health")
while not ended.wait(0.1):
    if "ping" in sys.argv:
        notify("WATCHDOG=1")
for one in servers:
    one.shutdown()
    one.server_close()
'''

NODE = """
const http = require('http');
const server = http.createServer((request, response) => {
  response.end(`${process.env.SDCLUSTER_SLOT} ${process.pid}\\n`);
});
server.listen({ fd: 3 });
process.on('SIGTERM', () => server.close());
"""

WSGI = """
import os

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{os.environ['SDCLUSTER_SLOT']} {os.getpid()}\\n".encode()]
"""


@dataclass(frozen=True)
class Program:
    """A file and the command that runs it."""

    name: str
    source: str
    command: Sequence[str]
    ready: str = "notify"

    def config(self, *lines: str, workers: int = 2) -> str:
        """Return a config file for it."""
        command = f"exec = {json.dumps(list(self.command))}"
        given = [command, f'exec_ready = "{self.ready}"', f"workers = {workers}", *lines]
        return "\n".join(given) + "\n"


PYTHON = Program("server.py", SERVER, [sys.executable, "server.py"])
STARTED = Program("server.py", SERVER, [sys.executable, "server.py", "silent"], "started")


@pytest.fixture(scope="session")
def gunicorn(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the path of gunicorn, in a virtualenv of its own; skip where it cannot be had."""
    venv = tmp_path_factory.mktemp("gunicorn") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    pip = [sys.executable, "-m", "pip", "--python", str(venv / "bin" / "python")]
    done = subprocess.run(
        [*pip, "install", "-q", "gunicorn"], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"gunicorn cannot be installed: {done.stderr.strip()[-200:]}")
    return str(venv / "bin" / "gunicorn")


@pytest.fixture(params=["python", "python-started", "node", "gunicorn"])
def program(request: pytest.FixtureRequest, tmp_path: Path) -> Program:
    """Return each of the programs, with its file in place."""
    match request.param:
        case "python":
            chosen = PYTHON
        case "python-started":
            chosen = STARTED
        case "node":
            node = shutil.which("node")
            if node is None:
                pytest.skip("there is no Node")
            chosen = Program("server.js", NODE, [node, "server.js"], "started")
        case _:
            command = [request.getfixturevalue("gunicorn"), "--log-level", "warning", "wsgi:app"]
            chosen = Program("wsgi.py", WSGI, command)
    (tmp_path / chosen.name).write_text(chosen.source)
    return chosen


def answers(instance: Instance) -> dict[str, str]:
    """Return the pid that answers for each slot, once both have."""
    seen: dict[str, str] = {}

    def ask() -> bool:
        for one in fetch_many(instance.address, 16):
            slot, pid = one.text.split()
            seen[slot] = pid
        return len(seen) == 2

    wait_until(ask, "answers from both slots")
    return seen


def test_program_serves_in_each_slot(start: Start, program: Program) -> None:
    """Every worker of the program answers on the one shared socket."""
    instance = start(None, config=program.config())
    assert set(answers(instance)) == {"0", "1"}
    assert instance.status()["scheduling"] == "shared"
    assert instance.stop() == 0
    wait_until(lambda: instance.processes() == [], "no process is left")


def test_reload_of_a_program_under_load_loses_nothing(start: Start, program: Program) -> None:
    """All workers are replaced while clients connect for each request, and each is answered."""
    instance = start(None, config=program.config())
    before = answers(instance)
    with instance.under_load(close=True, clients=8) as load:
        assert instance.reload().returncode == 0
    assert load.requests > 20
    assert load.lost == 0, load.errors
    instance.wait_status(lambda status: len(status["workers"]) == 2, "the old ones are gone")
    assert not set(before.values()) & set(answers(instance).values())


def test_program_that_crashes_is_started_again(start: Start, program: Program) -> None:
    """A worker that is killed is replaced in its slot; the other one is not touched."""
    instance = start(None, config=program.config())
    answers(instance)
    first, second = instance.worker_pids()
    os.kill(first, signal.SIGKILL)
    instance.wait_status(
        lambda status: status["ready"] == 2 and status["restarts"] == 1, "the new worker"
    )
    assert instance.worker_pids()[1] == second
    assert first not in instance.worker_pids()
    assert set(answers(instance)) == {"0", "1"}


@pytest.mark.parametrize("scheduling", ["shared", "reuseport"])
def test_program_reloads_without_loss_in_each_scheduling(
    start: Start, tmp_path: Path, scheduling: str
) -> None:
    """Whether the socket is shared or each slot has its own, a reload loses nothing."""
    (tmp_path / PYTHON.name).write_text(PYTHON.source)
    instance = start(None, config=PYTHON.config(f'scheduling = "{scheduling}"'))
    with instance.under_load(close=True, clients=8) as load:
        assert instance.reload().returncode == 0
        assert instance.reload().returncode == 0
    assert load.requests > 20
    assert load.lost == 0, load.errors


def test_program_keeps_a_worker_for_each_socket(start: Start, tmp_path: Path) -> None:
    """With reuseport no slot is given up: nobody else could answer who waits in its socket."""
    (tmp_path / PYTHON.name).write_text(PYTHON.source)
    config = PYTHON.config('scheduling = "reuseport"')
    instance = start(None, config=config)
    assert sdcluster("scale", instance.name, "+1").returncode == 0
    instance.wait_status(lambda status: status["ready"] == 3, "a third worker")
    scaled = sdcluster("scale", instance.name, "2")
    assert scaled.returncode == 69
    assert "each of the 3 sockets needs its worker" in scaled.stderr
    instance.signal(signal.SIGTTOU)
    reloaded = instance.reload()
    assert reloaded.returncode != 0
    assert "workers: 2 would leave a socket that nobody accepts on" in reloaded.stderr
    assert instance.status()["wanted"] == 3
    assert all(one.status == 200 for one in fetch_many(instance.address, 40))


def test_program_needs_a_worker_for_each_socket_passed(start: Start, tmp_path: Path) -> None:
    """More sockets of one port than workers are refused at once, and not served in part."""
    (tmp_path / PYTHON.name).write_text(PYTHON.source)
    with (
        socket.create_server(("127.0.0.1", 0), reuse_port=True) as first,
        socket.create_server(first.getsockname(), reuse_port=True) as second,
    ):
        instance = start(
            None,
            config=PYTHON.config('scheduling = "reuseport"', workers=1),
            sockets=[first, second],
            wait=False,
        )
        assert instance.wait() == 78
    instance.wait_log("workers: 1 would leave a socket that nobody accepts on")


def inside(start: Start, folder: Path, config: str, **options: object) -> dict[str, Any]:
    """Start the Python program, and return what it sees around it."""
    (folder / PYTHON.name).write_text(PYTHON.source)
    instance = start(None, config=config, **options)
    told: dict[str, Any] = json.loads(fetch(instance.address, "/inside").body)
    return told


def test_program_begins_as_under_systemd(start: Start, tmp_path: Path) -> None:
    """No signal is ignored or blocked, and only stdio and the sockets are open."""
    script = (
        'grep -E "^Sig(Ign|Blk)" /proc/self/status > signals; ls /proc/$$/fd | cat > open; '
        'readlink /proc/$$/fd/0 > stdin; pwd > directory; exec "$@"'
    )
    command = ["sh", "-c", script, "sh", *PYTHON.command]
    (tmp_path / PYTHON.name).write_text(PYTHON.source)
    start(None, config=Program("", "", command).config(workers=1))

    def words(name: str) -> list[str]:
        return (tmp_path / name).read_text().split()

    assert words("signals") == ["SigBlk:", "0" * 16, "SigIgn:", "0" * 16]
    assert words("open") == ["0", "1", "2", "3"]
    assert words("stdin") == ["/dev/null"]
    assert words("directory") == [str(tmp_path)]


def test_program_gets_the_sockets_with_their_names(start: Start, tmp_path: Path) -> None:
    """LISTEN_FDNAMES has the names of `listen`, in the order of the descriptors."""
    listen = '[listen]\nweb = "127.0.0.1:0"\nadmin = "[::1]:0"\n'
    told = inside(start, tmp_path, PYTHON.config(listen, workers=1), listen=None)
    environment = told["environment"]
    assert isinstance(environment, dict)
    assert environment["LISTEN_FDS"] == "2"
    assert environment["LISTEN_FDNAMES"] == "web:admin"
    assert environment["LISTEN_PID"] == str(told["pid"])
    assert "127.0.0.1" in told["addresses"][0]
    assert "::1" in told["addresses"][1]


def test_each_slots_sockets_have_the_same_names(start: Start, tmp_path: Path) -> None:
    """With reuseport too, every slot has a socket for each name, in the same order."""
    listen = '[listen]\nweb = "127.0.0.1:0"\nadmin = "[::1]:0"\n'
    (tmp_path / PYTHON.name).write_text(PYTHON.source)
    config = PYTHON.config('scheduling = "reuseport"', listen)
    instance = start(None, config=config, listen=None)
    told: dict[str, list[str]] = {}

    def ask() -> bool:
        for answer in fetch_many(instance.address, 8, "/inside"):
            one = json.loads(answer.body)
            told[one["environment"]["SDCLUSTER_SLOT"]] = one["addresses"]
        return len(told) == 2

    wait_until(ask, "answers from both slots")
    assert told["0"] == told["1"]


def test_program_has_its_environment(start: Start, tmp_path: Path) -> None:
    """`environment` reaches the program; what systemd told the master does not."""
    config = PYTHON.config('environment = { COLOUR = "green" }', workers=1)
    env = {"NOTIFY_SOCKET": "@nobody", "WATCHDOG_USEC": "99", "LISTEN_FDNAMES": "old"}
    environment = inside(start, tmp_path, config, env=env)["environment"]
    assert isinstance(environment, dict)
    assert environment["COLOUR"] == "green"
    assert environment["SDCLUSTER_SLOT"] == "0"
    assert environment["LISTEN_FDNAMES"] == "unknown"
    assert environment["NOTIFY_SOCKET"].startswith(str(tmp_path))
    assert not {"WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PIDFDID"} & set(environment)


def test_program_found_in_the_virtualenv(start: Start, tmp_path: Path) -> None:
    """`exec` looks into the virtualenv's programs first."""
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "bin" / "python").symlink_to(sys.executable)
    tool = tmp_path / "venv" / "bin" / "my-server"
    tool.write_text(f"#!/bin/sh\nexec {sys.executable} {tmp_path}/server.py\n")
    tool.chmod(0o755)
    config = Program("", "", ["my-server"]).config('venv = "venv"', workers=1)
    told = inside(start, tmp_path, config)
    assert isinstance(told["environment"], dict)
    assert told["environment"]["VIRTUAL_ENV"] == f"{tmp_path}/venv"


def test_status_line_of_a_program_is_shown(start: Start, tmp_path: Path) -> None:
    """What a program says in STATUS= is in the status of its worker."""
    (tmp_path / PYTHON.name).write_text(PYTHON.source)
    instance = start(None, config=PYTHON.config(workers=1))
    assert instance.status()["workers"][0]["status"] == "in good health"


def test_program_without_a_ping_is_replaced(start: Start, tmp_path: Path) -> None:
    """With heartbeat_timeout_s a program that sends no WATCHDOG=1 is aborted and replaced."""
    (tmp_path / PYTHON.name).write_text(PYTHON.source)
    instance = start(None, config=PYTHON.config("heartbeat_timeout_s = 0.5", workers=1))
    instance.wait_log("gave no sign of life for ")
    instance.wait_status(lambda status: status["last_exits"], "the exit")
    last = instance.status()["last_exits"][0]
    assert (last["worker"], last["reason"]) == (1, "hung")
    instance.wait_log("worker 2 ")


def test_program_that_pings_is_left_alone(start: Start, tmp_path: Path) -> None:
    """A program that sends WATCHDOG=1 in time is told how often, and serves on."""
    pinging = Program("server.py", SERVER, [sys.executable, "server.py", "ping"])
    told = inside(start, tmp_path, pinging.config("heartbeat_timeout_s = 0.6", workers=1))
    environment = told["environment"]
    assert isinstance(environment, dict)
    assert environment["WATCHDOG_USEC"] == "600000"
    assert environment["WATCHDOG_PID"] == str(told["pid"])


def test_pinging_program_outlives_its_time_out(start: Start, tmp_path: Path) -> None:
    """Three heartbeat time-outs later the same worker serves."""
    (tmp_path / PYTHON.name).write_text(PYTHON.source)
    pinging = Program("server.py", SERVER, [sys.executable, "server.py", "ping"])
    instance = start(None, config=pinging.config("heartbeat_timeout_s = 0.5", workers=1))
    instance.wait_status(lambda status: status["workers"][0]["uptime_s"] > 1.5, "1.5 s of service")
    assert instance.status()["restarts"] == 0


def test_command_receives_its_arguments_as_they_are(start: Start, tmp_path: Path) -> None:
    """No shell comes between: spaces, quotes and dollar signs stay."""
    (tmp_path / "show.py").write_text(
        "import json, sys\nopen('arguments', 'w').write(json.dumps(sys.argv[1:]))\n"
        "sys.argv[1:] = []\nexec(open('server.py').read())\n"
    )
    (tmp_path / PYTHON.name).write_text(PYTHON.source)
    words = ["two words", "$HOME", "'quoted'", "é"]
    command = Program("", "", [sys.executable, "show.py", *words])
    start(None, config=command.config(workers=1))
    assert json.loads((tmp_path / "arguments").read_text()) == words


# Programs that start programs.

WRAPPED = Program("server.py", SERVER, ["sh", "-c", f"{sys.executable} server.py; true"])
"""The shell leads, its child serves; SIGTERM ends the shell at once."""


def test_what_a_program_has_started_leaves_with_it(start: Start, tmp_path: Path) -> None:
    """A reload replaces the children of a program too, and what they answer is answered."""
    (tmp_path / WRAPPED.name).write_text(WRAPPED.source)
    instance = start(None, config=WRAPPED.config(workers=1))
    _, before = fetch(instance.address).text.split()
    with ThreadPoolExecutor(1) as pool:
        gated = pool.submit(fetch, instance.address, "/gated")
        wait_until((tmp_path / "asked").exists, "the slow request")
        reload = instance.begin_reload()
        instance.wait_status(lambda status: status["last_exits"] or len(status["workers"]) == 2)
        wait_until(lambda: fetch(instance.address).text.split()[1] != before, "the new code")
        (tmp_path / "go").touch()
        assert gated.result().text.split()[1] == before
    assert reload.wait(10) == 0
    assert int(before) not in instance.processes()
    assert all(one.text.split()[1] != before for one in fetch_many(instance.address, 20))
    assert instance.stop() == 0
    assert instance.processes() == []


def test_what_a_program_has_started_is_killed_after_the_drain(start: Start, tmp_path: Path) -> None:
    """A child that does not end in the drain time-out does not serve old code for ever."""
    (tmp_path / WRAPPED.name).write_text(WRAPPED.source)
    config = WRAPPED.config("drain_timeout_s = 0.3", workers=1)
    instance = start(None, config=config)
    _, before = fetch(instance.address).text.split()
    os.kill(int(before), signal.SIGSTOP)
    assert instance.reload().returncode == 0
    wait_until(lambda: int(before) not in instance.processes(), "the old child is gone")
    assert fetch(instance.address).status == 200


def test_what_a_crashed_program_has_started_goes_too(start: Start, tmp_path: Path) -> None:
    """When the program dies of itself, its children do not serve beside the next one."""
    (tmp_path / WRAPPED.name).write_text(WRAPPED.source)
    instance = start(None, config=WRAPPED.config(workers=1))
    _, before = fetch(instance.address).text.split()
    os.kill(instance.worker_pids()[0], signal.SIGKILL)
    instance.wait_status(lambda status: status["ready"] == 1 and status["restarts"] == 1)
    assert fetch(instance.address).text.split()[1] != before
    assert int(before) not in instance.processes()


def test_program_ends_when_its_master_is_killed(start: Start, tmp_path: Path) -> None:
    """A program gets SIGTERM when the master dies: the port is free for the next one."""
    (tmp_path / PYTHON.name).write_text(PYTHON.source)
    instance = start(None, config=PYTHON.config())
    instance.signal(signal.SIGKILL)
    instance.wait()
    wait_until(lambda: instance.processes() == [], "no process is left")

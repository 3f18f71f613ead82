"""Bad input: each mistake ends with a message that names it, its exit status, and nothing left."""

import os
import signal
import socket
from pathlib import Path

import pytest
from conftest import HELLO, Start
from instance import Instance, sdcluster, wait_until
from web import fetch

import sdcluster as package

EX_UNAVAILABLE, EX_SOFTWARE, EX_NOPERM, EX_CONFIG = 69, 70, 77, 78
OURS = str(Path(package.__file__).parent)

CANNOT_DROP = "needs root, to drop a capability in a network namespace"


def refused(instance: Instance, status: int, *texts: str) -> str:
    """Check how a start failed: status, messages, no traceback of ours, no process. Return log."""
    assert instance.wait(10) == status
    log = instance.log()
    for text in texts:
        assert text in log
    assert OURS not in log
    assert "\nready\n" not in log
    assert instance.processes() == []
    return log


# The file and the options.


def test_missing_file_is_named(start: Start) -> None:
    """A config file that does not exist is named, and what to write there."""
    instance = start(None, "--config", "no.toml", wait=False)
    refused(instance, EX_CONFIG, "sdcluster: no.toml: no such file; write one there")


def test_folder_is_no_file(start: Start, tmp_path: Path) -> None:
    """A folder in the place of the file is told as that."""
    (tmp_path / "d.toml").mkdir()
    instance = start(None, "--config", "d.toml", wait=False)
    refused(instance, EX_CONFIG, "d.toml: is a directory, not a file")


def test_file_that_is_no_text_is_told(start: Start, tmp_path: Path) -> None:
    """Bytes that are not UTF-8 are told with their place."""
    (tmp_path / "b.toml").write_bytes(b'app = "\xff"\n')
    instance = start(None, "--config", "b.toml", wait=False)
    refused(instance, EX_CONFIG, "b.toml: is not UTF-8 text (byte 7)")


def test_toml_error_has_its_line(start: Start) -> None:
    """A syntax error is told with line and column."""
    instance = start(None, config='app = "app:app"\nworkers = = 2\n', wait=False)
    refused(instance, EX_CONFIG, "test0.toml: is not valid TOML:", "(at line 2, column 11)")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('app = "app.py"', "app: 'app.py' is not MODULE:ATTRIBUTE, such as hello:app"),
        ("app = 7", "app: 7 is not a text"),
        ('workers = "2"', "workers: '2' is not a number of workers; give a whole number from 1"),
        ("workers = 0", "workers: 0 is not a number of workers"),
        ("workers = true", "workers: true is not a number of workers"),
        ("workers = 2\nready_workers = 3", "ready_workers: 3 is more than the 2 workers there are"),
        ('scheduling = "round_robin"', "did you mean 'round-robin'?"),
        ('preload = "no"', "preload: 'no' is not true or false"),
        ("ready_timeout_s = -1", "ready_timeout_s: -1 is not a number of seconds from 0.1 to"),
        ("drain_timeout_s = nan", "drain_timeout_s: nan is not a number of seconds"),
        ("threads = 1.5", "threads: 1.5 is not a whole number from 1 to 1024"),
        ('listen = "localhost.example:80"', "'localhost.example' is not an IP address"),
        ('listen = "127.0.0.1"', "'127.0.0.1' is not an address; give HOST:PORT"),
        ('listen = "127.0.0.1:99999"', "'127.0.0.1:99999' is not an address"),
        ('listen = "::1:80"', "write an IPv6 address as [::1]:80"),
        ("listen = []", "listen: no address; leave the key out for the default"),
        ('listen = ["127.0.0.1:9", "127.0.0.1:9"]', "listen: 127.0.0.1:9 is there twice"),
        ('listen = "unix:app.sock"', "'app.sock' is not an absolute path"),
        ('environment = "A=1"', "environment: 'A=1' is not a table"),
        ("environment = { A = 1 }", "environment: A = 1 is not a text; put it in quotes"),
        ('environment = { "A-B" = "1" }', "environment: 'A-B' is no name of a variable"),
        ("max_requests_jitter = 5", "max_requests_jitter: does nothing without max_requests"),
        ('root_path = "api/"', "root_path: 'api/' is not a path such as /api"),
        ('directory = "nowhere"', "/nowhere does not exist"),
        ('directory = "app.py"', "/app.py is not a directory"),
        ('venv = "nowhere"', "/nowhere has no bin/python; make it with: python3 -m venv "),
        ('environment_file = "no.env"', "/no.env does not exist; '-' before it makes that right"),
        ('exec = ["true"]', "exec: there is 'app' too; keep one of the two"),
        ('exec_ready = "started"', "exec_ready: is for 'exec' only"),
        ("wrokers = 3", "wrokers: unknown key; did you mean workers?"),
        ("[server]\nport = 3", "server: unknown key"),
    ],
)
def test_wrong_value_is_told_with_what_is_right(start: Start, line: str, message: str) -> None:
    """A value that cannot be is told with file and key, and what would be right."""
    config = line if line.startswith("app") else f'app = "app:app"\n{line}'
    instance = start(HELLO, config=config + "\n", listen=None, wait=False)
    log = refused(instance, EX_CONFIG, "sdcluster: test0.toml: ", message)
    assert log.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('exec = "node x.js"', "exec: 'node x.js' is a text; write a list"),
        ('exec = ["no-such-program-here"]', "exec: 'no-such-program-here' is no program: not in"),
        (
            'exec = ["true"]\nscheduling = "round-robin"',
            "a command accepts by itself: choose shared or reuseport",
        ),
        ('exec = ["true"]\nthreads = 3', "threads: is for Python apps, and does nothing"),
        ("workers = 2", "app: is missing; give app = 'MODULE:ATTRIBUTE', or exec = "),
    ],
)
def test_wrong_command_is_told(start: Start, line: str, message: str) -> None:
    """What cannot be with `exec` is told with the reason."""
    instance = start(None, config=line + "\n", listen=None, wait=False)
    refused(instance, EX_CONFIG, "sdcluster: test0.toml: ", message)


def test_all_mistakes_are_told_at_once(start: Start) -> None:
    """Three mistakes are three lines."""
    config = 'app = 1\nworker = 2\nlisten = "nowhere"\n'
    instance = start(None, config=config, listen=None, wait=False)
    log = refused(instance, EX_CONFIG, "test0.toml: app: ", "worker: unknown key", "listen: ")
    assert log.count("sdcluster: test0.toml: ") == log.count("\n") == 3


def test_environment_file_error_has_its_line(start: Start, tmp_path: Path) -> None:
    """A line of environment_file that is no NAME=VALUE is told with its number."""
    (tmp_path / "app.env").write_text("A=1\nexport B\n")
    config = 'app = "app:app"\nenvironment_file = "app.env"\n'
    instance = start(HELLO, config=config, wait=False)
    refused(instance, EX_CONFIG, "app.env: line 2: 'export B' is not NAME=VALUE")


def test_option_is_named_as_it_was_given(start: Start) -> None:
    """A wrong option is told with its name, not with a file's."""
    instance = start(HELLO, "--workers", "many", wait=False)
    refused(instance, EX_CONFIG, "sdcluster: --workers: 'many' is not a number of workers")


def test_wrong_app_argument_is_told_as_the_argument() -> None:
    """A file name in the place of MODULE:ATTR is told, without an option that does not exist."""
    wrong = sdcluster("run", "app.py")
    assert wrong.returncode == EX_CONFIG
    assert wrong.stderr.startswith("sdcluster: MODULE:ATTR: 'app.py' is not MODULE:ATTRIBUTE")


# The app.


@pytest.mark.parametrize(
    ("source", "messages"),
    [
        (None, ["cannot import 'app': there is no module 'app' in "]),
        ("import no_such_module\n", ["ModuleNotFoundError: No module named 'no_such_module'"]),
        ("def app(:\n", ["cannot import 'app': SyntaxError: ", "def app(:"]),
        ("application = print\n", ["'app' has no attribute 'app'; there is application"]),
        ("app = 7\n", ["app:app: a int is not an app; it cannot be called"]),
        ("class app:\n    pass\n", ["app is a class; name an instance of it, or a factory MAKE()"]),
        ("def app(one):\n    pass\n", ["cannot tell whether the app is ASGI or WSGI"]),
        (
            "import sys\nsys.exit('no license')\n",
            ["cannot import 'app': it calls sys.exit('no license')", "line 2"],
        ),
        ("import os\nos._exit(3)\n", ["the mold died: exit status 3"]),
        (
            "import threading, time\n"
            "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n" + HELLO,
            ["app:app starts a thread when it is imported", "or set preload = false"],
        ),
    ],
    ids=[
        "no module",
        "no dependency",
        "syntax error",
        "no attribute",
        "no callable",
        "class",
        "no interface",
        "exit",
        "os exit",
        "thread",
    ],
)
def test_app_that_cannot_be_served_is_explained(
    start: Start, source: str | None, messages: list[str]
) -> None:
    """Each way not to be an app is told, with exit status 70."""
    instance = start(source, wait=False)
    refused(instance, EX_SOFTWARE, f"sdcluster[{instance.name}]: cannot start: ", *messages)


def test_traceback_of_the_import_is_shown_once_and_is_the_apps_own(start: Start) -> None:
    """An app that raises on import shows where, from its own first line on."""
    source = "def connect():\n    raise ConnectionError('no database')\n\nconnect()\n"
    instance = start(source, "--workers", "2", wait=False)
    log = refused(instance, EX_SOFTWARE, "ConnectionError: no database", "line 2, in connect")
    assert log.count("Traceback (most recent call last)") == 1
    assert "importlib" not in log


def test_app_that_hangs_on_import_is_ended(start: Start) -> None:
    """After ready_timeout_s the stacks are logged, and the start fails."""
    config = 'app = "app:app"\nready_timeout_s = 2\n'
    source = "import time\n\ndef wait_for_database():\n    time.sleep(100)\n\nwait_for_database()\n"
    instance = start(source, config=config, wait=False)
    message = "the app did not load within 2 s"
    assert instance.wait(10) == EX_SOFTWARE
    assert message in instance.log()
    assert "in wait_for_database" in instance.log()
    assert instance.processes() == []


def test_app_that_ignores_the_abort_is_killed(start: Start) -> None:
    """An import that hangs and ignores SIGABRT ends all the same."""
    config = 'app = "app:app"\nready_timeout_s = 2\n'
    source = (
        "import signal, time\n"
        "signal.signal(signal.SIGABRT, lambda *_: None)\n"
        "while True:\n    time.sleep(1)\n"
    )
    instance = start(source, config=config, wait=False)
    refused(instance, EX_SOFTWARE, "the app did not load within 2 s")


def test_thread_on_import_is_right_without_preload(start: Start) -> None:
    """The hint of the refusal works: with preload = false such an app is served."""
    source = (
        "import threading, time\n"
        "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n" + HELLO
    )
    instance = start(source, "--no-preload", "--workers", "2")
    assert fetch(instance.address).status == 200


def test_app_that_raises_in_the_worker_is_explained(start: Start) -> None:
    """Without preload the workers' tracebacks are shown, and the start fails with the reason."""
    source = "def connect():\n    raise ConnectionError('no database')\n\nconnect()\n"
    instance = start(source, "--no-preload", "--workers", "1", wait=False)
    log = refused(
        instance,
        EX_SOFTWARE,
        "cannot start: worker 1 did not become ready: cannot import 'app': ConnectionError",
        "line 2, in connect",
    )
    assert log.count("Traceback (most recent call last)") == 1


LIFESPAN = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        {startup}
"""


def test_failed_lifespan_startup_is_explained(start: Start) -> None:
    """An app whose lifespan says that it failed is not served, and its words are shown."""
    startup = "await send({'type': 'lifespan.startup.failed', 'message': 'no cache'})"
    instance = start(LIFESPAN.format(startup=startup), "--workers", "1", wait=False)
    refused(instance, EX_SOFTWARE, "cannot start: worker 1 did not become ready", "no cache")


def test_lifespan_that_hangs_is_ended(start: Start) -> None:
    """A startup that does not end within ready_timeout_s fails, and its stack is logged."""
    config = 'app = "app:app"\nworkers = 1\nready_timeout_s = 2\n'
    source = LIFESPAN.format(startup="__import__('time').sleep(100)")
    instance = start(source, config=config, wait=False)
    assert instance.wait(10) == EX_SOFTWARE
    assert "worker 1 was not ready within 2 s" in instance.log()
    assert "Fatal Python error: Aborted" in instance.log()
    assert instance.processes() == []


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def make():\n    return 3\n", "app:make() returned a int, which is not an app"),
        ("def make():\n    raise OSError('disk')\n", "app:make() failed: OSError: disk"),
        ("def make(x):\n    return x\n", "app:make() failed: TypeError: make() missing 1 required"),
    ],
)
def test_factory_that_fails_is_explained(start: Start, source: str, message: str) -> None:
    """A factory that raises, or makes what is no app, is told."""
    instance = start(source, config='app = "app:make()"\n', wait=False)
    refused(instance, EX_SOFTWARE, f"cannot start: {message}")


# The address.


def test_port_in_use_is_told(start: Start) -> None:
    """A port that another process listens on ends with status 69 and its address."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        instance = start(HELLO, "--listen", address, wait=False)
        refused(instance, EX_UNAVAILABLE, f"cannot listen on {address}: Address already in use")


def test_nothing_stays_bound_when_one_address_fails(start: Start, tmp_path: Path) -> None:
    """When the second address is in use, the first one is given up: its path is removed."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        instance = start(HELLO, "-l", f"{tmp_path}/first", "-l", address, wait=False)
        refused(instance, EX_UNAVAILABLE, "Address already in use")
    assert not (tmp_path / "first").exists()


def test_address_of_another_machine_is_told(start: Start) -> None:
    """An address that this machine does not have is told."""
    instance = start(HELLO, "--listen", "192.0.2.1:8000", wait=False)
    refused(instance, EX_UNAVAILABLE, "cannot listen on 192.0.2.1:8000: Cannot assign requested")


@pytest.mark.skipif(os.geteuid() != 0, reason=CANNOT_DROP)
def test_low_port_without_the_right_is_told_with_the_remedy(start: Start) -> None:
    """Port 80 without the capability ends with status 77, and names the socket unit."""
    set_first_free_port = "ip link set lo up; sysctl -qw net.ipv4.ip_unprivileged_port_start=1024"
    drop = "setpriv --bounding-set=-net_bind_service --inh-caps=-net_bind_service"
    prefix = ("unshare", "--net", "sh", "-c", f'{set_first_free_port}; exec {drop} "$@"', "sh")
    instance = start(HELLO, "--listen", "127.0.0.1:80", prefix=prefix, wait=False)
    refused(
        instance,
        EX_NOPERM,
        "cannot listen on 127.0.0.1:80: Permission denied; ports below 1024 need a socket unit",
    )


def test_unix_path_that_is_too_long_is_told(start: Start) -> None:
    """A path that no Unix socket can have is told with both lengths."""
    path = "/tmp/" + "x" * 115
    instance = start(HELLO, "--listen", path, wait=False)
    refused(instance, EX_CONFIG, "has 120 bytes; a Unix socket's path has 107")


def test_unix_path_in_a_missing_folder_is_told(start: Start, tmp_path: Path) -> None:
    """A path whose folder does not exist is told."""
    instance = start(HELLO, "--listen", f"{tmp_path}/no/app.sock", wait=False)
    refused(instance, EX_UNAVAILABLE, "No such file or directory; its folder does not exist")


def test_stale_unix_path_is_taken_over(start: Start, tmp_path: Path) -> None:
    """A socket file that a dead server left behind is replaced."""
    path = f"{tmp_path}/app.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
        dead.listen()
    instance = start(HELLO, "--listen", path)
    assert fetch(path).status == 200
    assert instance.stop() == 0


def test_live_unix_path_is_left_alone(start: Start, tmp_path: Path) -> None:
    """A socket that somebody listens on is not taken away from them."""
    path = f"{tmp_path}/app.sock"
    with socket.socket(socket.AF_UNIX) as live:
        live.bind(path)
        live.listen()
        instance = start(HELLO, "--listen", path, wait=False)
        refused(instance, EX_UNAVAILABLE, f"cannot listen on {path}: Address already in use")
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)


def test_plain_file_in_the_way_is_kept(start: Start, tmp_path: Path) -> None:
    """A file that is no socket is neither removed nor listened on."""
    path = tmp_path / "app.sock"
    path.write_text("precious")
    instance = start(HELLO, "--listen", str(path), wait=False)
    refused(instance, EX_UNAVAILABLE, "it exists and is no socket")
    assert path.read_text() == "precious"


def test_symlink_to_nowhere_in_the_way_is_told(start: Start, tmp_path: Path) -> None:
    """A dangling link in the place of the socket is told as an address in use."""
    (tmp_path / "app.sock").symlink_to(tmp_path / "nowhere")
    instance = start(HELLO, "--listen", f"{tmp_path}/app.sock", wait=False)
    refused(instance, EX_UNAVAILABLE, "Address already in use")


def test_instance_that_runs_already_is_refused(start: Start) -> None:
    """A second master of the same name ends before it touches an address; the first serves on."""
    options = ("--workers", "1", "--scheduling", "reuseport")
    first = start(HELLO, *options)
    second = start(HELLO, *options, "--name", first.name, "-l", first.address, wait=False)
    log = refused(second, EX_UNAVAILABLE, f"{first.name} runs already: a master listens on ")
    assert "listening on" not in log
    assert fetch(first.address).status == 200
    assert first.status()["pid"] == first.pid


def test_runtime_folder_that_cannot_be_made_is_told(start: Start, tmp_path: Path) -> None:
    """Where the control socket cannot be, the start fails and says so."""
    (tmp_path / "file").touch()
    instance = start(HELLO, env={"XDG_RUNTIME_DIR": f"{tmp_path}/file"}, wait=False)
    refused(
        instance, EX_UNAVAILABLE, "Not a directory", "set XDG_RUNTIME_DIR to a folder of your own"
    )


# What the service manager passes.


def tcp() -> socket.socket:
    """Return a listening socket, as a socket unit's."""
    return socket.create_server(("127.0.0.1", 0))


def test_sockets_for_another_process_are_ignored(start: Start) -> None:
    """With the LISTEN_PID of another process the master binds for itself."""
    with tcp() as inherited:
        env = {"LISTEN_PID": "1"}
        instance = start(HELLO, "--workers", "1", "-l", "127.0.0.1:0", env=env, sockets=[inherited])
        assert instance.address != f"127.0.0.1:{inherited.getsockname()[1]}"
        assert fetch(instance.address).status == 200


def test_app_does_not_see_the_service_managers_variables(start: Start) -> None:
    """LISTEN_*, NOTIFY_SOCKET and WATCHDOG_* are for the master, not for the app."""
    names = "[one for one in os.environ if one.startswith(('LISTEN_', 'NOTIFY_', 'WATCHDOG_'))]"
    env = {"NOTIFY_SOCKET": "@nobody", "WATCHDOG_USEC": "60000000"}
    with tcp() as inherited:
        source = HELLO.replace("{os.getpid()}", f"{{{names}}}")
        instance = start(source, "--workers", "1", env=env, sockets=[inherited], names="web")
        assert fetch(instance.address).text == "0 []"


def test_fewer_sockets_than_announced_are_told(start: Start) -> None:
    """LISTEN_FDS=2 with one socket passed is an error."""
    with tcp() as inherited:
        instance = start(HELLO, env={"LISTEN_FDS": "2"}, sockets=[inherited], wait=False)
        refused(instance, EX_CONFIG, "LISTEN_FDS=2: not that many descriptors were passed")


def test_no_sockets_at_all_though_announced_are_told(start: Start) -> None:
    """LISTEN_FDS=1 without any socket is an error, not a default address."""
    command = 'exec env LISTEN_FDS=1 LISTEN_PID=$$ "$@"'
    instance = start(HELLO, prefix=("sh", "-c", command, "sh"), listen=None, wait=False)
    refused(instance, EX_CONFIG, "LISTEN_FDS=1: not that many descriptors were passed")


@pytest.mark.parametrize("count", ["many", "-1", "1.0", "99999999999999999999"])
def test_listen_fds_that_is_no_number_is_told(start: Start, count: str) -> None:
    """LISTEN_FDS with garbage is an error that shows it."""
    with tcp() as inherited:
        instance = start(HELLO, env={"LISTEN_FDS": count}, sockets=[inherited], wait=False)
        refused(instance, EX_CONFIG, f"LISTEN_FDS={count}")


def test_no_listen_fds_is_as_none(start: Start) -> None:
    """LISTEN_FDS=0 means that the master binds itself."""
    instance = start(HELLO, "--workers", "1", env={"LISTEN_FDS": "0", "LISTEN_PID": "1"})
    assert fetch(instance.address).status == 200


def test_more_names_than_sockets_are_told(start: Start) -> None:
    """LISTEN_FDNAMES that does not fit LISTEN_FDS is an error."""
    with tcp() as inherited:
        instance = start(HELLO, sockets=[inherited], names="one:two", wait=False)
        refused(instance, EX_CONFIG, "LISTEN_FDS=1 and LISTEN_FDNAMES=one:two do not fit")


def test_socket_that_does_not_listen_is_told(start: Start) -> None:
    """A socket that is only bound is refused with its name."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        instance = start(HELLO, sockets=[bound], names="web", wait=False)
        refused(instance, EX_CONFIG, "descriptor 3 (web) is not a listening stream socket")


def test_datagram_socket_is_told(start: Start) -> None:
    """A datagram socket is refused with its name."""
    with socket.socket(type=socket.SOCK_DGRAM) as bound:
        bound.bind(("127.0.0.1", 0))
        instance = start(HELLO, sockets=[bound], names="web", wait=False)
        refused(instance, EX_CONFIG, "descriptor 3 (web) is not a listening stream socket")


def test_descriptor_that_is_no_socket_is_told(start: Start) -> None:
    """A file passed in the place of a socket is refused with its name."""
    command = 'exec env LISTEN_FDS=1 LISTEN_FDNAMES=web LISTEN_PID=$$ "$@" 3</dev/null'
    instance = start(HELLO, prefix=("sh", "-c", command, "sh"), listen=None, wait=False)
    refused(instance, EX_CONFIG, "descriptor 3 (web) is not a socket")


def test_sockets_other_than_configured_are_told(start: Start) -> None:
    """When `listen` names another address than was passed, both are shown, with what to do."""
    with tcp() as inherited:
        passed = f"127.0.0.1:{inherited.getsockname()[1]}"
        config = 'app = "app:app"\nlisten = "127.0.0.1:9"\n'
        instance = start(HELLO, config=config, sockets=[inherited], wait=False)
        refused(instance, EX_CONFIG, "127.0.0.1:9", passed, "systemctl daemon-reload")


def test_failed_start_is_told_to_the_service_manager(start: Start, tmp_path: Path) -> None:
    """STATUS= says why the start failed, for `systemctl status`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"{tmp_path}/notify")
        manager.settimeout(10)
        env = {"NOTIFY_SOCKET": f"{tmp_path}/notify"}
        with socket.create_server(("127.0.0.1", 0)) as other:
            address = f"127.0.0.1:{other.getsockname()[1]}"
            instance = start(HELLO, "--listen", address, env=env, wait=False)
            refused(instance, EX_UNAVAILABLE)
        assert manager.recv(4096).startswith(f"STATUS=cannot listen on {address}: ".encode())
        assert manager.recv(4096) == b"ERRNO=98"
        instance = start("app = 7\n", env=env, wait=False)
        refused(instance, EX_SOFTWARE)
        statuses = []
        manager.setblocking(False)
        while True:
            try:
                statuses.append(manager.recv(4096))
            except BlockingIOError:
                break
        assert b"STATUS=cannot start: app:app: a int is not an app; it cannot be called" in statuses
        assert b"READY=1" not in statuses


# A command.


def test_program_that_cannot_be_executed_is_told(start: Start, tmp_path: Path) -> None:
    """A file that is executable and no program ends the start with the system's reason."""
    (tmp_path / "broken").write_bytes(b"\0\0\0\0")
    (tmp_path / "broken").chmod(0o755)
    instance = start(None, config='exec = ["./broken"]\nworkers = 1\n', wait=False)
    refused(instance, EX_SOFTWARE, "cannot execute ./broken: Exec format error")


def test_command_that_exits_at_once_is_told(start: Start) -> None:
    """A command that ends before it is ready ends the start, with its exit status."""
    config = 'exec = ["sh", "-c", "exit 5"]\nworkers = 1\n'
    instance = start(None, config=config, wait=False)
    refused(instance, EX_SOFTWARE, "cannot start: worker 1 did not become ready: exit status 5")


def test_command_that_never_says_ready_is_told(start: Start) -> None:
    """A command that does not send READY=1 in time is ended; the message names the key."""
    config = 'exec = ["sleep", "100"]\nworkers = 1\nready_timeout_s = 2\n'
    instance = start(None, config=config, wait=False)
    refused(instance, EX_SOFTWARE, "worker 1 was not ready within 2 s")


# The end of it all.


def test_master_that_is_killed_while_booting_leaves_nothing(start: Start, tmp_path: Path) -> None:
    """SIGKILL for the master during the import ends the mold as well."""
    source = "import time\nopen('importing', 'w').close()\ntime.sleep(1.5)\n" + HELLO
    instance = start(source, wait=False)
    wait_until((tmp_path / "importing").exists, "the import has begun")
    instance.signal(signal.SIGKILL)
    instance.wait()
    wait_until(lambda: instance.processes() == [], "no process is left")

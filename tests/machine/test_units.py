"""The shipped units and what the generator adds to them."""

import re
from pathlib import Path

import pytest
from service import HELLO, Service
from waiting import wait_until

README = Path(__file__).resolve().parent.parent.parent / "README.md"

FLASK = """
import os
from flask import Flask

app = Flask(__name__)

@app.get("/")
def hello():
    return f"flask {os.getpid()}\\n"
"""

BUSY_APP = """
import ctypes, mmap, multiprocessing
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.shared_memory import SharedMemory

def run_machine_code():
    # mov eax, edi; imul eax, edi; ret  -  or, on ARM: mul w0, w0, w0; ret
    import platform
    arm = platform.machine() == "aarch64"
    code = bytes.fromhex("007c001bc0035fd6" if arm else "89f80fafc7c3")
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    return ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(address)(7)

def sort_in_c():
    pointer = ctypes.POINTER(ctypes.c_int)
    compare = ctypes.CFUNCTYPE(ctypes.c_int, pointer, pointer)(lambda a, b: a[0] - b[0])
    numbers = (ctypes.c_int * 3)(3, 1, 2)
    ctypes.CDLL(None).qsort(numbers, 3, ctypes.sizeof(ctypes.c_int), compare)
    return list(numbers)

def square(number):
    return number * number

def work():
    pool = multiprocessing.get_context("fork").Pool(2)
    processes = pool.map(square, range(3))
    pool.close()  # Not `terminate`: a fork has the handler of SIGTERM of the process that it is of.
    pool.join()
    with ThreadPoolExecutor(8) as pool:
        threads = list(pool.map(square, range(3)))
    memory = SharedMemory(create=True, size=6)
    memory.buf[:6] = b"shared"
    other = SharedMemory(memory.name)
    text = bytes(other.buf[:6]).decode()
    other.close(), memory.close(), memory.unlink()
    return f"{run_machine_code()} {sort_in_c()} {processes} {threads} {text}\\n"

async def app(scope, receive, send):
    assert scope["type"] == "http"
    body = work().encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""
"""An app that does what JIT compilers, ffi and data libraries do."""


def test_the_units_verify_clean(service: Service) -> None:
    """`systemd-analyze verify` says nothing of the service and its socket."""
    service.configure()
    done = service.vm.run("systemd-analyze", "verify", service.unit, service.socket)
    assert done.stdout + done.stderr == ""


def test_the_exposure_is_what_the_readme_says(service: Service) -> None:
    """`systemd-analyze security` rates the shipped unit 1.2, or better."""
    said = re.search(r"`systemd-analyze security` rates\s+([\d.]+) ", README.read_text())
    assert said is not None
    shipped = "/usr/lib/systemd/system/sdcluster@.service"
    copy = f"/tmp/{service.unit}"  # A template cannot be rated.
    service.vm.run("cp", shipped, copy)
    command = ("systemd-analyze", "security", "--offline=true", "--no-pager", copy)
    done = service.vm.run(*command)
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert found is not None, done.stdout
    assert float(found[1]) <= 1.2
    assert found[1] == said[1]


def test_what_apps_do_is_possible_in_the_sandbox(service: Service) -> None:
    """Code that is made at run time, callbacks from C, pools of processes and of threads."""
    service.configure(BUSY_APP)
    service.start()
    assert service.get() == "49 [1, 2, 3] [0, 1, 4] [0, 1, 4] shared\n"


def test_mounts_and_ipc_of_the_service_are_its_own(service: Service) -> None:
    """Master and workers share them, also after a reload, and nobody else does."""
    service.configure()
    service.start()
    service.systemctl("reload")
    for kind in ("mnt", "ipc"):
        own = {
            service.vm.run("readlink", f"/proc/{pid}/ns/{kind}").stdout
            for pid in (service.pid, *service.worker_pids())
        }
        assert len(own) == 1
        assert own != {service.vm.run("readlink", f"/proc/1/ns/{kind}").stdout}


def test_the_service_runs_without_root(service: Service) -> None:
    """Master and workers are the user sdcluster, without capabilities."""
    service.configure()
    service.start()
    for pid in (service.pid, *service.worker_pids()):
        status = service.vm.run("cat", f"/proc/{pid}/status").stdout
        uid = service.vm.run("id", "-u", "sdcluster").stdout.strip()
        assert re.search(rf"^Uid:\s+{uid}\s", status, re.MULTILINE)
        assert re.search(r"^CapEff:\s+0+$", status, re.MULTILINE)
        assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE)


def test_several_addresses_come_from_one_file(service: Service) -> None:
    """TCP, TCP6 and Unix addresses of `listen` are sockets of systemd's and all are served."""
    port, path = service.port, f"/run/sdcluster-test-{service.port}.sock"
    service.configure(listen=[f"127.0.0.1:{port}", f"[::1]:{port}", path])
    service.start()
    assert service.get().startswith("one")
    six = service.vm.run("curl", "-s", f"http://[::1]:{port}/").stdout
    unix = service.vm.run("curl", "-s", "--unix-socket", path, "http://x/").stdout
    assert six.startswith("one")
    assert unix.startswith("one")
    shown = service.show("Listen", unit=service.socket)["Listen"]
    assert shown.startswith("127.0.0.1") or path in shown


def test_reuseport_gets_a_socket_per_slot_from_systemd(service: Service) -> None:
    """With reuseport systemd opens as many sockets as there are workers."""
    service.configure(workers=3, scheduling="reuseport")
    service.start()
    listening = service.vm.run("cat", "/proc/net/tcp").stdout
    port = f":{service.port:04X} 00000000:0000 0A"
    assert listening.count(port) == 3
    assert {service.get().split()[0] for _ in range(20)} == {"one"}


def test_a_change_of_listen_takes_a_restart_of_socket_and_service(service: Service) -> None:
    """A reload refuses it and says what to do; that done, the new address serves and no other."""
    service.configure()
    service.start()
    old, service.port = service.port, service.port + 900
    service.configure()
    assert service.systemctl("reload", check=False).returncode != 0
    assert any("restart the socket" in entry["MESSAGE"] for entry in service.journal())
    assert service.vm.run("curl", "-s", f"http://127.0.0.1:{old}/").stdout.startswith("one")
    service.vm.run("systemctl", "restart", service.socket, service.unit)
    assert service.get().startswith("one")
    assert service.vm.run("curl", "-s", f"http://127.0.0.1:{old}/", check=False).stdout == ""


def test_an_instance_may_have_a_user_of_its_own(service: Service) -> None:
    """`User=` in a drop-in is enough: the master, its folder and its workers are that user's."""
    service.configure()
    service.drop_in("[Service]\nUser=nobody\nGroup=nogroup\n")
    service.start()
    uid = service.vm.run("id", "-u", "nobody").stdout.strip()
    for pid in (service.pid, *service.worker_pids()):
        status = service.vm.run("cat", f"/proc/{pid}/status").stdout
        assert re.search(rf"^Uid:\s+{uid}\s", status, re.MULTILINE)
    service.systemctl("reload")
    assert service.status()["generation"] == 2


def test_socket_options_stay_as_systemd_set_them(service: Service) -> None:
    """Backlog and options of an inherited socket are the same before and after the start."""
    service.configure()
    service.vm.run("systemctl", "start", service.socket)
    command = ("ss", "-tlnoemi", f"sport = :{service.port}")
    before = service.vm.run(*command).stdout
    service.start()
    assert re.sub(r"users:\S+", "", service.vm.run(*command).stdout) == re.sub(
        r"users:\S+", "", before
    )


def test_a_wsgi_framework_is_served(service: Service) -> None:
    """Debian's Flask runs as a WSGI app, told apart from ASGI by itself."""
    service.configure(FLASK, workers=2)
    service.start()
    assert len({service.get() for _ in range(8)}) == 2


def test_an_app_runs_in_its_own_virtualenv(service: Service) -> None:
    """A virtualenv that holds neither sdcluster nor uvicorn serves with the system's engine."""
    service.configure(
        "import sys\n" + HELLO.replace("{VERSION}", "{sys.prefix}"),
        venv=f"/srv/{service.name}/venv",
    )
    venv = f"/srv/{service.name}/venv"
    service.vm.run("python3", "-m", "venv", "--without-pip", venv)
    service.start()
    assert service.get().startswith(venv)
    script = "import sdcluster"
    assert service.vm.run(f"{venv}/bin/python", "-c", script, check=False).returncode != 0


NODE = """
const http = require('node:http');
const server = http.createServer((request, response) => response.end(`node ${process.pid}\\n`));
server.listen({fd: 3});
process.on('SIGTERM', () => server.close(() => process.exit(0)));
"""

# gunicorn before 21 calls setuid even for the user that it runs as.
SETUID = "[Service]\nSystemCallFilter=@setuid\n"


@pytest.mark.parametrize("program", ["node", "gunicorn"])
def test_a_command_is_served_and_reloaded_without_a_loss(service: Service, program: str) -> None:
    """A Node server on fd 3, and gunicorn by its own socket activation, are workers as well."""
    if program == "node":
        service.vm.write(f"/srv/{service.name}/server.js", NODE)
        command = 'exec = ["node", "server.js"]\nexec_ready = "started"'
    else:
        wsgi = (
            "import os\n"
            "def app(environ, start_response):\n"
            "    start_response('200 OK', [('Content-Length', '9')])\n"
            "    return [b'gunicorn\\n']\n"
        )
        service.write_app(wsgi)
        command = 'exec = ["gunicorn", "app:app"]'
    service.configure(None, app=command)
    service.drop_in(SETUID)
    service.start()
    assert service.get().startswith(program)
    before = service.worker_pids()
    with service.under_load(close=True, clients=4) as load:
        service.systemctl("reload")
    assert load.lost == 0, load.errors
    assert not set(before) & set(service.worker_pids())


def test_varlinkctl_is_a_client(service: Service, release: str) -> None:
    """Where there is varlinkctl it can introspect and call the control socket."""
    if release == "bookworm":
        pytest.skip("varlinkctl came with systemd 255")
    service.configure()
    service.start()
    socket = f"/run/sdcluster/{service.name}/control"
    interface = "io.sdcluster.Control"
    assert "method Reload" in service.vm.run("varlinkctl", "introspect", socket, interface).stdout
    answer = service.vm.run("varlinkctl", "call", socket, f"{interface}.Status", "{}").stdout
    assert service.name in answer


def test_enabled_instances_start_at_boot(service: Service) -> None:
    """`systemctl enable` pulls the service into multi-user.target."""
    service.configure()
    service.systemctl("enable")
    wants = service.vm.run("systemctl", "show", "multi-user.target", "--property=Wants").stdout
    service.systemctl("disable")
    assert service.unit in wants


def test_socket_comes_and_goes_with_its_service(service: Service) -> None:
    """`enable --now` brings both; `disable --now` ends both, and leaves no link of either."""
    service.configure()
    service.vm.run("systemctl", "enable", "--now", service.unit)
    units = (service.unit, service.socket)
    for unit in units:
        assert service.vm.run("systemctl", "is-enabled", unit).stdout.strip() == "enabled"
        assert service.vm.run("systemctl", "is-active", unit).stdout.strip() == "active"
    assert service.get().startswith("one")
    service.vm.run("systemctl", "disable", "--now", service.unit)
    for unit in units:
        service.wait_show(ActiveState="inactive", unit=unit)
        assert service.show("UnitFileState", unit=unit) == {"UnitFileState": "disabled"}
    links = service.vm.run("find", "/etc/systemd/system", "-name", f"*{service.name}*")
    assert links.stdout == ""
    assert [one["MESSAGE"] for one in service.journal() if int(one["PRIORITY"]) < 5] == []


def test_socket_of_an_enabled_service_outlives_its_stop(service: Service) -> None:
    """As sockets do: the next client starts the service again."""
    service.configure()
    service.vm.run("systemctl", "enable", "--now", service.unit)
    service.systemctl("stop")
    assert service.show("ActiveState", unit=service.socket) == {"ActiveState": "active"}
    assert service.get().startswith("one")
    service.systemctl("disable")


@pytest.mark.parametrize("is_enabled", [True, False])
def test_socket_outlives_restarts_and_failures(service: Service, is_enabled: bool) -> None:
    """Of the service; whether or not that is enabled."""
    service.configure()
    service.vm.run("systemctl", "enable" if is_enabled else "disable", service.unit)
    service.start()
    began = service.show("ActiveEnterTimestampMonotonic", unit=service.socket)
    service.systemctl("restart")
    before = service.pid
    service.vm.run("kill", "-KILL", str(before))
    wait_until(lambda: service.pid not in (0, before), "it is started again")
    assert service.get().startswith("one")
    service.systemctl("disable")
    assert service.show("ActiveEnterTimestampMonotonic", unit=service.socket) == began

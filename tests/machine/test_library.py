"""A program that uses the library as the ExecStart= of a unit of its own."""

from collections.abc import Iterator

import pytest
from service import Service

PROGRAM = """
import asyncio
import os
import signal

from sdcluster import cluster


async def answer(reader, writer):
    await reader.readuntil(b"\\r\\n\\r\\n")
    body = f"library {os.getpid()}\\n".encode()
    writer.write(b"HTTP/1.1 200 OK\\r\\nConnection: close\\r\\n")
    writer.write(b"Content-Length: %d\\r\\n\\r\\n" % len(body) + body)
    await writer.drain()
    writer.close()


async def main():
    while not os.path.exists("go"):
        await asyncio.sleep(0.01)
    server = await asyncio.start_server(answer, sock=cluster.listen(WHERE))
    await server.serve_forever()


if cluster.is_master:
    for _ in range(2):
        cluster.fork()
    cluster.run()
else:
    asyncio.run(main())
"""

UNIT = """
[Service]
Type=notify
ExecStart=/usr/bin/python3 /srv/{name}/app.py
WorkingDirectory=/srv/{name}
WatchdogSec=3
# A program's workers die of SIGTERM, as Node's do; the master, which gets it alone, has them leave.
KillMode=mixed
"""


@pytest.fixture
def program(service: Service) -> Iterator[Service]:
    """Return a service whose unit is not ours."""
    service.unit, service.socket = f"{service.name}.service", f"{service.name}.socket"
    yield service
    service.vm.run("systemctl", "stop", service.socket, service.unit, check=False)


def install(program: Service, where: str, *, socket: bool) -> None:
    """Write the program and its units; `where` is what its workers listen on."""
    program.write_app(PROGRAM.replace("WHERE", where))
    folder = "/etc/systemd/system"
    program.vm.write(f"{folder}/{program.unit}", UNIT.format(name=program.name))
    if socket:
        text = f"[Socket]\nListenStream=127.0.0.1:{program.port}\nFileDescriptorName=web\n"
        program.vm.write(f"{folder}/{program.socket}", text)
    program.vm.run("systemctl", "daemon-reload")


def test_the_unit_is_started_when_all_workers_listen(program: Service) -> None:
    """READY=1, a status line and the watchdog are told without a word in the program."""
    install(program, f'"127.0.0.1:{program.port}"', socket=False)
    program.vm.run("systemctl", "start", "--no-block", program.unit)
    program.wait_show(StatusText="0/2 workers ready, 0 crashed", ActiveState="activating")
    program.vm.run("touch", f"/srv/{program.name}/go")
    program.wait_show(StatusText="2/2 workers ready, 0 crashed", ActiveState="active")
    assert program.get().startswith("library")
    program.vm.run("sleep", "4")  # Longer than WatchdogSec=.
    assert program.show("NRestarts", "SubState") == {"NRestarts": "0", "SubState": "running"}
    program.systemctl("stop")
    assert program.show("Result")["Result"] == "success"


@pytest.mark.parametrize("by", ["name", "address"])
def test_a_socket_of_systemds_is_taken(program: Service, by: str) -> None:
    """The first client starts the unit and is answered, over a stop and a start as well."""
    where = 'name="web"' if by == "name" else f'"127.0.0.1:{program.port}"'
    install(program, where, socket=True)
    program.vm.run("touch", f"/srv/{program.name}/go")
    program.vm.run("systemctl", "start", program.socket)
    assert program.get().startswith("library")
    with program.under_load(close=True, clients=4) as load:
        program.systemctl("restart")
    assert load.lost == 0, load.errors

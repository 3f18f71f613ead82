"""Programs that use the library: `PRELUDE`, their own source, and what they print."""

import re
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from instance import ACTIVATE, Instance, wait_until

PRELUDE = """
import asyncio
import os
import signal
import sys
import time

from sdcluster import cluster
from sdcluster.cluster import ClusterError

EVENTS = ("fork", "online", "listening", "disconnect", "exit")

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())  # In one piece.

def narrate():
    for event in EVENTS:
        cluster.on(event)(lambda worker, *rest, event=event: say(event, worker.id, *rest))

async def answer(reader, writer):
    try:
        head = await reader.readuntil(b"\\r\\n\\r\\n")
    except asyncio.IncompleteReadError:
        writer.close()  # Python 3.11.2 leaves it open when this raises.
        return
    target = head.split()[1].decode()
    if target == "/slow":
        say("slow", os.getpid())
        while not os.path.exists("go"):
            await asyncio.sleep(0.01)
    if target == "/crash":
        os.kill(os.getpid(), signal.SIGKILL)
    if target == "/exit":
        os._exit(7)
    body = f"{cluster.worker.id} {os.getpid()}\\n".encode()
    writer.write(b"HTTP/1.1 200 OK\\r\\nConnection: close\\r\\n")
    writer.write(b"Content-Length: %d\\r\\n\\r\\n" % len(body) + body)
    await writer.drain()
    writer.close()

async def serve(*listeners):
    servers = [await asyncio.start_server(answer, sock=one) for one in listeners]
    await asyncio.gather(*(one.serve_forever() for one in servers))

def serve_at(*addresses):
    asyncio.run(serve(*(cluster.listen(one) for one in addresses)))
"""

EVENT = re.compile(r"^(fork|online|listening|disconnect|exit) (\d+)(?: (.*))?$", re.MULTILINE)


class Program(Instance):
    """A master with its workers, which run the same file."""

    @property
    def folder(self) -> Path:
        """Where it runs."""
        return self._log.parent

    def events(self, worker: int) -> list[str]:
        """Return what has happened to a worker, in order."""
        return [event for event, number, _ in EVENT.findall(self.log()) if number == str(worker)]

    def wait_event(self, event: str, worker: int) -> str:
        """Wait for an event of a worker, and return the rest of what was printed of it."""
        pattern = re.compile(rf"^{event} {worker}(?: (.*))?$", re.MULTILINE)

        def found() -> re.Match[str] | None:
            ended = self.process.poll() is not None
            match = pattern.search(self.log())
            assert match or not ended, f"it ended with {self.process.returncode} before {event}"
            return match

        return wait_until(found, f"{event} {worker}")[1] or ""

    def port(self, worker: int = 1) -> int:
        """Return the port that a worker has begun to listen on."""
        found = re.search(r"(\d+)\)", self.wait_event("listening", worker).replace(", 0, 0)", ")"))
        assert found is not None
        return int(found[1])

    def web(self, worker: int = 1) -> str:
        """Return the address of a worker on 127.0.0.1."""
        return f"127.0.0.1:{self.port(worker)}"

    def lines(self, first_word: str) -> list[str]:
        """Return what was printed after a word that lines begin with."""
        return re.findall(rf"^{first_word}(?: (.*))?$", self.log(), re.MULTILINE)


def launched(
    source: str,
    *arguments: str,
    cwd: Path,
    env: Mapping[str, str],
    name: str = "program",
    command: Sequence[str] | None = None,
    sockets: Mapping[str, socket.socket] | None = None,
) -> Program:
    """Write a program to a file and start it; `command` runs it in another way.

    `sockets` are passed by name, as systemd does.
    """
    (cwd / f"{name}.py").write_text(PRELUDE + source)
    words = [sys.executable, *(command or [f"{name}.py"]), *arguments]
    fds = [sock.fileno() for sock in (sockets or {}).values()]
    if sockets:
        numbers = ",".join(map(str, fds))
        words = [sys.executable, str(ACTIVATE), numbers, ":".join(sockets), *words]
    return Program(words, name=name, cwd=cwd, env=env, pass_fds=fds)

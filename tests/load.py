"""A load client that counts what is lost. Standard library only; it runs anywhere.

    python3 tests/load.py http://127.0.0.1:8000/ --clients 16 --seconds 5 [--close]

A request is lost when the connection is refused or reset, ends before the whole response is there,
brings a 5xx, or nothing for `TIMEOUT_S`. A server may close a kept-alive connection only after it
has said so with `Connection: close`: a request that meets an unannounced end is lost. SIGTERM ends
it early. A line `loaded` is printed when the first request has got its answer or was lost, and the
result, as JSON, at the end. `running` does all that for another program.
"""

import argparse
import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

TIMEOUT_S = 20.0
LONGEST_S = 300
MAX_BODIES = 64
LOADED = "loaded"


class LostError(Exception):
    """A request got no whole answer; the text says how."""


@dataclass
class Result:
    """What became of the requests; filled in when the load has ended."""

    requests: int = 0
    lost: int = 0
    connections: int = 0
    """How many were opened."""
    seconds: float = 0.0
    errors: Counter[str] = field(default_factory=Counter)
    by_body: Counter[str] = field(default_factory=Counter)
    """Answers by the first line of their body."""

    def to_json(self) -> str:
        """Return it for another program."""
        return json.dumps(vars(self))


class _Connection:
    """One connection at a time, opened anew when the server has announced its end."""

    def __init__(self, url: str, *, close: bool) -> None:
        parts = urlsplit(url)
        self._unix = parts.path if parts.scheme == "unix" else None
        self._host, self._port = parts.hostname, parts.port
        self._close = close
        target = "/" if self._unix else parts.path or "/"
        if parts.query:
            target += f"?{parts.query}"
        connection = "close" if close else "keep-alive"
        self._request = (
            f"GET {target} HTTP/1.1\r\nHost: load\r\nConnection: {connection}\r\n\r\n"
        ).encode()
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.opened = 0

    async def fetch(self) -> bytes:
        """Return the body of an answer. Raises `LostError`."""
        if self._streams is None:
            try:
                if self._unix:
                    self._streams = await asyncio.open_unix_connection(self._unix)
                else:
                    self._streams = await asyncio.open_connection(self._host, self._port)
            except OSError as error:
                raise LostError(f"connect: {type(error).__name__}") from error
            self.opened += 1
        reader, writer = self._streams
        try:
            writer.write(self._request)
            await writer.drain()
            body, ends = await self._read(reader)
        except (OSError, asyncio.IncompleteReadError, ValueError) as error:
            self.drop()
            raise LostError(f"answer: {type(error).__name__}") from error
        if ends or self._close:
            self.drop()
        return body

    async def _read(self, reader: asyncio.StreamReader) -> tuple[bytes, bool]:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status, *lines = head.split("\r\n")
        headers = {
            name.lower(): value.strip() for name, _, value in (one.partition(":") for one in lines)
        }
        ends = False
        if "chunked" in headers.get("transfer-encoding", ""):
            body = b""
            while size := int(await reader.readline(), 16):
                body += await reader.readexactly(size)
                await reader.readline()
            await reader.readline()
        elif "content-length" in headers:
            body = await reader.readexactly(int(headers["content-length"]))
        else:
            body, ends = await reader.read(), True
        if status.split(" ")[1].startswith("5"):
            raise LostError(f"status {status.split(' ')[1]}")
        return body, ends or "close" in headers.get("connection", "").lower()

    def drop(self) -> None:
        """Close the connection, if there is one."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def run(
    url: str,
    *,
    clients: int,
    seconds: float,
    close: bool,
    stop: asyncio.Event,
    on_loaded: Callable[[], None],
) -> Result:
    """Send requests from `clients` connections at a time and count what comes back."""
    result = Result()
    loaded = asyncio.Event()
    began = time.monotonic()

    async def client() -> None:
        connection = _Connection(url, close=close)
        while time.monotonic() < began + seconds and not stop.is_set():
            result.requests += 1
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    body = await connection.fetch()
            except (LostError, TimeoutError) as error:
                connection.drop()
                result.lost += 1
                result.errors[str(error) or "time-out"] += 1
                await asyncio.sleep(0.01)  # A dead server must not make this a busy loop.
                continue
            finally:
                if not loaded.is_set():
                    loaded.set()
                    on_loaded()
            line = body.split(b"\n", 1)[0].decode("latin-1")
            if line in result.by_body or len(result.by_body) < MAX_BODIES:
                result.by_body[line] += 1
        connection.drop()
        result.connections += connection.opened

    await asyncio.gather(*(client() for _ in range(clients)))
    result.seconds = round(time.monotonic() - began, 3)
    return result


@contextlib.contextmanager
def running(
    url: str, *, close: bool, clients: int = 16, prefix: Sequence[str] = ()
) -> Iterator[Result]:
    """Send requests, from a process of its own, while the body runs; `prefix` runs that process.

    The body begins when the first request has got its answer or was lost.
    """
    command = [*prefix, sys.executable, "-B", __file__, url, "--clients", str(clients)]
    command += ["--seconds", str(LONGEST_S), *(["--close"] if close else [])]
    result = Result()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        process.stdout.readline()
        yield result
    finally:
        process.terminate()
        try:
            output, _ = process.communicate(timeout=2 * TIMEOUT_S)
        finally:
            process.kill()
    vars(result).update(json.loads(output.removeprefix(f"{LOADED}\n")))


async def _main(arguments: argparse.Namespace) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    result = await run(
        arguments.url,
        clients=arguments.clients,
        seconds=arguments.seconds,
        close=arguments.close,
        stop=stop,
        on_loaded=lambda: print(LOADED, flush=True),
    )
    print(result.to_json())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Send requests and count what is lost.")
    parser.add_argument("url", help="http://HOST:PORT/PATH or unix:/PATH")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--close", action="store_true", help="one connection per request")
    asyncio.run(_main(parser.parse_args()))

"""Messages between a master and its workers, timed by the master. `messages.js` does the same work.

Environment: WORK (broadcast, requests, hand-off), WORKERS, SECONDS a figure, PORT. Each figure is a
line: its name, a tab, its value. With `hand-off` the line is that messages flow, until a signal.
"""

import asyncio
import os
import time
from typing import Any

from sdcluster import cluster

SIZES = {"100 B": 100, "10 kB": 10_000}
BATCH_BYTES = 200_000
BATCHES = 2
UNDER_WAY = (1, 64)
LARGE_BYTES = 1_000_000
LARGE = 10


def say(name: str, value: float) -> None:
    """Tell a figure."""
    print(f"{name}\t{value}", flush=True)


class Acknowledged:
    """Counts what workers have acknowledged."""

    def __init__(self) -> None:
        self.count = 0
        self._changed = asyncio.Event()
        cluster.on("message")(self._add)

    def _add(self, _worker: Any, _message: Any) -> None:
        self.count += 1
        self._changed.set()

    async def until(self, count: int) -> None:
        """Wait until there are so many."""
        while self.count < count:
            self._changed.clear()
            await self._changed.wait()


async def broadcast(workers: int, seconds: float) -> None:
    """Messages that all workers have had, a second; a worker acknowledges each batch."""
    acknowledged = Acknowledged()
    for name, size in SIZES.items():
        text = "x" * size
        batch = max(1, BATCH_BYTES // size // 4)
        began, first, sent = time.monotonic(), acknowledged.count, 0
        while time.monotonic() - began < seconds:
            for number in range(batch):
                cluster.broadcast({"last": number == batch - 1, "text": text})
            sent += 1
            await acknowledged.until(first + (sent - BATCHES + 1) * workers)
        await acknowledged.until(first + sent * workers)
        say(f"broadcast {name}", sent * batch / (time.monotonic() - began))


async def requests(_workers: int, seconds: float) -> None:
    """Round trips to one worker a second."""
    (worker,) = cluster.workers.values()
    for under_way in UNDER_WAY:
        for name, size in SIZES.items():
            text = "x" * size
            began, done = time.monotonic(), 0

            async def ask(text: str = text, began: float = began) -> int:
                times = 0
                while time.monotonic() - began < seconds:
                    answer = await worker.request({"text": text})
                    assert answer["text"] == text
                    times += 1
                return times

            done = sum(await asyncio.gather(*(ask() for _ in range(under_way))))
            say(f"round trips {under_way}, {name}", done / (time.monotonic() - began))


async def hand_off(_workers: int, _seconds: float) -> None:
    """Let large messages flow."""
    acknowledged = Acknowledged()
    (worker,) = cluster.workers.values()
    text = "x" * LARGE_BYTES
    sent = 0
    while not worker.is_dead:
        for number in range(LARGE):
            if not worker.send({"last": number == LARGE - 1, "text": text}):
                await worker.drain()
        sent += 1
        await acknowledged.until(sent)
        if sent == 1:
            say("flows", 1)


WORK = {"broadcast": broadcast, "requests": requests, "hand-off": hand_off}


def master() -> None:
    """Begin when all workers listen."""
    workers = int(os.environ["WORKERS"])
    listening = 0

    @cluster.on("listening")
    async def begin(_worker: Any, _address: Any) -> None:
        nonlocal listening
        listening += 1
        if listening == workers:
            await WORK[os.environ["WORK"]](workers, float(os.environ["SECONDS"]))
            await cluster.disconnect()

    for _ in range(workers):
        cluster.fork()
    cluster.run()


async def work() -> None:
    """Answer."""

    @cluster.on_message
    def told(message: Any) -> None:
        if message["last"]:
            cluster.worker.send({"acknowledged": True})

    @cluster.on_request
    def asked(message: Any) -> Any:
        return {"text": message["text"]}

    def connected(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"x")
        writer.close()

    server = await asyncio.start_server(
        connected, sock=cluster.listen(("127.0.0.1", int(os.environ["PORT"])))
    )
    await server.serve_forever()


if __name__ == "__main__":
    if cluster.is_master:
        master()
    else:
        try:
            asyncio.run(work())
        except KeyboardInterrupt:
            pass  # So a worker that leaves is ended.

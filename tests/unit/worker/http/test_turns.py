"""When an app that runs in threads is given its requests."""

import asyncio
import threading
from typing import Any

import pytest

from sdcluster.worker.http.turns import Pool, Turns
from sdcluster.worker.moving import request_connection


class App:
    """An app that goes on when it is told to."""

    def __init__(self) -> None:
        self.given: list[str] = []
        self.goes_on = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self, scope: Any, _receive: Any, _send: Any) -> None:
        self.given.append(scope.get("path", scope["type"]))
        await self.goes_on.wait()
        if self.error is not None:
            raise self.error


class Connection:
    """What is told when the app is at work on its request."""

    def __init__(self) -> None:
        self.works = 0

    def work(self) -> None:
        self.works += 1


async def nothing(*_: Any) -> Any:
    """Receive or send nothing."""


async def begun(turns: Turns, *paths: str) -> list["asyncio.Task[None]"]:
    """Give requests, and let each go as far as it can."""
    tasks = [
        asyncio.ensure_future(turns({"type": "http", "path": path}, nothing, nothing))
        for path in paths
    ]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return tasks


def test_no_more_requests_are_given_than_there_are_threads() -> None:
    """The others come in their order, as soon as there is a thread."""

    async def scenario() -> None:
        app = App()
        tasks = await begun(Turns(app, threads=2), "a", "b", "c", "d")
        assert app.given == ["a", "b"]
        app.goes_on.set()
        await asyncio.gather(*tasks)
        assert app.given == ["a", "b", "c", "d"]

    asyncio.run(scenario())


def test_request_is_begun_when_it_is_given() -> None:
    """And not while it waits."""

    async def scenario() -> None:
        app = App()
        turns = Turns(app, threads=1)
        first, second = Connection(), Connection()
        tasks = []
        for connection, path in ((first, "a"), (second, "b")):
            request_connection.enter(connection)  # type: ignore[arg-type]
            tasks += await begun(turns, path)
        assert (first.works, second.works) == (1, 0)
        app.goes_on.set()
        await asyncio.gather(*tasks)
        assert (first.works, second.works) == (1, 1)

    asyncio.run(scenario())


def test_thread_is_free_again_whatever_the_app_does() -> None:
    """It may fail, and its task may be cancelled."""

    async def scenario() -> None:
        app = App()
        turns = Turns(app, threads=1)
        (cancelled,) = await begun(turns, "a")
        cancelled.cancel()
        app.error = ValueError("of the app")
        app.goes_on.set()
        for path in "bc":
            (failing,) = await begun(turns, path)
            with pytest.raises(ValueError, match="of the app"):
                await failing

    asyncio.run(scenario())


def test_thread_is_free_when_it_is_done_and_not_when_its_client_is() -> None:
    """A slow client holds nobody up; nor does one that has gone free a thread that works on."""

    async def scenario() -> None:
        pool, loop = Pool(1), asyncio.get_running_loop()
        may_end, given = threading.Event(), []

        async def app(scope: Any, _receive: Any, _send: Any) -> None:
            given.append(scope["path"])
            await loop.run_in_executor(pool, may_end.wait)
            await asyncio.Event().wait()  # For the client.

        turns = Turns(app, threads=1)
        gone, *others = await begun(turns, "a", "b", "c")
        gone.cancel()
        await asyncio.sleep(0)
        assert given == ["a"]
        may_end.set()
        async with asyncio.timeout(10):
            while given != ["a", "b", "c"]:
                await asyncio.sleep(0)
        for task in others:
            task.cancel()
        pool.shutdown()

    asyncio.run(scenario())


def test_what_is_no_request_needs_no_thread() -> None:
    """As the lifespan does, which lasts as long as the worker."""

    async def scenario() -> None:
        app = App()
        turns = Turns(app, threads=1)
        await begun(turns, "a")
        app.given.clear()
        lifespan = asyncio.ensure_future(turns({"type": "lifespan"}, nothing, nothing))
        await asyncio.sleep(0)
        assert app.given == ["lifespan"]
        app.goes_on.set()
        await lifespan

    asyncio.run(scenario())

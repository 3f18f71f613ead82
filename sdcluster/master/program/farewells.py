"""Those who wait for workers to leave, see `cluster.disconnect`."""

import asyncio
from collections.abc import Iterable


class Farewells:
    """Each is for the workers that were there when it was asked for."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: list[tuple[set[int], asyncio.Future[None]]] = []

    def wait(self, workers: Iterable[int]) -> "asyncio.Future[None]":
        """Return what is done when `tell` knows none of these workers any more."""
        done: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append((set(workers), done))
        return done

    def tell(self, there: Iterable[int]) -> None:
        """Tell those who wait for nobody that is there."""
        for waited, done in list(self._waiting):
            if waited.isdisjoint(there):
                self._waiting.remove((waited, done))
                if not done.done():
                    done.set_result(None)

"""A gate between a process's transactions and its forks: neither begins during the other.

A child closes what it has inherited before it opens the environment anew, and what another thread
was doing when it was forked never ends in it.
"""

import os
import threading
from collections.abc import Callable
from types import TracebackType

LONGEST_WAIT_S = 1.0
"""How long a fork waits for the transactions of other threads."""


class Gate:
    """Open for any number of transactions at once, each a `with`, and closed by a fork."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0

    def __enter__(self) -> None:
        with self._changed:
            self._inside += 1

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        with self._changed:
            self._inside -= 1
            self._changed.notify_all()

    def guard(self, renew: Callable[[], None]) -> None:
        """Hold it at each fork(2) of this process from now on, and call `renew` in the child."""

        def close() -> None:
            self._changed.acquire()
            self._changed.wait_for(lambda: self._inside == 0, LONGEST_WAIT_S)

        def begin() -> None:
            self._inside = 0
            renew()
            self._changed.release()

        os.register_at_fork(
            before=close, after_in_parent=self._changed.release, after_in_child=begin
        )

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
        self._renew()

    def _renew(self) -> None:
        self._changed = threading.Condition()
        self._inside: list[None] = []
        """One for each transaction. A lock to change it under would cost more than a read."""
        self._forks = 0

    def __enter__(self) -> None:
        self._inside.append(None)
        if self._forks:  # In this order: a fork that begins now has seen it inside.
            self._wait_outside()

    def _wait_outside(self) -> None:
        with self._changed:
            while self._forks:
                self._inside.pop()
                self._changed.notify_all()
                self._changed.wait_for(lambda: not self._forks)
                self._inside.append(None)

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        if self._inside:  # A child that was forked in here, by a signal's handler, has none.
            self._inside.pop()
        if self._forks:
            with self._changed:
                self._changed.notify_all()

    def guard(self, renew: Callable[[], None]) -> None:
        """Hold it at each fork(2) of this process from now on, and call `renew` in the child."""

        def begin_in_child() -> None:
            self._renew()  # Who waits at the parent's is not here.
            renew()

        os.register_at_fork(
            before=self._close, after_in_parent=self._open, after_in_child=begin_in_child
        )

    def _close(self) -> None:
        with self._changed:
            self._forks += 1
            self._changed.wait_for(lambda: not self._inside, LONGEST_WAIT_S)

    def _open(self) -> None:
        with self._changed:
            self._forks -= 1
            self._changed.notify_all()

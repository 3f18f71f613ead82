"""How many descriptors this process has."""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager

from waiting import wait_until

from sdcluster.master.host import closing


@contextmanager
def none_leaked() -> Iterator[None]:
    """See that as many descriptors are open after the body as before it."""
    gc.collect()
    gc.freeze()  # What is left is not looked at again: each collection would take as long.
    settle()
    before = count()
    yield
    settle()
    assert count() == before, f"{count() - before} descriptors more than before"


def settle() -> None:
    """Wait until what is being closed in the background is closed."""
    wait_until(lambda: not closing.unclosed(), "all descriptors are closed")


def count() -> int:
    """Return how many descriptors are open."""
    return len(os.listdir("/proc/self/fd"))

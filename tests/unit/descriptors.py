"""How many descriptors this process has."""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager

from sdcluster.master import closing


@contextmanager
def none_leaked() -> Iterator[None]:
    """See that as many descriptors are open after the body as before it."""
    gc.collect()
    gc.freeze()  # What is left is not looked at again: each collection would take as long.
    assert closing.settle()
    before = count()
    yield
    assert closing.settle()
    assert count() == before, f"{count() - before} descriptors more than before"


def count() -> int:
    """Return how many descriptors are open."""
    return len(os.listdir("/proc/self/fd"))

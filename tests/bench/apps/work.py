"""The three kinds of work a request can ask for, the same in each language."""

import os
import time

BODY = b"pid %d\n"
WAIT_S = 0.010
CPU_S = 0.010


def burn() -> None:
    """Keep the CPU busy, as the article's loop of ten million steps does in Node."""
    until = time.thread_time() + CPU_S
    while time.thread_time() < until:
        for _ in range(1000):
            pass


def body() -> bytes:
    """Say who answers."""
    return BODY % os.getpid()

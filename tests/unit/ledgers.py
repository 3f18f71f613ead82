"""Ledgers for tests, as a mold and its worker make them, and what goes with them."""

import mmap

from sdcluster.wire.ledger import encode_head
from sdcluster.wire.scoreboard import SIZE_BYTES, Scoreboard
from sdcluster.worker.moving.ledger import Ledger, layout_for, memory
from sdcluster.worker.moving.signatures import Signatures


def new_ledger(limit_bytes: int) -> Ledger:
    """Make one that keeps so much of a request."""
    layout = layout_for(limit_bytes)
    return Ledger(layout, memory(layout.size, encode_head(layout)))


def none_listed() -> Signatures:
    """Return the signatures of a worker that is to serve all requests."""
    return Signatures(Scoreboard(mmap.mmap(-1, SIZE_BYTES)), replay="idempotent")

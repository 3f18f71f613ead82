"""Ledgers for tests, as a mold and its worker make them."""

from sdcluster.wire.ledger import encode_head
from sdcluster.worker.ledger import Ledger, layout_for, memory


def new_ledger(limit_bytes: int) -> Ledger:
    """Make one that keeps so much of a request."""
    layout = layout_for(limit_bytes)
    return Ledger(layout, memory(layout.size, encode_head(layout)))

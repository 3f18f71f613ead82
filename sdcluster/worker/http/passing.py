"""The way of a request to the worker that it is for, from one that has read it."""

from enum import Enum

from sdcluster.worker.moving.exit import Sent
from sdcluster.worker.moving.movable import MovableConnection

MAX_HOPS = 4
"""How often a request is handed over; then it is served where it is."""


class Passed(Enum):
    """How it went."""

    ON = "on"
    """It is the other worker's business now; or nobody's, as the client has gone."""
    NOWHERE = "nowhere"
    """There is nobody who would serve it, but who has it."""
    LATE = "late"
    """There was no room for it for too long."""
    TIED = "tied"
    """It cannot be handed over."""


async def pass_on(connection: MovableConnection | None, slot: int, *, timeout_s: float) -> Passed:
    """Hand a request's connection over to the worker of a slot; wait so long for room."""
    if connection is None or connection.hops >= MAX_HOPS or connection.is_stand_in:
        return Passed.NOWHERE
    sent = await connection.hand_over_in_turn(slot, timeout_s=timeout_s)
    if sent is Sent.YES or connection.is_closing():
        return Passed.ON
    if sent is Sent.FULL:
        return Passed.LATE
    return Passed.NOWHERE if connection.way_out.is_shut else Passed.TIED

"""The connection of a request, for an app's code or what stands in front of it."""

from contextvars import ContextVar

from sdcluster.worker.moving.movable import MovableConnection

_current: ContextVar[MovableConnection | None] = ContextVar("connection", default=None)


def current() -> MovableConnection | None:
    """Return the connection of the request; None when it is not one that can move."""
    return _current.get()


def enter(connection: MovableConnection) -> None:
    """Make it the connection of this context, and of those that come of it."""
    _current.set(connection)

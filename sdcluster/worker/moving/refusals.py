"""What a request is answered that no app may see: whole responses, after which all is over."""

from collections.abc import Mapping
from enum import Enum
from http import HTTPStatus
from typing import Any


class Refusal(Enum):
    """Why a request is refused. Its client is told so, and its connection closed."""

    DEADLY = (HTTPStatus.BAD_GATEWAY, None)
    """Workers have died with it."""
    BUSY = (HTTPStatus.SERVICE_UNAVAILABLE, 1)
    """The worker that it is for has no room for it, nor gets any soon enough."""
    TIED = (HTTPStatus.SERVICE_UNAVAILABLE, 0)
    """It cannot be handed over: where it begins, or what it was, is no longer known."""
    TOO_LONG = (HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, None)
    """Its head is longer than what can be handed over."""
    STALLED = (HTTPStatus.REQUEST_TIMEOUT, None)
    """Nothing comes of its body, and its worker has to leave."""

    @property
    def response(self) -> bytes:
        """The response."""
        status, retry_after_s = self.value
        lines = [
            f"HTTP/1.1 {status.value} {status.phrase}",
            "content-type: text/plain; charset=utf-8",
            f"content-length: {len(status.phrase)}",
            "connection: close",
        ]
        if retry_after_s is not None:
            lines.append(f"retry-after: {retry_after_s}")
        return "\r\n".join([*lines, "", status.phrase]).encode()


def beginning(scope: Mapping[str, Any]) -> bytes:
    """Return how a request begins, as far as the response to it depends on that: its method."""
    method: str = scope.get("method", "GET")  # A WebSocket has none.
    return f"{method} ".encode()

"""TLS for programs that wrap their sockets, as `http.server` is often served over it.

`SSLContext.wrap_socket` goes on with the descriptor of a socket in an object of its own. Of a
listener of the cluster's that is of no use, as `accept` is not the kernel's; and a connection would
not be counted any more.
"""

import functools
import socket
from typing import TYPE_CHECKING, Any

from sdcluster.worker.moving.connection import Connection, Counted
from sdcluster.worker.sockets.listener import ClusterListener

if TYPE_CHECKING:
    import ssl


@functools.cache
def teach() -> None:
    """Have `ssl`, where Python has it, wrap listeners and connections of the cluster's."""
    try:
        from ssl import SSLContext
    except ImportError:
        return
    original = SSLContext.wrap_socket

    @functools.wraps(original)
    def wrap_socket(
        context: "ssl.SSLContext", sock: socket.socket, *arguments: Any, **options: Any
    ) -> Any:
        if isinstance(sock, ClusterListener):
            sock.secure(lambda one: context.wrap_socket(one, *arguments, **options))
            return sock
        wrap = functools.partial(original, context, sock, *arguments, **options)
        if not isinstance(sock, Connection) or sock._counts is None:
            return wrap()
        kind: Any = context.sslsocket_class
        context.sslsocket_class = _counted(kind)
        counts = sock._counts
        counts.change(1)  # Before it is taken from the connection, which counts as closed then.
        try:
            secured: Any = wrap()
        except BaseException:
            counts.change(-1)
            raise
        secured._counts = counts
        return secured

    setattr(SSLContext, "wrap_socket", wrap_socket)  # noqa: B010 - mypy knows that it is a method.


@functools.cache
def _counted(kind: Any) -> Any:
    """Return a class of TLS sockets that tell when they are closed, if they are counted."""
    if issubclass(kind, Counted):
        return kind
    return type(kind.__name__, (Counted, kind), {"_counts": None})

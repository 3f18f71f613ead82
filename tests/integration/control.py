"""A client of the control socket: it speaks Varlink, or misbehaves as it is told to."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from instance import Instance

from sdcluster.system.runtime import control_sockets

INTERFACE = "io.sdcluster.Control"
TIMEOUT_S = 20.0


def path(instance: Instance) -> Path:
    """Return where the control socket is."""
    return next(one for one in control_sockets(instance.name) if one.exists())


class Client:
    """One connection to the control socket."""

    def __init__(self, instance: Instance) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(TIMEOUT_S)
        self.socket.connect(str(path(instance)))
        self._rest = b""

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.socket.sendall(data)

    def ask(self, method: str, *, more: bool = False, **parameters: Any) -> None:
        """Send a call, of our own interface unless the method is named in full."""
        name = method if "." in method else f"{INTERFACE}.{method}"
        call = {"method": name, "parameters": parameters, **({"more": True} if more else {})}
        self.send(json.dumps(call).encode() + b"\0")

    def answer(self) -> dict[str, Any]:
        """Return the next reply. Raises EOFError when the master has closed the connection."""
        while b"\0" not in self._rest:
            try:
                data = self.socket.recv(65536)
            except ConnectionResetError:
                data = b""
            if not data:
                raise EOFError
            self._rest += data
        message, _, self._rest = self._rest.partition(b"\0")
        reply: dict[str, Any] = json.loads(message)
        return reply

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method and return its reply."""
        self.ask(method, **parameters)
        return self.answer()

    def wait_end(self) -> None:
        """Wait until the master closes the connection, whatever it says before."""
        try:
            while self.socket.recv(65536):
                pass
        except ConnectionResetError:
            pass


@contextmanager
def reloading(instance: Instance) -> Iterator[list[int]]:
    """Reload again and again, beside the body; the list has an item for each reload."""
    over = threading.Event()
    done: list[int] = []

    def loop() -> None:
        while not over.is_set():
            with Client(instance) as client:
                assert "error" not in client.call("Reload")
            done.append(len(done))

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield done
    finally:
        over.set()
        thread.join()

"""Which connections have come to the listeners of a cluster."""

import socket
from typing import cast

import pytest

from sdcluster.master.service.traffic import _place


class FakeSocket:
    """A socket of some family, bound to something."""

    def __init__(self, family: int, address: object) -> None:
        self.family = family
        self._address = address

    def getsockname(self) -> object:
        """Return what it is bound to, as Python has it."""
        return self._address


def place(family: int, address: object) -> str | int | None:
    """Return the place of such a socket."""
    return _place(cast("socket.socket", FakeSocket(family, address)))


@pytest.mark.parametrize(
    ("family", "address", "expected"),
    [
        (socket.AF_INET, ("127.0.0.1", 80), 80),
        (socket.AF_INET6, ("::1", 80, 0, 0), 80),
        (socket.AF_VSOCK, (3, 80), 80),
        (socket.AF_UNIX, "/run/a", "/run/a"),
        (socket.AF_UNIX, b"\0a", "\0a"),
        (socket.AF_UNIX, "", None),
    ],
)
def test_place_of_a_connection_is_its_port_or_path(
    family: int, address: object, expected: str | int | None
) -> None:
    """That of a client without a path is none."""
    assert place(family, address) == expected


@pytest.mark.parametrize("address", [(43, b"\0" * 14), (1, "a"), ("a",), (), None, b"", 7])
def test_what_has_no_port_has_no_place(address: object) -> None:
    """A worker may have sent a socket of any family: the master goes on."""
    assert place(43, address) is None

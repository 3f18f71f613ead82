"""The PROXY protocol: a proxy's first bytes on a connection, which say who the client is. Pure.

HAProxy, "The PROXY protocol, versions 1 and 2", 2020. What it says of the server, and the TLVs of
version 2, are not used.
"""

import ipaddress
import socket
from dataclasses import dataclass
from enum import Enum
from typing import Any

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
"""How version 2 begins."""
MAX_LINE_BYTES = 107
"""A whole line of version 1."""
MAX_HEADER_BYTES = 4096
"""Of a header of version 2, with what TLVs it has."""

_BEGIN = b"PROXY "
_HEAD_BYTES = 16
_PROXY, _LOCAL = 0x21, 0x20
_TCP4, _TCP6 = 0x11, 0x21
_ADDRESS_BYTES = {_TCP4: 12, _TCP6: 36}


class HeaderError(ValueError):
    """What has come is no such header."""


class Need(Enum):
    """A header is not there whole."""

    MORE = "more"


@dataclass(frozen=True, slots=True)
class Header:
    """One header."""

    length: int
    """Bytes that it takes; what follows is the client's."""
    client: tuple[str, int] | None
    """None when the proxy speaks for itself, as in its health checks, or does not know."""


def parse(data: bytes) -> Header | Need:
    """Read the header that a connection begins with. Raises `HeaderError`."""
    if data.startswith(SIGNATURE[: len(data)]):
        return _binary(data)
    if data.startswith(_BEGIN[: len(data)]):
        return _line(data)
    raise HeaderError(f"it begins with {data[:16]!r}")


def _line(data: bytes) -> Header | Need:
    line, end, _ = data[:MAX_LINE_BYTES].partition(b"\r\n")
    if not end:
        if len(data) >= MAX_LINE_BYTES:
            raise HeaderError(f"a line of more than {MAX_LINE_BYTES} bytes")
        return Need.MORE
    length = len(line) + len(end)
    words = line.split(b" ")
    if len(words) >= 2 and words[1] == b"UNKNOWN":
        return Header(length, None)
    try:
        _, kind, *addresses, source, target = (word.decode("ascii") for word in words)
        client, _ = (_address(address, kind) for address in addresses)
        port, _ = _port(source), _port(target)
        return Header(length, (client, port))
    except ValueError as error:
        raise HeaderError(f"{line!r}") from error


def _address(text: str, kind: str) -> str:
    if kind == "TCP4":
        return str(ipaddress.IPv4Address(text))
    if kind == "TCP6":
        return str(ipaddress.IPv6Address(text))
    raise ValueError(kind)


def _port(text: str) -> int:
    port = int(text)
    if not text.isdigit() or not 0 <= port <= 65535:
        raise ValueError(text)
    return port


def _binary(data: bytes) -> Header | Need:
    if len(data) < _HEAD_BYTES:
        return Need.MORE
    command, family = data[12], data[13]
    length = _HEAD_BYTES + int.from_bytes(data[14:16], "big")
    if command not in (_PROXY, _LOCAL):
        raise HeaderError(f"version and command {command:#04x}")
    if length > MAX_HEADER_BYTES:
        raise HeaderError(f"a header of {length} bytes")
    if len(data) < length:
        return Need.MORE
    if command == _LOCAL or family not in _ADDRESS_BYTES:
        return Header(length, None)
    if length < _HEAD_BYTES + _ADDRESS_BYTES[family]:
        raise HeaderError(f"{length} bytes for a header with addresses {family:#04x}")
    is_ipv4 = family == _TCP4
    size = 4 if is_ipv4 else 16
    address = data[_HEAD_BYTES : _HEAD_BYTES + size]
    port_at = _HEAD_BYTES + 2 * size
    host = socket.inet_ntop(socket.AF_INET if is_ipv4 else socket.AF_INET6, address)
    return Header(length, (host, int.from_bytes(data[port_at : port_at + 2], "big")))


class Trust:
    """Whose headers are believed."""

    def __init__(self, peers: tuple[str, ...]) -> None:
        """`peers` are networks, and `unix` for whoever comes over a Unix socket."""
        self._unix = "unix" in peers
        self._networks = [ipaddress.ip_network(one) for one in peers if one != "unix"]

    def trusts(self, peername: Any, *, is_unix: bool) -> bool:
        """Tell whether a peer is one of them, by what getpeername(2) says of it.

        That is nothing when it has gone already: then it may be anybody.
        """
        if is_unix:
            return self._unix
        if not peername:
            return False
        address = ipaddress.ip_address(peername[0].partition("%")[0])
        mapped = getattr(address, "ipv4_mapped", None)
        return any((mapped or address) in network for network in self._networks)


def encode(client: tuple[str, int] | None) -> bytes:
    """Return who a client is for a worker that gets its connection: see `decode`."""
    return b"PROXY UNKNOWN" if client is None else f"PROXY {client[0]} {client[1]}".encode()


def decode(proxied: bytes) -> tuple[str, int] | None:
    """Return who a client is, as another worker has said; None when no proxy knew."""
    words = proxied.decode("latin-1").split(" ")
    return (words[1], int(words[2])) if len(words) == 3 else None

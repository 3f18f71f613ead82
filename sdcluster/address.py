"""The addresses that an app listens on: reading, writing and comparing them."""

import ipaddress
import re
import socket
from dataclasses import dataclass
from typing import Literal

Family = Literal["tcp", "tcp6", "unix"]

MAX_PATH_BYTES = 107
"""sun_path without its closing NUL, see unix(7)."""

_NAME = re.compile(r"[ -9;-~]{0,255}")
"""What FileDescriptorName= takes, see systemd.socket(5)."""
_PORT = re.compile(r"[0-9]{1,5}")

FORMS = "HOST:PORT, [IPV6]:PORT, PORT, /PATH or @ABSTRACT"


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen. `host` is an IP address; `path` of an abstract socket begins with `@`."""

    family: Family
    host: str
    port: int
    path: str
    name: str = ""
    """What the socket is called in LISTEN_FDNAMES."""

    def __str__(self) -> str:
        match self.family:
            case "unix":
                return self.path
            case "tcp6":
                return f"[{self.host}]:{self.port}"
            case "tcp":
                return f"{self.host}:{self.port}"


def parse(text: str, *, name: str = "") -> Address:
    """Read an address. Raises ValueError with a text that says what would be right.

    A bare port, and `:PORT`, is every address of the machine, IPv4 and IPv6, as in a socket unit.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} is no name for a socket: ASCII, printable, without ':', at most 255"
        )
    text = text.strip()
    if text.startswith("unix:"):
        text = text.removeprefix("unix:")
        if not text.startswith(("/", "@")):
            raise ValueError(f"{text!r} is not an absolute path")
    if text.startswith(("/", "@")):
        return _unix(text, name)
    host, _, port_text = text.rpartition(":")
    if not _PORT.fullmatch(port_text) or int(port_text) > 65535:
        raise ValueError(f"{text!r} is not an address; give {FORMS}")
    port = int(port_text)
    if not host:
        return Address("tcp6", "::", port, "", name)
    in_brackets = host.startswith("[") and host.endswith("]")
    if in_brackets:
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{text!r}: write an IPv6 address as [{host}]:{port}")
    if host == "localhost":
        host = "127.0.0.1"
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        raise ValueError(
            f"{text!r}: {host!r} is not an IP address; give one, as a socket unit takes no names"
        ) from None
    if in_brackets and ip.version != 6:
        raise ValueError(f"{text!r}: {host!r} in brackets is not an IPv6 address")
    return Address("tcp6" if ip.version == 6 else "tcp", str(ip), port, "", name)


def _unix(path: str, name: str) -> Address:
    size = len(path.encode())
    if size > MAX_PATH_BYTES:
        raise ValueError(f"{path!r} has {size} bytes; a Unix socket's path has {MAX_PATH_BYTES}")
    if path in ("/", "@") or any(char < " " for char in path):
        raise ValueError(f"{path!r} is not the path of a socket")
    return Address("unix", "", 0, path, name)


def same_as_socket(address: Address, family: int, name: object) -> bool:
    """Tell whether a socket of `family`, bound to `name` (getsockname), listens on `address`.

    Port 0 stands for any port.
    """
    if address.family == "unix":
        if family != socket.AF_UNIX:
            return False
        path = "@" + name[1:].decode(errors="replace") if isinstance(name, bytes) else str(name)
        return path == address.path
    if family != (socket.AF_INET6 if address.family == "tcp6" else socket.AF_INET):
        return False
    if not isinstance(name, tuple):
        return False
    same_host = ipaddress.ip_address(name[0]) == ipaddress.ip_address(address.host)
    return same_host and address.port in (0, name[1])


def to_listen_stream(address: Address) -> str:
    """Return the address as ListenStream= takes it, see systemd.socket(5)."""
    if address.family == "tcp6" and address.host == "::":
        return str(address.port)  # Both IPv4 and IPv6, by BindIPv6Only=.
    return str(address).replace("%", "%%")  # A single one would begin a specifier.

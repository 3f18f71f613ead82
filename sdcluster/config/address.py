"""The addresses that an app listens on: reading, writing and comparing them."""

import ipaddress
import os
import re
import socket
from dataclasses import dataclass
from typing import Literal

Family = Literal["tcp", "tcp6", "unix"]

MAX_PATH_BYTES = 107
"""sun_path without its closing NUL, see unix(7)."""
MAX_FILE_PATH_BYTES = 4095
"""The path of any file: PATH_MAX without its closing NUL, see limits.h(0p)."""

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


def parse(text: str, *, name: str = "", max_path_bytes: int = MAX_PATH_BYTES) -> Address:
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
        return _unix(text, name, max_path_bytes)
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


def relative_path(text: str) -> str:
    """Return the relative path of a Unix socket that a text is; an empty one when it is none.

    One with a slash, `unix:NAME` or `NAME.sock`; a bare word may be a host without its port.
    """
    path = text.strip().removeprefix("unix:")
    if path.startswith(("/", "@")):
        return ""
    is_path = text.strip().startswith("unix:") or "/" in path or path.endswith(".sock")
    return path if is_path else ""


def seen_from_here(path: str) -> Address:
    """Return the address of a relative path, for the folder that this process is in now.

    It may be too long for a socket: from another folder it may be short. Raises ValueError.
    """
    folder, file = os.path.split(path)
    if file in ("", ".", ".."):
        raise ValueError(f"{path!r} is not the path of a socket")
    _require_size(path, MAX_PATH_BYTES)
    whole = os.path.join(os.path.realpath(folder), file)
    return parse(whole, max_path_bytes=MAX_FILE_PATH_BYTES)


def too_long(path: str) -> str:
    """Return what is to be said of a path that is too long for a socket; empty when it is not."""
    size = len(os.fsencode(path))
    if size <= MAX_PATH_BYTES:
        return ""
    return f"has {size} bytes; a Unix socket's path has {MAX_PATH_BYTES} at the most"


def _require_size(path: str, size_bytes: int) -> None:
    if len(os.fsencode(path)) > size_bytes:
        raise ValueError(f"{path!r} {too_long(path)}")


def _unix(path: str, name: str, max_path_bytes: int) -> Address:
    _require_size(path, max_path_bytes)
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

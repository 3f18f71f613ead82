"""What a proxy says first, of versions 1 and 2 of the PROXY protocol, written for themselves."""

import ipaddress
import struct
from random import Random

_SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")


def header(random: Random) -> tuple[bytes, str]:
    """Return a header of either version, and who the client is; empty when that is not said."""
    number, port = random.randint(1, 40), random.randint(1024, 65535)
    is_v6 = random.random() < 0.3
    base = ipaddress.ip_address("2001:db8::" if is_v6 else "203.0.113.0")
    client, server = base + number, base + 250
    is_known = random.random() < 0.95
    told = str(client) if is_known else ""
    if random.random() < 0.5:
        if not is_known:
            return b"PROXY UNKNOWN\r\n", ""
        kind = "TCP6" if is_v6 else "TCP4"
        return f"PROXY {kind} {client} {server} {port} 443\r\n".encode(), told
    addresses = client.packed + server.packed + struct.pack("!HH", port, 443)
    extension = b"\x04\x00\x02\0\0" if random.random() < 0.3 else b""  # A TLV that says nothing.
    if not is_known:
        return _SIGNATURE + struct.pack("!BBH", 0x20, 0x00, 0), ""
    family = 0x21 if is_v6 else 0x11
    length = len(addresses) + len(extension)
    return _SIGNATURE + struct.pack("!BBH", 0x21, family, length) + addresses + extension, told

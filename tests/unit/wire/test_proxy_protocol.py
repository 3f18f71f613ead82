"""Headers of the PROXY protocol: those of the specification, in pieces, and what is none."""

import random
import socket

import pytest

from sdcluster.wire.proxy_protocol import (
    MAX_HEADER_BYTES,
    SIGNATURE,
    Header,
    HeaderError,
    Need,
    Trust,
    decode,
    encode,
    parse,
)

LINE = b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n"
IPV4 = socket.inet_aton("192.0.2.7") + socket.inet_aton("198.51.100.1") + b"\xdc\x04\x01\xbb"
IPV6 = (
    socket.inet_pton(socket.AF_INET6, "2001:db8::7")
    + socket.inet_pton(socket.AF_INET6, "2001:db8::1")
    + b"\xdc\x04\x01\xbb"
)


def binary(rest: bytes, *, command: int = 0x21, family: int = 0x11) -> bytes:
    """Return a header of version 2."""
    return SIGNATURE + bytes([command, family]) + len(rest).to_bytes(2, "big") + rest


WHOLE = [
    (LINE, ("192.0.2.7", 56324)),
    (b"PROXY TCP6 2001:db8::7 2001:DB8::1 1 2\r\n", ("2001:db8::7", 1)),
    (b"PROXY UNKNOWN\r\n", None),
    (b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n", None),
    (binary(IPV4), ("192.0.2.7", 56324)),
    (binary(IPV6, family=0x21), ("2001:db8::7", 56324)),
    (binary(IPV4 + b"\x03\x00\x04abcd"), ("192.0.2.7", 56324)),
    (binary(b"", command=0x20, family=0), None),
    (binary(IPV4, command=0x20), None),
    (binary(bytes(216), family=0x31), None),
]
"""Headers, and the client that each names."""

BROKEN = [
    b"GET / HTTP/1.1\r\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 56324\r\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 65536 443\r\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 -1 443\r\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443 1\r\n",
    b"PROXY TCP4 192.0.2.7 198.51.100 56324 443\r\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 x\r\n",
    b"PROXY TCP4 192.0.2.7  56324 443\r\n",
    b"PROXY TCP4\r\n",
    b"PROXY TCP4 192.0.2.007 198.51.100.1 56324 443\r\n",
    b"PROXY TCP4 2001:db8::7 198.51.100.1 56324 443\r\n",
    b"PROXY TCP6 192.0.2.7 2001:db8::1 56324 443\r\n",
    b"PROXY UDP4 192.0.2.7 198.51.100.1 56324 443\r\n",
    b"PROXY TCP4 " + b"1" * 107,
    b"PROXY \xff\r\n",
    binary(IPV4, command=0x11),
    binary(IPV4, command=0x22),
    binary(IPV4[:-1]),
    binary(IPV6[:-1], family=0x21),
    SIGNATURE + b"\x21\x11" + (MAX_HEADER_BYTES - 15).to_bytes(2, "big"),
]


@pytest.mark.parametrize(("data", "client"), WHOLE)
def test_header_names_the_client(data: bytes, client: tuple[str, int] | None) -> None:
    """And says where what follows begins."""
    assert parse(data) == Header(len(data), client)
    assert parse(data + b"GET / HTTP/1.1\r\n\r\n") == Header(len(data), client)


@pytest.mark.parametrize(("data", "_client"), WHOLE)
def test_header_may_come_in_pieces(data: bytes, _client: object) -> None:
    """As long as it is not whole, there is more to come."""
    assert {parse(data[:end]) for end in range(len(data))} == {Need.MORE}


@pytest.mark.parametrize("data", BROKEN)
def test_what_is_no_header_is_an_error(data: bytes) -> None:
    """It is not guessed at."""
    with pytest.raises(HeaderError):
        parse(data)


def test_noise_is_an_error_or_nothing_else() -> None:
    """Whatever a peer sends, it takes no other exception, and no more than there is."""
    chance = random.Random(7)
    for _ in range(5000):
        data = bytearray(chance.choice(WHOLE)[0])
        for _ in range(chance.randrange(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        try:
            found = parse(bytes(data))
        except HeaderError:
            continue
        if isinstance(found, Header):
            assert found.length <= len(data)


@pytest.mark.parametrize(
    ("peername", "trusted"),
    [
        (("10.1.2.3", 5), True),
        (("::ffff:10.1.2.3", 5, 0, 0), True),
        (("fe80::1%eth0", 5, 0, 2), True),
        (("11.1.2.3", 5), False),
        (("2001:db8::1", 5, 0, 0), False),
        (None, False),
    ],
)
def test_trust_is_by_network(peername: object, trusted: bool) -> None:
    """IPv4 over an IPv6 socket is IPv4; link-local addresses have a scope; who has gone is none."""
    trust = Trust(("10.0.0.0/8", "fe80::/10", "unix"))
    assert trust.trusts(peername, is_unix=False) == trusted


@pytest.mark.parametrize("peername", ["", "/run/peer", b"\0peer", None])
def test_trust_in_unix_sockets_is_by_name(peername: object) -> None:
    """Whatever the peer is bound to, and that is mostly nothing."""
    assert Trust(("unix",)).trusts(peername, is_unix=True)
    assert not Trust(("0.0.0.0/0", "::/0")).trusts(peername, is_unix=True)


@pytest.mark.parametrize("client", [None, ("192.0.2.7", 1), ("2001:db8::7", 65535)])
def test_workers_tell_each_other_the_client(client: tuple[str, int] | None) -> None:
    """Also that there is none: the header does not come twice."""
    assert decode(encode(client)) == client
    assert encode(client)

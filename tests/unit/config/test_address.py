"""Reading, writing and comparing addresses."""

import socket
from pathlib import Path

import pytest

from sdcluster.config.address import (
    Address,
    parse,
    relative_path,
    same_as_socket,
    seen_from_here,
    to_listen_stream,
)


@pytest.mark.parametrize(
    ("text", "expected", "shown"),
    [
        ("127.0.0.1:8000", Address("tcp", "127.0.0.1", 8000, ""), "127.0.0.1:8000"),
        (" localhost:80 ", Address("tcp", "127.0.0.1", 80, ""), "127.0.0.1:80"),
        ("0.0.0.0:0", Address("tcp", "0.0.0.0", 0, ""), "0.0.0.0:0"),
        ("[::1]:8000", Address("tcp6", "::1", 8000, ""), "[::1]:8000"),
        ("[0:0::1]:65535", Address("tcp6", "::1", 65535, ""), "[::1]:65535"),
        ("8000", Address("tcp6", "::", 8000, ""), "[::]:8000"),
        (":8000", Address("tcp6", "::", 8000, ""), "[::]:8000"),
        ("/run/shop.sock", Address("unix", "", 0, "/run/shop.sock"), "/run/shop.sock"),
        ("unix:/run/shop.sock", Address("unix", "", 0, "/run/shop.sock"), "/run/shop.sock"),
        ("@shop", Address("unix", "", 0, "@shop"), "@shop"),
        ("unix:@shop", Address("unix", "", 0, "@shop"), "@shop"),
    ],
)
def test_address_is_read_in_each_of_its_forms(text: str, expected: Address, shown: str) -> None:
    """And is shown in the one form that says all."""
    assert parse(text) == expected
    assert str(expected) == shown
    assert parse(shown) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not an address; give HOST:PORT"),
        ("shop", "is not an address"),
        ("127.0.0.1:", "is not an address"),
        ("127.0.0.1:http", "is not an address"),
        ("127.0.0.1:65536", "is not an address"),
        ("127.0.0.1:-1", "is not an address"),
        ("127.0.0.1:" + "9" * 5000, "is not an address"),
        ("::1:8000", r"write an IPv6 address as \[::1\]:8000"),
        ("shop.example:80", "'shop.example' is not an IP address"),
        ("[shop]:80", "'shop' is not an IP address"),
        ("[127.0.0.1]:80", "'127.0.0.1' in brackets is not an IPv6 address"),
        ("256.0.0.1:80", "'256.0.0.1' is not an IP address"),
        ("unix:shop.sock", "'shop.sock' is not an absolute path"),
        ("/", "is not the path of a socket"),
        ("@", "is not the path of a socket"),
        ("/run/a\0b", "is not the path of a socket"),
        ("/run/a\nb", "is not the path of a socket"),
        ("/" + "x" * 107, "has 108 bytes; a Unix socket's path has 107"),
        ("/" + "é" * 54, "has 109 bytes"),
    ],
)
def test_text_that_is_no_address_is_refused_with_what_would_be_right(
    text: str, message: str
) -> None:
    """The error names the text, and what to write in its place."""
    with pytest.raises(ValueError, match=message):
        parse(text)


def test_path_of_the_greatest_length_is_taken() -> None:
    """The limit is that of the kernel, not one below."""
    assert parse("/" + "x" * 106).path == "/" + "x" * 106


def test_address_can_have_a_name() -> None:
    """The name of a socket is what a command finds in LISTEN_FDNAMES."""
    assert parse("8000", name="http").name == "http"


@pytest.mark.parametrize("name", ["a:b", "a\nb", "é", "x" * 256])
def test_name_that_systemd_would_not_take_is_refused(name: str) -> None:
    """See FileDescriptorName= in systemd.socket(5)."""
    with pytest.raises(ValueError, match="is no name for a socket: ASCII, printable, without ':'"):
        parse("8000", name=name)


V4, V6, UNIX = socket.AF_INET, socket.AF_INET6, socket.AF_UNIX


@pytest.mark.parametrize(
    ("text", "family", "name", "expected"),
    [
        ("127.0.0.1:80", V4, ("127.0.0.1", 80), True),
        ("127.0.0.1:80", V4, ("127.0.0.1", 81), False),
        ("127.0.0.1:80", V4, ("127.0.0.2", 80), False),
        ("127.0.0.1:0", V4, ("127.0.0.1", 4711), True),
        ("127.0.0.1:80", V6, ("::1", 80, 0, 0), False),
        ("127.0.0.1:80", UNIX, "/run/shop.sock", False),
        ("[::1]:80", V6, ("::1", 80, 0, 0), True),
        ("80", V6, ("::", 80, 0, 0), True),
        ("80", V4, ("0.0.0.0", 80), False),
        ("80", V6, "", False),
        ("/run/shop.sock", UNIX, "/run/shop.sock", True),
        ("/run/shop.sock", UNIX, "/run/other.sock", False),
        ("/run/shop.sock", V4, ("127.0.0.1", 80), False),
        ("@shop", UNIX, b"\0shop", True),
        ("@shop", UNIX, b"\0other", False),
        ("@shop", UNIX, "@shop", True),
        ("/run/shop.sock", UNIX, b"", False),
    ],
)
def test_socket_is_compared_with_an_address(
    text: str, family: int, name: object, expected: bool
) -> None:
    """By its family and getsockname(2), in the forms that Python returns it in."""
    assert same_as_socket(parse(text), family, name) is expected


@pytest.mark.parametrize("text", ["127.0.0.1:0", "[::1]:0", "@sdcluster-test-address"])
def test_socket_bound_to_an_address_is_found_to_be_the_same(text: str) -> None:
    """What the kernel really returns is understood."""
    address = parse(text)
    family = {"tcp": V4, "tcp6": V6, "unix": UNIX}[address.family]
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        if address.family == "unix":
            sock.bind("\0" + address.path[1:])
        else:
            try:
                sock.bind((address.host, 0))
            except OSError:
                pytest.skip("no IPv6 here")
        assert same_as_socket(address, sock.family, sock.getsockname())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:80", "127.0.0.1:80"),
        ("[::1]:80", "[::1]:80"),
        ("80", "80"),
        ("[::]:80", "80"),
        ("/run/shop.sock", "/run/shop.sock"),
        ("@shop", "@shop"),
        ("/run/50%.sock", "/run/50%%.sock"),
        ("[fe80::1%eth0]:80", "[fe80::1%%eth0]:80"),
    ],
)
def test_address_is_written_for_a_socket_unit(text: str, expected: str) -> None:
    """A port alone is both families there; a percent sign would begin a specifier."""
    assert to_listen_stream(parse(text)) == expected


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("./app.sock", "./app.sock"),
        ("run/app", "run/app"),
        ("unix:app", "app"),
        (" app.sock ", "app.sock"),
        ("unix:/run/app.sock", ""),
        ("/run/app.sock", ""),
        ("@app", ""),
        ("unix:", ""),
        ("localhost", ""),
        ("127.0.0.1:80", ""),
        ("[::1]:80", ""),
    ],
)
def test_relative_path_is_told_from_a_host(text: str, path: str) -> None:
    """A bare word is none: its port may have been forgotten."""
    assert relative_path(text) == path


def test_relative_path_is_seen_from_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Links in it are followed, so that it is one address, however it is reached."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    for path in ("real/app", "./link/app", "link/../real/app"):
        assert str(seen_from_here(path)) == str(tmp_path.resolve() / "real" / "app")
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.chdir(deep)
    assert seen_from_here("app").path == str(deep.resolve() / "app")  # Though it is too long.


@pytest.mark.parametrize("path", ["./", "..", "x/.", "./a\x01b"])
def test_relative_path_that_is_no_file_is_told(path: str) -> None:
    """It would be that of a folder."""
    with pytest.raises(ValueError, match="is not the path of a socket"):
        seen_from_here(path)


def test_relative_path_that_is_too_long_is_told() -> None:
    """As it was given."""
    with pytest.raises(ValueError, match="has 110 bytes; a Unix socket's path has 107"):
        seen_from_here("./" + "x" * 108)

"""Listening sockets, bound by the master or passed by systemd. With real sockets."""

import errno
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from sdcluster.config.address import Address, parse
from sdcluster.errors import ConfigError, ListenError, ListenPermissionError
from sdcluster.master.connections.listeners import Listener, ListenerSet, adopt, bind

ANY_PORT = parse("127.0.0.1:0")


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    """Close what a test registers here."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def passed(opened: ExitStack) -> tuple[int, str]:
    """Give a descriptor as systemd passes one: a TCP socket that listens."""
    sock = opened.enter_context(socket.socket())
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    return os.dup(sock.fileno()), "http"


def bound(opened: ExitStack, address: Address, *, reuse_port: bool = False) -> Listener:
    """Bind an address until the end of the test."""
    listener = bind(address, reuse_port=reuse_port)
    opened.callback(listener.close)
    return listener


def listener_set(
    opened: ExitStack,
    *addresses: Address,
    passed: list[tuple[int, str]] | None = None,
    given: bool = True,
    reuse_port: bool = False,
) -> ListenerSet:
    """Make a set that is closed at the end of the test."""
    made = ListenerSet(passed=passed or [], addresses=addresses, given=given, reuse_port=reuse_port)

    def close() -> None:
        for one in made.all:
            one.close()

    opened.callback(close)
    return made


# Bound by the master.


def test_adopted_socket_has_the_name_that_the_config_gives_its_address(
    opened: ExitStack, passed: tuple[int, str]
) -> None:
    """A socket unit has one name for all its sockets; `listen` has one for each."""
    with socket.socket(fileno=os.dup(passed[0])) as sock:
        port = sock.getsockname()[1]
    (listener,) = adopt([passed], [parse(f"127.0.0.1:{port}", name="admin")])
    opened.callback(listener.close)
    assert listener.name == "admin"


def test_tcp_address_is_bound_and_listened_on(opened: ExitStack) -> None:
    """A client can connect, and the address tells the port that the kernel has chosen."""
    listener = bound(opened, parse("127.0.0.1:0", name="http"))
    port = listener.socket.getsockname()[1]
    assert (listener.address, listener.name) == (f"127.0.0.1:{port}", "http")
    assert not listener.inherited
    socket.create_connection(("127.0.0.1", port)).close()


def test_unix_address_is_bound_and_its_path_removed_at_the_end(tmp_path: Path) -> None:
    """Removing it twice, or when somebody was faster, is no error."""
    path = tmp_path / "shop.sock"
    listener = bind(parse(str(path)))
    assert stat.S_ISSOCK(path.stat().st_mode) and listener.address == str(path)
    listener.close()
    assert not path.exists()
    listener.close()


def test_abstract_address_has_no_path(opened: ExitStack) -> None:
    """Its name begins with @ for people."""
    listener = bound(opened, parse("@sdcluster-test-listeners"))
    assert (listener.address, listener.path) == ("@sdcluster-test-listeners", "")


def test_stale_unix_socket_is_replaced(tmp_path: Path) -> None:
    """A master that was killed has left its path behind."""
    path = tmp_path / "shop.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    bind(parse(str(path))).close()


def test_unix_socket_that_somebody_listens_on_is_not_replaced(tmp_path: Path) -> None:
    """Neither is one that is too busy to answer."""
    address = parse(str(tmp_path / "shop.sock"))
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(address.path)
        other.listen(0)
        for _ in range(2):
            with pytest.raises(ListenError, match="Address already in use; stop what uses it"):
                bind(address)


def test_file_in_the_place_of_a_unix_socket_is_not_removed(tmp_path: Path) -> None:
    """It may be somebody's data."""
    path = tmp_path / "data"
    path.write_text("precious")
    with pytest.raises(ListenError, match="it exists and is no socket"):
        bind(parse(str(path)))
    assert path.read_text() == "precious"


def test_address_in_use_is_told_with_what_to_do(opened: ExitStack) -> None:
    """The address is named."""
    taken = bound(opened, ANY_PORT).address
    message = f"cannot listen on {taken}: Address already in use; stop what uses it, or choose"
    with pytest.raises(ListenError, match=message):
        bind(parse(taken))


def test_folder_that_does_not_exist_is_told_as_such(tmp_path: Path) -> None:
    """The kernel would only say: no such file or directory."""
    with pytest.raises(ListenError, match="its folder does not exist"):
        bind(parse(str(tmp_path / "none" / "shop.sock")))


@pytest.mark.parametrize(
    ("text", "number", "error", "message"),
    [
        ("127.0.0.1:80", errno.EACCES, ListenPermissionError, "below 1024 need a socket unit"),
        ("127.0.0.1:8000", errno.EPERM, ListenPermissionError, "the folder must be writable"),
        ("/run/shop.sock", errno.EACCES, ListenPermissionError, "the folder must be writable"),
        ("127.0.0.1:8000", errno.EADDRNOTAVAIL, ListenError, "Cannot assign requested address$"),
    ],
)
def test_refusal_of_the_kernel_is_explained(
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    number: int,
    error: type[ListenError],
    message: str,
) -> None:
    """By what it means for this address."""

    class Refused(socket.socket):
        def bind(self, address: object) -> None:
            raise OSError(number, os.strerror(number), address)

    monkeypatch.setattr(socket, "socket", Refused)
    with pytest.raises(error, match=message) as caught:
        bind(parse(text))
    assert type(caught.value) is error


# Passed by systemd.


def test_passed_socket_is_used_as_it_is(opened: ExitStack, passed: tuple[int, str]) -> None:
    """It keeps its descriptor and its name, and is not made non-blocking yet."""
    (listener,) = listener_set(opened, passed=[passed], given=False).all
    assert listener.socket.fileno() == passed[0]
    assert (listener.name, listener.inherited, listener.path) == ("http", True, "")
    assert os.get_blocking(passed[0])


def test_passed_socket_is_made_nonblocking_when_that_is_asked_for(
    opened: ExitStack, passed: tuple[int, str]
) -> None:
    """Accepting must not block the loop."""
    listener_set(opened, passed=[passed], given=False).set_nonblocking()
    assert not os.get_blocking(passed[0])


def test_descriptor_that_is_no_listening_stream_socket_is_refused(opened: ExitStack) -> None:
    """The socket unit is wrong, and the message says which descriptor."""
    reader, writer = os.pipe()
    opened.callback(os.close, writer)
    opened.callback(os.close, reader)
    with pytest.raises(ConfigError, match=rf"descriptor {reader} \(http\) is not a socket"):
        adopt([(reader, "http")], [])
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        sock = socket.socket(socket.AF_INET, kind)
        with pytest.raises(ConfigError, match="is not a listening stream socket"):
            adopt([(sock.detach(), "http")], [])


def test_copies_leave_what_was_passed_as_it_is(opened: ExitStack, passed: tuple[int, str]) -> None:
    """A start may be tried a thousand times: no try closes a descriptor of these or leaves one."""
    reader, writer = os.pipe()
    opened.callback(os.close, reader)
    opened.callback(os.close, writer)
    before = os.listdir("/proc/self/fd")
    for wrong in ([(reader, "http")], []):
        for addresses in ([], [parse("127.0.0.1:1")]):
            with suppress(ConfigError):
                for listener in adopt([passed, *wrong, passed], addresses, as_copies=True):
                    listener.close()
            assert os.listdir("/proc/self/fd") == before
    (listener,) = adopt([passed], [], as_copies=True)
    listener.close()
    os.fstat(passed[0])


def test_passed_sockets_must_be_the_configured_ones(
    opened: ExitStack, passed: tuple[int, str]
) -> None:
    """Neither one too few nor one too many, if the file names any."""
    (listener,) = adopt([passed], [])
    opened.callback(listener.close)
    there, other = parse(listener.address), parse("127.0.0.1:1")
    with pytest.raises(ConfigError, match=f"'listen' has 127.0.0.1:1, but systemd passed {there}"):
        adopt([(os.dup(passed[0]), "http")], [there, other])
    second = bound(opened, ANY_PORT)
    with pytest.raises(ConfigError, match=f"systemd passed {second.address}, 'listen' has it not"):
        adopt([(os.dup(passed[0]), ""), (os.dup(second.socket.fileno()), "")], [there])


def test_passed_sockets_are_taken_when_the_file_names_none(
    opened: ExitStack, passed: tuple[int, str]
) -> None:
    """The default address does not count."""
    made = listener_set(opened, parse("127.0.0.1:1"), passed=[passed], given=False)
    assert len(made.all) == 1


# The set.


def test_all_slots_share_the_listeners_without_reuseport(opened: ExitStack) -> None:
    """Every worker gets all."""
    made = listener_set(opened, ANY_PORT, ANY_PORT)
    assert made.for_slot(0) == made.for_slot(7) == made.all
    assert made.addresses() == [one.address for one in made.all]


def test_set_that_cannot_be_bound_leaves_nothing_behind(opened: ExitStack, tmp_path: Path) -> None:
    """The first address is free again when the second one fails."""
    path = tmp_path / "shop.sock"
    taken = bound(opened, ANY_PORT).address
    with pytest.raises(ListenError):
        listener_set(opened, parse(str(path)), parse(taken))
    assert not path.exists()


def test_each_slot_has_a_socket_of_its_own_with_reuseport(opened: ExitStack) -> None:
    """Bound when the slot is first used, kept for its next worker; one address for people."""
    made = listener_set(opened, ANY_PORT, reuse_port=True)
    (first,), (second,) = made.for_slot(0), made.for_slot(1)
    assert first is not second and first.address == second.address
    assert made.for_slot(1) == [second] and second.slot == 1
    assert made.addresses() == [first.address]


def test_unix_socket_is_shared_with_reuseport(opened: ExitStack, tmp_path: Path) -> None:
    """Only one socket can have a path."""
    made = listener_set(opened, parse(str(tmp_path / "shop.sock")), ANY_PORT, reuse_port=True)
    assert made.for_slot(0)[0] is made.for_slot(1)[0]
    assert made.for_slot(0)[1] is not made.for_slot(1)[1]


def test_passed_sockets_are_owned_in_order_with_reuseport(opened: ExitStack) -> None:
    """And shared when there are more slots than sockets."""
    sockets = [bound(opened, ANY_PORT, reuse_port=True)]
    sockets.append(bound(opened, parse(sockets[0].address), reuse_port=True))
    fds = [(os.dup(one.socket.fileno()), "http") for one in sockets]
    made = listener_set(opened, passed=fds, given=False, reuse_port=True)
    owned = [[one.socket.fileno() for one in made.for_slot(slot)] for slot in range(3)]
    assert owned == [[fds[0][0]], [fds[1][0]], [fds[0][0]]]


def test_only_what_the_master_has_bound_is_closed(
    opened: ExitStack, passed: tuple[int, str]
) -> None:
    """What systemd passed stays open for the next master."""
    made = listener_set(opened, passed=[passed], given=False)
    own = bound(opened, ANY_PORT)
    made.all.append(own)
    made.close_bound()
    assert [one.socket.fileno() for one in made.all] == [passed[0]]
    assert own.socket.fileno() == -1


def test_path_that_no_socket_can_have_is_told(tmp_path: Path) -> None:
    """Python refuses it without an error number, which is none of the system's: there is one."""
    with pytest.raises(ListenError, match="bytes; a Unix socket's path has 107") as caught:
        bind(Address("unix", "", 0, f"{tmp_path}/{'x' * 120}"))
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.ENAMETOOLONG
    with pytest.raises(ListenError, match="path too long"):
        bind(Address("unix", "", 0, "@" + "x" * 120))


def test_long_path_is_bound_from_where_it_is_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is left there is removed, and so is this one at its end."""
    folder = tmp_path / ("d" * 100)
    folder.mkdir()
    monkeypatch.chdir(folder)
    address = Address("unix", "", 0, f"{folder}/app")
    with socket.socket(socket.AF_UNIX) as left:
        left.bind("app")
    listener = bind(address)
    assert listener.path == address.path
    with pytest.raises(ListenError, match="in use"):
        bind(address)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect("app")
    monkeypatch.chdir("/")
    listener.close()
    assert not (folder / "app").exists()

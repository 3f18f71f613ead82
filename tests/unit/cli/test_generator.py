"""The drop-ins that the generator writes."""

import os
from pathlib import Path

import pytest
from waiting import at_once

from sdcluster.cli import generator
from sdcluster.cli.generator import main, socket_drop_in
from sdcluster.config import cpus

SOURCE = Path("/etc/sdcluster/shop.toml")


def streams(**values: object) -> list[str]:
    """Return the lines of the [Socket] section for these keys."""
    return socket_drop_in(values, source=SOURCE).partition("[Socket]\n")[2].splitlines()


@pytest.fixture(autouse=True)
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have a file in place of the kernel log."""
    monkeypatch.setattr(generator, "KERNEL_LOG", tmp_path / "kmsg")
    return tmp_path / "kmsg"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a folder for configuration files."""
    folder = tmp_path / "etc"
    folder.mkdir()
    return folder


def test_drop_in_replaces_the_addresses_of_the_unit() -> None:
    """The empty ListenStream= forgets those of the template; the source is told."""
    assert socket_drop_in({"listen": "127.0.0.1:8000"}, source=SOURCE) == (
        "# From /etc/sdcluster/shop.toml\n"
        "[Unit]\n"
        "SourcePath=/etc/sdcluster/shop.toml\n"
        "\n"
        "[Socket]\n"
        "ListenStream=\n"
        "ListenStream=127.0.0.1:8000\n"
    )


def test_file_without_an_address_needs_no_drop_in() -> None:
    """The master binds by itself, or a socket unit was written by hand."""
    assert socket_drop_in({"app": "shop:app"}, source=SOURCE) == ""
    assert socket_drop_in({"listen": []}, source=SOURCE) == ""


def test_several_addresses_are_several_lines() -> None:
    """Of every family."""
    assert streams(listen=["[::1]:80", 8080, "/run/shop.sock", "@shop"])[1:] == [
        "ListenStream=[::1]:80",
        "ListenStream=8080",
        "ListenStream=/run/shop.sock",
        "ListenStream=@shop",
    ]


def test_name_of_the_first_address_is_that_of_all() -> None:
    """A socket unit has one FileDescriptorName=."""
    assert streams(listen={"http": 80, "admin": 81})[1:] == [
        "ListenStream=80",
        "ListenStream=81",
        "FileDescriptorName=http",
    ]


def test_each_slot_has_a_socket_of_its_own_with_reuseport() -> None:
    """The same address as often as there are workers; a Unix socket knows no such thing."""
    lines = streams(listen=["80", "/run/shop.sock"], scheduling="reuseport", workers=3)
    assert lines == [
        "ListenStream=",
        "ReusePort=yes",
        "ListenStream=80",
        "ListenStream=80",
        "ListenStream=80",
        "ListenStream=/run/shop.sock",
    ]


@pytest.mark.parametrize("workers", [{}, {"workers": "max"}])
def test_reuseport_counts_the_cpus_when_the_workers_are_not_counted(
    monkeypatch: pytest.MonkeyPatch, workers: dict[str, object]
) -> None:
    """As many as the service would start."""
    monkeypatch.setattr(cpus, "usable", lambda: 2)
    lines = streams(listen="80", scheduling="reuseport", **workers)
    assert lines.count("ListenStream=80") == 2


@pytest.mark.parametrize("scheduling", ["shared", "round-robin"])
def test_other_schedulings_share_one_socket(scheduling: str) -> None:
    """However many workers there are."""
    assert streams(listen="80", scheduling=scheduling, workers=3)[1:] == ["ListenStream=80"]


@pytest.mark.parametrize("workers", [0, 1025, True, "many", 1.5])
def test_reuseport_with_a_wrong_number_of_workers_is_refused(workers: object) -> None:
    """Better no socket than thousands."""
    with pytest.raises(ValueError, match="is not a number of workers"):
        streams(listen="80", scheduling="reuseport", workers=workers)


def test_files_become_drop_ins_for_both_units(tmp_path: Path, folder: Path) -> None:
    """The service requires its socket, and knows its name."""
    (folder / "shop.toml").write_text("app = 'shop:app'\nlisten = 80\n")
    (folder / "quiet.toml").write_text("app = 'quiet:app'\n")
    (folder / "notes.txt").write_text("listen = 81\n")
    out = tmp_path / "out"
    assert main([str(out), "early", "late"], folder) == 0
    written = {str(path.relative_to(out)): path.read_text() for path in out.rglob("*.conf")}
    assert set(written) == {
        "sdcluster@shop.socket.d/50-listen.conf",
        "sdcluster@shop.service.d/50-socket.conf",
    }
    assert "ListenStream=80\n" in written["sdcluster@shop.socket.d/50-listen.conf"]
    assert written["sdcluster@shop.service.d/50-socket.conf"] == (
        "[Unit]\nRequires=sdcluster@shop.socket\nAfter=sdcluster@shop.socket\n\n"
        "[Service]\nSockets=sdcluster@shop.socket\n"
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.toml", b"listen = \n"),
        ("a.toml", b"\xff\xfe"),
        ("a.toml", b"listen = 'shop:80'\n"),
        ("a.toml", b"listen = " + b"[" * 5000),
        ("a.toml", b"listen = { 'a\\nExecStart' = 80 }\n".replace(b"'", b'"')),
        ("a" * 250 + ".toml", b"listen = 80\n"),
        ("a b.toml", b"listen = 80\n"),
        ("a\nb.toml", b"listen = 80\n"),
    ],
    ids=["syntax", "encoding", "address", "nesting", "name", "long", "space", "newline"],
)
def test_broken_file_harms_no_other(
    tmp_path: Path, folder: Path, log: Path, name: str, content: bytes
) -> None:
    """It is told in the kernel log, yields nothing, and the next one has its turn."""
    (folder / name).write_bytes(content)
    (folder / "shop.toml").write_text("listen = 80\n")
    out = tmp_path / "out"
    assert main([str(out)], folder) == 0
    assert {path.parent.name for path in out.rglob("*.conf")} == {
        "sdcluster@shop.socket.d",
        "sdcluster@shop.service.d",
    }
    assert log.read_text().startswith(f"<4>sdcluster-generator: {folder}/a")


def test_file_that_cannot_be_read_harms_no_other(tmp_path: Path, folder: Path, log: Path) -> None:
    """A link to nowhere is a file for the glob."""
    (folder / "a.toml").symlink_to("nowhere")
    assert main([str(tmp_path)], folder) == 0
    assert "No such file" in log.read_text()


def test_fifo_does_not_hold_up_the_boot(tmp_path: Path, folder: Path, log: Path) -> None:
    """Nobody writes to it; systemd waits for its generators."""
    os.mkfifo(folder / "a.toml")
    with at_once():
        assert main([str(tmp_path)], folder) == 0
    assert f"{folder}/a.toml: is a FIFO, not a file" in log.read_text()


def test_container_without_a_kernel_log_is_no_error(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the service says what is wrong with the file."""
    monkeypatch.setattr(generator, "KERNEL_LOG", tmp_path / "none" / "kmsg")
    (folder / "a.toml").write_text("listen")
    assert main([str(tmp_path)], folder) == 0


def test_missing_folder_is_nothing_to_do(tmp_path: Path) -> None:
    """The package may be installed and no app configured."""
    assert main([str(tmp_path)], tmp_path / "none") == 0


def test_generator_without_arguments_tells_how_it_is_called(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Somebody has started it by hand."""
    assert main([]) == 64
    assert "usage" in capsys.readouterr().err


def test_configurations_of_a_user_are_for_the_users_manager(
    tmp_path: Path,
    folder: Path,
    log: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """SYSTEMD_SCOPE tells whose generator it is; a user's has its log on the standard error."""
    monkeypatch.setenv("SYSTEMD_SCOPE", "user")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))
    (folder / "sdcluster").mkdir()
    (folder / "sdcluster" / "shop.toml").write_text('listen = "127.0.0.1:8000"\n')
    (folder / "sdcluster" / "bad.toml").write_text("listen =\n")
    assert main([str(tmp_path / "out")]) == 0
    sockets = [path.parent.name for path in (tmp_path / "out").glob("*/50-listen.conf")]
    assert sockets == ["sdcluster@shop.socket.d"]
    assert "bad.toml: " in capsys.readouterr().err
    assert not log.exists()

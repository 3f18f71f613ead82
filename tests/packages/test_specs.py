"""What the builder reads from a spec and from the host, and the archive that it makes."""

import os
import subprocess
import tarfile
from pathlib import Path

import pytest
import roots
import rpms
import sources
from checkouts import CHECKOUT
from transaction import Scriptlet, scriptlets


def test_the_version_and_the_time_are_the_specs() -> None:
    """The time is the first second of the day of the newest entry."""
    spec = "Name: x\nVersion:   1.2.3\n\n%changelog\n* Tue Nov 24 2026 A <a@b> - 1.2.3-1\n- One.\n"
    assert rpms.version_of(spec) == "1.2.3"
    assert rpms.time_of(spec) == 1795478400
    with pytest.raises(roots.RootError, match="no version"):
        rpms.version_of("Name: x\n")
    with pytest.raises(roots.RootError, match="no changelog"):
        rpms.time_of("Name: x\n")


@pytest.mark.parametrize(
    ("text", "own"),
    [
        ("NAME=Fedora\nID=fedora\n", True),
        ('ID="opensuse-tumbleweed"\nID_LIKE="opensuse suse"\n', True),
        ('ID="rocky"\nID_LIKE="rhel centos fedora"\n', True),
        ("ID=debian\n", False),
        ('ID=ubuntu\nID_LIKE=debian\nHOME_URL="https://fedora.example"\n', False),
    ],
)
def test_macros_are_there_on_fedora_and_opensuse(text: str, own: bool) -> None:
    """And on what says that it is like them."""
    assert rpms.has_own_macros(text) is own


def test_an_archive_depends_on_names_contents_and_modes_alone(tmp_path: Path) -> None:
    """Not on ages, owners or the rest of the modes; a link stays one."""
    archives = []
    for name, mode, age in (("one", 0o600, 1_000_000_000), ("two", 0o664, 1_500_000_000)):
        folder = tmp_path / name
        (folder / "sub").mkdir(parents=True)
        (folder / "sub" / "file").write_text("text")
        (folder / "sub" / "file").chmod(mode)
        (folder / "run").write_text("#!/bin/sh\n")
        (folder / "run").chmod(mode | 0o100)
        (folder / "link").symlink_to("run")
        for path in folder.rglob("*"):
            os.utime(path, (age, age), follow_symlinks=False)
        archives.append(tmp_path / f"{name}.tar.gz")
        sources.archive(folder, archives[-1], name="x-1", time_s=1_700_000_000)
    assert archives[0].read_bytes() == archives[1].read_bytes()
    with tarfile.open(archives[0]) as tar:
        assert {one.name: oct(one.mode) for one in tar if one.isfile()} == {
            "x-1/run": "0o755",
            "x-1/sub/file": "0o644",
        }
        assert tar.getmember("x-1/link").linkname == "run"
    (tmp_path / "one" / "sub" / "file").write_text("next")
    sources.archive(tmp_path / "one", archives[0], name="x-1", time_s=1_700_000_000)
    assert archives[0].read_bytes() != archives[1].read_bytes()


def test_a_copy_has_all_that_git_has(tmp_path: Path) -> None:
    """What is left out is none of the project's files."""
    listed = subprocess.run(
        ["git", "ls-files"], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    if listed.returncode != 0:
        pytest.skip("this is no git checkout")
    copied = tmp_path / "copy"
    sources.copy(CHECKOUT, copied)
    missing = [name for name in listed.stdout.splitlines() if not (copied / name).exists()]
    assert missing == []


def test_a_transaction_is_read_from_what_rpm_tells() -> None:
    """The scriptlets in their order, each with the commands of its shell."""
    output = (
        "D: %pre(a-1-1.noarch): scriptlet start\n"
        "D: %pre(a-1-1.noarch): execv(/bin/sh) pid 7\n"
        "+ systemd-sysusers -\n"
        "D: %pre(a-1-1.noarch): waitpid(7) rc 7 status 0\n"
        "D: adding 1 entries to Name index.\n"
        "D: %post(a-1-1.noarch): scriptlet start\n"
        "D: %post(a-1-1.noarch): waitpid(8) rc 8 status 0\n"
    )
    assert scriptlets(output) == [
        Scriptlet("%pre", "a-1-1", ("systemd-sysusers -",)),
        Scriptlet("%post", "a-1-1"),
    ]

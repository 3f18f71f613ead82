"""`rpm --root` on a root that is not booted: what is installed, upgraded and removed."""

import subprocess
from pathlib import Path

import pytest
import roots
import rpms
from checkouts import OLDER
from rpms import Rpms

import sdcluster


def version_in(root: Path) -> str:
    """Return what the command in the root says of itself."""
    done = subprocess.run(
        ["chroot", root, "sdcluster", "--version"], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def files_in(root: Path) -> set[str]:
    """Return the files and folders whose names tell that they are of the package."""
    folders = ("etc", "usr", "var/lib")
    found = (path for folder in folders for path in (root / folder).rglob("*sdcluster*"))
    return {str(path.relative_to(root)) for path in found}


def test_the_package_is_installed_as_it_was_built(root: Path, built: Rpms) -> None:
    """All files are as recorded, the user is there, and nothing is enabled."""
    rpms.rpm(root, "-i", "--nodeps", files=[built.binary])
    assert rpms.rpm(root, "-V", "--nodeps", "sdcluster") == ""
    assert version_in(root) == f"sdcluster {sdcluster.__version__}"
    assert "sdcluster:x:" in (root / "etc/passwd").read_text()
    assert (root / "var/lib/systemd/catalog/database").read_bytes().find(b"Enough workers") > 0
    assert list((root / "etc/systemd/system").rglob("sdcluster@*")) == []


def test_a_preset_is_asked_at_the_first_installation_alone(
    root: Path, older: Path, built: Rpms
) -> None:
    """What the administrator disables after it stays disabled over an upgrade."""
    preset = root / "etc/systemd/system-preset/10-site.preset"
    preset.parent.mkdir(exist_ok=True)
    preset.write_text("enable sdcluster@.service hello\n")
    link = root / "etc/systemd/system/multi-user.target.wants/sdcluster@hello.service"
    rpms.rpm(root, "-i", "--nodeps", files=[older])
    assert link.is_symlink()
    link.unlink()
    rpms.rpm(root, "-U", "--nodeps", files=[built.binary])
    assert not link.is_symlink()


def test_an_upgrade_leaves_nothing_of_the_older_version(
    root: Path, older: Path, built: Rpms
) -> None:
    """And keeps what the administrator has enabled and written."""
    rpms.rpm(root, "-i", "--nodeps", files=[older])
    assert version_in(root) == f"sdcluster {OLDER}"
    subprocess.run(["chroot", root, "systemctl", "enable", "sdcluster@hello"], check=True)
    (root / "etc/sdcluster/hello.toml").write_text('app = "hello:app"\n')
    rpms.rpm(root, "-U", "--nodeps", files=[built.binary])
    assert version_in(root) == f"sdcluster {sdcluster.__version__}"
    assert not [path for path in files_in(root) if OLDER in path]
    assert rpms.rpm(root, "-V", "--nodeps", "sdcluster") == ""
    assert (root / "etc/sdcluster/hello.toml").read_text() == 'app = "hello:app"\n'
    link = root / "etc/systemd/system/multi-user.target.wants/sdcluster@hello.service"
    assert link.is_symlink()


def test_a_downgrade_is_refused(root: Path, older: Path, built: Rpms) -> None:
    """The lower version is really the lower one to rpm."""
    rpms.rpm(root, "-i", "--nodeps", files=[built.binary])
    with pytest.raises(roots.RootError, match="which is newer than"):
        rpms.rpm(root, "-U", "--nodeps", files=[older])


def test_a_removal_leaves_the_administrators_files_alone(root: Path, built: Rpms) -> None:
    """No file of the package's and no enabled link; the configuration is as it was."""
    before = files_in(root)
    rpms.rpm(root, "-i", "--nodeps", files=[built.binary])
    for unit in ("sdcluster@hello.service", "sdcluster@hello.socket"):
        subprocess.run(["chroot", root, "systemctl", "enable", unit], check=True)
    subprocess.run(["chroot", root, "systemctl", "--global", "enable", unit], check=True)
    assert len(list((root / "etc/systemd/user").rglob("sdcluster@hello*"))) == 1
    (root / "etc/sdcluster/hello.toml").write_text('app = "hello:app"\n')
    rpms.rpm(root, "-e", "sdcluster")
    assert files_in(root) - before == {"etc/sdcluster"}
    assert (root / "etc/sdcluster/hello.toml").read_text() == 'app = "hello:app"\n'


def test_a_removal_without_configuration_leaves_nothing(root: Path, built: Rpms) -> None:
    """Its folder goes too, when there is nothing in it."""
    before = files_in(root)
    rpms.rpm(root, "-i", "--nodeps", files=[built.binary])
    assert files_in(root) > before
    rpms.rpm(root, "-e", "sdcluster")
    assert files_in(root) == before

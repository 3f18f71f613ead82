"""`packaging/build-rpm` in roots that say they are Fedora or openSUSE: it uses what is there.

Of Fedora, the root has the macros that packaging/rpm/macros writes anew. Of openSUSE, it has those
and some that only tell that they were called.
"""

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import rpms
import sources
from checkouts import CHECKOUT
from rpms import Rpms

PROVIDER = """\
Name: provider
Version: 1
Release: 1
Summary: What sdcluster.spec builds with, by name
License: MIT
BuildArch: noarch
Provides: {provides}
%description
%files
"""
SUSE_MACROS = """\
%suse_version 1600
%pyproject_save_files() %{error:Fedora's}
%systemd_post() %{error:Fedora's}
%sysusers_requires Requires(pre): sysuser-shadow
%sysusers_generate_pre() echo "made-of $(basename %1) %3" > %2.pre
%service_add_pre() add-pre %{*}
%service_add_post() add-post %{*}
%service_del_preun() del-preun %{*}
%service_del_postun_without_restart() del-postun %{*}
%systemd_user_pre() user-pre %{*}
%systemd_user_post() user-post %{*}
%systemd_user_preun() user-preun %{*}
%systemd_user_postun() user-postun %{*}
"""
SUSE_SCRIPTLETS = {
    "PREIN": "add-pre {units}\nuser-pre {units}\nmade-of sdcluster.conf sdcluster.conf",
    "POSTIN": "add-post {units}\nuser-post {units}",
    "PREUN": "del-preun {units}\nuser-preun {units}",
    "POSTUN": "del-postun {units}\nuser-postun {units}",
}
UNITS = "sdcluster@.service sdcluster@.socket"


@dataclass(frozen=True, slots=True)
class Distribution:
    """What a root says that it is, its macros, and the packages that the build wants."""

    os_release: str
    macros: str
    provides: tuple[str, ...]


FEDORA = Distribution(
    os_release='NAME="Fedora Linux"\nID=fedora\n',
    macros="",
    provides=("python3-devel", "python3-setuptools = 70", "systemd-rpm-macros"),
)
OPENSUSE = Distribution(
    os_release='NAME="openSUSE Tumbleweed"\nID="opensuse-tumbleweed"\nID_LIKE="opensuse suse"\n',
    macros=SUSE_MACROS,
    provides=(
        "python-rpm-macros",
        "python3-pip",
        "python3-setuptools = 70",
        "python3-wheel",
        "systemd-rpm-macros",
        "sysuser-tools",
    ),
)


@contextlib.contextmanager
def root_of(distribution: Distribution) -> Iterator[Path]:
    """Mount a root that says it is one, with the checkout in it."""
    with rpms.tools() as merged:
        (merged / "etc/os-release").unlink()
        (merged / "etc/os-release").write_text(distribution.os_release)
        (merged / "etc/rpm").mkdir(exist_ok=True)
        shutil.copy(CHECKOUT / "packaging/rpm/macros", merged / "etc/rpm/macros.fedora")
        (merged / "etc/rpm/macros").write_text(distribution.macros)
        sources.copy(CHECKOUT, merged / "checkout")
        yield merged


def run(root: Path, *command: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
    """Run a command in the root."""
    done = subprocess.run(
        ["chroot", root, *command],
        capture_output=True,
        text=True,
        check=False,
        env={"HOME": "/root", "PATH": "/usr/sbin:/usr/bin", "LC_ALL": "C.UTF-8"},
    )
    assert done.returncode == 0 or not check, done.stderr
    return done


def build(root: Path, distribution: Distribution) -> Rpms:
    """Install what provides the names that the build wants, and build there."""
    provides = ", ".join(distribution.provides)
    (root / "root/provider.spec").write_text(PROVIDER.format(provides=provides))
    run(root, "rpmbuild", "-bb", "/root/provider.spec")
    (provider,) = (root / "root/rpmbuild/RPMS/noarch").glob("*.rpm")
    file = f"/root/rpmbuild/RPMS/noarch/{provider.name}"
    run(root, "rpm", "-i", "--nodeps", "--force-debian", file)
    printed = run(root, "/checkout/packaging/build-rpm", "/dist").stdout.splitlines()
    source, binary = (root / line.lstrip("/") for line in printed)
    return Rpms(source, binary)


@pytest.mark.parametrize("distribution", [FEDORA, OPENSUSE], ids=["fedora", "opensuse"])
def test_what_the_build_lacks_is_named(distribution: Distribution) -> None:
    """All of it, with the commands that install it."""
    with root_of(distribution) as root:
        done = run(root, "/checkout/packaging/build-rpm", "/dist", check=False)
        assert done.returncode == 1
        lacking = [line.split()[0] for line in done.stderr.splitlines() if " needed by " in line]
        assert sorted(lacking) == [name.split()[0] for name in sorted(distribution.provides)]
        assert "dnf builddep" in done.stderr
        assert not list((root / "dist").glob("*"))


def test_fedoras_package_is_the_one_that_debian_builds(built: Rpms) -> None:
    """Byte for byte, as the macros are the same here."""
    with root_of(FEDORA) as root:
        fedoras = build(root, FEDORA)
        assert fedoras.source.name == built.source.name
        assert fedoras.binary.read_bytes() == built.binary.read_bytes()


def test_opensuses_package_has_the_same_files_and_its_own_scriptlets(built: Rpms) -> None:
    """They call what openSUSE has for units and users, and for nothing to be restarted."""
    with root_of(OPENSUSE) as root:
        name = build(root, OPENSUSE).binary.name
        shutil.copy(built.binary, root / "root/fedoras.rpm")
        query = ("rpm", "-qp", "--queryformat")
        listed = (*query, "[%{FILEMODES:perms} %{FILENAMES}\n]")
        own = run(root, *listed, f"/dist/{name}").stdout
        assert own == run(root, *listed, "/root/fedoras.rpm").stdout
        for tag, text in SUSE_SCRIPTLETS.items():
            scriptlet = run(root, *query, f"%{{{tag}}}", f"/dist/{name}").stdout
            assert scriptlet.strip().endswith(text.format(units=UNITS)), scriptlet
        assert "sysuser-shadow" in run(root, "rpm", "-qp", "--requires", f"/dist/{name}").stdout

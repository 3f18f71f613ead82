"""The packages as they are built: what is in them, what rpmlint says, the same bytes each time."""

import fnmatch
import re
import subprocess
import tomllib
from pathlib import Path

import checkouts
import deb as deb_package
import pytest
import rpms
from checkouts import CHECKOUT, SPEC
from rpms import Rpms

import sdcluster

IN_THE_RPM_ALONE = {
    "/usr/lib/python3/dist-packages/sdcluster/*.pyc": "the .deb is compiled when it is installed",
    "/usr/lib/python3/dist-packages/sdcluster-*.dist-info/LICENSE": "dh_python3 takes it out",
    "/usr/lib/python3/dist-packages/sdcluster-*.dist-info/INSTALLER": "it names rpm",
    "/usr/share/licenses/sdcluster/LICENSE": "%license has a folder of its own",
    "/usr/share/doc/sdcluster/README.md": "%doc; only Debian compresses it",
    "/usr/share/doc/sdcluster/CHANGELOG.md": "%doc",
}
"""Files, with the reason that the .deb does without."""
IN_THE_DEB_ALONE = {
    "/usr/share/doc/sdcluster/README.md.gz": "compressed by Debian's policy",
    "/usr/share/doc/sdcluster/changelog.gz": "Debian's policy; rpm has the changelog in its header",
    "/usr/lib/python3/dist-packages/sdcluster-*.dist-info/RECORD": "Fedora takes it out",
    "/usr/share/doc/sdcluster/copyright": "Debian's policy; rpm has %license",
}
NOT_IN_BOOKWORM = {"python3-a2wsgi": "packaged from trixie on, so the .deb recommends it"}

RENAMED = {"systemd-python": "systemd"}


def files_of_the_rpm(rpm: Path) -> dict[str, str]:
    """Return the mode of each file."""
    lines = query(rpm, "--queryformat", "[%{FILEMODES:perms} %{FILENAMES}\n]").splitlines()
    return {path: mode for mode, path in (line.split(maxsplit=1) for line in lines)}


def files_of_the_deb(deb: Path) -> dict[str, str]:
    """Return the mode of each file; folders that only lead to others are left out."""
    done = subprocess.run(
        ["dpkg-deb", "--contents", deb], capture_output=True, text=True, check=True
    )
    found = {}
    for line in done.stdout.splitlines():
        mode, _, _, _, _, path = line.split(maxsplit=5)
        path = re.sub(r"^\.(/lib/)?", lambda match: "/usr/lib/" if match[1] else "", path)
        found[path.rstrip("/")] = mode
    names = list(found)
    leading = {one for one in names if any(other.startswith(f"{one}/") for other in names)}
    return {path: mode for path, mode in found.items() if path not in leading}


def query(rpm: Path, *options: str) -> str:
    """Ask rpm about a package file."""
    with rpms.tools() as merged:
        (merged / "root" / rpm.name).write_bytes(rpm.read_bytes())
        done = subprocess.run(
            ["chroot", merged, "rpm", "-qp", *options, f"/root/{rpm.name}"],
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout


def allowed(path: str, names: dict[str, str]) -> bool:
    """Tell whether a file is one of the named differences."""
    return any(fnmatch.fnmatch(path, name) for name in names)


def test_the_rpm_has_the_files_of_the_deb(built: Rpms, deb: Path) -> None:
    """But for differences that are named with their reason; and each of these is one."""
    in_rpm, in_deb = files_of_the_rpm(built.binary), files_of_the_deb(deb)
    leading = {one for one in in_rpm if any(other.startswith(f"{one}/") for other in in_rpm)}
    in_rpm = {path: mode for path, mode in in_rpm.items() if path not in leading}
    assert in_rpm["/etc/sdcluster"] == in_deb["/etc/sdcluster"] == "drwxr-xr-x"
    only_rpm, only_deb = set(in_rpm) - set(in_deb), set(in_deb) - set(in_rpm)
    assert [path for path in only_rpm if not allowed(path, IN_THE_RPM_ALONE)] == []
    assert [path for path in only_deb if not allowed(path, IN_THE_DEB_ALONE)] == []
    for name in IN_THE_RPM_ALONE:
        assert any(fnmatch.fnmatch(path, name) for path in only_rpm), f"{name} is no difference"
    for name in IN_THE_DEB_ALONE:
        assert any(fnmatch.fnmatch(path, name) for path in only_deb), f"{name} is no difference"
    both = set(in_rpm) & set(in_deb)
    assert {path: in_rpm[path] for path in both} == {path: in_deb[path] for path in both}


def test_each_python_file_is_compiled_at_both_levels(built: Rpms) -> None:
    """As Fedora does: root's Python would write what is missing, and a removal leave it."""
    files = set(files_of_the_rpm(built.binary))
    python = [Path(one) for one in files if re.search(r"dist-packages/.*\.py$", one)]
    assert python
    for file in python:
        for level in ("", ".opt-1"):
            name = f"{file.stem}.cpython-311{level}.pyc"
            assert str(file.parent / "__pycache__" / name) in files


def test_rpmlint_has_nothing_to_say(built: Rpms) -> None:
    """Of both packages and the spec; a filter that is used no more would be an error."""
    done = rpms.lint(built, CHECKOUT)
    assert "2 packages and 1 specfiles checked; 0 errors, 0 warnings" in done.stdout, done.stdout
    assert done.returncode == 0


def test_versions_agree() -> None:
    """The module, the spec with its changelog, and Debian's changelog are of one version."""
    debian = (CHECKOUT / "packaging/debian/changelog").read_text()
    assert rpms.version_of(SPEC) == sdcluster.__version__
    assert f"- {sdcluster.__version__}-1\n" in SPEC
    assert debian.startswith(f"sdcluster ({sdcluster.__version__}) ")


def test_dependencies_are_those_of_pyproject(built: Rpms) -> None:
    """With the same floors; what is optional there is recommended or suggested."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    required = {one for one in query(built.binary, "--requires").splitlines() if "python3-" in one}
    assert required == {in_rpm(one) for one in project["dependencies"]}
    optional = project["optional-dependencies"]
    recommended = set(query(built.binary, "--recommends").splitlines())
    assert recommended == {in_rpm(one) for one in optional["fast"]}
    assert {in_rpm(one) for one in optional["redis"]} < set(
        query(built.binary, "--suggests").splitlines()
    )


def in_rpm(requirement: str) -> str:
    """Return the rpm's words for a requirement of pyproject.toml: its names follow PyPI's."""
    name, floor = requirement.split(">=")
    return f"python3-{RENAMED.get(name, name)} >= {floor}"


def test_dependencies_are_those_of_the_deb(built: Rpms) -> None:
    """By the same names, but for those that Debian 12 has not."""
    control = (CHECKOUT / "packaging/debian/control").read_text()
    depends = control.partition("\nDepends:")[2].partition("\nRecommends:")[0]
    debian = set(re.findall(r"python3-\w+", depends)) | set(NOT_IN_BOOKWORM)
    assert debian == set(re.findall(r"python3-\w+", query(built.binary, "--requires")))


def test_each_dependency_names_its_source() -> None:
    """In the comment above it; one comment may be for several that follow each other."""
    comment = before = ""
    for line in SPEC.partition("%description")[0].splitlines():
        if line.startswith("#"):
            comment = comment + line if before.startswith("#") else line
        elif re.match(r"(BuildRequires|Requires|Recommends|Suggests):", line):
            assert "Source" in comment, line
        elif not line.startswith("%"):
            comment = ""
        before = line


@pytest.mark.parametrize(
    ("distribution", "wanted", "unwanted"),
    [
        ([], ("%files -f", "%pyproject_save_files", "%systemd_post "), ("%service_",)),
        (
            ["--define", "suse_version 1600"],
            (
                "%service_add_pre sdcluster@.service sdcluster@.socket",
                "%service_add_post sdcluster@.service sdcluster@.socket",
                "%service_del_preun sdcluster@.service sdcluster@.socket",
                "%service_del_postun_without_restart sdcluster@.service sdcluster@.socket",
                "%sysusers_generate_pre",
                "/site/sdcluster-",
                "BuildRequires:  python-rpm-macros",
                "BuildRequires:  sysuser-tools",
            ),
            ("%pyproject_save_files", "%systemd_post ", "python3-devel", "%generate_buildrequires"),
        ),
    ],
    ids=["fedora", "opensuse"],
)
def test_the_spec_is_read_for_both_distributions(
    distribution: list[str], wanted: tuple[str, ...], unwanted: tuple[str, ...]
) -> None:
    """Each side of the conditionals is taken there; macros that are not here stay as they are."""
    with rpms.tools() as merged:
        folder = merged / "root"
        (folder / "sdcluster.spec").write_text(SPEC)
        (folder / "sdcluster.conf").write_text((CHECKOUT / "units/sdcluster.conf").read_text())
        defined = ["--define", "_sourcedir /root", "--define", "python3_sitelib /site"]
        done = subprocess.run(
            ["chroot", merged, "rpmspec", "-P", *defined, *distribution, "/root/sdcluster.spec"],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    for text in wanted:
        assert text in done.stdout
    for text in unwanted:
        assert text not in done.stdout


def test_the_rpms_are_reproducible(built: Rpms, tmp_path: Path) -> None:
    """A checkout in another folder, of another age, built elsewhere, gives the same bytes."""
    aged = checkouts.make_aged(tmp_path / "checkout")
    again = rpms.build(aged, tmp_path / "out", at="/srv/elsewhere")
    assert again.binary.read_bytes() == built.binary.read_bytes()
    # rpm records in the source package where it was built.
    assert again.source.read_bytes() != built.source.read_bytes()
    source = rpms.build_source(aged, tmp_path / "source")
    assert source.read_bytes() == built.source.read_bytes()


def test_the_deb_is_reproducible(deb: Path, tmp_path: Path) -> None:
    """A checkout in another folder, of another age, built elsewhere, gives the same bytes."""
    aged = checkouts.make_aged(tmp_path / "checkout")
    again = deb_package.build(aged, tmp_path / "out", at="/srv/elsewhere")
    assert again.read_bytes() == deb.read_bytes()


def test_other_sources_give_other_bytes(built: Rpms, older: Path) -> None:
    """So that the comparison above compares something."""
    assert older.read_bytes() != built.binary.read_bytes()

"""How many CPUs may be used."""

from pathlib import Path

import pytest

from sdcluster.config import cpus


def write(root: Path, files: dict[str, str]) -> None:
    """Write the files of a fake /sys/fs/cgroup."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("150000 100000\n", 1.5),
        ("max 100000\n", None),
        ("-1 100000", None),
        ("100000 0", None),
        ("100000", None),
        ("", None),
        ("a b", None),
    ],
)
def test_quota_is_read(text: str, expected: float | None) -> None:
    """Microseconds in a period, in CPUs; what says no limit or nothing at all is None."""
    assert cpus.parse_quota(text) == expected


def test_quota_of_the_unified_hierarchy_is_the_smallest_on_the_way_up(tmp_path: Path) -> None:
    """A slice above the service may allow less than the service itself."""
    write(
        tmp_path,
        {
            "system.slice/shop.service/cpu.max": "400000 100000",
            "system.slice/cpu.max": "250000 100000",
            "cpu.max": "max 100000",
        },
    )
    assert cpus.cgroup_quota(tmp_path, "0::/system.slice/shop.service\n") == 2.5


def test_quota_of_the_cpu_controller_is_in_two_files(tmp_path: Path) -> None:
    """The old hierarchy, as containers on old machines have it."""
    write(
        tmp_path,
        {
            "cpu/box/cpu.cfs_quota_us": "50000\n",
            "cpu/box/cpu.cfs_period_us": "100000\n",
            "cpu/cpu.cfs_quota_us": "-1\n",
            "cpu/cpu.cfs_period_us": "100000\n",
            "memory/box/cpu.max": "10000 100000",
        },
    )
    groups = "5:memory:/box\n4:cpu,cpuacct:/box\n1:name=systemd:/box\n"
    assert cpus.cgroup_quota(tmp_path, groups) == 0.5


def test_quota_of_a_container_is_at_the_root_that_it_sees(tmp_path: Path) -> None:
    """In a cgroup namespace the path is /, or begins with .. ."""
    write(tmp_path, {"cpu.max": "300000 100000"})
    assert cpus.cgroup_quota(tmp_path, "0::/\n") == 3.0


@pytest.mark.parametrize("groups", ["", "0::/nowhere\n", "rubbish\n", "7:pids:/box\n"])
def test_there_is_no_quota_where_no_file_tells_one(tmp_path: Path, groups: str) -> None:
    """None, and no error: a machine without cgroups has CPUs as well."""
    assert cpus.cgroup_quota(tmp_path, groups) is None


@pytest.mark.parametrize(
    ("affinity", "quota", "expected"),
    [
        (8, None, 8),
        (8, "150000 100000", 2),
        (8, "10000 100000", 1),
        (2, "800000 100000", 2),
    ],
)
def test_usable_cpus_are_the_affinity_capped_by_the_quota(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    affinity: int,
    quota: str | None,
    expected: int,
) -> None:
    """A part of a CPU counts as one."""
    if quota is not None:
        write(tmp_path, {"cpu.max": quota})
    (tmp_path / "cgroup").write_text("0::/\n")
    monkeypatch.setattr(cpus, "CGROUP_ROOT", tmp_path)
    monkeypatch.setattr(cpus, "OWN_GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(affinity)))
    assert cpus.usable() == expected


def test_usable_cpus_are_the_affinity_where_proc_tells_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """/proc may be hidden."""
    monkeypatch.setattr(cpus, "OWN_GROUPS", tmp_path / "none")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2})
    assert cpus.usable() == 3

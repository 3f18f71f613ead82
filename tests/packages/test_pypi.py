"""What is uploaded to PyPI: the source distribution and the wheel."""

import subprocess
import sys
import zipfile
from pathlib import Path

import deb as deb_package
import pytest
import sources
from checkouts import CHECKOUT


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return both, built of a copy of the checkout: the wheel from the source distribution."""
    folder = tmp_path_factory.mktemp("pypi")
    sources.copy(CHECKOUT, folder / "checkout")
    options = ("--outdir", folder, folder / "checkout")
    subprocess.run([sys.executable, "-m", "build", *options], check=True)
    (source,) = folder.glob("*.tar.gz")
    (wheel,) = folder.glob("*.whl")
    return source, wheel


def test_distributions_are_what_pypi_takes(distributions: tuple[Path, Path]) -> None:
    """Their metadata are whole, and the description is rendered: twine check."""
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *distributions], check=True)


def test_wheel_has_the_package_alone(distributions: tuple[Path, Path]) -> None:
    """All modules of it, and no test."""
    _, wheel = distributions
    with zipfile.ZipFile(wheel) as archive:
        found = {Path(name) for name in archive.namelist() if ".dist-info/" not in name}
    modules = {path.relative_to(CHECKOUT) for path in (CHECKOUT / "sdcluster").rglob("*.py")}
    assert found == modules | {Path("sdcluster/py.typed")}


def test_source_distribution_builds_the_same_deb(
    distributions: tuple[Path, Path], deb: Path, tmp_path: Path
) -> None:
    """Byte for byte what the checkout builds."""
    source, _ = distributions
    subprocess.run(["tar", "-xf", source, "-C", tmp_path], check=True)
    (checkout,) = tmp_path.iterdir()
    built = deb_package.build(checkout, tmp_path / "built")
    assert built.read_bytes() == deb.read_bytes()

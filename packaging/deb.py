"""Builds the .deb in a clean Debian 12."""

import os
import shutil
from pathlib import Path

import roots


def build(checkout: Path, destination: Path) -> Path:
    """Build the .deb of a checkout and return its path in `destination`. Raises `RootError`."""
    roots.prepare_host()
    lower, layer = roots.build_layer()
    destination.mkdir(parents=True, exist_ok=True)
    with roots.overlay([layer, lower]) as merged:
        source = merged / "build" / "sdcluster"
        ignore = shutil.ignore_patterns(".git", "__pycache__", "*.egg-info", ".venv", ".*_cache")
        shutil.copytree(checkout, source, ignore=ignore)
        shutil.copytree(source / "packaging" / "debian", source / "debian")
        roots.say("building the .deb")
        script = "cd /build/sdcluster && dpkg-buildpackage -us -uc -b"
        roots.call("chroot", merged, "sh", "-c", script, env={**os.environ, "LC_ALL": "C.UTF-8"})
        (built,) = (merged / "build").glob("sdcluster_*.deb")
        shutil.copy(built, destination)
        return destination / built.name

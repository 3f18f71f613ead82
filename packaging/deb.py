"""Builds the .deb in a clean Debian 12."""

import os
import shutil
from pathlib import Path

import roots
import sources

AT = "/build/deb"


def build(checkout: Path, destination: Path, *, at: str = AT) -> Path:
    """Build the .deb of a checkout and return its path in `destination`. Raises `RootError`.

    `at` is where it is done in the clean root; nothing in the package depends on it.
    """
    roots.prepare_host()
    lower, layer = roots.build_layer()
    destination.mkdir(parents=True, exist_ok=True)
    with roots.overlay([layer, lower]) as merged:
        source = merged / at.lstrip("/") / "sdcluster"
        sources.copy(checkout, source)
        shutil.copytree(source / "packaging" / "debian", source / "debian")
        roots.say("building the .deb")
        script = 'cd "$0/sdcluster" && dpkg-buildpackage -us -uc -b'
        roots.call(
            "chroot", merged, "sh", "-c", script, at, env={**os.environ, "LC_ALL": "C.UTF-8"}
        )
        (built,) = source.parent.glob("sdcluster_*.deb")
        shutil.copy(built, destination)
        return destination / built.name

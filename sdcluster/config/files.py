"""Where the configuration of an instance is, by its name."""

import os
import re
from pathlib import Path

from sdcluster.errors import ConfigError

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
"""What a unit takes behind its @ without escapes, but for the colon: RUNTIME_DIRECTORY is a list of
paths with colons between, and StateDirectory= has another meaning for it, see systemd.exec(5)."""

SYSTEM_FOLDER = Path("/etc/sdcluster")
"""Where the system's configurations are."""


def config_path(name: str) -> Path:
    """Return where the configuration of an instance is. Raises `ConfigError` for a bad name.

    Users who are not root have their own, and else those of the system.
    """
    check_name(name)
    file = f"{name}.toml"
    if given := os.environ.get("SDCLUSTER_CONFIG_DIR"):
        return Path(given, file)
    own = user_folder() / file
    return own if os.geteuid() and own.exists() else SYSTEM_FOLDER / file


def user_folder() -> Path:
    """Return where a user's configurations are: below $XDG_CONFIG_HOME, or ~/.config."""
    home = os.environ.get("XDG_CONFIG_HOME") or Path(os.environ.get("HOME", "/"), ".config")
    return Path(home, "sdcluster")


def check_name(name: str) -> None:
    """Raise `ConfigError` unless an instance can be called `name`."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} is no name for an instance: ASCII letters, digits and _ . -, at most 64, "
            "without a dot or dash at the start, and no colon"
        )

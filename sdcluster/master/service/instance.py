"""What a master is to serve."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sdcluster.config.model import Config


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """What is to be served."""

    name: str
    read: Callable[[], Config]
    """Returns the config as it is now. Raises `ConfigError`."""
    file: Path | None = None
    """Where that stands, if a change of it is worth a try at once."""
    on_listening: Callable[[list[str]], None] = lambda _addresses: None
    """Is told the addresses before anything is started."""
    on_ready: Callable[[], None] = lambda: None
    """Is told when the cluster serves for the first time."""

"""Serve Python apps on every core, the systemd way.

Importing the package costs nothing and needs the standard library alone: the workers load it
inside the app's own virtualenv. The commands live in `sdcluster.cli`.
"""

__version__ = "0.1.0"

__all__ = ["__version__"]

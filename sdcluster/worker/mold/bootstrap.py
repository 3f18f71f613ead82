"""The first lines that the app's interpreter runs; the master execs this file by its path.

The app's virtualenv need not have sdcluster, and must not see what else is installed beside it.
So the package alone is made importable here, by its path. This file must parse on any Python 3.
"""

import os
import sys


def _import_package() -> None:
    """Make `sdcluster` importable from where this file is, and nothing else from there."""
    import importlib.util

    folder = os.path.dirname(os.path.abspath(__file__))
    package = os.path.dirname(os.path.dirname(folder))
    spec = importlib.util.spec_from_file_location(
        "sdcluster",
        os.path.join(package, "__init__.py"),
        submodule_search_locations=[package],
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["sdcluster"] = module
    spec.loader.exec_module(module)


def main() -> None:
    """Become the mold that listens on the channel named in the arguments."""
    if sys.version_info < (3, 11):  # noqa: UP036
        # Under systemd the prefix gives the journal entry its priority, see sd-daemon(3).
        sys.exit(
            "{}sdcluster: {} is Python {}.{}; 3.11 or newer is needed".format(
                "<3>" if "JOURNAL_STREAM" in os.environ else "",
                sys.executable,
                *sys.version_info[:2],
            )
        )
    if not sys.flags.safe_path:  # With -I and -P neither is there.
        # In place of this file's folder: the app's, as with `python -m`.
        sys.path[0] = os.getcwd()
    _import_package()
    from sdcluster.worker.mold import mold

    channel_fd, is_early = int(sys.argv[1]), "early" in sys.argv[3:]
    del sys.argv[1:]  # They mean nothing to the app, which may read them when it is imported.
    mold.main(channel_fd, is_early=is_early)


if __name__ == "__main__":
    main()

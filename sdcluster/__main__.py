"""`python -m sdcluster` is the `sdcluster` command."""

from sdcluster.cli.commands import main

if __name__ == "__main__":
    main()

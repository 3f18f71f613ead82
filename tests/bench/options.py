"""The command line of the benchmarks."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How long and how often to measure; more of it narrows the noise."""

    rounds: int
    load_s: int
    respawns: int
    idle_s: int
    attack_s: int


FULL = Effort(rounds=4, load_s=3, respawns=10, idle_s=10, attack_s=60)
QUICK = Effort(rounds=1, load_s=1, respawns=3, idle_s=3, attack_s=8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What was asked for."""

    effort: Effort
    only: tuple[str, ...]
    json: Path | None
    markdown: Path | None


def parse(arguments: Sequence[str], *, description: str | None = None) -> Options:
    """Read the command line; exits with a message when it is wrong."""
    parser = argparse.ArgumentParser(
        prog="tests/bench/run",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="short runs: an impression")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="NAME",
        help="a measure (throughput, reload, kill, respawn, memory, idle, messages, cache, "
        "get_or_set, moving, spread, slow, deaths) or the beginning of a server's name; may be "
        "repeated",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there")
    given = parser.parse_args(arguments)
    return Options(
        effort=QUICK if given.quick else FULL,
        only=tuple(given.only),
        json=given.json,
        markdown=given.markdown,
    )

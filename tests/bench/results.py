"""The samples of a run, and the numbers made of them. Pure: nothing is measured or printed here."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from measures import Sample

SDCLUSTER = "sdcluster"


@dataclass(slots=True)
class Results:
    """Samples by measure and server, one for each round; None where the server failed."""

    samples: dict[str, dict[str, list[Sample | None]]] = field(default_factory=dict)
    failures: dict[str, dict[str, list[str]]] = field(default_factory=dict)

    def add(self, measure: str, server: str, outcome: Sample | str) -> None:
        """Store a sample, or the reason why there is none."""
        samples = self.samples.setdefault(measure, {}).setdefault(server, [])
        if isinstance(outcome, str):
            samples.append(None)
            self._fail(measure, server, outcome)
        else:
            samples.append(outcome)
            for note in outcome.notes:
                self._fail(measure, server, note)

    def _fail(self, measure: str, server: str, reason: str) -> None:
        self.failures.setdefault(measure, {}).setdefault(server, []).append(reason)

    def has_failed(self, measure: str, server: str, part: str = "") -> bool:
        """Tell whether the server failed in any round, in a part whose name begins the reason."""
        reasons = self.failures.get(measure, {}).get(server, [])
        return any(reason.startswith(part) for reason in reasons)

    def servers(self, measure: str) -> Sequence[str]:
        """Return who was measured, in the order of the table."""
        return list(self.samples.get(measure, {}))

    def values(self, measure: str, server: str, figure: str) -> list[float]:
        """Return the figure of each round that has it."""
        return [
            sample.figures[figure]
            for sample in self.samples.get(measure, {}).get(server, [])
            if sample is not None and figure in sample.figures
        ]

    def median(self, measure: str, server: str, figure: str) -> float | None:
        """Return the median over the rounds, or None if there is no sample."""
        values = self.values(measure, server, figure)
        return statistics.median(values) if values else None

    def total(self, measure: str, server: str, figure: str) -> float | None:
        """Return the sum over the rounds, or None if there is no sample."""
        values = self.values(measure, server, figure)
        return sum(values) if values else None

    def ratio(self, measure: str, server: str, figure: str, *, to: str) -> float | None:
        """Return the median of the ratios of each round.

        The rounds are interleaved, so what disturbs the machine for a while disturbs both sides.
        """
        pairs = zip(
            self.samples.get(measure, {}).get(server, []),
            self.samples.get(measure, {}).get(to, []),
            strict=False,
        )
        ratios = [
            one.figures[figure] / other.figures[figure]
            for one, other in pairs
            if one and other and figure in one.figures and other.figures.get(figure)
        ]
        return statistics.median(ratios) if ratios else None

    def to_dict(self) -> dict[str, Any]:
        """Return all of it for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A target and what was reached; `met` is None when it was not measured."""

    target: str
    server: str
    reached: str
    met: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What sdcluster has to reach."""

    text: str
    measure: str
    reach: Callable[[Results, str], float | None]
    """The figure of one of our servers."""
    limit: float
    at_least: bool = False
    """The figure is to be at least, and not at most, the limit."""
    unit: str = ""
    of: str = SDCLUSTER
    """The beginning of the names of the servers that it is asked of."""

    def judge(self, results: Results, server: str) -> Verdict:
        """Compare."""
        value = self.reach(results, server)
        if value is None:
            failed = results.has_failed(self.measure, server)
            reached = "failed" if failed else "not compared"
            return Verdict(
                target=self.text, server=server, reached=reached, met=False if failed else None
            )
        met = value >= self.limit if self.at_least else value <= self.limit
        reached = f"{value:.3g}{self.unit}" if value < 1000 else f"{value:.0f}{self.unit}"
        return Verdict(target=self.text, server=server, reached=reached, met=met)


def _lost_over_reloads(results: Results, server: str) -> float | None:
    lost = [results.total("reload", server, f"{kind} lost") for kind in ("keep-alive", "close")]
    if None in lost or results.has_failed("reload", server):
        return None
    return sum(one for one in lost if one is not None)


def _beside_redis(figure: str, limit: float) -> Target:
    return Target(
        text=f"cache: {figure} ≥ {limit:g} x redis-py, unix socket",
        measure="cache",
        reach=lambda results, server: results.ratio(
            "cache", server, figure, to="redis-py, unix socket"
        ),
        limit=limit,
        at_least=True,
        unit=" x",
    )


TARGETS = (
    Target(
        text="one connection per request ≥ 1.5 x Node's round-robin",
        measure="throughput",
        reach=lambda results, server: results.ratio(
            "throughput", server, "close", to="node cluster round-robin"
        ),
        limit=1.5,
        at_least=True,
        unit=" x",
        of="sdcluster round-robin",
    ),
    Target(
        text="keep-alive ≥ 0.97 x uvicorn --workers",
        measure="throughput",
        reach=lambda results, server: results.ratio(
            "throughput", server, "keep-alive", to="uvicorn"
        ),
        limit=0.97,
        at_least=True,
        unit=" x",
    ),
    Target(
        text="lost over reloads: 0, both kinds of client",
        measure="reload",
        reach=_lost_over_reloads,
        limit=0,
    ),
    Target(
        text="SIGKILL to ready ≤ 50 ms, median",
        measure="respawn",
        reach=lambda results, server: results.median("respawn", server, "ms"),
        limit=50,
        unit=" ms",
    ),
    Target(
        text="PSS of 4 workers ≤ 0.7 x gunicorn's without preload",
        measure="memory",
        reach=lambda results, server: results.ratio(
            "memory", server, "workers", to="gunicorn uvicorn"
        ),
        limit=0.7,
        unit=" x",
    ),
    Target(
        text="the same with all other processes counted too",
        measure="memory",
        reach=lambda results, server: results.ratio(
            "memory", server, "tree", to="gunicorn uvicorn"
        ),
        limit=0.7,
        unit=" x",
    ),
    Target(
        text="master's RSS ≤ 40 MiB",
        measure="idle",
        reach=lambda results, server: results.median("idle", server, "rss"),
        limit=40,
        unit=" MiB",
    ),
    Target(
        text="master idle: ≤ 2 wake-ups a second",
        measure="idle",
        reach=lambda results, server: results.median("idle", server, "wake-ups"),
        limit=2,
        unit="/s",
    ),
    _beside_redis("get", 30),
    _beside_redis("set", 15),
    Target(
        text="get_or_set makes a value before it has ended: 0 times",
        measure="get_or_set",
        reach=lambda results, server: results.total("get_or_set", server, "early"),
        limit=0,
    ),
)


def verdicts(results: Results) -> list[Verdict]:
    """Judge every target for every server that it is asked of and that was measured."""
    return [
        target.judge(results, server)
        for target in TARGETS
        for server in results.servers(target.measure)
        if server.startswith(target.of)
    ]

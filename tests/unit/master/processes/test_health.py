"""The health of workers: figures and limits in, findings out."""

from pathlib import Path
from typing import Any

import pytest

from sdcluster.config.load import from_options
from sdcluster.master.processes.health import Figures, Limits, hung, limits, worn

NOW = 1000.0


def figures(**values: Any) -> Figures:
    """Return the figures of a worker that is well, but for `values`."""
    well: dict[str, Any] = {
        "age_s": 10.0,
        "last_beat": NOW - 0.5,
        "oldest_request": 0.0,
        "requests": 5,
        "memory_mb": 50.0,
    }
    return Figures(**{**well, **values})


def only(**values: Any) -> Limits:
    """Return limits that are off, but for `values`."""
    off: dict[str, Any] = {
        "heartbeat_timeout_s": 0.0,
        "request_timeout_s": 0.0,
        "max_requests": 0,
        "max_lifetime_s": 0.0,
        "max_memory_mb": 0,
    }
    return Limits(**{**off, **values})


@pytest.mark.parametrize(
    ("values", "limit", "expected"),
    [
        ({"last_beat": NOW - 31}, {"heartbeat_timeout_s": 30.0}, "gave no sign of life for 31.0 s"),
        ({"last_beat": NOW - 30}, {"heartbeat_timeout_s": 30.0}, ""),
        ({"last_beat": 0.0}, {"heartbeat_timeout_s": 30.0}, ""),
        ({"last_beat": NOW - 9999}, {}, ""),
        ({"oldest_request": NOW - 6}, {"request_timeout_s": 5.0}, "has had a request for 6.0 s"),
        ({"oldest_request": NOW - 5}, {"request_timeout_s": 5.0}, ""),
        ({"oldest_request": 0.0}, {"request_timeout_s": 5.0}, ""),
        ({"oldest_request": NOW - 9999}, {}, ""),
    ],
)
def test_worker_is_stuck_when_a_time_limit_is_passed(
    values: dict[str, Any], limit: dict[str, Any], expected: str
) -> None:
    """Not before, not without a limit, and not while there is nothing to measure."""
    found = hung(figures(**values), only(**limit), NOW)
    assert found.startswith(expected) and bool(found) == bool(expected)
    assert not found or next(iter(limit)) in found


@pytest.mark.parametrize(
    ("values", "limit", "expected"),
    [
        ({"requests": 1000}, {"max_requests": 1000}, "has answered 1000 requests"),
        ({"requests": 999}, {"max_requests": 1000}, ""),
        ({"requests": 10**9}, {}, ""),
        ({"age_s": 60.0}, {"max_lifetime_s": 60.0}, "has served for 60 s"),
        ({"age_s": 59.9}, {"max_lifetime_s": 60.0}, ""),
        ({"age_s": 1e9}, {}, ""),
        ({"memory_mb": 512.0}, {"max_memory_mb": 512}, "uses 512 MB"),
        ({"memory_mb": 511.9}, {"max_memory_mb": 512}, ""),
        ({"memory_mb": 1e9}, {}, ""),
    ],
)
def test_worker_is_worn_when_it_reaches_a_limit(
    values: dict[str, Any], limit: dict[str, Any], expected: str
) -> None:
    """The finding names the figure and the key."""
    found = worn(figures(**values), only(**limit))
    assert found.startswith(expected) and bool(found) == bool(expected)
    assert not found or next(iter(limit)) in found


@pytest.mark.parametrize(
    ("starved_s", "connections", "is_worn"),
    [(1.0, 63, True), (0.9, 63, False), (1.0, 64, False), (60.0, 255, False), (0.0, 0, False)],
)
def test_worker_that_leaks_descriptors_is_worn(
    starved_s: float, connections: int, is_worn: bool
) -> None:
    """But not one that has used them up for a moment, or for very many connections."""
    starved = figures(starved_s=starved_s, connections=connections, max_descriptors=256)
    assert bool(worn(starved, only())) == is_worn


def test_jitter_spreads_the_number_of_requests_only(tmp_path: Path) -> None:
    """Workers that start together do not wear out together."""
    options = {
        "app": "shop:app",
        "heartbeat_timeout_s": 20.0,
        "request_timeout_s": 10.0,
        "max_requests": 1000,
        "max_requests_jitter": 100,
        "max_lifetime_s": 60.0,
        "max_memory_mb": 512,
    }
    config = from_options(options, name="shop", directory=tmp_path)
    assert limits(config, jitter=0.0) == Limits(20.0, 10.0, 1000, 60.0, 512)
    assert limits(config, jitter=0.5).max_requests == 1050
    assert limits(config, jitter=1.0).max_requests == 1100


def test_no_limit_stays_none_with_jitter(tmp_path: Path) -> None:
    """0 is off."""
    config = from_options({"app": "shop:app"}, name="shop", directory=tmp_path)
    assert limits(config, jitter=1.0) == only(heartbeat_timeout_s=30.0)

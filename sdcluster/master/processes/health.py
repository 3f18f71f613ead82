"""Is a worker well? Pure: figures and limits in, a finding out."""

from dataclasses import dataclass

from sdcluster.config.model import Config

STARVED_S = 1.0
"""How long a worker may have no descriptors for connections: it may only have very many of them."""
LEAST_SHARE = 0.25
"""What share of its descriptors are connections then, of a worker that leaks none."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What is known of a worker; times of CLOCK_MONOTONIC in seconds, 0 when there is none."""

    age_s: float
    last_beat: float
    oldest_request: float
    requests: int
    memory_mb: float
    starved_s: float = 0.0
    """How long it has had no descriptors for connections."""
    connections: int = 0
    max_descriptors: int = 0
    """That it may have open; known of one that is starved."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a worker may do; 0 is no limit."""

    heartbeat_timeout_s: float
    request_timeout_s: float
    max_requests: int
    max_lifetime_s: float
    max_memory_mb: float


def limits(config: Config, *, jitter: float) -> Limits:
    """Return the limits for a new worker; `jitter` is a random number from 0 to 1."""
    max_requests = config.max_requests
    if max_requests:
        max_requests += round(config.max_requests_jitter * jitter)
    return Limits(
        config.heartbeat_timeout_s,
        config.request_timeout_s,
        max_requests,
        config.max_lifetime_s,
        config.max_memory_mb,
    )


def hung(figures: Figures, limits: Limits, now: float) -> str:
    """Say why the worker is stuck; empty when it is not."""
    silent_s = now - figures.last_beat
    if limits.heartbeat_timeout_s and figures.last_beat and silent_s > limits.heartbeat_timeout_s:
        return f"gave no sign of life for {silent_s:.1f} s (heartbeat_timeout_s)"
    busy_s = now - figures.oldest_request
    if limits.request_timeout_s and figures.oldest_request and busy_s > limits.request_timeout_s:
        return f"has had a request for {busy_s:.1f} s (request_timeout_s)"
    return ""


def worn(figures: Figures, limits: Limits) -> str:
    """Say why the worker is due to be recycled; empty when it is not."""
    connections, most = figures.connections, figures.max_descriptors
    if figures.starved_s >= STARVED_S and connections < LEAST_SHARE * most:
        return (
            f"has had no descriptors for connections for {figures.starved_s:.1f} s, though only "
            f"{connections} of its {most} are connections: its app leaks them"
        )
    if limits.max_requests and figures.requests >= limits.max_requests:
        return f"has answered {figures.requests} requests (max_requests)"
    if limits.max_lifetime_s and figures.age_s >= limits.max_lifetime_s:
        return f"has served for {figures.age_s:.0f} s (max_lifetime_s)"
    if limits.max_memory_mb and figures.memory_mb >= limits.max_memory_mb:
        return f"uses {figures.memory_mb:.0f} MB (max_memory_mb)"
    return ""

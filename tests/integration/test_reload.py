"""Rolling reloads: nothing is lost, and code that does not work changes nothing."""

import pytest
from conftest import HELLO, Start


@pytest.mark.parametrize("scheduling", ["round-robin", "shared", "reuseport"])
@pytest.mark.parametrize("close", [True, False], ids=["close", "keep-alive"])
def test_reload_under_load_loses_nothing(start: Start, scheduling: str, close: bool) -> None:
    """Clients of both kinds get every answer while all workers are replaced twice."""
    instance = start(HELLO, "--workers", "2", "--scheduling", scheduling)
    before = instance.worker_pids()
    with instance.under_load(close=close) as load:
        for _ in range(2):
            assert instance.reload().returncode == 0
    assert not set(before) & set(instance.worker_pids())
    assert load.requests > 100
    assert load.lost == 0, load.errors

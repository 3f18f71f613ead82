"""The article's first step: a server, and the same server on every CPU."""

import subprocess

import pytest
from conftest import CPUS, Example, Run


def ab(example: Example, requests: int) -> str:
    """Send requests, 8 at a time; return what ab says. It fails when a connection does."""
    command = ["ab", "-l", "-c", "8", "-n", str(requests), example.url]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("name", ["hello", "busy"])
def test_single_process_answers_all(run: Run, name: str) -> None:
    """There is one pid."""
    example = run(name)
    assert f"process {example.pid}" in example.curl()
    assert example.pids(1) == {example.pid}


@pytest.mark.parametrize("name", ["hello_cluster", "busy_cluster"])
def test_every_worker_answers(run: Run, name: str) -> None:
    """One a CPU, and not the master; none of many requests fails."""
    example = run(name)
    assert f"Forking for {CPUS} CPUs" in example.wait_log("Forking")
    pids = example.pids()
    assert len(pids) == CPUS and example.pid not in pids
    told = ab(example, 200)
    assert "Complete requests:      200\n" in told and "Failed requests:        0\n" in told
    assert "Non-2xx" not in told
    assert example.stop() == 0

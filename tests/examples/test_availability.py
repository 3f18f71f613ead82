"""The article's availability: workers that crash, and new code that goes live under load."""

import contextlib
import re
import signal
import subprocess
from collections.abc import Iterator

import load
import pytest
from conftest import CPUS, Example, Run
from instance import wait_until

CLIENTS = 8


def test_crashes_cost_what_was_in_hand(run: Run) -> None:
    """Nobody is refused: what waits is for the next worker."""
    example = run("crashes", LIFETIME_S=2.0)

    def crashes() -> int:
        return example.log().count("crashed. Starting a new worker")

    with load.running(example.url, close=True, clients=CLIENTS) as result:
        wait_until(lambda: crashes() >= 5, "crashes")
    availability = 1 - result.lost / result.requests
    print(f"{crashes()} crashes: {availability:.2%} of {result.requests} requests were answered")
    assert not [error for error in result.errors if not error.startswith("answer: ")]
    assert result.lost <= crashes() * CLIENTS
    assert example.stop() == 0


class Bench:
    """What ab has said."""

    said = ""


@contextlib.contextmanager
def ab(example: Example) -> Iterator[Bench]:
    """Have ab send requests while the body runs; it ends by itself when a connection fails."""
    command = ["ab", "-l", "-c", str(CLIENTS), "-n", "1000000", example.url]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    bench = Bench()
    try:
        yield bench
        assert process.poll() is None, process.communicate()[0]
    finally:
        process.send_signal(signal.SIGINT)
        bench.said, _ = process.communicate(timeout=10)
        print(bench.said)


@pytest.mark.parametrize("scheduling", ["round-robin", "shared"])
def test_restart_puts_new_code_live_and_loses_nothing(
    run: Run, scheduling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All workers are replaced under load, one at a time; ab finds no failed request."""
    monkeypatch.setenv("SDCLUSTER_SCHEDULING", scheduling)
    example = run("restart")
    old = example.pids()
    assert f"Master PID: {example.pid}\n" in example.log()
    with ab(example) as bench:
        example.answers("(Version 1)", 1)
        example.file.write_text(example.file.read_text().replace("Version 1", "Version 2"))
        example.signal(signal.SIGUSR2)
        for pid in old:
            example.wait_log(f"Exited process {pid}\n")
        assert example.answers(r"(Version \d)", 1) == {"Version 2"}
    assert "Failed requests:        0\n" in bench.said and "Non-2xx" not in bench.said
    found = re.search(r"Complete requests: +(\d+)", bench.said)
    assert found is not None and int(found[1]) > CLIENTS
    new = example.pids()
    assert len(new) == CPUS and not new & old
    assert example.stop() == 0

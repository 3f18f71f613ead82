"""Requests that were not served where they belong are counted, and not told one by one."""

import asyncio
import logging
from mmap import mmap

import pytest

from sdcluster.wire.scoreboard import SIZE_BYTES, Field, Scoreboard
from sdcluster.worker.http import strays
from sdcluster.worker.http.strays import Strays
from sdcluster.worker.moving.refusals import Refusal


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Have what is logged."""
    caplog.set_level(logging.WARNING, "sdcluster")
    return caplog


def test_first_one_is_told_at_once_and_the_rest_together(
    told: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most one line in the interval, and none of them is left out."""
    monkeypatch.setattr(strays, "INTERVAL_S", 0.05)
    board = Scoreboard(mmap(-1, SIZE_BYTES))

    async def stray() -> None:
        some = Strays(board)
        for _ in range(100):
            some.wrong()
        assert len(told.records) == 1
        while len(told.records) < 2:
            await asyncio.sleep(0.001)
        some.wrong()
        assert len(told.records) == 2

    asyncio.run(asyncio.wait_for(stray(), 10))
    assert board[Field.WRONG] == 101
    first, second = (record.getMessage() for record in told.records)
    assert first.startswith("1 request was served by another worker than they are for")
    assert second.startswith("99 requests were served by another worker")


@pytest.mark.parametrize("refusal", [Refusal.BUSY, Refusal.TIED, Refusal.TOO_LONG])
def test_refused_one_is_told_and_is_not_wrong(
    told: pytest.LogCaptureFixture, refusal: Refusal
) -> None:
    """With its status."""
    board = Scoreboard(mmap(-1, SIZE_BYTES))
    Strays(board).refused(refusal)
    assert board[Field.WRONG] == 0
    status = refusal.response.split(b" ")[1].decode()
    assert f"1 request was refused with status {status}, as " in told.text


@pytest.mark.parametrize("refusal", Refusal)
def test_refusal_is_a_whole_response_and_the_last_one(refusal: Refusal) -> None:
    """As long as it says, and with when to come again if that helps."""
    head, _, body = refusal.response.partition(b"\r\n\r\n")
    assert f"content-length: {len(body)}".encode() in head.split(b"\r\n")
    assert b"connection: close" in head.split(b"\r\n")
    assert (b"retry-after" in head) == (b" 503 " in head)

"""The page of counters."""

import mmap
import struct
from collections.abc import Iterator

import pytest

from sdcluster.wire.scoreboard import SIZE_BYTES, Field, Scoreboard


@pytest.fixture
def page() -> Iterator[mmap.mmap]:
    """Give a page of zeros, and see that it can be closed."""
    page = mmap.mmap(-1, SIZE_BYTES)
    yield page
    page.close()


def test_page_begins_with_zeros(page: mmap.mmap) -> None:
    """A worker that has done nothing yet has all counters at 0."""
    board = Scoreboard(page)
    assert [board[field] for field in Field] == [0] * len(Field)
    board.release()


def test_each_field_is_an_aligned_word_of_its_own(page: mmap.mmap) -> None:
    """The layout is the contract: 64 bits, in the machine's own order, at index times eight."""
    board = Scoreboard(page)
    for field in Field:
        board[field] = 2**63 + field
        assert page[field * 8 : field * 8 + 8] == struct.pack("=Q", 2**63 + field)
    assert len(set(Field)) == len(Field) and max(Field) * 8 + 8 <= SIZE_BYTES
    board.release()


def test_counter_can_be_counted_up(page: mmap.mmap) -> None:
    """What one side writes the other side reads."""
    worker, master = Scoreboard(page), Scoreboard(page)
    worker[Field.TAKEN] += 1
    worker[Field.TAKEN] += 1
    assert master[Field.TAKEN] == 2
    worker.release()
    master.release()


def test_page_can_be_closed_once_it_was_released(page: mmap.mmap) -> None:
    """A view that is still open would keep the page."""
    board = Scoreboard(page)
    with pytest.raises(BufferError):
        page.close()
    board.release()
    page.close()

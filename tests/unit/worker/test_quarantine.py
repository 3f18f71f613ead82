"""Which requests a worker has served apart, as its scoreboard says."""

import mmap

import pytest

from sdcluster.wire.scoreboard import MAX_SIGNATURES, SIGNATURES_AT, SIZE_BYTES, Field, Scoreboard
from sdcluster.wire.signature import is_repeatable, seed, sign
from sdcluster.worker.quarantine import Signatures
from sdcluster.worker.replay import Policy

SCOPE = {"method": "GET", "path": "/"}
KEY = [(b"host", b"test"), (b"idempotency-key", b"1")]


@pytest.fixture
def board() -> Scoreboard:
    """Return an empty scoreboard."""
    return Scoreboard(mmap.mmap(-1, SIZE_BYTES))


def publish(board: Scoreboard, *signatures: int) -> None:
    """List signatures, as the master does."""
    for index, signature in enumerate(signatures):
        board.words[SIGNATURES_AT + index] = signature
    board[Field.SIGNATURES] = len(signatures)
    board[Field.QUARANTINE] += 1


def test_signatures_are_those_that_were_listed_last(board: Scoreboard) -> None:
    """None at first."""
    signatures = Signatures(board, replay="idempotent")
    for listed in ((), (5, 7), (7,), ()):
        publish(board, *listed)
        signatures.sign(SCOPE)
        assert signatures.listed == set(listed)


def test_count_that_makes_no_sense_is_not_followed(board: Scoreboard) -> None:
    """The app may write to memory that it has not allocated."""
    signatures = Signatures(board, replay="idempotent")
    board[Field.SIGNATURES] = 2**64 - 1
    board[Field.QUARANTINE] = 1
    board.words[SIGNATURES_AT + MAX_SIGNATURES] = 5
    signatures.sign(SCOPE)
    assert 5 not in signatures.listed


@pytest.mark.parametrize(
    ("replay", "method", "headers", "expected"),
    [
        ("idempotent", "GET", [], True),
        ("idempotent", "POST", [], False),
        ("idempotent", "POST", KEY, True),
        ("all", "POST", [], True),
        ("never", "GET", [], False),
        ("never", "POST", KEY, False),
    ],
)
def test_request_is_signed_with_what_the_policy_says(
    board: Scoreboard,
    replay: Policy,
    method: str,
    headers: list[tuple[bytes, bytes]],
    expected: bool,
) -> None:
    """And it is noted that there was one."""
    signatures = Signatures(board, replay=replay)
    assert not board[Field.BEGUN]
    signature = signatures.sign({"method": method, "path": "/a", "headers": headers})
    assert signature == sign(seed(method, repeatable=expected), "/a")
    assert is_repeatable(signature) is expected
    assert board[Field.BEGUN]

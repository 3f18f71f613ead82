"""Which requests a worker has served apart, as its scoreboard says."""

import mmap

import pytest

from sdcluster.wire.channel import NEW
from sdcluster.wire.ledger import Word
from sdcluster.wire.scoreboard import MAX_SIGNATURES, SIGNATURES_AT, SIZE_BYTES, Field, Scoreboard
from sdcluster.wire.signature import NONE, is_repeatable, sign
from sdcluster.worker.moving.replay import Policy
from sdcluster.worker.moving.signatures import Signatures, note
from unit.ledgers import new_ledger

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
        assert signatures.listed() == set(listed)


def test_count_that_makes_no_sense_is_not_followed(board: Scoreboard) -> None:
    """The app may write to memory that it has not allocated."""
    signatures = Signatures(board, replay="idempotent")
    board[Field.SIGNATURES] = 2**64 - 1
    board[Field.QUARANTINE] = 1
    board.words[SIGNATURES_AT + MAX_SIGNATURES] = 5
    assert 5 not in signatures.listed()


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
    """Whether its head is kept or not."""
    signatures = Signatures(board, replay=replay)
    signature = signatures.of_scope({"method": method, "path": "/a b", "headers": headers})
    assert signature == sign(method, "/a b", repeatable=expected)
    assert is_repeatable(signature) is expected
    lines = b"".join(b"%s: %s\r\n" % header for header in headers)
    head = b"%s /a%%20b?c=d HTTP/1.1\r\n%s\r\n" % (method.encode(), lines)
    assert signatures.of_head(head) == signature


@pytest.mark.parametrize(
    ("head", "path"),
    [
        (b"\r\nGET / HTTP/1.1\r\n\r\n", "/"),
        (b"GET http://host/a/b?c HTTP/1.1\r\n\r\n", "/a/b"),
        (b"GET http://host HTTP/1.1\r\n\r\n", "/"),
        (b"GET /%C3%A4 HTTP/1.1\r\n\r\nrest", "/\u00e4"),
        (b"GET /half", "/half"),
    ],
)
def test_head_is_signed_as_the_engine_reads_it(board: Scoreboard, head: bytes, path: str) -> None:
    """The query is left out, and who it was for."""
    signature = Signatures(board, replay="idempotent").of_head(head)
    assert signature == sign("GET", path, repeatable=True)


@pytest.mark.parametrize("head", [b"", b"\r\n\r\n", b"\0" * 100, b"GET", b"\xff\xfe"])
def test_what_is_no_request_has_no_signature(board: Scoreboard, head: bytes) -> None:
    """The app may have written over it."""
    assert Signatures(board, replay="idempotent").of_head(head) == NONE


def test_signature_of_a_dead_workers_request_is_noted() -> None:
    """Of that which its app was given: behind another, too; one that is noted stays."""
    ledger = new_ledger(4096)
    ledger.enter(7, NEW)
    words, at, data_at = ledger.words, ledger.index(7), ledger.data_at(7)
    first, second = b"GET /first HTTP/1.1\r\n\r\n", b"GET /second HTTP/1.1\r\n\r\n"
    ledger.bytes[data_at : data_at + len(first + second)] = first + second
    words[at + Word.IN_BASE] = 1000

    def noted(base: int, begun: int, before: int = NONE) -> int:
        words[at + Word.IN_DONE] = base
        words[at + Word.BEGUN] = begun + 1
        words[at + Word.SIGNATURE] = before
        note(ledger, 7, replay="idempotent")
        return int(words[at + Word.SIGNATURE])

    behind = 1000 + len(first)
    assert noted(0, 1000) == sign("GET", "/first", repeatable=True)
    assert noted(behind, behind) == sign("GET", "/second", repeatable=True)
    assert noted(behind, 1000) == NONE
    assert noted(0, 1000, before=5) == 5
    ledger.close()

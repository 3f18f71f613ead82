"""The requests that are to be served apart, as a worker knows them from its scoreboard.

What they are is decided by the master, see `core.quarantine`; whose signature a request has is told
here, as the master reads no HTTP.
"""

import urllib.parse
from typing import Any

from sdcluster.wire.ledger import Word
from sdcluster.wire.scoreboard import MAX_SIGNATURES, SIGNATURES_AT, Field, Scoreboard
from sdcluster.wire.signature import NONE, sign
from sdcluster.worker.moving.ledger import Ledger
from sdcluster.worker.moving.replay import KEY, Policy, asked, is_repeatable

_BEGUN, _CHANGES, _COUNT = int(Field.BEGUN), int(Field.QUARANTINE), int(Field.SIGNATURES)


class Signatures:
    """Signs requests, and knows which signatures are listed. `replay` is what may be made again."""

    def __init__(self, board: Scoreboard, *, replay: Policy) -> None:
        self.words = board.words
        """The scoreboard's; the list has never been anything but empty while `QUARANTINE` is 0."""
        self._replay: Policy = replay
        self._listed: frozenset[int] = frozenset()
        self._changes = 0
        self.words[_BEGUN] = 0

    def of_scope(self, scope: Any) -> int:
        """Return the signature of a request whose head is not kept."""
        method = scope["method"]
        has_key = any(name == KEY for name, _ in scope["headers"])
        may = is_repeatable(method, has_key=has_key, policy=self._replay)
        return sign(method, scope["path"], repeatable=may)

    def of_head(self, head: bytes) -> int:
        """Return the signature of a request that begins so."""
        return signature_of(head, replay=self._replay)

    def listed(self) -> frozenset[int]:
        """Return the signatures whose requests are to be served apart."""
        words = self.words
        while self._changes != words[_CHANGES]:  # It may change while it is read.
            self._changes = words[_CHANGES]
            count = min(words[_COUNT], MAX_SIGNATURES)
            self._listed = frozenset(words[SIGNATURES_AT : SIGNATURES_AT + count])
        return self._listed


def signature_of(head: bytes, *, replay: Policy) -> int:
    """Return the signature of a request that begins so; `NONE` where that is no request."""
    method, target, has_key = asked(head)
    if not target:
        return NONE
    if not target.startswith("/"):  # As to a proxy: RFC 9112, 3.2.2.
        target = "/" + target.partition("://")[2].partition("/")[2]
    path = urllib.parse.unquote(target.partition("?")[0])
    return sign(method, path, repeatable=is_repeatable(method, has_key=has_key, policy=replay))


def note(ledger: Ledger, number: int, *, replay: Policy) -> None:
    """Write down the signature of what the app of a dead worker was given, unless it is there."""
    words, at = ledger.words, ledger.index(number)
    in_base = words[at + Word.IN_BASE]
    base = max(in_base, words[at + Word.IN_DONE])
    if words[at + Word.SIGNATURE] or words[at + Word.BEGUN] != base + 1:
        return
    data_at, limit = ledger.data_at(number), ledger.layout.limit
    head = ledger.map[data_at + min(base - in_base, limit) : data_at + limit]
    words[at + Word.SIGNATURE] = signature_of(head, replay=replay)

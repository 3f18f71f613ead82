"""The requests that are to be served apart, as a worker knows them from its scoreboard.

What they are is decided by the master, see `core.quarantine`; whose signature a request has is told
here, as the master reads no HTTP.
"""

from typing import Any

from sdcluster.wire.scoreboard import MAX_SIGNATURES, SIGNATURES_AT, Field, Scoreboard
from sdcluster.wire.signature import sign
from sdcluster.worker.replay import IDEMPOTENT, Policy

_BEGUN, _CHANGES, _COUNT = int(Field.BEGUN), int(Field.QUARANTINE), int(Field.SIGNATURES)


class Signatures:
    """Signs requests, and tells which of them are listed.

    `replay` is which of them may be made again. It is on the path of each request.
    """

    def __init__(self, board: Scoreboard, *, replay: Policy) -> None:
        self._words = board.words
        self._repeatable = IDEMPOTENT if replay == "idempotent" else frozenset[str]()
        self._are_all = replay == "all"
        self._changes = 0
        self._listed: frozenset[int] = frozenset()
        self._words[_BEGUN] = 0

    def sign(self, scope: Any) -> int:
        """Return the signature of a request, and note that there was one."""
        self._words[_BEGUN] = 1
        method = scope["method"]
        repeatable = self._are_all or method in self._repeatable
        return sign(method, scope["path"], repeatable=repeatable)

    def is_listed(self, signature: int) -> bool:
        """Tell whether requests of a signature are to be served apart."""
        if self._words[_CHANGES] != self._changes:
            self._read()
        return signature in self._listed

    def _read(self) -> None:
        words = self._words
        while self._changes != words[_CHANGES]:  # It may change while it is read.
            self._changes = words[_CHANGES]
            count = min(words[_COUNT], MAX_SIGNATURES)
            self._listed = frozenset(words[SIGNATURES_AT : SIGNATURES_AT + count])

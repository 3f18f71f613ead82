"""The requests that are to be served apart, as a worker knows them from its scoreboard.

What they are is decided by the master, see `core.quarantine`; whose signature a request has is told
here, as the master reads no HTTP.
"""

from typing import Any

from sdcluster.wire.scoreboard import MAX_SIGNATURES, SIGNATURES_AT, Field, Scoreboard
from sdcluster.wire.signature import HASH, seed
from sdcluster.worker.replay import IDEMPOTENT, KEY, Policy, is_repeatable

_BEGUN, _CHANGES, _COUNT = int(Field.BEGUN), int(Field.QUARANTINE), int(Field.SIGNATURES)


class Signatures:
    """Signs requests; `listed` are those that are to be served apart, as of the last request.

    `replay` is which of them may be made again.
    """

    def __init__(self, board: Scoreboard, *, replay: Policy) -> None:
        self.listed: frozenset[int] = frozenset()
        self._words = board.words
        self._replay: Policy = replay
        self._seeds = {
            method: seed(method, repeatable=is_repeatable(method, has_key=False, policy=replay))
            for method in IDEMPOTENT
        }
        """Those that the method alone decides."""
        self._changes = 0
        self._words[_BEGUN] = 0

    def sign(self, scope: Any) -> int:
        """Return the signature of a request, and note that there was one."""
        # On the path of each request, so all of it is here: see `wire.signature.sign`.
        words = self._words
        words[_BEGUN] = 1
        if words[_CHANGES] != self._changes:
            self._read()
        seed = self._seeds.get(scope["method"]) or self._seed(scope)
        return hash(scope["path"]) & HASH ^ seed

    def _seed(self, scope: Any) -> int:
        method = scope["method"]
        has_key = any(name == KEY for name, _ in scope["headers"])
        repeatable = is_repeatable(method, has_key=has_key, policy=self._replay)
        return seed(method, repeatable=repeatable)

    def _read(self) -> None:
        words = self._words
        while self._changes != words[_CHANGES]:  # It may change while it is read.
            self._changes = words[_CHANGES]
            count = min(words[_COUNT], MAX_SIGNATURES)
            self.listed = frozenset(words[SIGNATURES_AT : SIGNATURES_AT + count])

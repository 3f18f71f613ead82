"""The requests that are to be served apart, as a worker knows them from its scoreboard.

What they are is decided by the master, see `core.quarantine`; whose signature a request has is told
here, as the master reads no HTTP.
"""

from typing import Any

from sdcluster.wire.scoreboard import MAX_SIGNATURES, SIGNATURES_AT, Field, Scoreboard
from sdcluster.wire.signature import HASH, seed
from sdcluster.worker.replay import IDEMPOTENT, Policy

_BEGUN, _CHANGES, _COUNT = int(Field.BEGUN), int(Field.QUARANTINE), int(Field.SIGNATURES)
_MAX_METHODS = 64


class Signatures:
    """Signs requests; `listed` are those that are to be served apart, as of the last request.

    `replay` is which of them may be made again.
    """

    def __init__(self, board: Scoreboard, *, replay: Policy) -> None:
        self.listed: frozenset[int] = frozenset()
        self._words = board.words
        self._replay = replay
        self._seeds: dict[str, int] = {}
        self._changes = 0
        self._words[_BEGUN] = 0

    def sign(self, scope: Any) -> int:
        """Return the signature of a request, and note that there was one."""
        # On the path of each request, so all of it is here: see `wire.signature.sign`.
        words = self._words
        words[_BEGUN] = 1
        if words[_CHANGES] != self._changes:
            self._read()
        seed = self._seeds.get(scope["method"]) or self._new_seed(scope["method"])
        return hash(scope["path"]) & HASH ^ seed

    def _new_seed(self, method: str) -> int:
        is_repeatable = self._replay == "all"
        if self._replay == "idempotent":
            is_repeatable = method in IDEMPOTENT
        made = seed(method, repeatable=is_repeatable)
        if len(self._seeds) < _MAX_METHODS:  # Clients may make up any.
            self._seeds[method] = made
        return made

    def _read(self) -> None:
        words = self._words
        while self._changes != words[_CHANGES]:  # It may change while it is read.
            self._changes = words[_CHANGES]
            count = min(words[_COUNT], MAX_SIGNATURES)
            self.listed = frozenset(words[SIGNATURES_AT : SIGNATURES_AT + count])

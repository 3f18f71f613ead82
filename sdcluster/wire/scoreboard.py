"""The scoreboard: a page of counters that a worker writes and the master reads, without a call.

One page (a sealed memfd) per worker, or in a program per listener that a worker has, so that a
worker can damage only what is said of itself.
Each field is an aligned 64-bit word: on the machines Linux runs on, such a word is read whole.
The writer is the worker, but for `WAITING`, `SLOTS` and what is about the quarantine.

After the fields there are, from the word `SIGNATURES_AT` on, the signatures that are listed, see
`wire.signature`.
"""

from enum import IntEnum
from mmap import mmap

SIZE_BYTES = 4096


class Field(IntEnum):
    """The index of each 64-bit word of the page."""

    HEARTBEAT_NS = 0
    """CLOCK_MONOTONIC when the event loop last turned, in nanoseconds."""
    TAKEN = 1
    """Connections taken from the control channel, ever."""
    CONNECTIONS = 2
    """Connections open now."""
    REQUESTS = 3
    """Requests answered, ever."""
    OLDEST_REQUEST_NS = 4
    """CLOCK_MONOTONIC when the oldest request under way began; 0 when there is none."""
    WAITING = 5
    """Written by the master: 1 asks the worker to say X_TAKEN=1 at its next take."""
    SLOTS = 6
    """Written by the master: how many slots there are, from 0 on."""
    LATENCY_NS = 7
    """How long an answer takes until it begins, as an average that `latency` makes; 0 at first."""
    LATENCY_AT_NS = 8
    """CLOCK_MONOTONIC when that was last so."""
    UNANSWERED_NS = 9
    """CLOCK_MONOTONIC when the oldest request began whose answer has not; 0 for none.

    Not OLDEST_REQUEST_NS: an answer may go on for hours, as events do, of a worker that is fast.
    """
    ANSWERS = 10
    """Answers that have begun, ever."""
    ANSWERS_NS = 11
    """How long they have taken until then, all together, in nanoseconds."""
    MOVES = 12
    """Orders to move connections that were carried out, ever."""
    BEGUN = 13
    """1 once the app was given a request."""
    QUARANTINE = 14
    """Written by the master: a number that changes whenever other signatures are listed; 0 while
    none ever was."""
    SIGNATURES = 15
    """Written by the master: how many are listed."""
    STARVED_NS = 16
    """CLOCK_MONOTONIC when descriptors for connections were found to be used up; 0 if they are not.

    As long as it is not 0, the worker can take none.
    """
    WRONG = 17
    """Requests served that were for the worker of another slot, ever."""


SIGNATURES_AT = 64
MAX_SIGNATURES = 32


class Scoreboard:
    """The words of one worker's page: `board[Field.TAKEN] += 1`."""

    __slots__ = ("words",)

    def __init__(self, page: mmap) -> None:
        self.words = memoryview(page).cast("Q")

    def __getitem__(self, field: Field) -> int:
        return self.words[field]

    def __setitem__(self, field: Field, value: int) -> None:
        self.words[field] = value

    def release(self) -> None:
        """Let go of the page, so that it can be closed."""
        self.words.release()

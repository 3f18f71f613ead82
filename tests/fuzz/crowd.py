"""What the clients of a round have in common: whom they call, who they are, what has come of it."""

import os
import time
from collections import Counter
from dataclasses import dataclass, field

from fuzz.configurations import Configuration, Routing
from fuzz.exchange import Request
from fuzz.history import History
from fuzz.verdict import VIOLATIONS, Attempt, Outcome, Verdict, executed_again, judge

MAX_SHOWN = 3
"""Of each kind, in a round."""
SHOWN_BYTES = 600
"""Of each end of what was sent and received."""


@dataclass(slots=True)
class Talk:
    """What went over a connection."""

    sent: bytearray = field(default_factory=bytearray)
    received: bytearray = field(default_factory=bytearray)
    story: list[str] = field(default_factory=list)
    """Its requests, with what has become of them."""


@dataclass(slots=True)
class Crowd:
    """Notes what becomes of requests, and judges it at once."""

    config: Configuration
    address: str
    executions: int
    """A descriptor of the file where the app writes executions down."""
    history: History
    began_s: float
    until_s: float
    """When nothing more is begun, by the monotonic clock."""
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    shown: list[tuple[Outcome, str]] = field(default_factory=list)
    """Violations, as they are told, and some of the rest that was not answered."""
    _cookies: dict[int, str] = field(default_factory=dict)
    """The sticky cookies, by user."""
    _seen: dict[str, bool] = field(default_factory=dict)
    """Whether a request may be executed twice, by its id."""

    @property
    def is_over(self) -> bool:
        """Whether nothing more is to be begun."""
        return time.monotonic() >= self.until_s

    def sticky(self, request: Request) -> str | None:
        """Return the sticky cookie that goes with a request."""
        if self.config.routing is not Routing.COOKIE or request.user is None:
            return None
        return self._cookies.get(request.user)

    def note(self, attempt: Attempt, talk: Talk) -> None:
        """Judge what has become of a request."""
        self.catch_up()
        request, answer = attempt.request, attempt.answer
        self._seen[request.id] = request.may_be_repeated
        verdict = judge(attempt, self.config, self.history)
        self.outcomes[verdict.outcome] += 1
        began_s, ended_s = (one - self.began_s for one in (attempt.began_s, attempt.ended_s))
        together = f", one of {attempt.together}" if attempt.together > 1 else ""
        told = f"{began_s:.3f} to {ended_s:.3f} s: {verdict.outcome}: {request}{together}"
        talk.story.append(told)
        if verdict.outcome in VIOLATIONS:
            self._show(attempt, verdict, talk)
        elif answer is not None and request.user is not None:
            cookie = answer.headers.get("set-cookie", "").partition(";")[0].partition("=")[2]
            if cookie:
                self._cookies[request.user] = cookie

    def _show(self, attempt: Attempt, verdict: Verdict, talk: Talk) -> None:
        if sum(outcome is verdict.outcome for outcome, _ in self.shown) >= MAX_SHOWN:
            return
        text = (
            f"{verdict.outcome}: {verdict.text}; client {attempt.client!r}\n  "
            + "\n  ".join(talk.story)
            + f"\n  sent {_ends(talk.sent)}\n  received {_ends(talk.received)}"
        )
        self.shown.append((verdict.outcome, text))

    def catch_up(self) -> None:
        """Read what the app has written down since."""
        while text := os.read(self.executions, 65536):
            self.history.feed(text.decode())

    def look_back(self) -> None:
        """Find what was executed again after its client had gone."""
        self.catch_up()
        for identity, may_be_repeated in self._seen.items():
            text = executed_again(identity, may_be_repeated, self.history)
            known = any(identity in shown for outcome, shown in self.shown)
            if text and not known:
                self.outcomes[Outcome.TWICE] += 1
                self.shown.append((Outcome.TWICE, f"{Outcome.TWICE}: {identity}: {text}"))


def _ends(data: bytes | bytearray) -> str:
    """Return the first and the last bytes, and how many there are."""
    if len(data) <= 2 * SHOWN_BYTES:
        return f"{len(data)} bytes: {bytes(data)!r}"
    first, last = bytes(data[:SHOWN_BYTES]), bytes(data[-SHOWN_BYTES:])
    return f"{len(data)} bytes: {first!r} ... {last!r}"

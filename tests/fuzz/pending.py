"""A step that is under way: what is to be sent of it, and what has become of its requests."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace

from fuzz.answers import Answer, AnswerReader
from fuzz.crowd import Crowd
from fuzz.exchange import framed_body, head
from fuzz.expected import client_of
from fuzz.plan import Connection, Step
from fuzz.verdict import Attempt, End

STICKY = "sdcluster"
"""The name of the sticky cookie."""


class Pending:
    """One step."""

    def __init__(self, crowd: Crowd, plan: Connection, step: Step, *, idle_since_s: float) -> None:
        self.step = step
        self.may_go_on = asyncio.Event()
        """The body that waits may be sent."""
        self.waiting_body = b""
        """What is not sent before 100 Continue has come."""
        client = plan.client
        if not client and not crowd.address.startswith("/"):
            client = plan.source
        began_s = time.monotonic()
        self._data = b""
        self._attempts: list[Attempt] = []
        for request in step.requests:
            sticky = crowd.sticky(request)
            self._data += head(request, {STICKY: sticky} if sticky else {})
            if request.expects:
                self.waiting_body = framed_body(request)
            else:
                self._data += framed_body(request)
            attempt = Attempt(
                request=request,
                client=client_of(request, client),
                sticky=sticky,
                began_s=began_s,
                ended_s=began_s,
                idle_s=began_s - idle_since_s,
                together=len(step.requests),
            )
            self._attempts.append(attempt)
        sent = len(self._data) + len(self.waiting_body)
        self._attempts = [replace(attempt, sent=sent) for attempt in self._attempts]

    def pieces(self) -> Iterator[tuple[bytes, float]]:
        """Yield what is sent at once, and how many seconds to pause after it."""
        at = 0
        for place, pause_ms in self.step.cuts:
            end = int(len(self._data) * place)
            if end > at:
                yield self._data[at:end], pause_ms / 1000
                at = end
        yield self._data[at:], 0.0

    def answered(self, number: int, answer: Answer, received: int) -> Attempt:
        """Return what has become of a request that has its answer now."""
        attempt = self._attempts[number]
        return replace(attempt, ended_s=time.monotonic(), answer=answer, received=received)

    def ended(
        self, number: int, end: End, detail: str, reader: AnswerReader | None
    ) -> Iterator[Attempt]:
        """Yield what has become of a request that gets no answer, and of those behind it."""
        now = time.monotonic()
        for index, attempt in enumerate(self._attempts[number:]):
            ended = replace(attempt, ended_s=now, end=end, detail=detail, is_behind=index > 0)
            if index == 0 and reader is not None:
                answer = reader.part() if end is End.LEFT else None
                ended = replace(ended, received=reader.received, answer=answer)
            yield ended

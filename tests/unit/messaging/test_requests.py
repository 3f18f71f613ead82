"""Requests and their answers, with frames that go nowhere."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from sdcluster.errors import ClusterError, ProtocolError
from sdcluster.messaging.requests import NO_HANDLER, Requests, answer, decode, encode
from sdcluster.wire.messages import Frame, Kind, refusal


def reply(number: int, value: Any) -> Frame:
    """Return the frame that answers a request."""
    return Frame(Kind.REPLY, encode(value), number=number)


def test_each_answer_reaches_its_own_request() -> None:
    """In whatever order they come."""
    sent: list[Frame] = []
    requests = Requests(sent.append)

    async def ask() -> list[Any]:
        asked = [asyncio.ensure_future(requests.ask(one, timeout_s=5)) for one in "abc"]
        await asyncio.sleep(0)
        for frame in reversed(sent):
            assert requests.settle(reply(frame.number, decode(frame.body) * 2), [])
        return await asyncio.gather(*asked)

    assert asyncio.run(ask()) == ["aa", "bb", "cc"]
    assert [one.kind for one in sent] == [Kind.REQUEST] * 3


def test_refusal_is_an_error_of_the_one_that_asked() -> None:
    """With the reason that was given."""
    requests = Requests(lambda frame: requests.settle(refusal(frame.number, "no"), []))
    with pytest.raises(ClusterError, match=r"^no$"):
        asyncio.run(requests.ask("a", timeout_s=5))


@pytest.mark.parametrize("kind", [Kind.REPLY, Kind.ERROR])
def test_answer_that_cannot_be_read_is_an_error_of_the_one_that_asked(kind: Kind) -> None:
    """Whose process goes on."""
    requests = Requests(lambda frame: requests.settle(Frame(kind, b"no", number=frame.number), []))
    with pytest.raises(ClusterError, match=r"^the answer cannot be read: .* not JSON$"):
        asyncio.run(requests.ask("a", timeout_s=5))


def test_numbers_of_requests_begin_again() -> None:
    """A frame has 32 bits for them, and none is 0."""
    sent: list[Frame] = []
    requests = Requests(sent.append)
    requests._numbers = 2**32 - 2
    for _ in range(2):
        requests.send(Kind.REQUEST, b"1")
    assert [frame.number for frame in sent] == [2**32 - 1, 1]


@pytest.mark.parametrize("later", [True, False])
def test_handler_that_is_cancelled_is_told(later: bool) -> None:
    """Who asked need not wait for what will not come."""

    def handler(_: Any) -> None:
        raise asyncio.CancelledError

    async def handler_later(message: Any) -> None:
        handler(message)

    frame = asyncio.run(answer(handler_later if later else handler, 7, "a"))
    assert (frame.kind, frame.number) == (Kind.ERROR, 7)
    assert decode(frame.body) == "the handler was cancelled"


def test_answer_that_comes_too_late_is_nobodys() -> None:
    """Its descriptors stay the caller's to close."""
    sent: list[Frame] = []
    requests = Requests(sent.append)
    with pytest.raises(TimeoutError):
        asyncio.run(requests.ask("a", timeout_s=0.001))
    assert not requests.settle(reply(sent[0].number, "late"), [])


def test_request_that_cannot_be_sent_is_forgotten() -> None:
    """The error is that of the sender."""

    def fail(frame: Frame) -> None:
        raise ClusterError(f"gone: {frame.number}")

    requests = Requests(fail)
    with pytest.raises(ClusterError, match=r"^gone: 1$"):
        asyncio.run(requests.ask("a", timeout_s=5))
    assert not requests.settle(reply(1, None), [])


def test_all_that_wait_can_be_told_that_nothing_comes() -> None:
    """Once the other end is gone."""
    requests = Requests(lambda _: requests.fail("it is gone"))
    with pytest.raises(ClusterError, match="it is gone"):
        asyncio.run(requests.ask("a", timeout_s=5))


def test_answer_may_come_in_another_thread() -> None:
    """It wakes the loop of the one that asked; so does the news that none will come."""
    sent: list[Frame] = []
    requests = Requests(sent.append)

    async def ask(end: Callable[[], object]) -> Any:
        asked = asyncio.ensure_future(requests.ask("a", timeout_s=5))
        await asyncio.sleep(0)
        threading.Thread(target=end).start()
        return await asked

    assert asyncio.run(ask(lambda: requests.settle(reply(sent[-1].number, "b"), []))) == "b"
    with pytest.raises(ClusterError, match="it is gone"):
        asyncio.run(ask(lambda: requests.fail("it is gone")))


def test_handler_answers_with_what_it_returns() -> None:
    """Now, or when its coroutine ends."""

    async def later(value: int) -> int:
        await asyncio.sleep(0)
        return value

    assert asyncio.run(answer(lambda value: value + 1, 7, 1)) == reply(7, 2)
    assert asyncio.run(answer(later, 8, 3)) == reply(8, 3)


def test_handler_that_cannot_answer_says_why(caplog: pytest.LogCaptureFixture) -> None:
    """That there is none, what it raised, or that JSON has no such thing."""
    assert asyncio.run(answer(None, 1, "a")) == refusal(1, NO_HANDLER)
    assert asyncio.run(answer(lambda _: 1 // 0, 2, "a")) == refusal(
        2, "ZeroDivisionError: integer division or modulo by zero"
    )
    assert "the handler of requests failed" in caplog.text
    frame = asyncio.run(answer(lambda _: object(), 3, "a"))
    assert frame.kind is Kind.ERROR
    assert "has to be JSON" in decode(frame.body)


@pytest.mark.parametrize("body", [b"", b"{", b"1 2", b"\xff", b"[" * 100_000])
def test_what_is_no_json_breaks_the_protocol(body: bytes) -> None:
    """Deep nesting included, of which the parser has enough in its own way."""
    with pytest.raises(ProtocolError, match="not JSON"):
        decode(body)

"""Messages as both ends of a channel write them, and requests, each with its answer.

A request is matched with its answer by its number, never by the order in which they come.
"""

import asyncio
import contextlib
import inspect
import json
import logging
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeAlias

from sdcluster.errors import ClusterError, ProtocolError
from sdcluster.wire.messages import Frame, Kind, refusal

DEFAULT_TIMEOUT_S = 10.0
"""How long an answer is waited for when the program does not say."""
NO_HANDLER = "nobody answers requests there; the program has to call cluster.on_request"

MAX_NUMBER = 2**32 - 1
CANCELLED = "the handler was cancelled"

Answer: TypeAlias = tuple[Frame, list[int]]
"""The frame that answers, and its descriptors."""

# Made once: json.dumps with options makes an encoder each time, json.loads looks for encodings,
# and both it and JSONDecoder.decode for spaces around, which nobody writes here.
_ENCODE = json.JSONEncoder(ensure_ascii=False).encode
_DECODE = json.JSONDecoder().raw_decode

_PLAIN = {dict, list, str, int, float, bool, type(None)}
"""What is no coroutine, without a closer look."""

logger = logging.getLogger("sdcluster")


def encode(message: Any) -> bytes:
    """Return a message as it is sent. Raises `ClusterError` when JSON cannot express it."""
    try:
        return _ENCODE(message).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ClusterError(f"a message has to be JSON: {error}") from error


def decode(body: bytes) -> Any:
    """Return the message that was sent. Raises `ProtocolError`."""
    try:
        text = body.decode()
        message, end = _DECODE(text)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("a message that is not JSON") from error
    if end != len(text):
        raise ProtocolError("a message that is not JSON alone")
    return message


class _Asker:
    """What waits for an answer in an event loop; as a `Future` to the one that has it."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Answer] = self.loop.create_future()
        self._thread = threading.get_ident()

    def set_running_or_notify_cancel(self) -> bool:
        """Whether it still waits."""
        return not self.future.done()

    def set_result(self, answer: Answer) -> None:
        """Wake it with the answer. Any thread may."""
        self._call(self._set_result, answer)

    def set_exception(self, error: Exception) -> None:
        """Wake it with an error. Any thread may."""
        self._call(self._set_exception, error)

    def time_out(self) -> None:
        """Wake it, as it has waited long enough."""
        self._set_exception(TimeoutError())

    def _call(self, function: Callable[..., None], argument: object) -> None:
        if threading.get_ident() == self._thread:
            function(argument)
            return
        with contextlib.suppress(RuntimeError):  # Its loop has been closed.
            self.loop.call_soon_threadsafe(function, argument)

    def _set_result(self, answer: Answer) -> None:
        if not self.future.done():
            self.future.set_result(answer)

    def _set_exception(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class Requests:
    """The requests of one end that wait for their answers. Any thread may ask."""

    def __init__(
        self,
        send: Callable[[Frame], object],
        send_soon: Callable[[Frame], object] | None = None,
    ) -> None:
        """`send` sends a frame to the other end; `send_soon` may do so when the loop turns."""
        self._send = send
        self._send_soon = send_soon or send
        self._lock = threading.Lock()
        self._numbers = 0
        self._waiting: dict[int, Future[Answer] | _Asker] = {}

    async def ask(self, message: Any, *, timeout_s: float, peer: int = 0) -> Any:
        """Return the answer to a message.

        Raises `ClusterError` when there is none to come, TimeoutError when it does not come.
        """
        asker = _Asker()
        number = self._ask(self._send_soon, Kind.REQUEST, encode(message), peer, asker)
        timer = asker.loop.call_later(timeout_s, asker.time_out)
        try:
            frame, _ = await asker.future
        finally:
            timer.cancel()
            self.forget(number)
        return _content(frame)

    def wait(self, message: Any, *, timeout_s: float) -> Any:
        """As `ask`, in a thread that waits."""
        number, future = self.send(Kind.REQUEST, encode(message))
        try:
            frame, _ = future.result(timeout_s)
        finally:
            self.forget(number)
        return _content(frame)

    def send(self, kind: Kind, body: bytes, peer: int = 0) -> "tuple[int, Future[Answer]]":
        """Send a request; return its number, and what will hold the answer."""
        future: Future[Answer] = Future()
        return self._ask(self._send, kind, body, peer, future), future

    def _ask(
        self,
        send: Callable[[Frame], object],
        kind: Kind,
        body: bytes,
        peer: int,
        asker: "Future[Answer] | _Asker",
    ) -> int:
        with self._lock:
            number = self._numbers = self._numbers % MAX_NUMBER + 1
            self._waiting[number] = asker
        try:
            send(Frame(kind, body, peer, number))
        except BaseException:
            self.forget(number)
            raise
        return number

    def forget(self, number: int) -> None:
        """Wait for an answer no more. Harmless when it is there."""
        with self._lock:
            self._waiting.pop(number, None)

    def settle(self, frame: Frame, descriptors: list[int]) -> bool:
        """Hand an answer to who waits for it, with its descriptors; False when nobody does."""
        with self._lock:
            future = self._waiting.pop(frame.number, None)
        if future is None or not future.set_running_or_notify_cancel():
            return False
        future.set_result((frame, descriptors))
        return True

    def fail(self, reason: str) -> None:
        """Tell all who wait that no answer will come."""
        with self._lock:
            waiting, self._waiting = list(self._waiting.values()), {}
        for future in waiting:
            if future.set_running_or_notify_cancel():
                future.set_exception(ClusterError(reason))


def _content(frame: Frame) -> Any:
    """Return what an answer says. Raises `ClusterError` when it says why there is none."""
    try:
        content = decode(frame.body)
    except ProtocolError as error:
        raise ClusterError(f"the answer cannot be read: {error}") from error
    if frame.kind is Kind.ERROR:
        raise ClusterError(str(content))
    return content


async def answer(handler: Callable[..., Any] | None, number: int, *arguments: Any) -> Frame:
    """Return the frame that answers a request, with what the program's handler returns."""
    reply = begin_answer(handler, number, *arguments)
    return reply if isinstance(reply, Frame) else await reply


def begin_answer(
    handler: Callable[..., Any] | None, number: int, *arguments: Any
) -> Frame | Coroutine[Any, Any, Frame]:
    """As `answer`; to be awaited only when the handler is a coroutine function."""
    if handler is None:
        return refusal(number, NO_HANDLER)
    try:
        result = handler(*arguments)
    except asyncio.CancelledError:
        return refusal(number, CANCELLED)
    except Exception as error:
        return _failure(number, error)
    if type(result) not in _PLAIN and inspect.isawaitable(result):
        return _answer_later(number, result)
    return _reply(number, result)


async def _answer_later(number: int, awaitable: Awaitable[Any]) -> Frame:
    try:
        result = await awaitable
    except asyncio.CancelledError:  # What it waited for was, or this is to end.
        return refusal(number, CANCELLED)
    except Exception as error:
        return _failure(number, error)
    return _reply(number, result)


def _failure(number: int, error: Exception) -> Frame:
    logger.exception("the handler of requests failed", exc_info=error)
    return refusal(number, f"{type(error).__name__}: {error}")


def _reply(number: int, result: Any) -> Frame:
    try:
        return Frame(Kind.REPLY, encode(result), number=number)
    except ClusterError as error:
        return refusal(number, str(error))

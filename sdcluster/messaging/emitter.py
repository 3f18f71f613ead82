"""Events and those who want to hear of them: `on`, `once`, `off`."""

import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

logger = logging.getLogger("sdcluster")

H = TypeVar("H", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True, eq=False)
class _Entry:
    """A handler, each time that it was added."""

    handler: Callable[..., Any]
    once: bool


class Emitter:
    """Calls the handlers of an event, in the order in which they came.

    A handler may be a coroutine function; `start` is given what it returns. A handler that raises
    is logged with its traceback, and nobody else is touched.
    """

    def __init__(
        self, events: Iterable[str], *, start: Callable[[Coroutine[Any, Any, Any]], object]
    ) -> None:
        self._entries: dict[str, list[_Entry]] = {event: [] for event in events}
        self._start = start

    def on(self, event: str, *, once: bool = False) -> Callable[[H], H]:
        """Return a decorator for a handler. Raises ValueError for an event that does not exist."""
        entries = self._of(event)

        def add(handler: H) -> H:
            entries.append(_Entry(handler, once))
            return handler

        return add

    def has(self, event: str) -> bool:
        """Whether anybody wants to hear of it."""
        return bool(self._of(event))

    def off(self, event: str, handler: Callable[..., Any]) -> None:
        """Call a handler no more, however often it was added. Harmless when it is none."""
        entries = self._of(event)
        # By equality: a bound method is another object each time that it is named.
        entries[:] = [one for one in entries if one.handler != handler]

    def emit(self, event: str, *arguments: Any) -> None:
        """Call the handlers of an event: those there are now, less those removed meanwhile."""
        self._call(event, lambda _: arguments)

    def offer(self, event: str, *arguments: Any, extra: Any) -> bool:
        """Emit an event with one argument more, for the handlers that take one.

        When it is None, it is for those alone that cannot do without. Returns whether a handler was
        given one that is not None.
        """
        is_taken = False

        def words(handler: Callable[..., Any]) -> tuple[Any, ...]:
            nonlocal is_taken
            if not _takes_extra(handler, len(arguments), is_there=extra is not None):
                return arguments
            is_taken = extra is not None
            return (*arguments, extra)

        self._call(event, words)
        return is_taken

    def _call(
        self, event: str, arguments_for: Callable[[Callable[..., Any]], tuple[Any, ...]]
    ) -> None:
        entries = self._of(event)
        for entry in list(entries):
            if entry not in entries:
                continue
            if entry.once:
                entries.remove(entry)
            try:
                result = entry.handler(*arguments_for(entry.handler))
                if result is not None and inspect.isawaitable(result):
                    self._start(_guarded(event, result))
            except Exception:
                logger.exception("a handler of %r failed", event)

    def _of(self, event: str) -> list[_Entry]:
        try:
            return self._entries[event]
        except KeyError:
            known = ", ".join(self._entries)
            raise ValueError(f"there is no event {event!r}; known are {known}") from None


def _takes_extra(handler: Callable[..., Any], count: int, *, is_there: bool) -> bool:
    """Tell whether a handler is to be given an argument more than `count`."""
    try:
        signature = inspect.signature(handler)
    except (TypeError, ValueError):
        return False
    usual, one_more = (_binds(signature, number) for number in (count, count + 1))
    return one_more and (is_there or not usual)


def _binds(signature: inspect.Signature, count: int) -> bool:
    try:
        signature.bind(*[None] * count)
    except TypeError:
        return False
    return True


async def _guarded(event: str, awaitable: Awaitable[Any]) -> None:
    try:
        await awaitable
    except Exception:
        logger.exception("a handler of %r failed", event)

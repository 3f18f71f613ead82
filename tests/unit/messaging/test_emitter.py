"""Events and their handlers."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from sdcluster.messaging.emitter import Emitter


class Scene:
    """An emitter, and what its handlers were told."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.started: list[Coroutine[Any, Any, Any]] = []
        self.emitter = Emitter(("fork", "exit"), start=self.started.append)

    def handler(self, name: str) -> Callable[..., None]:
        """Return a handler that tells its name and what it is given."""
        return lambda *arguments: self.told.append((name, *arguments))

    def method(self, *arguments: Any) -> None:
        """Be a handler."""
        self.told.append(("method", *arguments))

    def run(self) -> None:
        """Run what was started, to its end."""

        async def all_of_it() -> None:
            await asyncio.gather(*self.started)

        asyncio.run(all_of_it())


@pytest.fixture
def scene() -> Scene:
    """Make a scene."""
    return Scene()


def test_handlers_are_called_in_the_order_in_which_they_came(scene: Scene) -> None:
    """Those of the event alone, with what is emitted; the same one as often as it was added."""
    first, second = scene.handler("first"), scene.handler("second")
    assert scene.emitter.on("exit")(first) is first
    scene.emitter.on("exit")(second)
    scene.emitter.on("fork")(scene.handler("other"))
    scene.emitter.on("exit")(first)
    scene.emitter.emit("exit", 1, "SIGTERM")
    assert [name for name, *_ in scene.told] == ["first", "second", "first"]
    assert scene.told[0] == ("first", 1, "SIGTERM")


def test_event_without_handlers_is_nothing(scene: Scene) -> None:
    """It can be asked whether there are any."""
    scene.emitter.emit("exit")
    assert not scene.emitter.has("exit")
    scene.emitter.on("exit")(scene.handler("a"))
    assert scene.emitter.has("exit") and not scene.emitter.has("fork")


@pytest.mark.parametrize("what", ["on", "off", "has", "emit"])
def test_unknown_event_is_refused(scene: Scene, what: str) -> None:
    """A typing error is found where it stands, and the text tells what there is."""
    arguments = ["exti", lambda: None] if what == "off" else ["exti"]
    with pytest.raises(ValueError, match="no event 'exti'; known are fork, exit"):
        getattr(scene.emitter, what)(*arguments)


def test_handler_for_once_is_called_once(scene: Scene) -> None:
    """Others are called each time."""
    scene.emitter.on("exit", once=True)(scene.handler("once"))
    scene.emitter.on("exit")(scene.handler("each"))
    scene.emitter.emit("exit")
    scene.emitter.emit("exit")
    assert scene.told == [("once",), ("each",), ("each",)]


def test_handler_for_once_is_called_once_also_when_it_emits_again(scene: Scene) -> None:
    """Whether it, or one before it, emits the event within."""
    deep = 0

    def emit_within(*_: Any) -> None:
        nonlocal deep
        deep += 1
        if deep < 3:
            scene.emitter.emit("exit")

    scene.emitter.on("exit")(emit_within)
    scene.emitter.on("exit", once=True)(scene.handler("once"))
    scene.emitter.emit("exit")
    assert scene.told == [("once",)] and deep == 3


def test_handler_that_is_off_is_not_called(scene: Scene) -> None:
    """However often it was added, for once or not; and `off` for one that is none is harmless."""
    handler = scene.handler("a")
    for once in (False, True, False):
        scene.emitter.on("exit", once=once)(handler)
    scene.emitter.off("fork", handler)
    scene.emitter.emit("exit")
    assert len(scene.told) == 3
    scene.emitter.off("exit", handler)
    scene.emitter.off("exit", handler)
    scene.emitter.emit("exit")
    assert len(scene.told) == 3 and not scene.emitter.has("exit")


def test_method_can_be_off(scene: Scene) -> None:
    """Each time that it is named it is another object, and equal."""
    scene.emitter.on("exit")(scene.method)
    scene.emitter.off("exit", scene.method)
    scene.emitter.emit("exit")
    assert scene.told == []


@pytest.mark.parametrize("once", [False, True])
def test_handler_that_is_off_meanwhile_is_not_called(scene: Scene, once: bool) -> None:
    """By one before it; those after it are called."""
    later = scene.handler("later")
    scene.emitter.on("exit")(lambda: scene.emitter.off("exit", later))
    scene.emitter.on("exit", once=once)(later)
    scene.emitter.on("exit")(scene.handler("last"))
    scene.emitter.emit("exit")
    assert scene.told == [("last",)]


def test_handler_that_takes_itself_off_is_called_no_more(scene: Scene) -> None:
    """And the next one is not passed over."""

    def handler() -> None:
        scene.told.append("itself")
        scene.emitter.off("exit", handler)

    scene.emitter.on("exit")(handler)
    scene.emitter.on("exit")(scene.handler("next"))
    scene.emitter.emit("exit")
    scene.emitter.emit("exit")
    assert scene.told == ["itself", ("next",), ("next",)]


def test_handler_that_is_added_meanwhile_hears_of_the_next_event(scene: Scene) -> None:
    """Or one that adds itself again would be called for ever."""

    def handler() -> None:
        scene.told.append("called")
        scene.emitter.on("exit", once=True)(handler)

    scene.emitter.on("exit", once=True)(handler)
    scene.emitter.emit("exit")
    assert scene.told == ["called"]
    scene.emitter.emit("exit")
    assert scene.told == ["called", "called"]


def test_handler_that_raises_is_logged_and_no_other_is_touched(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    """With its traceback; it is called again the next time."""

    @scene.emitter.on("exit")
    def broken(_: int) -> None:
        raise ZeroDivisionError("by me")

    scene.emitter.on("exit")(scene.handler("next"))
    scene.emitter.emit("exit", 1)
    scene.emitter.emit("exit", 2)
    assert scene.told == [("next", 1), ("next", 2)]
    assert [record.getMessage() for record in caplog.records] == ["a handler of 'exit' failed"] * 2
    assert "in broken" in caplog.text and "ZeroDivisionError: by me" in caplog.text


def test_handler_may_be_a_coroutine_function(scene: Scene) -> None:
    """What it returns is started, in order."""

    @scene.emitter.on("exit")
    async def handler(number: int) -> None:
        await asyncio.sleep(0)
        scene.told.append(number)

    scene.emitter.emit("exit", 1)
    scene.emitter.emit("exit", 2)
    assert scene.told == []
    scene.run()
    assert scene.told == [1, 2]


def test_handler_may_return_something_to_wait_for(scene: Scene) -> None:
    """A future, say; and whatever else it returns is ignored."""
    loop = asyncio.new_event_loop()
    future: asyncio.Future[None] = loop.create_future()
    scene.emitter.on("exit")(lambda: future)
    scene.emitter.on("exit")(lambda: "something")
    scene.emitter.emit("exit")
    future.set_result(None)
    (coroutine,) = scene.started
    loop.run_until_complete(coroutine)
    loop.close()


def test_coroutine_that_raises_is_logged_and_no_other_is_touched(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    """With its traceback; nothing is raised where it runs."""

    @scene.emitter.on("exit")
    async def broken() -> None:
        raise ZeroDivisionError("by me")

    @scene.emitter.on("exit")
    async def well() -> None:
        scene.told.append("well")

    scene.emitter.emit("exit")
    scene.run()
    assert scene.told == ["well"]
    (record,) = caplog.records
    assert record.getMessage() == "a handler of 'exit' failed"
    assert "in broken" in caplog.text and "ZeroDivisionError: by me" in caplog.text


def test_exit_of_the_program_is_not_held_up_by_a_handler(scene: Scene) -> None:
    """SystemExit and KeyboardInterrupt are no failures of a handler."""

    @scene.emitter.on("exit")
    def leave() -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        scene.emitter.emit("exit")


def test_offer_is_for_handlers_that_take_one_argument_more(scene: Scene) -> None:
    """The others are called without; None is for those alone that cannot do without."""
    told = scene.told
    scene.emitter.on("exit")(lambda code: told.append(("alone", code)))
    scene.emitter.on("exit")(lambda code, extra: told.append(("has to", code, extra)))
    scene.emitter.on("exit")(lambda code, extra="-": told.append(("may", code, extra)))
    scene.emitter.on("exit")(scene.handler("any"))
    assert scene.emitter.offer("exit", 1, extra="x")
    assert told == [("alone", 1), ("has to", 1, "x"), ("may", 1, "x"), ("any", 1, "x")]
    del told[:]
    assert not scene.emitter.offer("exit", 1, extra=None)
    assert told == [("alone", 1), ("has to", 1, None), ("may", 1, "-"), ("any", 1)]


def test_offer_that_nobody_takes_is_told(scene: Scene) -> None:
    """Also by a handler of which nobody knows what it takes, as of some that are not Python's."""
    assert not scene.emitter.offer("exit", 1, extra="x")
    scene.emitter.on("exit")(lambda code: scene.told.append(code))
    scene.emitter.on("exit")(dict.fromkeys([1]).__class__)
    assert not scene.emitter.offer("exit", [("a", 1)], extra="x")
    assert scene.told == [[("a", 1)]]

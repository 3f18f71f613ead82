"""What becomes of a start that fails, and whose wish a start is."""

import math
import random

import pytest

from sdcluster.core.starts import (
    FIRST_WAIT_S,
    JITTER,
    MAX_WAIT_S,
    PATIENCE_S,
    RESTARTED_WITHIN_S,
    Origin,
    Start,
    State,
    origin,
)

NOW = 1000.0


def begin(of: Origin, *, jitter: float = 0.0) -> Start:
    """Begin a start at `NOW`."""
    return Start(of, NOW, jitter=lambda: jitter)


def waits(start: Start, count: int) -> list[float]:
    """Let each try fail at once, so many times, and return how long each wait was."""
    now, found = NOW, []
    for _ in range(count):
        assert start.failed(now, waiting_may_mend=True) is State.WAITING
        deadline = start.deadline()
        assert deadline is not None
        found.append(deadline - now)
        now = deadline
        assert start.time_passed(now) is State.TRYING
    return found


# What becomes of it.


@pytest.mark.parametrize("mends", [True, False])
def test_start_in_the_foreground_ends_with_its_first_failure(mends: bool) -> None:
    """Whoever has typed the command sees why."""
    start = begin(Origin.FOREGROUND)
    assert start.failed(NOW, waiting_may_mend=mends) is State.OVER
    assert start.deadline() is None


@pytest.mark.parametrize("of", [Origin.DELIBERATE, Origin.AUTOMATIC])
@pytest.mark.parametrize("later_s", [0.0, PATIENCE_S + 1])
def test_start_that_was_told_to_stop_has_not_failed(of: Origin, later_s: float) -> None:
    """It may still be at the end of a try that has: the next start is the one that was wanted."""
    start = begin(of)
    stopped = start.failed(NOW + later_s, waiting_may_mend=True, is_stopped=True)
    assert stopped is State.STOPPED
    assert start.deadline() is None


def test_start_in_the_foreground_has_failed_even_if_it_was_told_to_stop() -> None:
    """Whoever has typed the command sees why it did not work."""
    start = begin(Origin.FOREGROUND)
    assert start.failed(NOW, waiting_may_mend=True, is_stopped=True) is State.OVER


def test_deliberate_start_ends_at_once_when_waiting_mends_nothing() -> None:
    """`systemctl start` with a typo in the file fails, and does not hang."""
    assert begin(Origin.DELIBERATE).failed(NOW, waiting_may_mend=False) is State.OVER


def test_deliberate_start_waits_for_what_comes_late() -> None:
    """Its waits grow, and the last try comes when its patience ends."""
    start = begin(Origin.DELIBERATE)
    now = NOW
    tries = [0.0]
    while start.failed(now, waiting_may_mend=True) is State.WAITING:
        deadline = start.deadline()
        assert deadline is not None
        now = deadline
        assert start.time_passed(now) is State.TRYING
        tries.append(now - NOW)
    assert tries == [0.0, 1.0, 2.5, 4.75, 8.125, 13.1875, 20.78125, PATIENCE_S]
    assert start.tries == len(tries)
    assert start.state is State.OVER


def test_deliberate_start_whose_first_try_takes_too_long_is_over() -> None:
    """An app that hangs for as long as the patience lasts is not loaded a second time."""
    start = begin(Origin.DELIBERATE)
    assert start.failed(NOW + PATIENCE_S, waiting_may_mend=True) is State.OVER


def test_deliberate_start_ends_when_a_later_try_finds_what_waiting_does_not_mend() -> None:
    """A typo that comes into the file during the wait is told like any other."""
    start = begin(Origin.DELIBERATE)
    start.failed(NOW, waiting_may_mend=True)
    start.time_passed(NOW + FIRST_WAIT_S)
    assert start.failed(NOW + FIRST_WAIT_S, waiting_may_mend=False) is State.OVER


@pytest.mark.parametrize("mends", [True, False])
def test_automatic_start_never_ends_by_itself(mends: bool) -> None:
    """A dependency that comes a day late finds it waiting, and so does a mended typo."""
    start = begin(Origin.AUTOMATIC)
    now = NOW
    while now < NOW + 86_400:
        assert start.failed(now, waiting_may_mend=mends) is State.WAITING
        deadline = start.deadline()
        assert deadline is not None and now < deadline <= now + MAX_WAIT_S
        now = deadline
        assert start.time_passed(now) is State.TRYING


def test_waits_grow_up_to_the_longest() -> None:
    """From a second to twenty."""
    found = waits(begin(Origin.AUTOMATIC), 12)
    assert found[:4] == [1.0, 1.5, 2.25, 3.375]
    assert found == sorted(found)
    assert set(found[8:]) == {MAX_WAIT_S}


def test_jitter_shortens_a_wait_and_does_not_add_up() -> None:
    """A wait is shorter by a quarter at the most, however many there were before it."""
    plain = waits(begin(Origin.AUTOMATIC), 12)
    shortened = waits(begin(Origin.AUTOMATIC, jitter=1.0), 12)
    assert shortened == pytest.approx([one * (1.0 - JITTER) for one in plain])


def test_nothing_is_tried_before_its_time() -> None:
    """A timer that fires too early changes nothing."""
    start = begin(Origin.AUTOMATIC)
    start.failed(NOW, waiting_may_mend=True)
    assert start.time_passed(NOW + FIRST_WAIT_S / 2) is State.WAITING
    assert start.tries == 1


def test_news_bring_the_next_try_at_once_and_short_waits_again() -> None:
    """A changed file may be the mended one; if it is not, that is found out soon."""
    start = begin(Origin.AUTOMATIC)
    waits(start, 8)
    start.failed(NOW, waiting_may_mend=False)
    assert start.news() is State.TRYING
    assert start.tries == 10
    start.failed(NOW, waiting_may_mend=False)
    assert start.deadline() == NOW + FIRST_WAIT_S


def test_what_comes_at_the_wrong_time_changes_nothing() -> None:
    """News during a try, and a second failure of one that has failed already."""
    start = begin(Origin.AUTOMATIC)
    assert start.news() is start.time_passed(NOW) is State.TRYING
    assert start.deadline() is None
    start.failed(NOW, waiting_may_mend=True)
    deadline = start.deadline()
    assert start.failed(NOW + 0.5, waiting_may_mend=True) is State.WAITING
    assert start.deadline() == deadline
    over = begin(Origin.FOREGROUND)
    over.failed(NOW, waiting_may_mend=True)
    assert over.news() is over.time_passed(NOW + 1) is State.OVER


def test_rules_hold_whatever_happens() -> None:
    """Random walks: a wait always has an end, a start that is over stays so, and tries count up."""
    for seed in range(300):
        draw = random.Random(seed)
        start = Start(draw.choice(list(Origin)), NOW, jitter=draw.random)
        now, tries = NOW, 1
        for _ in range(100):
            before = start.state
            match draw.randrange(4):
                case 0:
                    now += draw.choice((0.0, 0.1, 5.0, 40.0))
                    stopped = draw.random() < 0.05
                    start.failed(now, waiting_may_mend=draw.random() < 0.5, is_stopped=stopped)
                case 1:
                    now = start.deadline() or now
                    start.time_passed(now)
                case 2:
                    now += draw.random()
                    start.time_passed(now)
                case _:
                    start.news()
            tries += before is State.WAITING and start.state is State.TRYING
            assert start.tries == tries
            assert (start.deadline() is not None) == (start.state is State.WAITING)
            assert before not in (State.OVER, State.STOPPED) or start.state is before
            assert start.origin is not Origin.AUTOMATIC or start.state is not State.OVER
            if before is State.TRYING and start.state is State.WAITING:
                deadline = start.deadline()
                assert deadline is not None and now < deadline <= now + MAX_WAIT_S
                assert start.origin is not Origin.FOREGROUND


# Whose wish it is.


def whose(
    *, service: bool = True, ago: float | None = None, mends: bool = False, client: bool = False
) -> Origin:
    """Return the origin of a start."""
    return origin(
        is_service=service, last_failed_s_ago=ago, mends_itself=mends, client_waits=client
    )


def test_start_without_a_service_manager_is_in_the_foreground() -> None:
    """Whatever else there is."""
    assert whose(service=False, ago=0.1, mends=True, client=True) is Origin.FOREGROUND


@pytest.mark.parametrize("client", [True, False])
def test_start_after_none_that_failed_is_deliberate(client: bool) -> None:
    """Also when clients wait, as they always do where a busy service is restarted."""
    assert whose(client=client) is Origin.DELIBERATE


def test_start_after_a_failed_one_is_automatic_when_a_client_waits() -> None:
    """The socket unit has started it, at once or when the client came."""
    assert whose(ago=0.1, client=True) is Origin.AUTOMATIC
    assert whose(ago=86_400.0, client=True) is Origin.AUTOMATIC


def test_start_after_a_failed_one_is_deliberate_when_no_client_waits() -> None:
    """Somebody tries once more what systemd does not repeat."""
    assert whose(ago=0.1) is Origin.DELIBERATE


def test_start_soon_after_one_that_systemd_repeats_is_automatic() -> None:
    """It is too soon for a person."""
    assert whose(ago=1.2, mends=True) is Origin.AUTOMATIC
    assert whose(ago=RESTARTED_WITHIN_S + 1, mends=True) is Origin.DELIBERATE
    assert whose(ago=-3600.0, mends=True) is Origin.DELIBERATE  # The clock was set back.


def test_client_decides_when_nothing_can_be_known_of_the_last_start() -> None:
    """Without a place for a note, a socket is not to fail, and the rest is to be told at once."""
    assert whose(ago=math.inf, client=True) is Origin.AUTOMATIC
    assert whose(ago=math.inf, mends=True) is Origin.DELIBERATE

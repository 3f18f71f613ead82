"""How long a slot waits before it is filled again."""

from sdcluster.core.backoff import (
    FIRST_DELAY_S,
    JITTER,
    MAX_DELAY_S,
    MAX_DELAY_WITH_REQUESTS_S,
    WINDOW_S,
    Backoff,
)


def test_first_crash_is_answered_at_once() -> None:
    """Nothing is gained by waiting after a single crash."""
    assert Backoff().delay_s(100.0, jitter=0.0) == 0.0


def test_each_further_crash_doubles_the_wait_up_to_the_longest() -> None:
    """A worker that crashes whenever it is started is tried every half minute in the end."""
    backoff = Backoff()
    now, delays = 100.0, []
    for _ in range(50):
        delays.append(backoff.delay_s(now, jitter=0.0))
        now += delays[-1]
    assert delays[:9] == [0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0]
    assert set(delays[9:]) == {MAX_DELAY_S}


def test_crashes_within_the_window_count_however_long_the_worker_had_lived() -> None:
    """A crash every fifty seconds is a crash loop."""
    backoff = Backoff()
    assert [backoff.delay_s(now, jitter=0.0) for now in (0.0, 50.0, 100.0)] == [0.0, 0.25, 0.5]


def test_crash_of_a_worker_that_had_requests_is_answered_soon() -> None:
    """It counts as any other, but it does not wait as long."""
    backoff = Backoff()
    for _ in range(10):
        delay_s = backoff.delay_s(100.0, jitter=0.0, had_requests=True)
        assert delay_s <= MAX_DELAY_WITH_REQUESTS_S
    assert backoff.delay_s(100.0, jitter=0.0) == MAX_DELAY_S


def test_window_without_a_crash_starts_anew() -> None:
    """What is long ago is forgiven."""
    backoff = Backoff()
    for now in (100.0, 101.0, 102.0):
        backoff.delay_s(now, jitter=0.0)
    assert backoff.delay_s(102.0 + WINDOW_S, jitter=0.0) == 0.0
    assert backoff.delay_s(103.0 + WINDOW_S, jitter=0.0) == FIRST_DELAY_S


def test_jitter_shortens_the_wait_and_does_not_add_up() -> None:
    """The jitter of one wait has no influence on the next."""
    backoff = Backoff()
    delays = [backoff.delay_s(100.0, jitter=jitter) for jitter in (1.0, 1.0, 0.5)]
    assert delays == [0.0, 0.25 * (1 - JITTER), 0.5 * (1 - JITTER / 2)]


def test_forgotten_crashes_do_not_count() -> None:
    """New code begins without a record."""
    backoff = Backoff()
    backoff.delay_s(100.0, jitter=0.0)
    backoff.forget()
    assert backoff.delay_s(100.0, jitter=0.0) == 0.0

"""How long connections have asked nothing."""

from sdcluster.worker.http.silence import SILENCE_S, Silence


def test_connection_is_silent_when_it_has_asked_nothing_for_a_while() -> None:
    """From when it was first seen to ask nothing."""
    silence: Silence[str] = Silence()
    assert silence.look([("a", 0)], 10) == []
    assert silence.look([("a", 0), ("b", 0)], 10 + SILENCE_S / 2) == []
    assert silence.look([("a", 0), ("b", 0)], 10 + SILENCE_S) == ["a"]
    assert silence.look([("a", 0), ("b", 0)], 10 + SILENCE_S * 2) == ["a", "b"]


def test_connection_that_has_asked_something_is_silent_anew() -> None:
    """Also when it asks nothing the next time that is looked."""
    silence: Silence[str] = Silence()
    assert silence.look([("a", 0)], 10) == []
    assert silence.look([], 10 + SILENCE_S / 2) == []
    assert silence.look([("a", 0)], 10 + SILENCE_S) == []
    assert silence.look([("a", 0)], 10 + SILENCE_S * 2) == ["a"]


def test_connection_from_which_more_has_come_is_silent_anew() -> None:
    """What comes need not be a request yet."""
    silence: Silence[str] = Silence()
    assert silence.look([("a", 1)], 10) == []
    assert silence.look([("a", 2)], 10 + SILENCE_S) == []
    assert silence.look([("a", 2)], 10 + SILENCE_S * 2) == ["a"]

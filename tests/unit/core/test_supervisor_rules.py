"""The supervisor's rules, whatever happens: seeded random walks through a small world."""

from collections.abc import Callable

import pytest

from sdcluster.core import events as ev
from unit.core.world import MAX_RELOAD_S, World

WALKS = 150
STEPS = 250


def walk(seeds: range, end: Callable[[World], object]) -> None:
    """Walk once for each seed, then bring the walk to its `end`. A failure tells the story."""
    for seed in seeds:
        world = World(seed)
        try:
            world.tell(ev.StartRequested())
            for _ in range(seed * 7 % STEPS + 1):
                if not world.is_finished:
                    world.step()
            end(world)
        except (AssertionError, KeyError) as error:
            pytest.fail(f"seed {seed}: {error!r}\n{world.story()}")


def test_rules_hold_whatever_happens() -> None:
    """After each event of a walk all rules of `World` hold.

    One slot in transition at a time, new first, no capacity lost by choice, nobody leaked, no
    worker from a dead mold, nothing without a time limit, each reload complete or back.
    """
    walk(range(WALKS), World.story)


def test_cluster_recovers_as_soon_as_nothing_fails_any_more() -> None:
    """From wherever a walk has led, every wanted slot comes to serve one generation."""

    def end(world: World) -> None:
        world.settle()
        if world.is_stopping:
            assert world.is_finished
            return
        current = world.supervisor.current
        assert world.is_announced and world.reload is None and not world.is_requested
        assert world.molds == {current: True}
        slots = world.wanted_slots() | world.quarantine_slots()
        assert sorted(one.slot for one in world.workers.values()) == sorted(slots)
        assert all(one.serves and one.generation == current for one in world.workers.values())

    walk(range(1000, 1000 + WALKS), end)


def test_reload_ends_even_if_no_worker_ever_becomes_ready() -> None:
    """Neither the new generation nor the old one can hold it up, and the next one has its turn."""

    def end(world: World) -> None:
        world.tell(ev.ReloadRequested())
        world.fail(3 * MAX_RELOAD_S)
        assert not world.is_announced or not world.is_requested

    walk(range(3000, 3000 + WALKS), end)


def test_stopping_cluster_always_finishes() -> None:
    """From wherever a walk has led, a stop ends, even if each worker must be killed for it."""

    def end(world: World) -> None:
        if not world.is_finished:
            world.stop()
        assert world.is_finished and not world.workers

    walk(range(2000, 2000 + WALKS), end)

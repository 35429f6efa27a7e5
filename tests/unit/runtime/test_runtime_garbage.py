"""What lives long is kept out of garbage collection, and cycles are still found."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest
from headrace_runtime.garbage import THOROUGH_SECONDS, SurvivorFreezer


class Node:
    me: Node


def cycle() -> Node:
    node = Node()
    node.me = node
    return node


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Iterator[Clock]:
    gc.collect()
    clock = Clock()
    freezer = SurvivorFreezer(clock)
    freezer.install()
    yield clock
    freezer.remove()
    assert gc.get_freeze_count() == 0


def test_a_collection_looks_only_at_what_has_come_since(clock: Clock) -> None:
    kept = [Node() for _ in range(1_000)]
    gc.collect(1)
    assert gc.get_freeze_count() == 0, "what is younger is left alone"
    gc.collect()
    assert gc.get_freeze_count() > 1_000
    assert not any(isinstance(each, Node) for each in gc.get_objects())
    kept.append(Node())
    assert sum(isinstance(each, Node) for each in gc.get_objects()) == 1


def test_cycles_are_collected_as_long_as_they_are_young(clock: Clock) -> None:
    gc.collect()
    dead = weakref.ref(cycle())
    assert dead() is not None
    gc.collect()
    assert dead() is None


def test_a_cycle_that_dies_frozen_is_found_by_a_thorough_collection(clock: Clock) -> None:
    node = cycle()
    dead = weakref.ref(node)
    gc.collect()
    del node
    clock.now = THOROUGH_SECONDS - 1
    gc.collect()
    assert dead() is not None
    clock.now = THOROUGH_SECONDS
    gc.collect()
    assert dead() is None
    frozen = gc.get_freeze_count()
    assert frozen > 1_000
    gc.collect()
    assert gc.get_freeze_count() >= frozen, "the next one is not thorough"

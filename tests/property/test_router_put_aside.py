"""Tasks reach the router of their partition once each and in the order of their offsets, whenever there is room for
them and whatever else waits."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from headrace_router.decide.partition_life import PartitionPhase
from headrace_router.limits import RouterLimits
from headrace_router.live_bytes import LiveBytes
from headrace_router.supervisor import PartitionSupervisor
from headrace_streams.errors import Overloaded
from headrace_streams.records import Record, TopicPartition
from hypothesis import given, settings
from hypothesis import strategies as st

TASKS, ENDS = TopicPartition("tasks.submitted", 0), TopicPartition("attempts.finished", 0)
STEPS = st.lists(
    st.sampled_from(["task", "task", "task", "end", "fill", "empty", "turn", "turn", "hold"]), min_size=5, max_size=60
)


class Inputs:
    """A consumer that is only ever paused and resumed."""

    def __init__(self) -> None:
        self.paused: set[TopicPartition] = set()

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        self.paused.update(partitions)

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        self.paused.difference_update(partitions)


class Taker:
    """Takes records at once, later or only at the second try, as drawn. Each task fills a byte."""

    def __init__(self, live: LiveBytes, draws: Iterator[int]) -> None:
        self.taken: dict[str, list[int]] = {TASKS.topic: [], ENDS.topic: []}
        self._live = live
        self._share = live.share()
        self._draws = draws

    def foresee(self, record: Record, router: object) -> None:
        """Nothing is known before."""

    def take_now(self, record: Record, router: object) -> bool:
        if next(self._draws) == 0 or self._is_full_for(record):
            return False
        self._take(record)
        return True

    async def take(self, record: Record, router: object) -> None:
        await asyncio.sleep(0)
        if next(self._draws) == 0 or self._is_full_for(record):
            raise Overloaded("later")
        self._take(record)

    def _is_full_for(self, record: Record) -> bool:
        """As the router says."""
        return record.topic == TASKS.topic and self._live.closed

    def _take(self, record: Record) -> None:
        self.taken[record.topic].append(record.offset)
        if record.topic == TASKS.topic:
            self._share.set(self._share._held + 1)


def record(name: TopicPartition, offset: int) -> Record:
    return Record(topic=name.topic, partition=name.partition, offset=offset, key=None, value=b"", timestamp_ms=0)


async def run(steps: Collection[str], draws: list[int]) -> None:
    live = LiveBytes(3)
    taker = Taker(live, iter([*draws, *([1] * 10_000)]))
    inputs = Inputs()

    def admit() -> None:
        while not live.closed and supervisor.admit_one():
            pass

    parts: Any = {"consumer": inputs, "take_over": None, "taker": taker}
    supervisor = PartitionSupervisor(
        partition=0, inputs=(TASKS, ENDS), fresh=(), topic_prefix="", limits=RouterLimits(), monotonic=lambda: 0.0,
        live_bytes=live, admit_soon=admit, **parts,
    )  # fmt: skip
    live.on_open(admit)
    router: Any = object()
    supervisor.router, supervisor.phase = router, PartitionPhase.ROUTING
    offsets = {TASKS: 0, ENDS: 0}
    for step in steps:
        match step:
            case "task" | "end":
                name = TASKS if step == "task" else ENDS
                supervisor.offer(record(name, offsets[name]), router)
                offsets[name] += 1
            case "fill":
                taker._share.set(3)
            case "empty":
                taker._share.set(0)
            case "hold":
                supervisor.hold()
            case _:
                await asyncio.sleep(0)
    while sum(map(len, taker.taken.values())) < sum(offsets.values()):
        taker._share.set(0)
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.06)
    assert taker.taken == {name.topic: list(range(end)) for name, end in offsets.items()}
    assert inputs.paused == set()


@given(steps=STEPS, draws=st.lists(st.integers(0, 3), max_size=80))
@settings(max_examples=80, deadline=None)
def test_tasks_are_taken_once_and_in_order(steps: list[str], draws: list[int]) -> None:
    asyncio.run(run(steps, draws))

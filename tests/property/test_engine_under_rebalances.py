"""The whole engine on the in-memory twin, in virtual time: members come, go and are expelled while handlers wait, fail
and hang; whatever the schedule, nothing is skipped, no commit passes unfinished work, and every key keeps its order."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from headrace_streams.errors import RetryRecord, SendToDeadLetters, TransientError
from headrace_streams.memory import MemoryCluster, MemoryLog, NetworkRequest, Operation
from headrace_streams.offsets import decode
from headrace_streams.parallel import EngineOptions, Ordering, ParallelConsumer, RetryPolicy, TopicLane
from headrace_streams.records import ProducerRecord, Record, TopicPartition
from headrace_testing.simulation.loop import VirtualLoop
from hypothesis import given, settings
from hypothesis import strategies as st

T = TypeVar("T")

URGENT, USUAL, GROUP = "urgent", "usual", "workers"
PARTITIONS = 2
POISON, STUBBORN, WANTS_LATER, FAILS_ONCE, AT_ONCE, QUICK, SLOW = range(7)
KINDS = (POISON, STUBBORN, WANTS_LATER, FAILS_ONCE, AT_ONCE, AT_ONCE, AT_ONCE, QUICK, QUICK, SLOW)


@dataclass(frozen=True, slots=True)
class Step:
    """Something that happens so many milliseconds after what happened before it."""

    after_ms: int
    what: str
    number: int


STEPS = st.lists(
    st.builds(
        Step,
        after_ms=st.sampled_from([0, 1, 20, 300, 2000]),
        what=st.sampled_from(["join", "leave", "expel", "kill", "append", "cancel", "no commits", "commits"]),
        number=st.integers(0, 30),
    ),
    max_size=12,
)
SETTINGS = st.fixed_dictionaries({
    "max_in_flight": st.sampled_from([1, 3, 40]),
    "max_buffered": st.sampled_from([3, 1000]),
    "max_held_bytes": st.sampled_from([1, 6, 1_000_000]),
    "max_poll_records": st.sampled_from([2, 50]),
    "metadata_limit": st.sampled_from([24, 60, 4095]),
    "drain_seconds": st.sampled_from([0.0, 0.5]),
    "ordering": st.sampled_from(Ordering),
})  # fmt: skip


class World:
    """The cluster, the members, and a ledger of what handlers did that no engine can talk to."""

    def __init__(self, kinds: list[int], limits: dict[str, object]) -> None:
        self.cluster = MemoryCluster(session_timeout=1.0, rebalance_timeout=5.0)
        for topic in (URGENT, USUAL):
            self.cluster.create_topic(topic, PARTITIONS)
        self.kinds = kinds
        self.limits = limits
        self.members: list[tuple[ParallelConsumer, MemoryLog, asyncio.Task[None]]] = []
        self.committing = True
        self.tries: Counter[tuple[str, int, int]] = Counter()
        self.done: set[tuple[str, int, int]] = set()
        self.first_done: dict[bytes | None, list[int]] = defaultdict(list)
        self.in_flight: Counter[int] = Counter()
        self.number = 0

    def append(self, count: int) -> None:
        for _ in range(count):
            key = f"k{self.number % 5}"
            topic = URGENT if self.number % 5 == 0 else USUAL
            self.cluster.append(ProducerRecord(topic, str(self.number).encode(), key.encode()))
            self.number += 1

    def kind(self, record: Record) -> int:
        return self.kinds[int(record.value or b"0") % len(self.kinds)]

    def handler(self, member: int) -> Callable[[Record], Awaitable[None] | None]:
        def handle(record: Record) -> Awaitable[None] | None:
            place = _place(record)
            self.tries[place] += 1
            match self.kind(record):
                case kind if kind == POISON:
                    raise SendToDeadLetters("never")
                case kind if kind == WANTS_LATER and self.tries[place] == 1:
                    raise RetryRecord("later", 0.7)
                case kind if kind == FAILS_ONCE and self.tries[place] == 1:
                    raise ValueError("once")
                case kind if kind in (SLOW, QUICK, STUBBORN):
                    return self.wait(member, record, kind)
            self.finish(record)
            return None

        return handle

    async def wait(self, member: int, record: Record, kind: int) -> None:
        self.in_flight[member] += 1
        assert self.in_flight[member] <= int(str(self.limits["max_in_flight"]))
        try:
            # Longer than any drain, now and then.
            await asyncio.sleep({QUICK: 0.01, SLOW: 0.4, STUBBORN: 1.5}[kind])
        finally:
            self.in_flight[member] -= 1
        self.finish(record)

    def finish(self, record: Record) -> None:
        if _place(record) not in self.done:
            self.first_done[record.key].append(int(record.value or b"-1"))
            self.done.add(_place(record))

    async def keep(self, record: Record, error: Exception, attempts: int = 1) -> None:
        assert self.kind(record) == POISON, error
        await asyncio.sleep(0.001)
        self.done.add(_place(record))

    def join(self) -> None:
        number = len(self.members)
        log = MemoryLog(self.cluster, client=f"m{number}", network=CheckedNetwork(self))
        retries = RetryPolicy(first_delay_seconds=0.05, longest_delay_seconds=0.1)
        engine = ParallelConsumer(
            log, GROUP, [TopicLane(URGENT, weight=4), TopicLane(USUAL)], self.handler(number),
            dead_letters=self, skip=self.finish,
            options=EngineOptions(commit_interval_seconds=0.1, retries=retries, **self.limits),  # type: ignore[arg-type]
        )  # fmt: skip
        self.members.append((engine, log, asyncio.get_running_loop().create_task(engine.run())))

    def check_progress(self) -> None:
        """Nothing that the group calls finished is unfinished."""
        for name, progress in self.cluster.group(GROUP).committed_offsets.items():
            claimed = [(0, progress.next_offset), *decode(progress)]
            for first, end in claimed:
                for offset in range(first, end):
                    assert (name.topic, name.partition, offset) in self.done, f"{name}@{offset} is claimed as done"

    def all_committed(self) -> bool:
        progress = self.cluster.group(GROUP).committed_offsets
        for topic in (URGENT, USUAL):
            for number in range(PARTITIONS):
                end = self.cluster.partition(TopicPartition(topic, number)).end
                reached = progress.get(TopicPartition(topic, number))
                if end and (reached is None or reached.next_offset != end):
                    return False
        return True


class CheckedNetwork:
    """A network on which commits fail while told to, and are checked when they do not."""

    def __init__(self, world: World) -> None:
        self.world = world

    async def call(self, request: NetworkRequest, perform: Callable[[], T]) -> T:
        await asyncio.sleep(0.001)
        if request.operation is Operation.COMMIT and not self.world.committing:
            raise TransientError("no coordinator")
        answer = perform()
        if request.operation is Operation.COMMIT:
            self.world.check_progress()
        return answer


def _place(record: Record) -> tuple[str, int, int]:
    return record.topic, record.partition, record.offset


async def _take_step(world: World, step: Step) -> None:
    await asyncio.sleep(step.after_ms / 1000)
    alive = [member for member in world.members if not member[2].done()]
    chosen = alive[step.number % len(alive)] if alive else None
    match step.what:
        case "join" if len(alive) < 3:
            world.join()
        case "leave" if chosen:
            await chosen[0].stop()
        case "expel":
            members = list(world.cluster.group(GROUP).members)
            if members:
                now = asyncio.get_running_loop().time()
                world.cluster.group(GROUP).expel(now, members[step.number % len(members)])
        case "kill" if chosen:
            chosen[1].kill()
            chosen[2].cancel()
            await asyncio.gather(chosen[2], return_exceptions=True)
        case "append":
            world.append(step.number)
        case "cancel" if chosen:
            chosen[0].cancel(lambda record: int(record.value or b"0") % 7 == step.number % 7)
        case "no commits":
            world.committing = False
        case "commits":
            world.committing = True


async def _history(world: World, steps: list[Step]) -> None:
    world.append(40)
    world.join()
    for step in steps:
        await _take_step(world, step)
    world.committing = True
    world.join()
    async with asyncio.timeout(600):
        while not world.all_committed():  # noqa: ASYNC110 - looks at what has no event
            await asyncio.sleep(0.1)
    for engine, _, task in world.members:
        lived = not task.done()
        await engine.stop()
        await asyncio.gather(task, return_exceptions=True)
        assert not lived or not any(engine.state().held_bytes.values()), "bytes of a record were not given back"


@settings(max_examples=120, deadline=None)
@given(kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=12), limits=SETTINGS, steps=STEPS)
def test_nothing_is_skipped_nothing_claimed_too_early_and_keys_keep_their_order(
    kinds: list[int], limits: dict[str, object], steps: list[Step]
) -> None:
    loop = VirtualLoop()  # type: ignore[abstract]  # what is left out is never called here
    world = World(kinds, limits)
    history = loop.as_process(None, lambda: loop.create_task(_history(world, steps)))
    loop.run_until(history.done)
    history.result()
    assert not loop.failures
    for _, _, task in world.members:
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error
    assert len(world.done) == world.number, "a record was skipped"
    world.check_progress()
    cancelled = any(step.what == "cancel" for step in steps)
    if limits["ordering"] is Ordering.KEY and not cancelled:
        for key, numbers in world.first_done.items():
            assert numbers == sorted(numbers), f"{key!r} was overtaken"

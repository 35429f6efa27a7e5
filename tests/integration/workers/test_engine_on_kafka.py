"""The parallel consumer on real Kafka: rebalances of every protocol, and progress that survives them."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
from headrace_streams.kafka import KafkaLog
from headrace_streams.offsets import METADATA_LIMIT, decode
from headrace_streams.parallel import EngineOptions, Handler, ParallelConsumer, TopicLane
from headrace_streams.records import NewTopic, ProducerRecord, Record, TopicPartition
from headrace_testing.dead_letters import NoDeadLetters

pytestmark = pytest.mark.stack

CLASSIC: dict[str, str | int] = {"session.timeout.ms": 6000, "heartbeat.interval.ms": 200}
PROTOCOLS: dict[str, dict[str, str | int]] = {
    "range": {**CLASSIC, "partition.assignment.strategy": "range"},
    "cooperative": {**CLASSIC, "partition.assignment.strategy": "cooperative-sticky"},
    "consumer": {"group.protocol": "consumer"},
}
PARTITIONS = 6


@pytest.fixture
async def topic(kafka: str, topic_prefix: str) -> str:
    name = f"{topic_prefix}work"
    await KafkaLog({"bootstrap.servers": kafka}).admin().create_topics([NewTopic(name, PARTITIONS, 1)])
    return name


async def fill(kafka: str, topic: str, count: int, keys: int) -> None:
    producer = KafkaLog({"bootstrap.servers": kafka}).producer()
    sent = [
        producer.send(ProducerRecord(topic, str(number).encode(), key=f"k{number % keys}".encode()))
        for number in range(count)
    ]
    await asyncio.gather(*sent)
    await producer.close()


@asynccontextmanager
async def consuming(
    kafka: str,
    topic: str,
    handler: Handler,
    properties: dict[str, str | int],
    instance_id: str | None = None,
    **changes: float,
) -> AsyncIterator[ParallelConsumer]:
    usual = {"max_in_flight": 20, "commit_interval_seconds": 0.1, "drain_seconds": 3.0, "lag_interval_seconds": 0.2}
    values: dict[str, Any] = {**usual, **changes}
    consumer = ParallelConsumer(
        KafkaLog({"bootstrap.servers": kafka, **properties}),
        f"{topic}-group",
        [TopicLane(topic)],
        handler,
        dead_letters=NoDeadLetters(),
        options=EngineOptions(**values),
        instance_id=instance_id,
    )
    running = asyncio.create_task(consumer.run())
    try:
        yield consumer
    finally:
        await consumer.stop()
        await running


async def eventually(true: Callable[[], bool], what: str, seconds: float = 40.0) -> None:
    try:
        async with asyncio.timeout(seconds):
            while not true():  # noqa: ASYNC110 - looks at what has no event
                await asyncio.sleep(0.02)
    except TimeoutError:
        pytest.fail(f"not within {seconds} s: {what}")


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_members_that_come_and_go_lose_and_repeat_nothing(kafka: str, topic: str, protocol: str) -> None:
    count, keys = 3000, 60
    await fill(kafka, topic, count, keys)
    seen: Counter[int] = Counter()
    by_key: dict[bytes | None, list[int]] = defaultdict(list)
    by_member: Counter[str] = Counter()

    def handler(name: str) -> Handler:
        async def handle(record: Record) -> None:
            # Slowly until both work: the consumer protocol takes some seconds to move partitions.
            await asyncio.sleep(0.02 if by_member["second"] else 0.2)
            number = int(record.value or b"-1")
            seen[number] += 1
            by_key[record.key].append(number)
            by_member[name] += 1

        return handle

    properties = PROTOCOLS[protocol]
    async with consuming(kafka, topic, handler("first"), properties):
        await eventually(lambda: by_member["first"] > 100, "the first one works")
        async with consuming(kafka, topic, handler("second"), properties):
            await eventually(lambda: by_member["second"] > 100, "the second one works")
        await eventually(lambda: len(seen) == count, "all is done")
    assert seen == Counter(range(count))
    assert all(numbers == sorted(numbers) for numbers in by_key.values()), "a key was overtaken"


async def test_what_finished_beyond_a_hung_record_is_not_repeated_by_the_next_owner(kafka: str, topic: str) -> None:
    await fill(kafka, topic, 300, keys=300)
    seen: Counter[int] = Counter()

    async def hang_on_some(record: Record) -> None:
        seen[int(record.value or b"-1")] += 1
        if record.offset == 3:
            await asyncio.sleep(60)

    async def handle(record: Record) -> None:
        seen[int(record.value or b"-1")] += 1

    async with consuming(kafka, topic, hang_on_some, PROTOCOLS["range"]):
        await eventually(lambda: len(seen) == 300, "all are begun")
    async with consuming(kafka, topic, handle, PROTOCOLS["range"]) as consumer:
        await eventually(lambda: sum(seen.values()) == 300 + PARTITIONS, "the hung ones are done again")
        await asyncio.sleep(0.3)
        assert consumer.state().waiting == {topic: 0}
    assert sum(seen.values()) == 300 + PARTITIONS


async def test_a_static_member_that_restarts_goes_on_where_it_was(kafka: str, topic: str) -> None:
    await fill(kafka, topic, 600, keys=60)
    seen: Counter[int] = Counter()

    async def handle(record: Record) -> None:
        await asyncio.sleep(0.01)
        seen[int(record.value or b"-1")] += 1

    async with consuming(kafka, topic, handle, PROTOCOLS["range"], "pod-1"):
        await eventually(lambda: len(seen) > 50, "it works")
    assert len(seen) < 600
    async with consuming(kafka, topic, handle, PROTOCOLS["range"], "pod-1"):
        await eventually(lambda: len(seen) == 600, "it goes on")
    assert seen == Counter(range(600))


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_857_partitions_paused_at_a_rebalance_go_on_after_it(kafka: str, topic: str, protocol: str) -> None:
    """Everything is paused when a second member comes, and when it goes."""
    count = 3000
    await fill(kafka, topic, count, keys=600)
    seen: Counter[int] = Counter()
    gate = asyncio.Event()

    async def handle(record: Record) -> None:
        await gate.wait()
        seen[int(record.value or b"-1")] += 1

    limits = {"max_in_flight": 5, "max_buffered": 50, "max_poll_records": 100, "drain_seconds": 0.1}
    limited = partial(consuming, kafka, topic, handle, PROTOCOLS[protocol], None, **limits)
    async with limited() as first:
        await eventually(lambda: first.state().partitions == first.state().paused == PARTITIONS, "all is paused")
        async with limited() as second:
            await eventually(lambda: 0 < second.state().partitions == second.state().paused, "paused there too")
        await eventually(lambda: first.state().partitions == first.state().paused == PARTITIONS, "all came back")
        gate.set()
        await eventually(lambda: len(seen) == count, "nothing sleeps")
        await eventually(lambda: sum(state.lag for state in first.state().assigned.values()) == 0, "all is committed")
    assert set(seen) == set(range(count))


async def test_647_the_largest_map_of_finished_offsets_is_taken_by_the_broker(kafka: str, topic_prefix: str) -> None:
    """Every second record hangs, until the partition is paused: what is committed then is as long as it can get."""
    name = f"{topic_prefix}one"
    log = KafkaLog({"bootstrap.servers": kafka})
    await log.admin().create_topics([NewTopic(name, 1, 1)])
    count = 30_000
    await fill(kafka, name, count, keys=count)
    release = asyncio.Event()
    done: Counter[int] = Counter()
    hanging: set[int] = set()

    async def handle(record: Record) -> None:
        if record.offset % 2 == 0:
            hanging.add(record.offset)
            await release.wait()
        done[record.offset] += 1

    observed: list[str] = []
    async with consuming(
        kafka, name, handle, PROTOCOLS["range"], max_in_flight=count, max_buffered=count, drain_seconds=1.0
    ) as consumer:
        await eventually(lambda: consumer.state().paused == 1, "the map is full")
        await eventually(lambda: len(hanging) > 10_000, "so many are in flight in one partition")
        other = log.consumer(f"{name}-group")

        async def stored() -> bool:
            progress = (await other.committed([TopicPartition(name, 0)])).get(TopicPartition(name, 0))
            if progress is not None and progress.metadata:
                observed.append(progress.metadata)
                return len(decode(progress)) >= len(hanging) - 1
            return False

        async with asyncio.timeout(40):
            while not await stored():  # noqa: ASYNC110 - looks at what has no event
                await asyncio.sleep(0.1)
        await other.close()
        assert len(observed[-1]) <= METADATA_LIMIT
        release.set()
        await eventually(lambda: len(done) == count, "the rest comes")
    assert set(done.values()) == {1}


@pytest.mark.parametrize("protocol", ["range", "consumer"])
async def test_a_static_member_that_restarts_leaves_the_others_alone(kafka: str, topic: str, protocol: str) -> None:
    """It is back within its session: no other member's partitions move, and it gets the same ones."""
    revoked: list[str] = []
    properties = {**PROTOCOLS[protocol]}

    def handle(record: Record) -> None:
        return None

    async with (
        consuming(kafka, topic, handle, properties, "pod-1") as other,
        consuming(kafka, topic, handle, properties, "pod-2") as restarting,
    ):
        await eventually(
            lambda: other.state().partitions == restarting.state().partitions == PARTITIONS // 2, "they share"
        )
        kept, before = set(other.state().assigned), set(restarting.state().assigned)
        own = other._revoked

        async def noting(names: Collection[TopicPartition]) -> None:
            revoked.extend(map(str, names))
            await own(names)

        other._revoked = noting  # type: ignore[method-assign]
        await restarting.stop()
        async with consuming(kafka, topic, handle, properties, "pod-2") as again:
            await eventually(lambda: again.state().partitions > 0, "it is back")
            await fill(kafka, topic, 300, keys=100)
            await eventually(
                lambda: all(s.position is not None and s.lag == 0 for s in again.state().assigned.values()), "it works"
            )
            assert set(again.state().assigned) == before
            assert set(other.state().assigned) == kept
            assert not revoked
        other._revoked = own  # type: ignore[method-assign]


async def test_lag_is_known_of_what_is_read_and_of_what_is_paused(kafka: str, topic: str) -> None:
    await fill(kafka, topic, 900, keys=300)
    gate = asyncio.Event()

    async def handle(record: Record) -> None:
        await gate.wait()

    async with consuming(
        kafka, topic, handle, PROTOCOLS["range"], max_in_flight=5, max_buffered=20, max_poll_records=50
    ) as consumer:

        def lag() -> int:
            return sum(state.lag for state in consumer.state().assigned.values())

        await eventually(lambda: consumer.state().paused == PARTITIONS and lag() == 900, "all is paused, and known")
        state = consumer.state()
        in_hand = state.in_flight + sum(state.waiting.values())
        assert sum(one.to_receive for one in state.assigned.values()) == 900 - in_hand
        await fill(kafka, topic, 100, keys=100)
        await eventually(lambda: lag() == 1000, "what comes while paused is seen")
        assert consumer.oldest_waiting_seconds() > 0
        gate.set()
        await eventually(lambda: lag() == 0, "all is done")
        await fill(kafka, topic, 60, keys=60)
        await eventually(
            lambda: sum(one.log_end or 0 for one in consumer.state().assigned.values()) == 1060, "new ends are seen"
        )
        assert consumer.oldest_waiting_seconds() == 0

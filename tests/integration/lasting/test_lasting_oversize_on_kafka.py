"""Records whose dead letter does not fit, on real Kafka with the topics' limits: one dead letter, and on it goes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

import pytest
from headrace.connecting import Cluster
from headrace.dead_letters import DeadLetterSelection, DeadLetterTopics
from headrace_contracts.codec import Codec
from headrace_contracts.content import plain
from headrace_contracts.events import DeadLetter, SkillAction, SkillSubmitted
from headrace_contracts.memory_registry import MemoryRegistry
from headrace_contracts.topics import (
    DEAD_LETTERS_HANDLED,
    SKILLS_CATALOG,
    SKILLS_FEED,
    SKILLS_SUBMITTED,
    dead_letters_of,
)
from headrace_runtime.health import Health
from headrace_runtime.metrics import Metrics
from headrace_skill_broadcaster.decide.rules import SkillLimits
from headrace_skill_broadcaster.keeper import Tools
from headrace_skill_broadcaster.metrics import SkillMetrics
from headrace_skill_broadcaster.service import SubmissionService
from headrace_streams.dead_letters import DeadLetters
from headrace_streams.kafka import KafkaLog
from headrace_streams.parallel import EngineOptions, ParallelConsumer, TopicLane
from headrace_streams.publishing import Publisher
from headrace_streams.records import Headers, ProducerRecord, Record
from headrace_streams.typed import decode
from headrace_testing.provisioned import provision_patiently

pytestmark = pytest.mark.stack

LETTERS = dead_letters_of(SKILLS_SUBMITTED)
LARGE = 2_200_000
OVERSIZE: dict[str, tuple[bytes, bytes, Headers]] = {
    "a key": (b"k" * LARGE, b"garbage", ()),
    "a trace": (b"k", b"garbage", (("traceparent", b"0" * LARGE),)),
    "a value": (b"k", b"v" * 3_000_000, ()),
    "a tenant": (b"k", b"garbage", (("ce_tenant", "t\u00e9".encode() * 700_000),)),
    "headers": (b"k", b"garbage", tuple((f"h{number}", b"x" * 500) for number in range(5_000))),
    "a header's name": (b"k", b"garbage", (("n" * LARGE, b""),)),
    "all of it": (b"k" * 1_000_000, b"v" * 1_000_000, (("ce_id", b"i" * 1_000_000), ("x", b"y" * 900_000))),
}


class Bench:
    def __init__(self, kafka: str, prefix: str) -> None:
        self.log = KafkaLog({"bootstrap.servers": kafka})
        self.registry = MemoryRegistry()
        self.codec = Codec(self.registry, prefix)
        self.producer = self.log.producer()
        self.publisher = Publisher(self.producer, self.codec, "headrace/test")
        self.dead_letters = DeadLetters(self.publisher, "test", prefix, lambda: time.time_ns() // 1_000_000)
        self.prefix = prefix

    async def fill(self) -> None:
        """Good records around every oversized one, in one partition."""
        for number, (key, value, headers) in enumerate(OVERSIZE.values()):
            await self._good(number)
            await self.producer.send(ProducerRecord(self.prefix + SKILLS_SUBMITTED.name, value, key, 0, headers))
        await self._good(len(OVERSIZE))

    async def _good(self, number: int) -> None:
        event = SkillSubmitted(
            submission_id=f"s{number}",
            tenant="acme",
            name=f"good{number}",
            action=SkillAction.PUBLISH,
            body=plain("body"),
            submitted_at=time.time_ns() // 1_000_000,
        )
        value = self.codec.encode(SKILLS_SUBMITTED, event)
        topic = self.prefix + SKILLS_SUBMITTED.name
        await self.producer.send(ProducerRecord(topic, value, f"acme/good{number}".encode(), 0))

    async def read(self, topic: str) -> list[Record]:
        reader = self.log.reader()
        try:
            bounds = await reader.bounds(await reader.partitions_of(topic))
            await reader.assign({each: first for each, (first, _) in bounds.items()})
            found: list[Record] = []
            while any(reader.positions()[each] < end for each, (_, end) in bounds.items()):
                found += await reader.poll(1_000, 5.0)
            return found
        finally:
            await reader.close()

    async def letters(self) -> list[DeadLetter]:
        return [await decode(self.codec, DeadLetter, each) for each in await self.read(self.prefix + LETTERS.name)]


@pytest.fixture
async def bench(kafka: str, topic_prefix: str) -> AsyncIterator[Bench]:
    made = Bench(kafka, topic_prefix)
    specs = [SKILLS_SUBMITTED, LETTERS, SKILLS_CATALOG, SKILLS_FEED, DEAD_LETTERS_HANDLED]
    await provision_patiently(made.log.admin(), made.codec, specs)
    await made.fill()
    yield made
    await made.producer.close()


async def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        await asyncio.sleep(0.1)


async def check_letters(bench: Bench) -> None:
    letters = await bench.letters()
    assert [letter.offset for letter in letters] == [2 * number + 1 for number in range(len(OVERSIZE))]
    for letter, (key, value, headers) in zip(letters, OVERSIZE.values(), strict=True):
        assert letter.error_type
        assert letter.omitted_bytes == (None if letter.value is not None else len(value))
        assert letter.omitted_key_bytes == (None if letter.key is not None else len(key))
        size = sum(len(name.encode()) + len(content or b"") for name, content in headers)
        assert letter.omitted_header_bytes == (None if not headers or letter.headers else size)


async def test_the_engine_goes_on(bench: Bench) -> None:
    handled: list[str] = []

    async def handle(record: Record) -> None:
        handled.append((await decode(bench.codec, SkillSubmitted, record)).name)

    consumer = ParallelConsumer(
        bench.log,
        f"{bench.prefix}engine",
        [TopicLane(bench.prefix + SKILLS_SUBMITTED.name)],
        handle,
        dead_letters=bench.dead_letters,
        options=EngineOptions(max_in_flight=4, commit_interval_seconds=0.1),
    )
    running = asyncio.create_task(consumer.run())
    try:
        await until(lambda: len(handled) == len(OVERSIZE) + 1)
        async with asyncio.timeout(60):
            while len(await bench.read(bench.prefix + LETTERS.name)) < len(OVERSIZE):  # noqa: ASYNC110 - as below
                await asyncio.sleep(0.2)
    finally:
        await consumer.stop()
        await running
    letters = await bench.letters()
    assert sorted(letter.offset for letter in letters) == [2 * number + 1 for number in range(len(OVERSIZE))]
    assert any(letter.omitted_key_bytes for letter in letters)

    # An operator replays them: what does not fit any more is refused and told, the rest is written once each.
    async with Cluster(bench.log, bench.codec, bench.registry) as cluster, DeadLetterTopics(cluster) as topics:
        chosen = await topics.letters(DeadLetterSelection())
        assert len(chosen) == len(OVERSIZE)
        assert len(await topics.flaws(chosen)) == len(OVERSIZE)
        refused: list[str] = []
        async with aclosing(topics.replay(chosen, "", lambda letter, why: refused.append(why))) as replayed:
            done = [letter.id async for letter, _ in replayed]
        assert len(done) + len(refused) == len(OVERSIZE)
        assert len(await topics.letters(DeadLetterSelection())) == len(refused)
    assert len(await bench.read(bench.prefix + SKILLS_SUBMITTED.name)) == 2 * len(OVERSIZE) + 1 + len(done)


async def test_the_broadcaster_goes_on(bench: Bench) -> None:
    tools = Tools(
        log=bench.log,
        codec=bench.codec,
        publisher=bench.publisher,
        dead_letters=bench.dead_letters,
        limits=SkillLimits(),
        measures=SkillMetrics(Metrics("test")),
        clock=lambda: time.time_ns() // 1_000_000,
        elsewhere=lambda key: None,
    )
    service = SubmissionService(tools, Health())
    await service.start()
    running = asyncio.create_task(service.run())
    catalog = bench.prefix + SKILLS_CATALOG.name
    try:
        async with asyncio.timeout(60):
            while len(await bench.read(catalog)) < len(OVERSIZE) + 1:  # noqa: ASYNC110 - the log has no event
                await asyncio.sleep(0.2)
    finally:
        await service.drain()
        await running
    await check_letters(bench)

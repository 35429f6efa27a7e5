"""The tables of one process, which share a client: each has its own troubles, and the others go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from headrace_contracts.codec import Codec
from headrace_contracts.events import AccessKey
from headrace_contracts.memory_registry import MemoryRegistry
from headrace_contracts.topics import ACCESS_KEYS, TopicSpec
from headrace_runtime.lifecycle import Part
from headrace_runtime.tables import tables_part
from headrace_streams.errors import LeaveGroup, TopicMissing, TransientError
from headrace_streams.memory import HANGS, Ailment, MemoryCluster, MemoryLog
from headrace_streams.publishing import Publication, Publisher
from headrace_streams.records import ProducerRecord, TopicPartition
from headrace_streams.tables import Table
from headrace_testing.engine import eventually

NAMES = ("one", "two", "three")
SICK = TopicPartition("test.one", 0)


def spec_of(name: str) -> TopicSpec:
    return TopicSpec(**{**{key: getattr(ACCESS_KEYS, key) for key in ACCESS_KEYS.__dataclass_fields__}, "name": name})


class Process:
    """Three tables as a service has them."""

    def __init__(self) -> None:
        self.cluster = MemoryCluster()
        self.specs = {name: spec_of(name) for name in NAMES}
        for name in NAMES:
            self.cluster.create_topic(f"test.{name}", 1)
        self.log = MemoryLog(self.cluster)
        self.codec = Codec(MemoryRegistry(), "test.")
        self.publisher = Publisher(self.log.producer(), self.codec, "test")
        self.tables: dict[str, Table[AccessKey]] = {
            name: Table(self.log, self.codec, spec, watch_seconds=0.05) for name, spec in self.specs.items()
        }
        self.part: Part = tables_part(self.tables)

    async def put(self, key: str, *names: str) -> None:
        for name in names:
            event = AccessKey(key_id=key, tenant="acme", name=key, secret_hash="h", created_at=1)
            await self.publisher.send(Publication(
                spec=self.specs[name], event=event, event_id=key, key=key.encode(), tenant="acme", time_ms=1,
            ))  # fmt: skip

    async def start(self) -> None:
        assert self.part.start is not None
        await self.part.start()

    async def run(self) -> None:
        assert self.part.run is not None
        await self.part.run()

    async def until_has(self, key: str, *names: str) -> None:
        await eventually(lambda: all(self.tables[name].get(key) for name in names), f"{names} have {key}", 30)


@pytest.fixture
async def process() -> AsyncIterator[Process]:
    made = Process()
    await made.codec.prepare(made.specs.values(), register=True)
    yield made
    assert made.part.stop is not None
    await made.part.stop()


@pytest.mark.parametrize(
    "sick",
    [{"reads": HANGS}, {"reads": Ailment(TransientError("broker down"))}, {"bounds": Ailment(TransientError("away"))}],
)
async def test_a_table_that_cannot_be_read_is_named_and_the_others_go_on(
    process: Process, sick: dict[str, Ailment]
) -> None:
    await process.put("first", *NAMES)
    process.cluster.sicken(SICK, **sick)
    starting = asyncio.create_task(process.start())
    await eventually(lambda: (process.part.waits() or "").split(" ")[0] == "one", "only the first is missing", 30)
    await process.put("second", "two", "three")
    await process.until_has("second", "two", "three")
    assert not starting.done()
    process.cluster.heal(SICK)
    await starting
    assert process.part.waits() is None
    await process.until_has("first", *NAMES)


async def test_all_are_read_at_the_same_time(process: Process) -> None:
    for name in NAMES:
        await process.put("first", name)
        process.cluster.sicken(TopicPartition(f"test.{name}", 0), reads=HANGS)
    starting = asyncio.create_task(process.start())
    assert process.part.waits() == "one, two, three"
    # The last one first: none waits for those before it.
    for name, left in (("three", "one, two"), ("two", "one"), ("one", None)):
        process.cluster.heal(TopicPartition(f"test.{name}", 0))
        await eventually(lambda left=left: process.part.waits() == left, f"missing: {left}", 5.0)  # type: ignore[misc]
    await starting


async def test_a_topic_that_is_missing_at_the_start_ends_it(process: Process) -> None:
    process.cluster.delete_topic("test.two")
    process.cluster.sicken(SICK, reads=HANGS)
    await process.put("first", "one")
    async with asyncio.timeout(30):
        with pytest.raises(TopicMissing, match=r"test\.two"):
            await process.start()


@pytest.mark.parametrize("value", [b"no event", b""])
async def test_a_record_that_cannot_be_read_is_passed_over(process: Process, value: bytes) -> None:
    await process.put("first", *NAMES)
    process.cluster.append(ProducerRecord("test.one", value, b"first", 0))
    process.cluster.append(ProducerRecord("test.one", value, None, 0))
    await process.start()
    await process.put("second", *NAMES)
    await process.until_has("second", *NAMES)
    await process.until_has("first", *NAMES)


async def test_a_topic_that_goes_and_comes_back_keeps_no_other_from_going_on(process: Process) -> None:
    await process.put("first", *NAMES)
    await process.start()
    process.cluster.delete_topic("test.one")
    for key in ("second", "third"):
        await process.put(key, "two", "three")
        await process.until_has(key, "two", "three")
    process.cluster.create_topic("test.one", 2)
    await process.put("new", *NAMES)
    await process.until_has("new", *NAMES)
    assert not any(table.failure.done() for table in process.tables.values())


async def test_one_that_may_be_read_no_more_ends_the_service_and_not_the_others(process: Process) -> None:
    await process.put("first", *NAMES)
    await process.start()
    watching = asyncio.create_task(process.run())
    process.cluster.sicken(SICK, reads=Ailment(LeaveGroup("not authorised")))
    await process.put("second", *NAMES)
    with pytest.raises(LeaveGroup, match="not authorised"):
        await asyncio.wait_for(watching, 5)
    await process.until_has("second", "two", "three")
    assert [name for name, table in process.tables.items() if table.failure.done()] == ["one"]


async def test_a_service_that_stops_leaves_its_tables_as_they_are(process: Process) -> None:
    await process.start()
    watching = asyncio.create_task(process.run())
    await asyncio.sleep(0)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    assert not any(table.failure.done() for table in process.tables.values())
    await process.put("first", *NAMES)
    await process.until_has("first", *NAMES)

"""Tables on logs that are not what they were: created again, cut short, resized, held, unreadable."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from headrace_contracts.codec import Codec
from headrace_contracts.events import AccessKey
from headrace_contracts.memory_registry import MemoryRegistry
from headrace_contracts.topics import ACCESS_KEYS
from headrace_streams.errors import TransientError
from headrace_streams.log_identity import Broken, Discontinuity
from headrace_streams.memory import HANGS, Ailment, MemoryCluster, MemoryLog
from headrace_streams.publishing import Publication, Publisher
from headrace_streams.records import ProducerRecord, TopicPartition
from headrace_streams.tables import Table
from headrace_testing.engine import eventually

TOPIC = "test.access.keys"
FIRST = TopicPartition(TOPIC, 0)


class Bench:
    def __init__(self) -> None:
        self.cluster = MemoryCluster()
        self.cluster.create_topic(TOPIC, 2)
        self.log = MemoryLog(self.cluster)
        self.codec = Codec(MemoryRegistry(), "test.")
        self.publisher = Publisher(self.log.producer(), self.codec, "test")
        self.changes: list[tuple[str, bool]] = []
        self.broken: list[tuple[TopicPartition, Discontinuity]] = []
        self.table: Table[AccessKey] = Table(
            self.log, self.codec, ACCESS_KEYS, lambda key, event: self.changes.append((key, event is not None)),
            on_discontinuity=self._discontinued, watch_seconds=0.05,
        )  # fmt: skip

    def _discontinued(self, partition: TopicPartition, verdict: Broken) -> None:
        self.broken.append((partition, verdict.kind))

    async def put(self, *names: str, partition: int | None = None) -> None:
        for name in names:
            event = AccessKey(key_id=name, tenant="acme", name=name, secret_hash="h", created_at=1)
            await self.publisher.send(Publication(
                spec=ACCESS_KEYS, event=event, event_id=name, key=name.encode(), tenant="acme", time_ms=1,
                partition=partition,
            ))  # fmt: skip

    async def until_has(self, *names: str) -> None:
        await eventually(lambda: set(self.table.items()) == set(names), f"the table has {names}", 30)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    await made.codec.prepare([ACCESS_KEYS], register=True)
    yield made
    await made.table.close()


@pytest.mark.parametrize("new", [[], ["b"], ["x", "y"], ["c", *[f"k{number}" for number in range(9)]]])
async def test_a_topic_created_again_replaces_the_table(bench: Bench, new: list[str]) -> None:
    """Whether the new one is shorter or longer than what was read."""
    await bench.put("a", "b", "c", partition=0)
    await bench.table.start()
    bench.cluster.recreate_topic(TOPIC)
    await bench.put(*new, partition=0)
    await bench.until_has(*new)
    assert {key for key, there in bench.changes if not there} == {"a", "b", "c"} - set(new)
    await eventually(lambda: (FIRST, Discontinuity.RECREATED) in bench.broken, "told")
    await bench.put("later")
    await bench.until_has(*new, "later")


async def test_rows_stay_while_the_topic_is_missing(bench: Bench) -> None:
    await bench.put("a", "b")
    await bench.table.start()
    bench.cluster.delete_topic(TOPIC)
    await asyncio.sleep(0.2)
    assert set(bench.table.items()) == {"a", "b"}
    bench.cluster.create_topic(TOPIC, 2)
    await bench.put("b", "c")
    await bench.until_has("b", "c")
    await eventually(lambda: (FIRST, Discontinuity.RECREATED) in bench.broken, "told")
    assert not bench.table.failure.done()


@pytest.mark.parametrize("to", [0, 1, 2])
async def test_a_truncated_topic_is_read_again(bench: Bench, to: int) -> None:
    await bench.put("a", "b", "c", partition=0)
    await bench.table.start()
    bench.cluster.truncate_after(FIRST, to)
    await bench.put("d", partition=0)
    await bench.until_has(*["a", "b", "c"][:to], "d")


async def test_retention_that_overtakes_is_healed(bench: Bench) -> None:
    await bench.put("a", partition=0)
    await bench.table.start()
    bench.cluster.sicken(FIRST, reads=HANGS)
    await bench.put("b", "c", "d", partition=0)
    bench.cluster.delete_before(FIRST, 3)
    bench.cluster.heal(FIRST)
    await bench.until_has("d")
    assert bench.broken == [(FIRST, Discontinuity.DATA_LOST)]


@pytest.mark.parametrize("count", [3, 4, 8])
async def test_added_partitions_are_read(bench: Bench, count: int) -> None:
    await bench.put("a")
    await bench.table.start()
    bench.cluster.add_partitions(TOPIC, count)
    for partition in range(count):
        await bench.put(f"k{partition}", partition=partition)
    await bench.until_has("a", *[f"k{partition}" for partition in range(count)])
    assert not bench.broken


@pytest.mark.parametrize("held", [0, 1, 3])
async def test_an_open_transaction_does_not_hold_up_the_start(bench: Bench, held: int) -> None:
    await bench.put("a", "b", "c", partition=0)
    bench.cluster.hold_stable_offset(FIRST, held)
    async with asyncio.timeout(30):
        await bench.table.start()
    assert set(bench.table.items()) == set(["a", "b", "c"][:held])
    bench.cluster.hold_stable_offset(FIRST, None)
    await bench.until_has("a", "b", "c")


@pytest.mark.parametrize(
    ("sick", "words"),
    [
        ({"reads": HANGS}, ["test.access.keys[0] stands at 0 of 2", "leader"]),
        ({"bounds": Ailment(TransientError("no leader"))}, ["no leader"]),
        ({"reads": Ailment(TransientError("broker down"))}, ["broker down"]),
    ],
)
async def test_a_start_that_is_held_up_says_by_what(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, sick: dict[str, Ailment], words: list[str]
) -> None:
    monkeypatch.setattr("headrace_streams.tables._STANDS_STILL_SECONDS", 0.1)
    await bench.put("a", "b", partition=0)
    bench.cluster.sicken(FIRST, **sick)
    starting = asyncio.create_task(bench.table.start())
    await eventually(lambda: all(word in (bench.table.waiting or "") for word in words), f"says {words}", 30)
    bench.cluster.heal(FIRST)
    await starting
    assert set(bench.table.items()) == {"a", "b"}
    assert bench.table.waiting is None


async def test_records_without_a_key_are_no_rows(bench: Bench) -> None:
    bench.cluster.append(ProducerRecord(TOPIC, b"x", partition=0))
    await bench.table.start()
    assert not bench.table.items()

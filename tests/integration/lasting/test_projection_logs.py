"""The ledger on logs that are not what they were, in a real database: nothing is missed, nothing counted twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from headrace_contracts.codec import Codec
from headrace_contracts.events import Outcome, Usage, UsageRecorded
from headrace_contracts.memory_registry import MemoryRegistry
from headrace_contracts.topics import USAGE_RECORDED
from headrace_cost_accountant.adapters.ledger_store import LedgerStore
from headrace_cost_accountant.metrics import LedgerMetrics
from headrace_cost_accountant.migrations import MIGRATIONS
from headrace_models.prices import load_price_book
from headrace_runtime.database import Database
from headrace_runtime.metrics import Metrics
from headrace_streams.log_identity import Broken, Discontinuity
from headrace_streams.memory import HANGS, MemoryCluster, MemoryLog
from headrace_streams.projection import Projection
from headrace_streams.records import ProducerRecord, TopicPartition
from headrace_testing.databases import prepared
from headrace_testing.engine import Letters, eventually

pytestmark = pytest.mark.stack

TOPIC = "test.usage.recorded"
FIRST, SECOND = TopicPartition(TOPIC, 0), TopicPartition(TOPIC, 1)
BOOK = load_price_book()


class Bench:
    def __init__(self, database: Database) -> None:
        self.cluster = MemoryCluster(metadata_age=0.05)
        self.cluster.create_topic(TOPIC, 2)
        self.codec = Codec(MemoryRegistry(), "test.")
        self.broken: list[tuple[TopicPartition, Discontinuity]] = []
        self._database = database

    def write(self, name: str, count: int, partition: int = 0) -> set[str]:
        ids = [f"{name}-{partition}-{number}" for number in range(count)]
        for each in ids:
            event = UsageRecorded(
                event_id=each, tenant="acme", task_id=each, attempt_id=f"{each}/1", execution_id="x",
                provider="anthropic", model="claude-sonnet-4-6", outcome=Outcome.ANSWERED,
                usage=Usage(input_tokens=10, output_tokens=1), recorded_at=1_790_000_000_000,
            )  # fmt: skip
            value = self.codec.encode(USAGE_RECORDED, event)
            self.cluster.append(ProducerRecord(TOPIC, value, b"acme", partition=partition), 1_790_000_000_000)
        return set(ids)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        measures = LedgerMetrics(Metrics("test"))
        projection = Projection(
            MemoryLog(self.cluster), "ledger", [USAGE_RECORDED], self.codec,
            LedgerStore(self._database, BOOK, Letters(), measures), Letters(),
            max_batch=4, max_wait_seconds=0.01, watch_seconds=0.1, on_discontinuity=self._discontinued,
        )  # fmt: skip
        task = asyncio.create_task(projection.run())
        try:
            yield
        finally:
            await projection.close()
            await task

    def _discontinued(self, partition: TopicPartition, verdict: Broken) -> None:
        self.broken.append((partition, verdict.kind))

    async def booked(self) -> set[str]:
        async with self._database.connection() as connection:
            return {row["event_id"] for row in await connection.fetch("SELECT event_id FROM ledger.entries")}

    async def until_booked(self, ids: set[str]) -> None:
        async with asyncio.timeout(30):
            while not ids <= await self.booked():  # noqa: ASYNC110 - another task books
                await asyncio.sleep(0.02)
        async with self._database.connection() as connection:
            executions = await connection.fetchval("SELECT coalesce(sum(executions), 0) FROM ledger.balances")
        assert executions == len(await self.booked()), "each is booked once"


@pytest.fixture
async def bench(postgres_dsn: str) -> AsyncIterator[Bench]:
    async with prepared(postgres_dsn, MIGRATIONS) as database:
        made = Bench(database)
        await made.codec.prepare([USAGE_RECORDED], register=True)
        yield made


@pytest.mark.parametrize("after", [1, 5, 9])
@pytest.mark.parametrize("runs", [False, True], ids=["stopped", "running"])
async def test_a_topic_created_again_is_booked_from_its_start(bench: Bench, after: int, runs: bool) -> None:
    async with bench.running():
        await bench.until_booked(bench.write("old", 5) | bench.write("old", 3, 1))
        if runs:
            bench.cluster.recreate_topic(TOPIC)
            await bench.until_booked(bench.write("new", after) | bench.write("new", after, 1))
    if not runs:
        bench.cluster.recreate_topic(TOPIC)
        new = bench.write("new", after) | bench.write("new", after, 1)
        async with bench.running():
            await bench.until_booked(new)
    assert {(FIRST, Discontinuity.RECREATED), (SECOND, Discontinuity.RECREATED)} <= set(bench.broken)
    found = len(bench.broken)
    async with bench.running():
        await bench.until_booked(bench.write("newer", 2))
    assert len(bench.broken) == found


@pytest.mark.parametrize("kept", [0, 2, 5])
async def test_a_restored_topic_is_booked_without_what_is_booked_already(bench: Bench, kept: int) -> None:
    """The backup holds the first records, and new ones came since."""
    async with bench.running():
        await bench.until_booked(bench.write("old", 5))
    bench.cluster.recreate_topic(TOPIC, forget_commits=False)
    restored = bench.write("old", kept) | bench.write("new", 4)
    async with bench.running():
        await bench.until_booked(restored)
    assert len(await bench.booked()) == 5 + 4


@pytest.mark.parametrize("to", [0, 2, 4])
@pytest.mark.parametrize("runs", [False, True], ids=["stopped", "running"])
async def test_nothing_appended_to_a_truncated_log_is_missed(bench: Bench, to: int, runs: bool) -> None:
    async with bench.running():
        await bench.until_booked(bench.write("old", 5))
        if runs:
            bench.cluster.truncate_after(FIRST, to)
            await eventually(lambda: bool(bench.broken), "noticed")
            await bench.until_booked(bench.write("new", 8))
    if not runs:
        bench.cluster.truncate_after(FIRST, to)
        new = bench.write("new", 4 - to)
        async with bench.running():
            await bench.until_booked(new)
            await eventually(lambda: bool(bench.broken), "noticed")
    assert (FIRST, Discontinuity.TRUNCATED) in bench.broken


@pytest.mark.parametrize("first", [4, 6, 8])
async def test_retention_that_overtook_is_told(bench: Bench, first: int) -> None:
    async with bench.running():
        await bench.until_booked(bench.write("old", 3))
    late = bench.write("late", 5)
    bench.cluster.delete_before(FIRST, first)
    async with bench.running():
        await bench.until_booked({f"late-0-{number}" for number in range(first - 3, 5)} | bench.write("new", 1, 1))
    assert bench.broken == [(FIRST, Discontinuity.DATA_LOST)]
    assert len(await bench.booked() & late) == 8 - first


@pytest.mark.parametrize("count", [3, 4, 8])
async def test_added_partitions_are_booked(bench: Bench, count: int) -> None:
    async with bench.running():
        await bench.until_booked(bench.write("old", 2))
        bench.cluster.add_partitions(TOPIC, count)
        await bench.until_booked({each for number in range(count) for each in bench.write("new", 3, number)})
    assert not bench.broken


@pytest.mark.parametrize("sick", [{"reads": HANGS}, {"bounds": HANGS}, {"reads": HANGS, "bounds": HANGS}])
async def test_a_sick_partition_holds_up_no_other(
    bench: Bench, sick: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace_streams.watching.ANSWER_SECONDS", 0.1)
    bench.cluster.sicken(FIRST, **sick)  # type: ignore[arg-type]
    late = bench.write("late", 3)
    async with bench.running():
        for number in range(4):
            await bench.until_booked(bench.write(f"new{number}", 3, 1))
        bench.cluster.heal(FIRST)
        await bench.until_booked(late)
    assert not bench.broken


@pytest.mark.parametrize("held", [0, 2, 3])
async def test_an_open_transaction_holds_up_one_partition_until_it_ends(bench: Bench, held: int) -> None:
    old = bench.write("old", 4)
    bench.cluster.hold_stable_offset(FIRST, held)
    async with bench.running():
        await bench.until_booked({f"old-0-{number}" for number in range(held)} | bench.write("other", 4, 1))
        bench.cluster.hold_stable_offset(FIRST, None)
        await bench.until_booked(old)
    assert not bench.broken

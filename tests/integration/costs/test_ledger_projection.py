"""From the topic into the ledger: the log's in-memory twin, a real Postgres, and processes that come and go."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import pytest
from headrace_contracts.codec import Codec
from headrace_contracts.events import Outcome, Usage, UsageRecorded
from headrace_contracts.memory_registry import MemoryRegistry
from headrace_contracts.topics import USAGE_RECORDED, dead_letters_of
from headrace_cost_accountant.adapters.ledger_store import LedgerStore
from headrace_cost_accountant.decide.booking import cost_of
from headrace_cost_accountant.metrics import LedgerMetrics
from headrace_cost_accountant.migrations import MIGRATIONS
from headrace_models.prices import load_price_book
from headrace_runtime.database import Database
from headrace_runtime.metrics import Metrics
from headrace_streams.dead_letters import DeadLetters
from headrace_streams.errors import PartitionsLost
from headrace_streams.log_identity import StoredPosition
from headrace_streams.memory import MemoryCluster, MemoryLog, NetworkRequest, Operation
from headrace_streams.projection import Moves, Projection, ProjectionStore
from headrace_streams.publishing import Publication, Publisher
from headrace_streams.records import ProducerRecord, Record, TopicPartition
from headrace_testing.databases import database_at

pytestmark = pytest.mark.stack

BOOK = load_price_book()
PARTITIONS = 4


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def usage(number: int) -> UsageRecorded:
    chance = random.Random(number)
    return UsageRecorded(
        event_id=f"t-{number}/1/x",
        tenant=f"tenant-{number % 7}",
        task_id=f"t-{number}",
        attempt_id=f"t-{number}/1",
        execution_id="x",
        provider="anthropic",
        model="claude-sonnet-4-6",
        outcome=Outcome.ANSWERED,
        usage=Usage(input_tokens=chance.randrange(10_000), output_tokens=chance.randrange(1_000)),
        recorded_at=now_ms() - chance.randrange(200_000_000),
    )


class Frozen:
    """A process that stops in the middle of a batch, unheard by its group, and comes back later."""

    def __init__(self) -> None:
        self.thawed = asyncio.Event()
        self.thawed.set()
        self.holds_a_batch = asyncio.Event()
        self.refused = asyncio.Event()

    def begin(self) -> None:
        self.thawed.clear()

    def end(self) -> None:
        self.thawed.set()

    async def call(self, request: NetworkRequest, perform: Callable[[], Any]) -> Any:
        """The network of the process."""
        await asyncio.sleep(0)
        if request.operation is not Operation.FETCH:
            await self.thawed.wait()
        return perform()

    def store(self, store: LedgerStore) -> ProjectionStore:
        """The database of the process."""
        return FrozenStore(self, store)


@dataclass
class FrozenStore:
    """Waits before it writes."""

    frozen: Frozen
    store: LedgerStore

    async def positions(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, StoredPosition]:
        return await self.store.positions(partitions)

    async def apply(self, batch: Sequence[tuple[Record, Any]], moves: Moves) -> None:
        if not self.frozen.thawed.is_set() and batch:
            self.frozen.holds_a_batch.set()
        await self.frozen.thawed.wait()
        try:
            await self.store.apply(batch, moves)
        except PartitionsLost:
            self.frozen.refused.set()
            raise


@dataclass
class Accountant:
    """One process's ledger."""

    log: MemoryLog
    database: Database
    projection: Projection
    running: asyncio.Task[None]

    async def kill(self) -> None:
        """End it in the middle of anything."""
        self.log.kill()
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)
        await self.database.close()

    async def close(self) -> None:
        await self.projection.close()
        await self.running
        await self.database.close()


@dataclass
class Books:
    """A topic with usage, a database, and accountants."""

    cluster: MemoryCluster
    codec: Codec
    dsn: str
    accountants: list[Accountant] = field(default_factory=list)

    async def hire(self, name: str, frozen: Frozen | None = None) -> Accountant:
        log = MemoryLog(self.cluster, client=name, network=frozen)
        database = database_at(self.dsn, MIGRATIONS, pool_size=3)
        await database.prepare()
        letters = DeadLetters(
            Publisher(log.producer(), self.codec, name), "cost-accountant", self.codec.topic_prefix, now_ms
        )
        store = LedgerStore(database, BOOK, letters, LedgerMetrics(Metrics("test")))
        projection = Projection(
            log,
            "ledger",
            [USAGE_RECORDED],
            self.codec,
            store if frozen is None else frozen.store(store),
            letters,
            max_batch=20,
            max_wait_seconds=0.005,
        )
        accountant = Accountant(log, database, projection, asyncio.create_task(projection.run()))
        self.accountants.append(accountant)
        return accountant

    async def use(self, events: Sequence[UsageRecorded]) -> None:
        publisher = Publisher(MemoryLog(self.cluster, client="worker").producer(), self.codec, "test")
        futures = [
            publisher.send(
                Publication(
                    spec=USAGE_RECORDED,
                    event=event,
                    event_id=event.event_id,
                    key=event.tenant.encode(),
                    tenant=event.tenant,
                    time_ms=event.recorded_at,
                )
            )
            for event in events
        ]
        await asyncio.gather(*futures)

    async def spent(self) -> tuple[int, int, int]:
        """Executions, nano-dollars by the entries and by the balances."""
        connection = await asyncpg.connect(self.dsn)
        try:
            executions = await connection.fetchval("SELECT count(*) FROM ledger.entries")
            by_entries = await connection.fetchval("SELECT coalesce(sum(cost_nanodollars), 0) FROM ledger.entries")
            by_balances = await connection.fetchval("SELECT coalesce(sum(cost_nanodollars), 0) FROM ledger.balances")
        finally:
            await connection.close()
        return int(executions), int(by_entries), int(by_balances)

    async def settle(self, events: Sequence[UsageRecorded]) -> None:
        """Waits until these are booked, and no others."""
        expected = sum(cost_of(event, BOOK).nanodollars for event in events)
        await _eventually(lambda: self.spent(), (len(events), expected, expected))


async def _eventually(ask: Callable[[], Any], expected: object, seconds: float = 20.0) -> None:
    found: object = None
    try:
        async with asyncio.timeout(seconds):
            while found != expected:
                await asyncio.sleep(0.02)
                found = await ask()
    except TimeoutError:
        raise AssertionError(f"found {found}, expected {expected}") from None


@pytest.fixture
async def books(postgres_dsn: str) -> AsyncIterator[Books]:
    cluster = MemoryCluster(session_timeout=0.3, rebalance_timeout=3.0)
    codec = Codec(MemoryRegistry(), "t.")
    letters = dead_letters_of(USAGE_RECORDED)
    await codec.prepare([USAGE_RECORDED, letters], register=True)
    cluster.create_topic("t." + USAGE_RECORDED.name, PARTITIONS)
    cluster.create_topic("t." + letters.name, 1)
    books = Books(cluster, codec, postgres_dsn)
    yield books
    for accountant in books.accountants:
        if not accountant.running.done():
            await accountant.close()


async def test_usage_is_booked_and_garbage_is_kept_aside(books: Books) -> None:
    await books.hire("one")
    events = [usage(number) for number in range(100)]
    await books.use(events[:50])
    books.cluster.append(ProducerRecord("t." + USAGE_RECORDED.name, b"garbage", b"tenant-1"))
    await books.use(events[50:])
    await books.settle(events)
    assert len(books.cluster.records("t." + dead_letters_of(USAGE_RECORDED).name)) == 1


async def test_killed_accountants_and_repeated_events_leave_exact_books(books: Books) -> None:
    events = [usage(number) for number in range(600)]
    chance = random.Random(7)

    async def keep_using() -> None:
        for start in range(0, 600, 20):
            await books.use(events[start : start + 20])
            # A worker that is not certain sends again.
            await books.use(chance.sample(events[: start + 20], 5))
            await asyncio.sleep(0.02)

    using = asyncio.create_task(keep_using())
    for life in range(5):
        accountant = await books.hire(f"life-{life}")
        await asyncio.sleep(0.15)
        await accountant.kill()
    await books.hire("last")
    await using
    await books.settle(events)


async def test_a_zombie_s_last_batch_does_not_count(books: Books) -> None:
    frozen = Frozen()
    zombie = await books.hire("zombie", frozen)
    events = [usage(number) for number in range(200)]
    await books.use(events[:50])
    await books.settle(events[:50])
    frozen.begin()
    await books.use(events[50:100])
    # It holds a batch that is as good as written, and the group takes it for dead.
    await asyncio.wait_for(frozen.holds_a_batch.wait(), 30)
    await books.hire("heir")
    await books.use(events[100:])
    await books.settle(events)
    frozen.end()
    await asyncio.wait_for(frozen.refused.wait(), 30)
    await books.settle(events)
    assert not zombie.running.done()


async def test_an_outage_of_postgres_costs_time_and_nothing_else(books: Books) -> None:
    await books.hire("one")
    events = [usage(number) for number in range(120)]
    await books.use(events[:60])
    await books.settle(events[:60])
    admin = await asyncpg.connect(books.dsn)
    try:
        # Every connection of the accountant is cut, again and again, while usage comes in.
        for start in range(60, 120, 10):
            await admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            await books.use(events[start : start + 10])
    finally:
        await admin.close()
    await books.settle(events)

"""The ledger while its Postgres is killed, full, locked and short of connections: nothing skipped, nothing twice."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
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
from headrace_runtime.database import Database, Outage, OutageKind
from headrace_runtime.metrics import Metrics
from headrace_streams.dead_letters import DeadLetters
from headrace_streams.errors import TransientError
from headrace_streams.log_identity import StoredPosition
from headrace_streams.memory import MemoryCluster, MemoryLog
from headrace_streams.projection import Moves, Projection, ProjectionStore
from headrace_streams.publishing import Publication, Publisher
from headrace_streams.records import Record, TopicPartition
from headrace_testing.databases import database_at
from headrace_testing.own_postgres import own_postgres

pytestmark = [pytest.mark.stack, pytest.mark.timeout(180)]

BOOK = load_price_book()
TOPIC = "t." + USAGE_RECORDED.name


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
        recorded_at=time.time_ns() // 1_000_000,
    )


class LosesAnswers:
    """The way to the database, on which the answers to some commits get lost."""

    def __init__(self, store: ProjectionStore) -> None:
        self._store = store
        self.lose = 0

    async def positions(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, StoredPosition]:
        return await self._store.positions(partitions)

    async def apply(self, batch: Sequence[tuple[Record, Any]], moves: Moves) -> None:
        await self._store.apply(batch, moves)
        if batch and self.lose:
            self.lose -= 1
            raise TransientError("the connection broke before the answer came")


class Ledger:
    """A topic in memory, an accountant, and a Postgres."""

    def __init__(self, dsn: str, codec: Codec) -> None:
        self.dsn = dsn
        self.codec = codec
        self.memory = MemoryCluster()
        self.outages: list[OutageKind] = []
        self.waits: list[str | None] = []
        self.events: list[UsageRecorded] = []
        self.database: Database = database_at(dsn, MIGRATIONS, pool_size=2, timeout_seconds=1.0, on_change=self._outage)
        log = MemoryLog(self.memory, client="accountant")
        letters = DeadLetters(Publisher(log.producer(), codec, "test"), "test", "t.", lambda: 7)
        self.way = LosesAnswers(LedgerStore(self.database, BOOK, letters, LedgerMetrics(Metrics("test"))))
        self.projection = Projection(
            log, "ledger", [USAGE_RECORDED], codec, self.way, letters, max_batch=25, max_wait_seconds=0.005,
            on_waiting=self.waits.append,
        )  # fmt: skip
        self._publisher = Publisher(MemoryLog(self.memory, client="worker").producer(), codec, "test")

    def _outage(self, outage: Outage | None) -> None:
        if outage is not None:
            self.outages.append(outage.kind)

    async def use(self, count: int) -> None:
        """Append so many usage events."""
        fresh = [usage(len(self.events) + number) for number in range(count)]
        self.events += fresh
        await asyncio.gather(
            *(
                self._publisher.send(
                    Publication(
                        spec=USAGE_RECORDED, event=event, event_id=event.event_id, key=event.tenant.encode(),
                        tenant=event.tenant, time_ms=event.recorded_at,
                    )
                )
                for event in fresh
            )
        )  # fmt: skip

    async def settle(self, seconds: float = 60.0) -> None:
        """Wait until all is booked, and nothing else: rows, sums, balances, positions."""
        expected = (len(self.events), *[sum(cost_of(event, BOOK).nanodollars for event in self.events)] * 2)
        ends = {(TOPIC, number): self.memory.partition(TopicPartition(TOPIC, number)).end for number in range(3)}
        found: object = None
        try:
            async with asyncio.timeout(seconds):
                while found != (expected, ends):
                    await asyncio.sleep(0.05)
                    found = await self._found()
        except TimeoutError:
            raise AssertionError(f"found {found}, expected {(expected, ends)}") from None

    async def _found(self) -> object:
        try:
            connection = await asyncpg.connect(self.dsn, timeout=5)
        except (OSError, asyncpg.PostgresError):
            return None
        try:
            sums = await connection.fetchrow(
                "SELECT (SELECT count(*) FROM ledger.entries), "
                "(SELECT sum(cost_nanodollars)::bigint FROM ledger.entries), "
                "(SELECT sum(cost_nanodollars)::bigint FROM ledger.balances)"
            )
            positions = await connection.fetch("SELECT topic, partition, next_offset FROM ledger.positions")
        finally:
            await connection.close()
        assert sums is not None
        return tuple(sums), {(row[0], row[1]): row[2] for row in positions}


@asynccontextmanager
async def keeping(dsn: str) -> AsyncIterator[Ledger]:
    codec = Codec(MemoryRegistry(), "t.")
    letters = dead_letters_of(USAGE_RECORDED)
    await codec.prepare([USAGE_RECORDED, letters], register=True)
    ledger = Ledger(dsn, codec)
    ledger.memory.create_topic(TOPIC, 3)
    ledger.memory.create_topic("t." + letters.name, 1)
    await ledger.database.prepare()
    running = asyncio.create_task(ledger.projection.run())
    try:
        await ledger.use(50)
        await ledger.settle()
        yield ledger
        assert not running.done(), "an outage has ended the ledger"
    finally:
        await ledger.projection.close()
        await asyncio.gather(running, return_exceptions=True)
        await ledger.database.close()


async def _during(ledger: Ledger, trouble: Callable[[], Awaitable[None]], steps: int = 20) -> None:
    """Usage comes in before, during and after."""
    using = asyncio.create_task(_trickle(ledger, steps))
    await trouble()
    await using
    await ledger.settle()


async def _trickle(ledger: Ledger, steps: int) -> None:
    for _ in range(steps):
        await ledger.use(10)
        await asyncio.sleep(0.05)


async def test_postgres_is_killed_and_comes_back_again_and_again() -> None:
    async with own_postgres() as server, keeping(server.url) as ledger:

        async def kill_it() -> None:
            for _ in range(3):
                await asyncio.sleep(random.Random(len(ledger.events)).uniform(0.05, 0.4))
                await server.kill()
                await asyncio.sleep(0.4)
                await server.start()

        await _during(ledger, kill_it, steps=60)
        assert OutageKind.UNREACHABLE in ledger.outages
        assert ledger.waits[-1] is None


async def test_postgres_takes_no_more_clients() -> None:
    async with (
        own_postgres(max_connections="8", superuser_reserved_connections="1") as server,
        keeping(server.url) as ledger,
    ):

        async def take_all_connections() -> None:
            crowd = Crowd(server.url)
            try:
                async with asyncio.timeout(60):
                    while OutageKind.CONNECTIONS not in ledger.outages:
                        await crowd.crowd_out()
                        await asyncio.sleep(0.2)
                assert ledger.waits[-1] is not None
            finally:
                await crowd.close()

        await _during(ledger, take_all_connections)
        assert ledger.waits[-1] is None


class Crowd:
    """Clients that take all connections, the ledger's as well."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._clients: list[asyncpg.Connection] = []

    async def crowd_out(self) -> None:
        """Take what is free, then the places of the ledger; it may be back in one before we are."""
        await self._fill()
        await self._clients[0].execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'headrace-test'"
        )
        await self._fill()

    async def _fill(self) -> None:
        while True:
            try:
                self._clients.append(await asyncpg.connect(self._url))
            except asyncpg.TooManyConnectionsError:
                return

    async def close(self) -> None:
        for client in self._clients:
            await client.close()


async def test_somebody_holds_a_lock(postgres_dsn: str) -> None:
    async with keeping(postgres_dsn) as ledger:

        async def hold() -> None:
            other = await asyncpg.connect(postgres_dsn)
            try:
                async with other.transaction():
                    await other.execute("LOCK TABLE ledger.balances")
                    await _eventually(lambda: OutageKind.TIMEOUT in ledger.outages)
            finally:
                await other.close()

        await _during(ledger, hold)


async def test_connections_are_cut_in_the_middle_of_batches(postgres_dsn: str) -> None:
    async with keeping(postgres_dsn) as ledger:

        async def cut() -> None:
            other = await asyncpg.connect(postgres_dsn)
            try:
                for _ in range(60):
                    await other.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
                        "AND application_name = 'headrace-test' AND state <> 'idle'"
                    )
                    await asyncio.sleep(0.02)
            finally:
                await other.close()

        await _during(ledger, cut, steps=40)


async def test_answers_to_commits_get_lost(postgres_dsn: str) -> None:
    async with keeping(postgres_dsn) as ledger:
        ledger.way.lose = 3
        await ledger.use(200)
        await ledger.settle()
        assert ledger.way.lose == 0


async def test_the_server_has_become_read_only(postgres_dsn: str) -> None:
    async with keeping(postgres_dsn) as ledger:
        name = postgres_dsn.rpartition("/")[2]

        async def read_only() -> None:
            other = await asyncpg.connect(postgres_dsn)
            try:
                await other.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
                await _cut_off(other)
                await _eventually(lambda: OutageKind.READ_ONLY in ledger.outages)
                await other.execute("SET default_transaction_read_only = off")
                await other.execute(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')
            finally:
                await other.close()

        await _during(ledger, read_only)


async def test_a_statement_timeout_of_the_server(postgres_dsn: str) -> None:
    async with keeping(postgres_dsn) as ledger:
        name = postgres_dsn.rpartition("/")[2]
        other = await asyncpg.connect(postgres_dsn)
        try:
            # Booking takes longer than the server allows, for a while.
            await other.execute(
                "CREATE FUNCTION public.dawdle() RETURNS trigger LANGUAGE plpgsql AS "
                "'BEGIN PERFORM pg_sleep(0.5); RETURN NEW; END'"
            )
            await other.execute(
                "CREATE TRIGGER slow BEFORE INSERT ON ledger.entries "
                "FOR EACH STATEMENT EXECUTE FUNCTION public.dawdle()"
            )
            await other.execute(f"ALTER DATABASE \"{name}\" SET statement_timeout = '100ms'")
            await _cut_off(other)
            await ledger.use(10)
            await _eventually(lambda: OutageKind.TIMEOUT in ledger.outages)
            assert "statement timeout" in str(ledger.waits[-1])
            await other.execute("DROP TRIGGER slow ON ledger.entries")
            # Or a busy machine would need longer for the test's own look at the ledger.
            await other.execute(f'ALTER DATABASE "{name}" RESET statement_timeout')
        finally:
            await other.close()
        await ledger.settle()


async def _cut_off(other: asyncpg.Connection) -> None:
    await other.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE application_name = 'headrace-test' AND datname = current_database()"
    )


async def test_a_full_disk(postgres_dsn: str) -> None:
    async with keeping(postgres_dsn) as ledger:
        other = await asyncpg.connect(postgres_dsn)
        try:
            # The server's own error, raised where a full disk raises it: on writing a row.
            await other.execute(
                "CREATE FUNCTION public.full() RETURNS trigger LANGUAGE plpgsql AS "
                "$$BEGIN RAISE SQLSTATE '53100' USING MESSAGE = 'could not extend file: No space left on device'; END$$"
            )
            await other.execute(
                "CREATE TRIGGER full_disk BEFORE INSERT ON ledger.entries FOR EACH ROW EXECUTE FUNCTION public.full()"
            )
            await ledger.use(30)
            await _eventually(lambda: OutageKind.STORAGE in ledger.outages)
            assert "No space left" in str(ledger.waits[-1])
            await other.execute("DROP TRIGGER full_disk ON ledger.entries")
        finally:
            await other.close()
        await ledger.settle()


async def test_a_row_that_postgres_will_never_take_is_put_aside_and_the_rest_is_booked(postgres_dsn: str) -> None:
    async with keeping(postgres_dsn) as ledger:
        other = await asyncpg.connect(postgres_dsn)
        try:
            await other.execute("ALTER TABLE ledger.entries ADD CHECK (event_id <> 't-77/1/x')")
        finally:
            await other.close()
        await ledger.use(100)
        ledger.events = [event for event in ledger.events if event.event_id != "t-77/1/x"]
        await ledger.settle()
        assert len(ledger.memory.records(TOPIC + ".dlq")) == 1


async def test_a_defect_ends_the_ledger_and_passes_nothing_over(postgres_dsn: str) -> None:
    codec = Codec(MemoryRegistry(), "t.")
    await codec.prepare([USAGE_RECORDED, dead_letters_of(USAGE_RECORDED)], register=True)
    ledger = Ledger(postgres_dsn, codec)
    ledger.memory.create_topic(TOPIC, 3)
    await ledger.database.prepare()
    async with ledger.database.connection() as connection:
        await connection.execute("ALTER TABLE ledger.balances RENAME TO gone")
    await ledger.use(30)
    with pytest.raises(asyncpg.UndefinedTableError):
        await asyncio.wait_for(ledger.projection.run(), 20)
    async with ledger.database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM ledger.positions") == 0
        await connection.execute("ALTER TABLE ledger.gone RENAME TO balances")
    await ledger.database.close()


async def _eventually(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110 - told by others
            await asyncio.sleep(0.02)

"""The ledger on a real Postgres: batches, repeats, crashes in between, and two processes at once."""

import asyncio
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import asyncpg
import pytest
from headrace_contracts.events import Outcome, Usage, UsageRecorded
from headrace_cost_accountant.adapters.cost_reports import CostReports
from headrace_cost_accountant.adapters.ledger_store import LedgerStore
from headrace_cost_accountant.decide.answers import Sums
from headrace_cost_accountant.decide.booking import cost_of
from headrace_cost_accountant.decide.questions import GROUPS, CostQuery
from headrace_cost_accountant.metrics import LedgerMetrics
from headrace_cost_accountant.migrations import MIGRATIONS
from headrace_models.prices import load_price_book
from headrace_runtime.database import Database
from headrace_runtime.metrics import Metrics
from headrace_streams.applied import Moves
from headrace_streams.errors import PartitionsLost, TransientError
from headrace_streams.records import Record, TopicPartition
from headrace_testing.databases import prepared
from headrace_testing.dead_letters import KeptDeadLetters
from headrace_testing.stored_positions import at, moving

pytestmark = pytest.mark.stack

BOOK = load_price_book()
TOPIC = "headrace.usage.recorded"
NOON = 1_780_056_000_000
DAY = 86_400_000
MODELS = [
    ("groq", "llama-3.1-8b-instant"),
    ("anthropic", "claude-sonnet-4-6"),
    ("ollama", "phi3:3.8b"),
    ("novel", "unheard-of"),
]


def usage(number: int, **changes: object) -> UsageRecorded:
    chance = random.Random(number)
    provider, model = MODELS[number % len(MODELS)]
    event = UsageRecorded(
        event_id=f"t-{number}/1/x",
        tenant=f"tenant-{number % 3}",
        user=f"user-{number % 5}",
        task_id=f"t-{number}",
        attempt_id=f"t-{number}/1",
        execution_id="x",
        role=("reviewer", None)[number % 2],
        provider=provider,
        model=model,
        simulated=number % 7 == 0,
        outcome=Outcome.ANSWERED,
        usage=Usage(
            input_tokens=chance.randrange(100_000),
            output_tokens=chance.randrange(10_000),
            cached_input_tokens=chance.randrange(1_000),
            searches=chance.randrange(3),
            cache_write_5m_tokens=chance.randrange(2_000),
            cache_write_1h_tokens=chance.randrange(3_000),
        ),
        recorded_at=NOON + chance.randrange(-2 * DAY, 2 * DAY),
    )
    return replace(event, **changes)  # type: ignore[arg-type]


def batch(events: Sequence[UsageRecorded], first_offset: int = 0, partition: int = 0) -> list[tuple[Record, object]]:
    return [
        (Record(TOPIC, partition, first_offset + place, NOON, event.tenant.encode(), b""), event)
        for place, event in enumerate(events)
    ]


def moves(start: int | None, end: int, partition: int = 0) -> Moves:
    return {TopicPartition(TOPIC, partition): moving(start, end)}


@pytest.fixture
async def database(postgres_dsn: str) -> AsyncIterator[Database]:
    async with prepared(postgres_dsn, MIGRATIONS) as database:
        yield database


@pytest.fixture
def kept() -> KeptDeadLetters:
    return KeptDeadLetters()


@pytest.fixture
def store(database: Database, kept: KeptDeadLetters) -> LedgerStore:
    return LedgerStore(database, BOOK, kept, LedgerMetrics(Metrics("test")))


async def report(database: Database, question: CostQuery) -> dict[tuple[str, ...], Sums]:
    groups = await CostReports(database).groups(question)
    return {(*group.key.values(), str(group.simulated)): group.sums for group in groups}


async def total(database: Database) -> Sums:
    return sum((await report(database, CostQuery(None))).values(), start=Sums())


def independent_total(events: Sequence[UsageRecorded]) -> int:
    return sum(cost_of(event, BOOK).nanodollars for event in events)


async def test_totals_equal_an_independent_sum_to_the_nano_dollar(database: Database, store: LedgerStore) -> None:
    events = [usage(number) for number in range(500)]
    shuffled = random.Random(1).sample(events, len(events))
    for start in range(0, 500, 100):
        await store.apply(batch(shuffled[start : start + 100], start), moves(start or None, start + 100))
    sums = await total(database)
    assert sums.cost_nanodollars == independent_total(events) > 0
    assert sums.executions == 500
    assert sums.input_tokens == sum(event.usage.input_tokens for event in events)
    assert sums.cached_input_tokens == sum(event.usage.cached_input_tokens for event in events) > 0
    assert sums.cache_write_5m_tokens == sum(event.usage.cache_write_5m_tokens for event in events) > 0
    assert sums.cache_write_1h_tokens == sum(event.usage.cache_write_1h_tokens for event in events) > 0
    assert sums.unpriced_executions == 125


async def test_every_grouping_adds_up_and_balances_agree_with_entries(database: Database, store: LedgerStore) -> None:
    events = [usage(number) for number in range(300)]
    await store.apply(batch(events), moves(None, 300))
    expected = independent_total(events)
    for name in GROUPS:
        groups = await report(database, CostQuery(None, group_by=(name,)))
        assert sum(sums.cost_nanodollars for sums in groups.values()) == expected, name
    by_model: dict[tuple[str, ...], int] = defaultdict(int)
    for event in events:
        if event.tenant == "tenant-1":
            by_model[(event.provider, event.model, str(event.simulated))] += cost_of(event, BOOK).nanodollars
    from_balances = await report(database, CostQuery("tenant-1", group_by=("provider", "model")))
    # A bound that is no day's beginning makes the entries answer.
    from_entries = await report(database, CostQuery("tenant-1", since=1, group_by=("provider", "model")))
    assert {key: sums.cost_nanodollars for key, sums in from_balances.items()} == by_model
    assert from_entries == from_balances


async def test_periods_include_their_beginning_and_not_their_end(database: Database, store: LedgerStore) -> None:
    midnight = NOON - DAY // 2
    times = [midnight - 1, midnight, midnight + 3_600_000, midnight + DAY]
    events = [usage(3, event_id=f"e-{time}", recorded_at=time) for time in times]
    await store.apply(batch(events), moves(None, 4))
    of_day = await report(database, CostQuery("tenant-0", midnight, midnight + DAY, ("day",)))
    assert {key: sums.executions for key, sums in of_day.items()} == {("2026-05-29", "False"): 2}
    of_hour = await report(database, CostQuery("tenant-0", midnight, midnight + 3_600_001, ("hour",)))
    assert {key: sums.executions for key, sums in of_hour.items()} == {
        ("2026-05-29T00:00:00.000Z", "False"): 1,
        ("2026-05-29T01:00:00.000Z", "False"): 1,
    }


async def test_an_event_counts_once_however_often_and_wherever_it_comes(database: Database, store: LedgerStore) -> None:
    first, second = usage(1), usage(2)
    await store.apply(batch([first, first, second]), moves(None, 3))
    await store.apply(batch([second, first], 3), moves(3, 5))
    await store.apply(batch([first], 0, partition=1), moves(None, 1, partition=1))
    sums = await total(database)
    assert sums.executions == 2
    assert sums.cost_nanodollars == independent_total([first, second])


async def test_two_executions_of_one_attempt_are_billed_twice(database: Database, store: LedgerStore) -> None:
    once = usage(1)
    twice = replace(once, event_id="t-1/1/y", execution_id="y")
    await store.apply(batch([once, twice]), moves(None, 2))
    assert (await total(database)).cost_nanodollars == 2 * independent_total([once])


async def test_a_batch_is_booked_whole_or_not_at_all(database: Database, store: LedgerStore, postgres_dsn: str) -> None:
    await store.apply(batch([usage(1)]), moves(None, 1))
    admin = await asyncpg.connect(postgres_dsn)
    try:
        # The connection is cut in the middle of the transaction, as by a crash.
        await admin.execute(
            "CREATE FUNCTION cut() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$"
        )
        await admin.execute("CREATE TRIGGER cut AFTER INSERT ON ledger.balances EXECUTE FUNCTION cut()")
        with pytest.raises(TransientError):
            await store.apply(batch([usage(2), usage(3)], 1), moves(1, 3))
        await admin.execute("DROP TRIGGER cut ON ledger.balances")
    finally:
        await admin.close()
    partition = TopicPartition(TOPIC, 0)
    assert await store.positions([partition]) == {partition: at(1)}
    assert (await total(database)).executions == 1
    await store.apply(batch([usage(2), usage(3)], 1), moves(1, 3))
    assert await store.positions([partition]) == {partition: at(3)}
    assert (await total(database)).cost_nanodollars == independent_total([usage(1), usage(2), usage(3)])


async def test_a_process_that_lost_its_partition_changes_nothing(database: Database, store: LedgerStore) -> None:
    await store.apply(batch([usage(1)]), moves(None, 1))
    with pytest.raises(PartitionsLost):
        await store.apply(batch([usage(2)]), moves(None, 1))
    with pytest.raises(PartitionsLost):
        await store.apply(batch([usage(2)]), {**moves(0, 2), **moves(None, 1, partition=1)})
    assert (await total(database)).executions == 1
    assert await store.positions([TopicPartition(TOPIC, 1)]) == {}


async def test_of_two_processes_at_the_same_place_one_books(database: Database, store: LedgerStore) -> None:
    events = [usage(number) for number in range(200)]
    for start in range(0, 200, 20):
        attempts = [
            store.apply(batch(events[start : start + 20], start), moves(start or None, start + 20)) for _ in range(3)
        ]
        outcomes = await asyncio.gather(*attempts, return_exceptions=True)
        assert sorted(type(outcome).__name__ for outcome in outcomes) == [
            "NoneType",
            "PartitionsLost",
            "PartitionsLost",
        ]
    assert (await total(database)).cost_nanodollars == independent_total(events)


async def test_partitions_booked_at_once_do_not_disturb_each_other(database: Database, store: LedgerStore) -> None:
    # The same tenants and days in all partitions: the balances are shared rows.
    events = [usage(number) for number in range(400)]

    async def follow(partition: int) -> None:
        mine = events[partition::4]
        random.Random(partition).shuffle(mine)
        for start in range(0, 100, 10):
            chosen = batch(mine[start : start + 10], start, partition)
            await store.apply(chosen, moves(start or None, start + 10, partition))

    await asyncio.gather(*map(follow, range(4)))
    assert (await total(database)).cost_nanodollars == independent_total(events)


async def test_what_cannot_be_booked_is_kept_and_the_rest_goes_on(
    database: Database, store: LedgerStore, kept: KeptDeadLetters
) -> None:
    wrong = usage(1, usage=Usage(input_tokens=-1))
    await store.apply(batch([usage(2), wrong, usage(3)]), moves(None, 3))
    assert [record.offset for record, _ in kept.kept] == [1]
    assert (await total(database)).executions == 2
    assert await store.positions([TopicPartition(TOPIC, 0)]) == {TopicPartition(TOPIC, 0): at(3)}

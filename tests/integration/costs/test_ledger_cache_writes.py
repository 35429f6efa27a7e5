"""Reads from and writes to prompt caches in the ledger: booked, reported, priced, added to a ledger with rows."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest
from headrace_contracts.events import Outcome, Usage, UsageRecorded
from headrace_cost_accountant.adapters.cost_reports import CostReports
from headrace_cost_accountant.adapters.ledger_store import LedgerStore
from headrace_cost_accountant.adapters.repricing import Repricing
from headrace_cost_accountant.decide.answers import report_csv, report_document
from headrace_cost_accountant.decide.questions import CostQuery
from headrace_cost_accountant.metrics import LedgerMetrics
from headrace_cost_accountant.migrations import MIGRATIONS
from headrace_models.prices import load_price_book, parse_price_book
from headrace_runtime.database import Database
from headrace_runtime.metrics import Metrics
from headrace_streams.records import Record, TopicPartition
from headrace_testing.databases import prepared
from headrace_testing.dead_letters import NoDeadLetters
from headrace_testing.stored_positions import moving

pytestmark = pytest.mark.stack

NOON = 1_780_056_000_000
READ, FOR_5M, FOR_1H = "cached_input_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens"
LATER = parse_price_book(
    "{version: later, effective: 2026-01-01, providers: {novel: {unheard-of: "
    "{input: 1000000000, cached_input: 100000000, cache_write_5m: 1250000000, cache_write_1h: 2000000000}}}}"
)


def usage(name: str, provider: str, model: str, **counts: int) -> UsageRecorded:
    return UsageRecorded(
        event_id=name,
        tenant="acme",
        task_id=name,
        attempt_id=f"{name}/1",
        execution_id="x",
        provider=provider,
        model=model,
        outcome=Outcome.ANSWERED,
        usage=Usage(**counts),
        recorded_at=NOON,
    )


EVENTS = [
    usage("read", "anthropic", "claude-sonnet-4-6", input_tokens=1_000, cached_input_tokens=900),
    usage("for-5m", "anthropic", "claude-sonnet-4-6", input_tokens=1_000, cache_write_5m_tokens=700),
    usage("for-1h", "anthropic", "claude-haiku-4-5", input_tokens=1_000, cache_write_1h_tokens=1_000),
    usage(
        "all-three", "anthropic", "claude-haiku-4-5", input_tokens=1_000, output_tokens=10,
        cached_input_tokens=500, cache_write_5m_tokens=200, cache_write_1h_tokens=100,
    ),
    usage(
        "contradicting", "anthropic", "claude-haiku-4-5",
        input_tokens=10, cached_input_tokens=10, cache_write_5m_tokens=10,
    ),
    usage("unpriced", "novel", "unheard-of", input_tokens=100, cache_write_5m_tokens=40, cache_write_1h_tokens=20),
]  # fmt: skip
SONNET = 100 * 3_000 + 900 * 300 + 300 * 3_000 + 700 * 3_750
HAIKU = 1_000 * 2_000 + (200 * 1_000 + 500 * 100 + 200 * 1_250 + 100 * 2_000 + 10 * 5_000) + 10 * 1_250


@pytest.fixture
async def database(postgres_dsn: str) -> AsyncIterator[Database]:
    async with prepared(postgres_dsn, MIGRATIONS) as database:
        store = LedgerStore(database, load_price_book(), NoDeadLetters(), LedgerMetrics(Metrics("test")))
        batch = [(Record("u", 0, offset, NOON, b"k", b""), event) for offset, event in enumerate(EVENTS)]
        await store.apply(batch, {TopicPartition("u", 0): moving(None, len(EVENTS))})
        yield database


@pytest.mark.parametrize("since", [None, 1], ids=["from the balances", "from the entries"])
async def test_reports_show_each_kind_of_token_and_what_it_cost(database: Database, since: int | None) -> None:
    question = CostQuery("acme", since=since, group_by=("model",))
    groups = await CostReports(database).groups(question)
    found = {
        group.key["model"]: (
            group.sums.cached_input_tokens,
            group.sums.cache_write_5m_tokens,
            group.sums.cache_write_1h_tokens,
            group.sums.cost_nanodollars,
        )
        for group in groups
    }
    assert found == {
        "claude-sonnet-4-6": (900, 700, 0, SONNET),
        "claude-haiku-4-5": (510, 210, 1_100, HAIKU),
        "unheard-of": (0, 40, 20, 0),
    }
    total = report_document(question, groups)["total"]
    assert (total[READ], total[FOR_5M], total[FOR_1H]) == (1_410, 950, 1_120)
    assert report_csv(question, groups).splitlines()[0].split(",")[-5:-3] == [FOR_5M, FOR_1H]


async def test_a_repeated_event_changes_no_count(database: Database) -> None:
    store = LedgerStore(database, load_price_book(), NoDeadLetters(), LedgerMetrics(Metrics("test")))
    before = await CostReports(database).groups(CostQuery(None))
    batch = [(Record("u", 1, offset, NOON, b"k", b""), event) for offset, event in enumerate(EVENTS)]
    await store.apply(batch, {TopicPartition("u", 1): moving(None, len(EVENTS))})
    assert await CostReports(database).groups(CostQuery(None)) == before


async def test_repricing_charges_each_kind_at_its_price(database: Database) -> None:
    repriced = [each async for each in Repricing(database, LATER, run_id="r", repriced_by="ada", now=1).run()]
    assert [each.nanodollars for each in repriced] == [40 * 1_000 + 40 * 1_250 + 20 * 2_000]


async def test_a_ledger_with_rows_gets_the_columns_and_an_older_release_still_books(postgres_dsn: str) -> None:
    old_row = (
        "INSERT INTO ledger.balances (tenant, day, provider, model, simulated, executions, input_tokens, "
        "output_tokens, cached_input_tokens, searches, cost_nanodollars, internal_value_nanodollars, "
        "unpriced_executions) VALUES ($1, '2026-05-29', 'groq', 'm', false, 1, 2, 3, 0, 0, 5, 0, 0)"
    )
    await MIGRATIONS.upgrade(postgres_dsn, "0002")
    connection = await asyncpg.connect(postgres_dsn)
    try:
        await connection.execute(old_row, "before")
        await MIGRATIONS.upgrade(postgres_dsn)
        await connection.execute(old_row, "during-the-rollout")
        counts = await connection.fetch(f"SELECT tenant, input_tokens, {FOR_5M}, {FOR_1H} FROM ledger.balances")
        assert {tuple(row) for row in counts} == {("before", 2, 0, 0), ("during-the-rollout", 2, 0, 0)}
        await MIGRATIONS.downgrade(postgres_dsn, "0002")
        assert await connection.fetchval("SELECT sum(cost_nanodollars) FROM ledger.balances") == 10
    finally:
        await connection.close()

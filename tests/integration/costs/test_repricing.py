"""Entries without a price get one when the price book has it: once, noted, and with balances that still agree."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from importlib import resources
from pathlib import Path

import asyncpg
import pytest
from headrace_contracts.events import Outcome, Usage, UsageRecorded
from headrace_cost_accountant.adapters.ledger_store import LedgerStore
from headrace_cost_accountant.adapters.repricing import Repricing
from headrace_cost_accountant.decide.booking import Basis, cost_of
from headrace_cost_accountant.metrics import LedgerMetrics
from headrace_cost_accountant.migrations import MIGRATIONS
from headrace_cost_accountant.reprice import main
from headrace_models.prices import PriceBook, load_price_book
from headrace_runtime.database import Database
from headrace_runtime.metrics import Metrics
from headrace_streams.records import Record, TopicPartition
from headrace_testing.databases import prepared
from headrace_testing.dead_letters import NoDeadLetters
from headrace_testing.stored_positions import moving

pytestmark = pytest.mark.stack

OLD = load_price_book()
DAY = 86_400_000
NOON = 1_780_056_000_000
ADDED = "  novel:\n    unheard-of: {input: 2_000_000_000, output: 8_000_000_000, cache_write_1h: 4_000_000_000}"


def usage(number: int) -> UsageRecorded:
    provider, model = [("novel", "unheard-of"), ("novel", "other"), ("groq", "llama-3.1-8b-instant")][number % 3]
    return UsageRecorded(
        event_id=f"t-{number}/1/x",
        tenant=f"tenant-{number % 2}",
        task_id=f"t-{number}",
        attempt_id=f"t-{number}/1",
        execution_id="x",
        provider=provider,
        model=model,
        simulated=number % 5 == 0,
        outcome=Outcome.ANSWERED,
        usage=Usage(
            input_tokens=1_000 + number,
            output_tokens=100 + number,
            cached_input_tokens=100,
            cache_write_5m_tokens=number % 7,
            cache_write_1h_tokens=number % 11,
        ),
        recorded_at=NOON + number % 4 * DAY,
    )


EVENTS = [usage(number) for number in range(2_500 * 3)]


@pytest.fixture
def book_file(tmp_path: Path) -> Path:
    """The shipped price book with one more model."""
    text = resources.files("headrace_models").joinpath("prices.yaml").read_text(encoding="utf-8")
    assert "\nproviders:\n" in text
    file = tmp_path / "prices.yaml"
    file.write_text(text.replace("\nproviders:\n", f"\nproviders:\n{ADDED}\n", 1), encoding="utf-8")
    return file


@pytest.fixture
def new(book_file: Path) -> PriceBook:
    return load_price_book(book_file)


@pytest.fixture
async def database(postgres_dsn: str) -> AsyncIterator[Database]:
    async with prepared(postgres_dsn, MIGRATIONS) as database:
        store = LedgerStore(database, OLD, NoDeadLetters(), LedgerMetrics(Metrics("test")))
        batch = [(Record("u", 0, offset, NOON, b"k", b""), event) for offset, event in enumerate(EVENTS)]
        await store.apply(batch, {TopicPartition("u", 0): moving(None, len(EVENTS))})
        yield database


def repricing(database: Database, book: PriceBook, run_id: str = "run-1") -> Repricing:
    return Repricing(database, book, run_id=run_id, repriced_by="ada", now=7)


async def run(repricing: Repricing) -> tuple[int, int]:
    done = [each async for each in repricing.run()]
    return sum(each.executions for each in done), sum(each.nanodollars for each in done)


async def check(dsn: str, book: PriceBook) -> None:
    """Every entry costs what this book says, and the balances are the sums of the entries."""
    connection = await asyncpg.connect(dsn)
    try:
        entries = await connection.fetch("SELECT event_id, cost_nanodollars, price_basis FROM ledger.entries")
        found = {row["event_id"]: (row["cost_nanodollars"], row["price_basis"]) for row in entries}
        assert found == {
            event.event_id: (cost.nanodollars, cost.basis.value) for event in EVENTS for cost in [cost_of(event, book)]
        }
        differing = await connection.fetch(
            """
            SELECT * FROM (
                SELECT tenant, (to_timestamp(recorded_at / 1000) AT TIME ZONE 'UTC')::date AS day, provider, model,
                       simulated, sum(cost_nanodollars)::bigint, count(*),
                       count(*) FILTER (WHERE price_basis = 'unpriced')
                FROM ledger.entries GROUP BY 1, 2, 3, 4, 5
            ) AS sums EXCEPT
            SELECT tenant, day, provider, model, simulated, cost_nanodollars, executions, unpriced_executions
            FROM ledger.balances
            """
        )
        assert differing == []
    finally:
        await connection.close()


async def test_what_has_a_price_now_is_priced_once_and_noted(
    database: Database, postgres_dsn: str, new: PriceBook
) -> None:
    await check(postgres_dsn, OLD)
    before = await repricing(database, new).unpriced()
    assert [(each.model, each.executions, each.basis) for each in before] == [
        ("other", 2_500, Basis.UNPRICED), ("unheard-of", 2_500, Basis.MODEL),
    ]  # fmt: skip
    mine = [event for event in EVENTS if event.model == "unheard-of"]
    assert await run(repricing(database, new)) == (2_500, sum(cost_of(event, new).nanodollars for event in mine))
    await check(postgres_dsn, new)
    assert await run(repricing(database, new, "run-2")) == (0, 0)
    async with database.connection() as connection:
        notes = await connection.fetch("SELECT * FROM ledger.repricings")
        priced = await connection.fetchval("SELECT sum(cost_nanodollars) FROM ledger.repricings")
    assert {(note["run_id"], note["repriced_by"], note["repriced_at"]) for note in notes} == {("run-1", "ada", 7)}
    assert {(note["price_version_before"], note["price_version"]) for note in notes} == {(OLD.version, new.version)}
    assert {note["event_id"] for note in notes} == {event.event_id for event in mine}
    assert priced == sum(cost_of(event, new).nanodollars for event in mine)


async def test_an_interrupted_run_is_repeated_and_two_at_once_price_nothing_twice(
    database: Database, postgres_dsn: str, new: PriceBook
) -> None:
    async for _ in repricing(database, new).run():
        break
    outcomes = await asyncio.gather(*(run(repricing(database, new, f"run-{number}")) for number in range(3)))
    assert sum(executions for executions, _ in outcomes) == 1_500
    await check(postgres_dsn, new)


async def test_usage_that_comes_meanwhile_is_not_disturbed(
    database: Database, postgres_dsn: str, new: PriceBook
) -> None:
    store = LedgerStore(database, new, NoDeadLetters(), LedgerMetrics(Metrics("test")))
    # Repeats of what is there, and the projection's position.
    batch = [(Record("u", 1, offset, NOON, b"k", b""), event) for offset, event in enumerate(EVENTS[:500])]
    await asyncio.gather(run(repricing(database, new)), store.apply(batch, {TopicPartition("u", 1): moving(None, 500)}))
    await run(repricing(database, new))
    await check(postgres_dsn, new)


def test_the_command_says_what_it_did(
    database: Database,
    postgres_dsn: str,
    book_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HEADRACE_DATABASE_URL", postgres_dsn)
    monkeypatch.setenv("HEADRACE_PRICE_BOOK", str(book_file))
    assert main(["--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "novel/unheard-of: 2500 executions at 0, 2026-05-29 to 2026-06-01: has a price now" in said
    assert "novel/other: 2500 executions at 0, 2026-05-29 to 2026-06-01: still has no price" in said
    assert "priced" not in said
    assert main([]) == 0
    assert "2500 executions priced by price book" in capsys.readouterr().out
    assert main([]) == 0
    assert "0 executions priced" in capsys.readouterr().out
    monkeypatch.setenv("HEADRACE_DATABASE_URL", "postgresql://u:hidden@127.0.0.1:1/x")
    assert main([]) == 1
    assert "hidden" not in capsys.readouterr().err
    monkeypatch.delenv("HEADRACE_DATABASE_URL")
    assert main([]) == 2

"""Executions that were lost, in the ledger and in reports: apart from what is known, and gone once that is known."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from headrace_contracts.events import Outcome, Usage, UsageRecorded
from headrace_contracts.ids import lost_usage_id
from headrace_cost_accountant.adapters.cost_reports import CostReports
from headrace_cost_accountant.adapters.ledger_store import LedgerStore
from headrace_cost_accountant.adapters.repricing import Repricing
from headrace_cost_accountant.decide.answers import Sums, report_csv, report_document
from headrace_cost_accountant.decide.questions import CostQuery
from headrace_cost_accountant.metrics import LedgerMetrics
from headrace_cost_accountant.migrations import MIGRATIONS
from headrace_models.prices import load_price_book
from headrace_runtime.database import Database
from headrace_runtime.metrics import Metrics
from headrace_streams.records import Record, TopicPartition
from headrace_testing.databases import prepared
from headrace_testing.dead_letters import NoDeadLetters
from headrace_testing.stored_positions import moving

pytestmark = pytest.mark.stack

NOON, MOST = 1_780_056_000_000, 2_500_000


def known(name: str, **fields: object) -> UsageRecorded:
    event = UsageRecorded(
        event_id=f"{name}/1/x", tenant="acme", task_id=name, attempt_id=f"{name}/1", execution_id="x",
        provider="anthropic", model="claude-haiku-4-5", outcome=Outcome.ANSWERED,
        usage=Usage(input_tokens=100, output_tokens=10), recorded_at=NOON,
    )  # fmt: skip
    return replace(event, **fields)  # type: ignore[arg-type]


def lost(name: str, **fields: object) -> UsageRecorded:
    event = known(name, outcome=Outcome.LOST, usage=Usage(), possibly_billed_nanodollars=MOST)
    return replace(event, event_id=lost_usage_id(event.event_id), **fields)  # type: ignore[arg-type]


@pytest.fixture
async def database(postgres_dsn: str) -> AsyncIterator[Database]:
    async with prepared(postgres_dsn, MIGRATIONS) as database:
        yield database


async def book(database: Database, *batches: list[UsageRecorded], partition: int = 0) -> None:
    store = LedgerStore(database, load_price_book(), NoDeadLetters(), LedgerMetrics(Metrics("test")))
    at = None
    for batch in batches:
        offset = at or 0
        records = [(Record("u", partition, offset + n, NOON, b"k", b""), event) for n, event in enumerate(batch)]
        await store.apply(records, {TopicPartition("u", partition): moving(at, offset + len(batch))})
        at = offset + len(batch)


async def sums(database: Database, *, of_entries: bool) -> Sums:
    groups = await CostReports(database).groups(CostQuery("acme", since=1 if of_entries else None))
    return sum((group.sums for group in groups), start=Sums())


async def seen(database: Database) -> tuple[int, int, int, int]:
    """Executions, cost, possibly billed executions and amount: the same by the balances and by the entries."""
    found = {
        (one.executions, one.cost_nanodollars, one.possibly_billed_executions, one.possibly_billed_nanodollars)
        for one in [await sums(database, of_entries=which) for which in (False, True)]
    }
    [only] = found
    return only


async def test_a_lost_execution_stands_apart(database: Database) -> None:
    await book(database, [known("a"), lost("b"), lost("c", possibly_billed_nanodollars=0)])
    executions, cost, possibly, amount = await seen(database)
    assert (executions, possibly, amount) == (1, 2, MOST)
    assert cost == 100 * 1_000 + 10 * 5_000
    question = CostQuery("acme", group_by=("model",))
    groups = await CostReports(database).groups(question)
    total = report_document(question, groups)["total"]
    assert (total["possibly_billed_nanodollars"], total["possibly_billed_usd"]) == (MOST, "0.002500000")
    assert (total["cost_nanodollars"], total["unpriced_executions"]) == (cost, 0)
    assert report_csv(question, groups).splitlines()[0].endswith("possibly_billed_usd")


@pytest.mark.parametrize(
    "batches",
    [
        [[lost("b"), known("b")]],
        [[known("b"), lost("b")]],
        [[lost("b")], [known("b")]],
        [[known("b")], [lost("b")]],
        [[lost("b")], [known("b")], [lost("b"), known("b")]],
    ],
)
async def test_what_is_known_takes_the_place_of_what_was_lost(
    database: Database, batches: list[list[UsageRecorded]]
) -> None:
    await book(database, [known("a"), lost("c")], *batches)
    executions, _, possibly, amount = await seen(database)
    assert (executions, possibly, amount) == (2, 1, MOST)


async def test_every_order_of_repeated_events_ends_in_the_same_books(database: Database) -> None:
    events = [lost("a"), known("a"), lost("b")]
    for partition, order in enumerate(itertools.permutations(events)):
        await book(database, *([event] for event in order), partition=partition)
        executions, _, possibly, amount = await seen(database)
        assert (executions, possibly, amount) == (1, 1, MOST)


async def test_another_tenant_settles_nothing(database: Database) -> None:
    await book(database, [lost("b"), known("b", tenant="bolt")])
    assert (await seen(database))[2:] == (1, MOST)


async def test_a_lost_execution_is_never_priced_anew(database: Database) -> None:
    await book(database, [lost("b", provider="novel", model="unheard-of")])
    repriced = [one async for one in Repricing(database, load_price_book(), run_id="r", repriced_by="a", now=1).run()]
    assert (repriced, (await seen(database))[1]) == ([], 0)

"""Calls in batches of a provider in the ledger: booked at the batch price, told apart in reports, repriced as such."""

from __future__ import annotations

from dataclasses import replace

import pytest
from headrace_contracts.events import Outcome, Usage, UsageRecorded
from headrace_cost_accountant.adapters.cost_reports import CostReports
from headrace_cost_accountant.adapters.ledger_store import LedgerStore
from headrace_cost_accountant.adapters.repricing import Repricing
from headrace_cost_accountant.decide.questions import ask
from headrace_cost_accountant.metrics import LedgerMetrics
from headrace_cost_accountant.migrations import MIGRATIONS
from headrace_models.prices import load_price_book, parse_price_book
from headrace_runtime.metrics import Metrics
from headrace_streams.records import Record, TopicPartition
from headrace_testing.databases import prepared
from headrace_testing.dead_letters import NoDeadLetters
from headrace_testing.stored_positions import moving

pytestmark = pytest.mark.stack

NOON = 1_780_056_000_000
LATER = parse_price_book(
    "{version: later, effective: 2026-01-01, providers: {novel: {m: {input: 1000000000, batch_percent: 50}}}}"
)
IN_BATCH = UsageRecorded(
    event_id="t-1/1/batch-x", tenant="acme", task_id="t-1", attempt_id="t-1/1", execution_id="batch-x", batch=True,
    provider="anthropic", model="claude-sonnet-4-6", outcome=Outcome.ANSWERED, recorded_at=NOON,
    usage=Usage(input_tokens=1_000, output_tokens=100),
)  # fmt: skip
BY_ITSELF = replace(IN_BATCH, event_id="t-2/1/x", batch=False)
NOVEL = replace(IN_BATCH, event_id="t-3/1/batch-x", provider="novel", model="m")


async def test_a_call_in_a_batch_costs_half_and_shows(postgres_dsn: str) -> None:
    async with prepared(postgres_dsn, MIGRATIONS) as database:
        store = LedgerStore(database, load_price_book(), NoDeadLetters(), LedgerMetrics(Metrics("test")))
        # The same result, delivered by two workers, is one row.
        events = [IN_BATCH, BY_ITSELF, IN_BATCH, NOVEL]
        batch = [(Record("u", 0, offset, NOON, b"k", b""), event) for offset, event in enumerate(events)]
        await store.apply(batch, {TopicPartition("u", 0): moving(None, len(events))})
        groups = await CostReports(database).groups(ask({"group_by": "provider,batch"}, "acme", is_admin=False))
        found = {
            (group.key["provider"], group.key["batch"]): (group.sums.executions, group.sums.cost_nanodollars)
            for group in groups
        }
        assert found == {
            ("anthropic", "true"): (1, 1_000 * 1_500 + 100 * 7_500),
            ("anthropic", "false"): (1, 1_000 * 3_000 + 100 * 15_000),
            ("novel", "true"): (1, 0),
        }
        repriced = [each async for each in Repricing(database, LATER, run_id="r", repriced_by="ada", now=1).run()]
        assert [each.nanodollars for each in repriced] == [1_000 * 500]

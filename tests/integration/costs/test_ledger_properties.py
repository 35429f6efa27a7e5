"""Whatever comes in whatever batches, repeated and implausible events among it: the ledger's sums are the oracle's."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence

import asyncpg
import pytest
from headrace_contracts.events import Outcome, Usage, UsageRecorded
from headrace_cost_accountant.adapters.ledger_store import LedgerStore
from headrace_cost_accountant.decide.booking import Implausible, cost_of
from headrace_cost_accountant.metrics import LedgerMetrics
from headrace_cost_accountant.migrations import MIGRATIONS
from headrace_models.prices import load_price_book
from headrace_runtime.metrics import Metrics
from headrace_streams.records import Record, TopicPartition
from headrace_testing.databases import fresh_database, prepared
from headrace_testing.dead_letters import KeptDeadLetters
from headrace_testing.stored_positions import moving
from headrace_testing.up import RunningStack
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.stack

BOOK = load_price_book()
PART = TopicPartition("headrace.usage.recorded", 0)
NOON = 1_780_056_000_000

counts = st.one_of(st.integers(0, 100_000), st.sampled_from([-1, 0, 10**12, 10**12 + 1, 2**62]))
# Few values, so that groups collide; text that Postgres or a bad escape would stumble over.
texts = st.sampled_from(["a", "b", "", "ü\0x", "'; DROP", "\ufffd", "x" * 3_000])
events = st.builds(
    UsageRecorded,
    event_id=st.sampled_from([f"e{number}{lost}" for number in range(15) for lost in ("", "/lost")] + [""]),
    tenant=texts,
    user=texts,
    task_id=texts,
    attempt_id=texts,
    execution_id=texts,
    role=st.none() | texts,
    provider=st.sampled_from(["groq", "anthropic", "ollama", "novel"]),
    model=st.sampled_from(["llama-3.1-8b-instant", "claude-sonnet-4-6", "phi3:3.8b", "unheard-of"]),
    simulated=st.booleans(),
    outcome=st.sampled_from(list(Outcome)),
    usage=st.builds(
        Usage,
        input_tokens=counts,
        output_tokens=counts,
        cached_input_tokens=st.integers(0, 10),
        searches=counts,
        cache_write_5m_tokens=st.integers(0, 200_000),
        cache_write_1h_tokens=st.integers(-1, 200_000),
    ),
    possibly_billed_nanodollars=st.sampled_from([-1, 0, 1, 10**15, 10**15 + 1]) | st.integers(0, 10**9),
    model_ms=st.floats(),
    recorded_at=st.sampled_from([-1, 0, NOON, NOON + 86_400_000, 2**62]),
)


@pytest.fixture(scope="module")
def server(stack: RunningStack) -> Iterator[str]:
    with fresh_database(stack.database_url) as url:
        yield url


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(incoming=st.lists(events, max_size=60), cuts=st.lists(st.integers(1, 20), max_size=10))
def test_the_ledger_is_the_oracle(server: str, incoming: list[UsageRecorded], cuts: list[int]) -> None:
    asyncio.run(_check(server, incoming, cuts))


async def _check(dsn: str, incoming: Sequence[UsageRecorded], cuts: Sequence[int]) -> None:
    dead_letters = KeptDeadLetters()

    async with prepared(dsn, MIGRATIONS) as database:
        async with database.connection() as connection:
            await connection.execute("TRUNCATE ledger.entries, ledger.balances, ledger.positions, ledger.repricings")
        store = LedgerStore(database, BOOK, dead_letters, LedgerMetrics(Metrics("test")))
        start = 0
        for size in [*cuts, len(incoming)]:
            batch = [
                (Record(PART.topic, 0, offset, NOON, b"k", b""), event)
                for offset, event in enumerate(incoming[start : start + size], start=start)
            ]
            if batch:
                await store.apply(batch, {PART: moving(start or None, start + len(batch))})
                start += len(batch)

    booked: dict[str, tuple[UsageRecorded, int]] = {}
    refused: list[int] = []
    for offset, event in enumerate(incoming):
        try:
            cost = cost_of(event, BOOK).nanodollars
        except Implausible:
            refused.append(offset)
            continue
        is_lost = event.outcome is Outcome.LOST
        if is_lost and not (event.event_id.endswith("/lost") and 0 <= event.possibly_billed_nanodollars <= 10**15):
            refused.append(offset)
        elif event.event_id and event.tenant:
            booked.setdefault(event.event_id, (event, cost))
        else:
            refused.append(offset)
    assert [record.offset for record, _ in dead_letters.kept] == refused
    costs = {name: cost for name, (_, cost) in booked.items()}
    known = [event for event, _ in booked.values() if event.outcome is not Outcome.LOST]
    tenants = {name: event.tenant for name, (event, _) in booked.items()}
    lost = [
        event
        for name, (event, _) in booked.items()
        if event.outcome is Outcome.LOST and tenants.get(name.removesuffix("/lost")) != event.tenant
    ]
    reader = await asyncpg.connect(dsn)
    try:
        entries = await reader.fetch("SELECT event_id, cost_nanodollars FROM ledger.entries")
        sums = await reader.fetchrow(
            "SELECT coalesce(sum(cost_nanodollars), 0)::bigint, coalesce(sum(executions), 0)::bigint, "
            "coalesce(sum(possibly_billed_executions), 0)::bigint, "
            "coalesce(sum(possibly_billed_nanodollars), 0)::bigint FROM ledger.balances"
        )
    finally:
        await reader.close()
    assert Counter(row["event_id"] for row in entries) == Counter(booked.keys())
    assert {row["event_id"]: row["cost_nanodollars"] for row in entries} == costs
    assert sums is not None
    assert tuple(sums) == (
        sum(costs.values()), len(known), len(lost), sum(event.possibly_billed_nanodollars for event in lost)
    )  # fmt: skip

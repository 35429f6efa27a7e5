"""Stored answers on a real Postgres: bounds, retention, what must be forgotten, and routers that use them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from headrace_contracts.events import HistoryChanged, HistoryChangeKind, Privacy, ServedFrom, TaskSubmitted
from headrace_contracts.ids import new_id
from headrace_router.adapters.answer_store import BESIDE_VALUE_BYTES, AnswerRow, AnswerStore, Bounds
from headrace_router.adapters.stored_answers import AnswersMetrics, StoredAnswers
from headrace_router.migrations import MIGRATIONS
from headrace_runtime.database import Database
from headrace_runtime.metrics import Metrics
from headrace_streams.errors import BatchRefused, PartitionsLost
from headrace_streams.records import Record, TopicPartition
from headrace_testing.databases import database_at, prepared
from headrace_testing.router_twin import Twin, now_ms, quick_policy
from headrace_testing.routing import task
from headrace_testing.stored_positions import moving
from prometheus_client import CollectorRegistry

pytestmark = pytest.mark.stack

MANY = Bounds(1_000, 10_000_000, 100_000_000)
DAY = 86_400_000


@pytest.fixture
async def database(postgres_dsn: str) -> AsyncIterator[Database]:
    async with prepared(postgres_dsn, MIGRATIONS) as database:
        yield database


def row(number: int, tenant: str = "acme", at: int | None = None, value: bytes = b"x" * 100) -> AnswerRow:
    return AnswerRow(tenant, f"{number:064x}", f"task-{number}", number if at is None else at, value)


async def numbers(store: AnswerStore, among: int, tenant: str = "acme") -> list[int]:
    found = await store.find([(tenant, f"{number:064x}") for number in range(among)])
    return sorted(int(digest, 16) for _, digest in found)


async def counted(database: Database, store: AnswerStore) -> tuple[int, int]:
    """Rows and bytes as they are; the totals must say the same."""
    async with database.connection() as connection:
        found = await connection.fetchrow("SELECT count(*) AS n, coalesce(sum(bytes), 0) AS b FROM answers.answers")
    assert found is not None
    assert await store.totals() == (found["n"], found["b"])
    return int(found["n"]), int(found["b"])


async def test_an_answer_is_found_by_tenant_and_digest_and_the_newest_one_stays(database: Database) -> None:
    store = AnswerStore(database, MANY)
    assert await store.keep([row(1), row(2, "other"), row(1, at=5, value=b"newer")]) == 2
    assert await store.keep([row(1, at=3, value=b"older, and late")]) == 0
    assert await store.keep([row(1, at=9, value=b"newest")]) == 1
    keys = [("acme", row(1).digest), ("acme", row(2).digest), ("other", row(2).digest)]
    assert await store.find(keys) == {keys[0]: b"newest", keys[2]: b"x" * 100}
    assert await counted(database, store) == (2, 106 + 2 * BESIDE_VALUE_BYTES)


async def test_a_tenant_has_its_bounds_of_rows_and_of_bytes_and_loses_its_oldest(database: Database) -> None:
    store = AnswerStore(database, Bounds(20, 20 * (100 + BESIDE_VALUE_BYTES), 10**9))
    for first in range(0, 60, 7):
        await store.keep([row(number) for number in range(first, min(60, first + 7))])
        await store.keep([row(number, "quiet") for number in range(3)])
    kept = await numbers(store, 60)
    assert 19 <= len(kept) <= 20
    assert kept == list(range(60 - len(kept), 60))
    assert await numbers(store, 60, "quiet") == [0, 1, 2]
    # One that is larger than all of its tenant's room is not kept, and takes all others with it: a bound is a bound.
    await store.keep([row(99, value=b"x" * 10_000)])
    assert await numbers(store, 100) == []
    assert (await counted(database, store))[0] == 3


async def test_what_is_too_old_goes_and_of_too_much_the_largest_tenants_oldest(database: Database) -> None:
    store = AnswerStore(database, Bounds(1_000, 10**9, 30 * (100 + BESIDE_VALUE_BYTES)))
    await store.keep([row(number, at=now_ms() - number * DAY) for number in range(40)])
    await store.keep([row(number, "small", at=now_ms()) for number in range(5)])
    assert await store.sweep(now_ms(), 30 * DAY) >= 10
    kept = await numbers(store, 40)
    assert kept == list(range(len(kept)))
    assert (await counted(database, store))[0] <= 30
    assert await numbers(store, 40, "small") == [0, 1, 2, 3, 4]
    await store.sweep(now_ms() + 1, 0)
    assert await counted(database, store) == (0, 0)


async def test_two_routers_that_store_the_same_at_once_count_it_once(database: Database) -> None:
    store = AnswerStore(database, Bounds(50, 10**9, 10**9))

    async def keep(seed: int) -> None:
        for turn in range(8):
            await store.keep([row((seed * 31 + turn * 17 + n) % 70, at=turn) for n in range(40)])

    await asyncio.gather(keep(1), keep(2), keep(3))
    assert (await counted(database, store))[0] <= 50


async def forget(store: AnswerStore, *tasks: tuple[str, str], start: int | None = None) -> None:
    events = [
        HistoryChanged(
            change_id=new_id(), tenant=tenant, kind=HistoryChangeKind.TURN_FORGOTTEN, task_id=name, changed_at=now_ms()
        )
        for tenant, name in tasks
    ]
    records: list[tuple[Record, Any]] = [
        (Record("h", 0, (start or 0) + n, now_ms(), b"k", b""), event) for n, event in enumerate(events)
    ]
    await store.apply(records, {TopicPartition("h", 0): moving(start, (start or 0) + len(records))})


async def test_what_must_be_forgotten_is_gone_whichever_comes_first(database: Database) -> None:
    store = AnswerStore(database, MANY)
    await store.keep([row(1), row(1, "other")])
    await forget(store, ("acme", "task-1"), ("acme", "task-2"), ("acme", "nul\0"))
    assert await numbers(store, 3) == []
    assert await numbers(store, 3, "other") == [1], "of another tenant"
    assert await store.keep([row(2), row(2, "other")]) == 1
    assert await numbers(store, 3) == []
    await counted(database, store)
    with pytest.raises(PartitionsLost):
        await forget(store, ("acme", "task-3"))
    await forget(store, ("other", "task-1"), start=3)
    assert await numbers(store, 3, "other") == [2]


async def test_a_value_that_postgres_cannot_hold_is_refused_and_changes_nothing(database: Database) -> None:
    store = AnswerStore(database, MANY)
    with pytest.raises(BatchRefused):
        await store.keep([row(1), AnswerRow("nul\0", row(2).digest, "t", 1, b"x")])
    assert await counted(database, store) == (0, 0)


# Routers on the twin of the log, with the store in Postgres.


def answers_of(store: AnswerStore, twin: Twin, *, ttl: int = 30 * DAY, **options: Any) -> StoredAnswers:
    metrics = AnswersMetrics(Metrics("router", CollectorRegistry()))
    return StoredAnswers(store, twin.codec, metrics, kept_ms=lambda: ttl, clock=now_ms, **options)


def asking(text: str = "How deep is the lake?", **fields: Any) -> TaskSubmitted:
    return task(new_id(), text, **{"submitted_at": now_ms(), **fields})


async def writing(answers: StoredAnswers, store: AnswerStore, rows: int) -> None:
    """Write until so many rows are there."""
    running = asyncio.create_task(answers.run())
    try:
        async with asyncio.timeout(10):
            while (await store.totals())[0] < rows:  # noqa: ASYNC110 - the store has no event for it
                await asyncio.sleep(0.02)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_an_answer_serves_all_sessions_and_partitions_and_outlives_the_router(database: Database) -> None:
    store = AnswerStore(database, MANY)
    async with Twin(partitions=4) as twin:
        twin.work()
        answers = answers_of(store, twin, timeout_seconds=2.0)
        twin.router(stored_answers=answers)
        first = asking(session="s-0", user="carol", labels={"case": "7"})
        hidden = asking("Who is ill?", session="s-0", privacy=Privacy.SENSITIVE)
        other = asking(session="s-0", tenant="other")
        await twin.submit(first, hidden, other)
        await twin.until_completed([first, hidden, other])
        await writing(answers, store, 2)
        async with database.connection() as connection:
            assert await store.totals() == (2, await connection.fetchval("SELECT sum(bytes) FROM answers.answers"))
            stored = b"".join(row["value"] for row in await connection.fetch("SELECT value FROM answers.answers"))
        assert b"carol" not in stored
        assert b"case" not in stored
        await twin.routers[0].kill()
        calls = len(twin.requests)
        twin.router("r2", stored_answers=answers_of(store, twin, timeout_seconds=2.0))
        again = [asking(session=f"s-{number}") for number in range(1, 9)]
        await twin.submit(*again)
        await twin.until_completed(again)
        ends = twin.completed()
        for one in again:
            (end,) = ends[one.task_id]
            assert (end.served_from, end.source_task_id) == (ServedFrom.CACHE, first.task_id)
            assert (end.cost_nanodollars, end.attempts, end.session) == (0, 0, one.session)
            assert [step.step for step in end.trail] == ["cached", "finished"]
        assert len(twin.requests) == calls
        # The journal holds the whole answer at the decision's entry, so a takeover needs no Postgres to repeat it.
        entries = [entry for entry in twin.journal() if entry.task_id == again[0].task_id]
        assert [entry.state.result.answer for entry in entries if entry.state and entry.state.result] == [
            ends[again[0].task_id][0].answer
        ]


async def test_without_the_store_tasks_go_to_models_and_wait_for_it_once(postgres_dsn: str) -> None:
    async with Twin(partitions=1) as twin:
        twin.work()
        dead = database_at("postgresql://nobody@127.0.0.1:1/none", MIGRATIONS)
        stuck = _NeverAnswers(dead, MANY)
        for store in (AnswerStore(dead, MANY), stuck):
            answers = answers_of(store, twin, timeout_seconds=0.05, pause_seconds=60.0)
            router = twin.router(f"r-{type(store).__name__}", stored_answers=answers)
            tasks = [asking(f"{type(store).__name__} {number}?") for number in range(20)]
            await twin.submit(*tasks)
            await twin.until_completed(tasks, 10)
            assert not answers.available
            await answers.drain()
            await router.kill()
        assert stuck.asked == 1


async def test_an_answer_of_another_level_tenant_or_time_is_not_believed(database: Database) -> None:
    """Whatever a row says, the decision looks itself."""
    store, policy = AnswerStore(database, MANY), quick_policy()
    beyond_memory = policy.model_copy(update={"cache": policy.cache.model_copy(update={"ttl": 0})})
    async with Twin(partitions=1, policy=beyond_memory) as twin:
        twin.work()
        answers = answers_of(store, twin, timeout_seconds=2.0)
        router = twin.router(stored_answers=answers)
        first = asking(session="s")
        await twin.submit(first)
        await twin.until_completed([first])
        await writing(answers, store, 1)
        await router.kill()
        async with database.connection() as connection:
            # As if somebody had copied a tenant's answers to another one.
            await connection.execute("UPDATE answers.answers SET tenant = 'other'")
        twin.router("r2", stored_answers=answers_of(store, twin, timeout_seconds=2.0))
        again = [asking(session="t"), asking(session="t", tenant="other")]
        await twin.submit(*again)
        await twin.until_completed(again)
        assert {twin.completed()[one.task_id][0].served_from for one in again} == {ServedFrom.ATTEMPT}


class _NeverAnswers(AnswerStore):
    asked = 0

    async def find(self, keys: Any) -> Any:
        self.asked += 1
        await asyncio.Event().wait()

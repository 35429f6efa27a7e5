"""Batches while Kafka, Postgres and other intakes fail: each line is one task, whoever submits it how often."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import replace
from typing import Any

import asyncpg
import openai
import pytest
from headrace_contracts.events import TaskSubmitted
from headrace_intake.adapters.batch_lines import BatchLines
from headrace_intake.adapters.batch_store import BatchStore, LeaseLost
from headrace_intake.decide.batches.endpoints import ENDPOINTS
from headrace_intake.decide.batches.life import LineState
from headrace_intake.decide.batches.lines import CheckedLine
from headrace_intake.decide.chat import ChatCompletionRequest
from headrace_intake.decide.drafts import TaskDraft
from headrace_intake.decide.responses.items import Parse
from headrace_intake.decide.views import TaskView
from headrace_intake.migrations import MIGRATIONS
from headrace_streams.errors import AppendUncertain, TransientError
from headrace_testing.databases import prepared
from headrace_testing.intake_bed import Bed, FaultyNetwork, Seen, StandIn
from headrace_testing.openai_batches import answers, client_of, ended, jsonl, lines_of, request_line, started
from headrace_testing.waiting import eventually
from openai import AsyncOpenAI
from openai.types import Batch

pytestmark = pytest.mark.stack

LINES = 120


def content() -> bytes:
    return jsonl(request_line(f"r{number}", f"text {number}", deadline=3_600) for number in range(LINES))


async def once(router: StandIn, seen: Seen) -> None:
    """Answers as the real router does: a task that it has had before is the same one."""
    first = next(each for each in router.tasks if each.task.task_id == seen.task.task_id)
    if first is seen:
        await asyncio.sleep(0.02)
        await router.finish(seen)


async def expect_each_line_once(bed: Bed, client: AsyncOpenAI, batch: Batch) -> int:
    """Returns how often tasks were submitted."""
    batch = await ended(client, batch, 60)
    assert batch.status == "completed"
    results = await lines_of(client, batch.output_file_id)
    assert [line["custom_id"] for line in results] == [f"r{number}" for number in range(LINES)]
    said = [line["response"]["body"]["choices"][0]["message"]["content"] for line in results]
    assert said == [f"Echo: text {number}" for number in range(LINES)]
    by_id: dict[str, set[TaskSubmitted | bytes]] = defaultdict(set)
    for seen in bed.router.tasks:
        assert seen.record.value is not None
        by_id[seen.task.task_id].add(seen.record.value)
    assert len(by_id) == LINES
    assert all(len(values) == 1 for values in by_id.values()), "a repetition is the same event"
    return len(bed.router.tasks)


@pytest.mark.parametrize(
    ("error", "performs", "repeats"),
    [
        (AppendUncertain("no answer"), True, True),
        (AppendUncertain("no answer"), False, False),
        (TransientError("away"), False, False),
    ],
    ids=["uncertain and written", "uncertain and lost", "not written"],
)
async def test_lines_whose_record_is_uncertain_are_submitted_as_the_same_event(
    bed: Bed, postgres_dsn: str, error: Exception, performs: bool, repeats: bool
) -> None:
    over = asyncio.Event()

    async def afterwards(router: StandIn, seen: Seen) -> None:
        await over.wait()
        await once(router, seen)

    bed.router.answer = afterwards
    network = FaultyNetwork()
    running = await bed.intake(database_url=postgres_dsn, network=network)
    async with client_of(running) as client:
        await eventually(lambda: answers(client), 20)
        network.error, network.performs = error, performs
        batch = await started(client, content())
        await asyncio.sleep(1.0)
        network.error = None
        asyncio.get_running_loop().call_later(3.0, over.set)
        submitted = await expect_each_line_once(bed, client, batch)
    assert (submitted > LINES) is repeats


async def test_a_batch_goes_on_when_postgres_comes_back(bed: Bed, postgres_dsn: str) -> None:
    bed.router.answer = once
    running = await bed.intake(database_url=postgres_dsn, batch_live_tasks_per_tenant=30)
    async with client_of(running) as client:
        await eventually(lambda: answers(client), 20)
        batch = await started(client, content())
        connection = await asyncpg.connect(postgres_dsn, ssl=False)
        for _ in range(8):
            await asyncio.sleep(0.15)
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        await connection.close()
        await eventually(lambda: answers(client), 20)
        await expect_each_line_once(bed, client, batch)


async def test_several_intakes_share_the_work_and_one_that_stops_is_replaced(bed: Bed, postgres_dsn: str) -> None:
    bed.router.answer = once
    options: dict[str, Any] = {"database_url": postgres_dsn, "batch_live_tasks_per_tenant": 30}
    running = await bed.intake(**options)
    async with client_of(running) as client:
        await eventually(lambda: answers(client), 20)
        batches = []
        async with bed.running(instance_id="intake-b", **options):
            batches = [await started(client, content())]
            await eventually(lambda: _some(client, batches[0]), 20)
        await expect_each_line_once(bed, client, batches[0])


async def _some(client: AsyncOpenAI, batch: Batch) -> bool:
    counts = (await client.batches.retrieve(batch.id)).request_counts
    return counts is not None and counts.completed > 20


async def test_who_has_lost_its_lease_changes_nothing(bed: Bed, postgres_dsn: str) -> None:
    """A process that was stopped for longer than its lease, and its successor, in the worst order."""
    async with bed.running(database_url=postgres_dsn, batches_at_once=1) as running, client_of(running) as client:
        await eventually(lambda: answers(client), 20)
        file = await client.files.create(file=("x.jsonl", content()), purpose="batch")
    async with prepared(postgres_dsn, MIGRATIONS) as database:
        store = BatchStore(database, most_live=5, lease_seconds=30.0)
        lines = BatchLines(store, most_live=100, most_live_bytes=1_000_000)
        async with database.connection() as connection:
            await connection.execute(
                "INSERT INTO intake.batches (batch_id, tenant, key_id, by_admin, digest, endpoint, input_file_id, "
                "headers, status, created_at, expires_at) "
                "VALUES ('b', 'default', 'k', false, '', '/v1/chat/completions', $1, '{}', 'in_progress', 0, 1)",
                file.id,
            )
        first = await store.claim()
        assert first is not None
        assert await store.claim() is None, "it is taken"
        await lines.add(first, [CheckedLine(number, 0, 10, f"r{number}") for number in range(1, 5)])
        claimed = await lines.claim(first, 2, 1_000)
        assert [line.number for line in claimed] == [1, 2]
        await store.release(first, 0.0)
        second = await store.claim()
        assert second is not None
        assert second.fence > first.fence
        for late in (
            lines.claim(first, 2, 1_000),
            lines.submitted(first, [1, 2], {}),
            lines.settle(first, last=True),
            lines.give_up(first, LineState.EXPIRED, live_too=True),
            lines.clear(first),
            lines.results(first, 0),
        ):
            with pytest.raises(LeaseLost):
                await late
        repeated = await lines.unacknowledged(second)
        assert [(line.task_id, line.submitted_at, line.repeated) for line in repeated] == [
            (line.task_id, line.submitted_at, True) for line in claimed
        ]
        await store.release(first, 100.0)  # also that changes nothing
        await store.release(second, 0.0)
        assert await store.claim() is not None


async def test_a_batch_that_is_cancelled_in_a_step_is_lost_to_that_step(bed: Bed, postgres_dsn: str) -> None:
    async with prepared(postgres_dsn, MIGRATIONS) as database:
        store = BatchStore(database, most_live=5, lease_seconds=30.0)
        async with database.connection() as connection:
            await connection.execute(
                "INSERT INTO intake.batches (batch_id, tenant, key_id, by_admin, digest, endpoint, input_file_id, "
                "headers, status, created_at, expires_at) "
                "VALUES ('b', 'default', 'k', false, '', '/v1/chat/completions', 'f', '{}', 'in_progress', 0, 1), "
                "('n', 'default', 'k', false, '', '/v1/of/a/newer/release', 'f', '{}', 'in_progress', 0, 1)"
            )
        batch = await store.claim()
        assert await store.claim() is None, "the other one is left to processes that know its endpoint"
        assert batch is not None
        await store.cancel("default", "b", 5)
        with pytest.raises(LeaseLost):
            async with store.leased(batch):
                pass
        found = await store.cancel("default", "b", 9)
        assert found is not None
        assert (found.status, found.cancelling_at) == ("cancelling", 5)
        assert await store.cancel("other", "b", 9) is None


async def test_without_postgres_everything_is_503_in_openai_form(bed: Bed) -> None:
    running = await bed.intake()
    async with client_of(running) as client:
        calls = (
            client.files.create(file=("x.jsonl", content()), purpose="batch"),
            client.files.list(), client.files.retrieve("file-x"), client.files.content("file-x"),
            client.files.delete("file-x"), client.batches.list(), client.batches.retrieve("batch_x"),
            client.batches.cancel("batch_x"),
            client.batches.create(input_file_id="f", endpoint="/v1/chat/completions", completion_window="24h"),
        )  # fmt: skip
        for call in calls:
            with pytest.raises(openai.InternalServerError) as failed:
                await call
            assert failed.value.status_code == 503
            assert failed.value.code == "database-unavailable"
        assert (await client.chat.completions.create(model="auto", messages=[{"role": "user", "content": "x"}])).id


async def test_a_line_at_which_our_own_code_fails_does_not_hold_up_its_batch(
    bed: Bed, postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = ENDPOINTS["/v1/chat/completions"]

    def draft(request: ChatCompletionRequest, parse: Parse) -> TaskDraft:
        if request.user == "draft":
            raise KeyError("a mistake")
        return endpoint.draft(request, parse)

    def answer(view: TaskView, asked: TaskDraft | None) -> dict[str, Any]:
        if view.user == "answer":
            raise KeyError("a mistake")
        return endpoint.answer(view, asked)

    endpoints = dict(ENDPOINTS)
    for module in ("submitting", "finishing"):
        monkeypatch.setattr(f"headrace_intake.batching.{module}.ENDPOINTS", endpoints)
    endpoints["/v1/chat/completions"] = replace(endpoint, draft=draft, answer=answer)
    running = await bed.intake(database_url=postgres_dsn)
    async with client_of(running) as client:
        await eventually(lambda: answers(client), 20)
        lines = [request_line(user, "x", user=user) for user in ("good", "draft", "answer", "fine")]
        batch = await ended(client, await started(client, jsonl(lines)))
        assert [line["custom_id"] for line in await lines_of(client, batch.output_file_id)] == ["good", "fine"]
        errors = await lines_of(client, batch.error_file_id)
        assert [(line["custom_id"], line["response"]["status_code"]) for line in errors] == [
            ("draft", 500), ("answer", 500),
        ]  # fmt: skip

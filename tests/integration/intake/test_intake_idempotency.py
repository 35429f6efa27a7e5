"""Intake with its Postgres: repeated requests, and the history of all tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import asyncpg
import openai
import pytest
from headrace_contracts.content import plain
from headrace_contracts.events import Message, TaskStatus, TaskSubmitted
from headrace_contracts.ids import new_id
from headrace_contracts.topics import TASKS_SUBMITTED
from headrace_intake.decide.views import rfc3339
from headrace_runtime.connections import wall_clock_ms
from headrace_streams.errors import AppendUncertain, TransientError
from headrace_streams.publishing import Publication, Publisher
from headrace_testing.intake_bed import BOOTSTRAP_KEY, Bed, FaultyNetwork, Running, Seen, StandIn, silence
from headrace_testing.waiting import eventually

pytestmark = pytest.mark.stack

URL = "/v1/tasks"
BODY = {"prompt": "Hi", "role": "tester"}


async def with_database(bed: Bed, dsn: str, **settings: Any) -> Running:
    """An intake whose schema is in place."""
    intake = await bed.intake(database_url=dsn, **settings)

    async def there() -> bool:
        return intake.metrics.get_sample_value("headrace_intake_database_up") == 1

    await eventually(there)
    return intake


async def shown(intake: Running, task_id: str, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The task, when it is as wanted."""
    found: dict[str, Any] = {}

    async def as_wanted() -> bool:
        status, body, _ = await intake.call("GET", f"{URL}/{task_id}")
        found.clear()
        found.update(body)
        return status == 200 and holds(body)

    await eventually(as_wanted)
    return found


async def test_the_same_request_again_is_the_same_task(postgres_dsn: str, bed: Bed) -> None:
    intake = await with_database(bed, postgres_dsn)
    status, first, headers = await intake.call("POST", URL, BODY, Idempotency_Key="k", Prefer="wait=5")
    assert (status, first["answer"]) == (200, "Echo: Hi")
    assert "Idempotency-Replayed" not in headers
    status, again, headers = await intake.call("POST", URL, BODY, Idempotency_Key='"k"', Prefer="wait=5")
    assert (status, again) == (200, first)
    assert headers["Idempotency-Replayed"] == "true"
    assert len(bed.router.tasks) == 1


async def test_the_same_key_with_other_content_is_a_conflict(postgres_dsn: str, bed: Bed) -> None:
    intake = await with_database(bed, postgres_dsn)
    await intake.call("POST", URL, BODY, Idempotency_Key="k", Prefer="wait=5")
    for body in ({**BODY, "prompt": "Other"}, {**BODY, "privacy": "public"}):
        status, problem, _ = await intake.call("POST", URL, body, Idempotency_Key="k")
        assert (status, problem["type"]) == (409, "urn:headrace:problem:idempotency-conflict")
    assert (await intake.call("POST", URL, BODY, Idempotency_Key="k", X_Headrace_Privacy="public"))[0] == 409
    assert len(bed.router.tasks) == 1


async def test_keys_of_two_tenants_do_not_meet(postgres_dsn: str, bed: Bed) -> None:
    intake = await with_database(bed, postgres_dsn)
    _, made, _ = await intake.call("POST", "/v1/keys", {"tenant": "other"})
    _, mine, _ = await intake.call("POST", URL, BODY, Idempotency_Key="k")
    status, others, _ = await intake.call("POST", URL, {"prompt": "Else"}, key=made["key"], Idempotency_Key="k")
    assert status == 202
    assert others["id"] != mine["id"]


async def test_requests_that_come_at_once_run_once(postgres_dsn: str, bed: Bed) -> None:
    first = await with_database(bed, postgres_dsn)
    second = await with_database(bed, postgres_dsn, instance_id="intake-b")
    answers = await asyncio.gather(
        *(intake.call("POST", URL, BODY, Idempotency_Key="k", Prefer="wait=10") for intake in [first, second] * 6)
    )
    assert {status for status, _, _ in answers} == {200}
    assert len({task["id"] for _, task, _ in answers}) == 1
    assert {task["answer"] for _, task, _ in answers} == {"Echo: Hi"}
    # What is repeated is the same event, which the router knows by its id; most are not even repeated.
    assert len({seen.task.task_id for seen in bed.router.tasks}) == 1
    assert len({(seen.record.key, seen.record.partition, seen.record.value) for seen in bed.router.tasks}) == 1


async def test_a_repetition_elsewhere_gets_the_answer_as_well(postgres_dsn: str, bed: Bed) -> None:
    go_on = asyncio.Event()

    async def later(router: StandIn, seen: Seen) -> None:
        await go_on.wait()
        await router.finish(seen)

    bed.router.answer = later
    first = await with_database(bed, postgres_dsn)
    second = await with_database(bed, postgres_dsn, instance_id="intake-b")
    _, task, _ = await first.call("POST", URL, BODY, Idempotency_Key="k")
    waiting = asyncio.create_task(second.call("POST", URL, BODY, Idempotency_Key="k", Prefer="wait=10"))

    async def waits() -> bool:
        return second.metrics.get_sample_value("headrace_intake_waiters") == 1

    await eventually(waits)
    go_on.set()
    status, again, headers = await waiting
    assert (status, again["id"], again["answer"]) == (200, task["id"], "Echo: Hi")
    assert headers["Idempotency-Replayed"] == "true"


async def test_a_chat_that_is_repeated_is_answered_again_streamed_or_not(postgres_dsn: str, bed: Bed) -> None:
    intake = await with_database(bed, postgres_dsn)
    other = await with_database(bed, postgres_dsn, instance_id="intake-b")
    request: Any = {"model": "auto", "messages": [{"role": "user", "content": "Hi"}]}
    whole, streamed = set(), set()
    for running in (intake, intake, other):
        async with openai.AsyncOpenAI(base_url=f"{running.url}/v1", api_key=BOOTSTRAP_KEY, max_retries=0) as ai:
            create = ai.chat.completions.create
            answer = await create(**request, extra_headers={"Idempotency-Key": "whole"})
            whole.add((answer.id, answer.choices[0].message.content))
            stream = await create(**request, stream=True, extra_headers={"Idempotency-Key": "streamed"})
            chunks = [chunk async for chunk in stream]
            streamed.add((chunks[0].id, "".join(chunk.choices[0].delta.content or "" for chunk in chunks)))
    ((_, text),) = whole
    assert text == "Echo: Hi"
    ((_, text),) = streamed
    assert text == "Echo: Hi"
    assert len(bed.router.tasks) == 2


async def test_a_key_whose_task_was_never_submitted_is_taken_up_again(postgres_dsn: str, bed: Bed) -> None:
    """As when the process dies between taking the key and submitting."""
    network = FaultyNetwork()
    intake = await with_database(bed, postgres_dsn, network=network)
    network.error = TransientError("no leader")
    status, _, _ = await intake.call("POST", URL, BODY, Idempotency_Key="k")
    assert status == 503
    network.error = None
    status, task, _ = await intake.call("POST", URL, {**BODY}, Idempotency_Key="k", Prefer="wait=10")
    assert (status, task["answer"]) == (200, "Echo: Hi")
    (seen,) = bed.router.tasks
    connection = await asyncpg.connect(postgres_dsn)
    try:
        assert (
            await connection.fetchval("SELECT task_id FROM intake.idempotency_keys") == seen.task.task_id == task["id"]
        )
    finally:
        await connection.close()


async def test_a_task_that_may_have_been_submitted_is_submitted_again_as_the_same_event(
    postgres_dsn: str, bed: Bed
) -> None:
    network = FaultyNetwork()
    intake = await with_database(bed, postgres_dsn, network=network)
    network.error = AppendUncertain("cut off")
    network.performs = True
    body = {**BODY, "deadline": 60}
    status, problem, _ = await intake.call("POST", URL, body, Idempotency_Key="k")
    assert status == 503
    network.error = None
    async with bed.running(database_url=postgres_dsn, instance_id="intake-b") as other:

        async def answered() -> bool:
            status, task, _ = await other.call("POST", URL, body, Idempotency_Key="k", Prefer="wait=10")
            return bool(status == 200 and task["id"] == problem["task_id"] and task["answer"] == "Echo: Hi")

        await eventually(answered)
    assert len({seen.record.value for seen in bed.router.tasks}) == 1


async def test_a_repetition_after_the_deadline_is_still_the_same_task(postgres_dsn: str, bed: Bed) -> None:
    intake = await with_database(bed, postgres_dsn)
    for seconds in (1, 10, 60):  # a busy machine may need more to take the task before its deadline
        soon = wall_clock_ms() + seconds * 1_000
        body = {**BODY, "deadline": rfc3339(soon)}
        status, first, _ = await intake.call("POST", URL, body, Idempotency_Key="k", Prefer="wait=5")
        if status == 200:
            break
    await asyncio.sleep(max(0.0, (soon - wall_clock_ms()) / 1000 + 0.05))
    status, again, _ = await intake.call("POST", URL, body, Idempotency_Key="k")
    assert (status, again["id"]) == (200, first["id"])
    assert (await intake.call("POST", URL, body))[0] == 400


async def test_any_intake_shows_and_lists_all_tasks(postgres_dsn: str, bed: Bed) -> None:
    first = await with_database(bed, postgres_dsn)
    second = await with_database(bed, postgres_dsn, instance_id="intake-b")
    _, task, _ = await first.call("POST", URL, {**BODY, "labels": {"a": "b"}, "deadline": 60}, Prefer="wait=5")
    # Its id is young, so the other one waits for it to come into its view.
    status, elsewhere, _ = await second.call("GET", f"{URL}/{task['id']}")
    assert status == 200
    elsewhere = await shown(second, task["id"], lambda body: body["status"] == "succeeded")
    assert elsewhere == task
    _, listed, _ = await second.call("GET", f"{URL}?role=tester&status=succeeded")
    assert [each["id"] for each in listed["tasks"]] == [task["id"]]
    assert "answer" not in listed["tasks"][0]
    assert (await second.call("GET", f"{URL}/{new_id()[:-4]}0000"))[0] == 404
    _, made, _ = await first.call("POST", "/v1/keys", {"tenant": "other"})
    assert (await first.call("GET", f"{URL}/{task['id']}", key=made["key"]))[0] == 404
    _, others, _ = await first.call("GET", URL, key=made["key"])
    assert others == {"tasks": [], "next": None}


async def test_pages_go_on_where_the_last_one_ended(postgres_dsn: str, bed: Bed) -> None:
    intake = await with_database(bed, postgres_dsn)
    ids = [(await intake.call("POST", URL, {"prompt": f"{n}"}, Prefer="wait=5"))[1]["id"] for n in range(5)]

    async def all_there() -> bool:
        return len((await intake.call("GET", f"{URL}?status=succeeded"))[1]["tasks"]) == 5

    await eventually(all_there)
    seen: list[str] = []
    cursor = ""
    for _ in range(3):
        _, page, _ = await intake.call("GET", f"{URL}?limit=2{cursor}")
        seen.extend(each["id"] for each in page["tasks"])
        cursor = f"&cursor={page['next']}"
    assert seen == ids[::-1]
    assert page["next"] is None


async def test_a_task_produced_straight_to_kafka_is_shown_followed_and_stopped(postgres_dsn: str, bed: Bed) -> None:
    bed.router.answer = silence
    intake = await with_database(bed, postgres_dsn)
    publisher = Publisher(bed.log.producer(), bed.codec, "somebody")
    task = TaskSubmitted(
        task_id=new_id(),
        tenant="default",
        messages=(Message(role="user", content=plain("Hi")),),
        submitted_at=wall_clock_ms(),
    )
    publication = Publication(
        spec=TASKS_SUBMITTED, event=task, event_id=task.task_id, key=b"mine", partition=4, tenant="default", time_ms=1
    )
    await publisher.send(publication)
    assert (await shown(intake, task.task_id, lambda body: True))["status"] == "accepted"
    status, _, _ = await intake.call("DELETE", f"{URL}/{task.task_id}")
    assert status == 202
    await bed.router.until(lambda: len(bed.router.cancelled) == 1)
    ((cancellation, record),) = bed.router.cancelled
    assert (cancellation.task_id, record.key, record.partition) == (task.task_id, b"mine", 4)
    following = asyncio.create_task(_finished_event(intake, task.task_id))
    await bed.router.finish(bed.router.tasks[0], status=TaskStatus.CANCELLED, answer=None)
    assert "cancelled" in await asyncio.wait_for(following, 30)


async def _finished_event(intake: Running, task_id: str) -> str:
    headers = {"Authorization": f"Bearer {BOOTSTRAP_KEY}"}
    async with intake.http.get(f"{intake.url}{URL}/{task_id}/events", headers=headers) as response:
        assert response.status == 200
        return (await response.read()).decode()


async def test_intake_recovers_when_postgres_comes_late(postgres_dsn: str, bed: Bed) -> None:
    """Tasks accepted while it was away are in the history afterwards."""
    intake = await bed.intake()
    _, task, _ = await intake.call("POST", URL, BODY, Prefer="wait=5")
    later = await with_database(bed, postgres_dsn, instance_id="intake-b")
    found = await shown(later, task["id"], lambda body: body["status"] == "succeeded")
    assert found["answer"] == "Echo: Hi"


async def test_intake_outlives_a_restart_of_postgres(postgres_dsn: str, bed: Bed) -> None:
    intake = await with_database(bed, postgres_dsn)

    async def load() -> None:
        while True:
            await intake.call("POST", URL, BODY, Idempotency_Key=new_id())
            await intake.call("GET", URL)

    loading = [asyncio.create_task(load()) for _ in range(4)]
    connection = await asyncpg.connect(postgres_dsn)
    try:
        for _ in range(5):
            await asyncio.sleep(0.1)
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
    finally:
        await connection.close()
        for each in loading:
            each.cancel()
        await asyncio.gather(*loading, return_exceptions=True)
    status, task, _ = await intake.call("POST", URL, BODY, Idempotency_Key="afterwards", Prefer="wait=5")
    assert (status, task["answer"]) == (200, "Echo: Hi")

    async def all_in_history() -> bool:
        connection = await asyncpg.connect(postgres_dsn)
        try:
            done = await connection.fetch("SELECT task_id FROM intake.tasks WHERE completed_at IS NOT NULL")
        finally:
            await connection.close()
        # Counted anew each time: a request that was cut off may still become a task.
        return {row["task_id"] for row in done} == {seen.task.task_id for seen in bed.router.tasks}

    await eventually(all_in_history)


@pytest.mark.parametrize("body", [{"prompt": "Hi", "privacy": "public"}, {"prompt": "Hi", "mode": "cloud"}])
async def test_a_repetition_is_answered_though_its_tenant_demands_more_by_now(
    postgres_dsn: str, bed: Bed, body: dict[str, str]
) -> None:
    intake = await with_database(bed, postgres_dsn)
    status, first, _ = await intake.call("POST", URL, body, Idempotency_Key="before", Prefer="wait=5")
    assert status == 200
    await intake.call("PUT", "/v1/preferences", {"privacy_level": "high", "ai_mode": "local"})
    status, again, headers = await intake.call("POST", URL, body, Idempotency_Key="before", Prefer="wait=5")
    assert (status, again["id"], headers["Idempotency-Replayed"]) == (200, first["id"], "true")
    assert (await intake.call("POST", URL, body, Idempotency_Key="after"))[0] == 403
    assert (await intake.call("POST", URL, {**body, "prompt": "Ho"}, Idempotency_Key="before"))[0] == 403

"""OpenAI's Batch API through the unmodified `openai` package: on real Postgres, with a stand-in router."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import asyncpg
import openai
import pytest
from headrace_contracts.content import plain, text_of
from headrace_contracts.events import Failure, Lane, Privacy, TaskStatus
from headrace_testing.intake_bed import Bed, Running, Seen, StandIn
from headrace_testing.openai_batches import CHAT, answers, client_of, ended, jsonl, lines_of, request_line, started
from headrace_testing.waiting import eventually
from openai import AsyncOpenAI
from pydantic import BaseModel

pytestmark = pytest.mark.stack


@pytest.fixture
async def running(bed: Bed, postgres_dsn: str) -> Running:
    return await bed.intake(database_url=postgres_dsn)


@pytest.fixture
async def client(running: Running) -> AsyncIterator[AsyncOpenAI]:
    async with client_of(running) as made:
        await eventually(lambda: answers(made), 20)
        yield made


async def test_a_batch_from_upload_to_results(bed: Bed, client: AsyncOpenAI) -> None:
    content = jsonl(request_line(f"r{number}", f"text {number} ü") for number in range(300))
    batch = await started(client, content, metadata={"for": "a test"})
    assert (batch.status, batch.request_counts and batch.request_counts.total) == ("validating", 0)
    batch = await ended(client, batch)
    assert batch.status == "completed"
    assert batch.request_counts is not None
    assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (300, 300, 0)
    assert batch.error_file_id is None
    assert batch.metadata == {"for": "a test"}
    assert batch.usage is not None
    assert batch.usage.total_tokens == 300 * 16
    results = await lines_of(client, batch.output_file_id)
    assert [line["custom_id"] for line in results] == [f"r{number}" for number in range(300)]
    for number, line in enumerate(results):
        assert line["error"] is None
        assert line["response"]["status_code"] == 200
        completion = openai.types.chat.ChatCompletion.model_validate(line["response"]["body"], strict=True)
        assert completion.choices[0].message.content == f"Echo: text {number} ü"
    assert len({line["id"] for line in results}) == 300
    tasks = [seen.task for seen in bed.router.tasks]
    assert len({task.task_id for task in tasks}) == len(tasks) == 300
    assert {(task.lane, task.reply_partition, task.tenant) for task in tasks} == {(Lane.BATCH, None, "default")}
    assert {task.deadline_at for task in tasks} == {max(task.deadline_at or 0 for task in tasks)}
    files = await client.files.list(purpose="batch_output")
    assert [file.id for file in files.data] == [batch.output_file_id]
    assert [found.id async for found in client.batches.list(limit=1)] == [batch.id]


OF_OTHER_ENDPOINTS: dict[str, tuple[list[dict[str, Any]], type[BaseModel], Callable[[Any], object], object]] = {
    "/v1/responses": (
        [
            {"model": "auto", "input": "hello", "instructions": "Be brief.", "metadata": {"a": "b"},
             "temperature": 0.5},
            {"model": "auto", "input": [{"role": "user", "content": "hello"}], "instructions": "Be brief.",
             "metadata": {"a": "b"}, "temperature": 0.5, "store": False},
        ],
        openai.types.responses.Response,
        lambda made: (made.output_text, made.instructions, made.metadata, made.temperature, made.status),
        ("Echo: hello", "Be brief.", {"a": "b"}, 0.5, "completed"),
    ),
    "/v1/completions": (
        [{"model": "auto", "prompt": "hello", "echo": True}, {"model": "auto", "prompt": ["hello"], "echo": True}],
        openai.types.Completion,
        lambda made: (made.choices[0].text, made.choices[0].finish_reason),
        ("helloEcho: hello", "stop"),
    ),
}  # fmt: skip
NOT_IN_A_BATCH: dict[str, list[tuple[dict[str, Any], str]]] = {
    "/v1/responses": [
        ({"model": "auto", "input": "x", "previous_response_id": "resp_1"}, "previous_response_id"),
        ({"model": "auto", "input": "x", "conversation": "conv_1"}, "conversation"),
        ({"model": "auto", "input": "x", "background": True}, "background"),
        ({"model": "auto", "input": [{"type": "item_reference", "id": "msg_1"}]}, "input"),
        ({"model": "auto", "input": [{"type": []}]}, "input.0.type"),
    ],
    "/v1/completions": [
        ({"model": "auto", "prompt": ["a", "b"]}, "prompt"),
        ({"model": "auto", "prompt": "a", "stream": True}, "stream"),
        ({"model": "auto"}, "prompt"),
    ],
}


def line_for(endpoint: str, custom_id: str, body: Mapping[str, Any]) -> dict[str, Any]:
    return {"custom_id": custom_id, "method": "POST", "url": endpoint, "body": body}


@pytest.mark.parametrize("endpoint", OF_OTHER_ENDPOINTS)
async def test_answers_have_the_form_of_their_endpoint_and_repeat_what_was_asked(
    client: AsyncOpenAI, endpoint: str
) -> None:
    bodies, model, told, expected = OF_OTHER_ENDPOINTS[endpoint]
    wrong = NOT_IN_A_BATCH[endpoint]
    lines = [line_for(endpoint, f"good-{place}", body) for place, body in enumerate(bodies)]
    lines += [line_for(endpoint, f"wrong-{place}", body) for place, (body, _) in enumerate(wrong)]
    batch = await ended(client, await started(client, jsonl(lines), endpoint))
    assert batch.status == "completed"
    results = await lines_of(client, batch.output_file_id)
    assert [line["custom_id"] for line in results] == [f"good-{place}" for place in range(len(bodies))]
    for line in results:
        assert told(model.model_validate(line["response"]["body"], strict=True)) == expected
    errors = await lines_of(client, batch.error_file_id)
    assert [(line["response"]["status_code"], line["response"]["body"]["error"]["param"]) for line in errors] == [
        (400, param) for _, param in wrong
    ]


BAD_FILES: Mapping[str, tuple[bytes, Mapping[int | None, str]]] = {
    "empty lines only": (b"\n \r\n", {None: "empty_file"}),
    "not JSON": (jsonl([request_line("a"), b"{nonsense", request_line("b")]), {2: "invalid_json_line"}),
    "not UTF-8": (jsonl([b'{"custom_id": "\xff\xfe"}']), {1: "invalid_json_line"}),
    "half of a surrogate pair": (jsonl([b'{"custom_id": "\\ud83d"}']), {1: "invalid_json_line"}),
    "not objects": (jsonl([b"[]", b"7", b'"x"']), dict.fromkeys((1, 2, 3), "invalid_json_line")),
    "the same id again": (jsonl([request_line("a"), request_line("b"), request_line("a")]), {3: "duplicate_custom_id"}),
    "another endpoint": (jsonl([request_line("a") | {"url": "/v1/embeddings"}]), {1: "mismatched_url"}),
    "another method": (jsonl([request_line("a") | {"method": "GET"}]), {1: "invalid_method"}),
    "ids that are none": (
        jsonl([request_line(""), request_line(7), request_line("x" * 513), request_line("a\0b"), request_line(None)]),
        {**dict.fromkeys((1, 2, 3, 4), "invalid_custom_id"), 5: "missing_required_parameter"},
    ),
    "no body": (jsonl([{"custom_id": "a", "method": "POST", "url": CHAT}]), {1: "missing_required_parameter"}),
    "a body that is no object": (jsonl([request_line("a") | {"body": [1]}]), {1: "invalid_type"}),
    "an option beside the body": (jsonl([request_line("a") | {"privacy": "sensitive"}]), {1: "unknown_parameter"}),
    "a line that is too large": (
        jsonl([request_line("a"), request_line("b", "x" * 1_100_000), request_line("c")]), {2: "line_too_large"},
    ),
    "no line at all": (b"\0" * 2_000_000, {1: "line_too_large"}),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_FILES)
async def test_a_file_that_is_no_batch_fails_it_with_line_numbers(bed: Bed, client: AsyncOpenAI, kind: str) -> None:
    content, expected = BAD_FILES[kind]
    batch = await ended(client, await started(client, content))
    assert batch.status == "failed"
    assert batch.failed_at is not None
    assert batch.errors is not None
    assert batch.errors.data is not None
    assert {error.line: error.code for error in batch.errors.data} == expected
    assert bed.router.tasks == []
    assert batch.output_file_id is None
    assert batch.error_file_id is None
    await client.files.delete(batch.input_file_id)


async def test_many_errors_are_cut_off_and_too_many_lines_refused(bed: Bed, postgres_dsn: str) -> None:
    running = await bed.intake(database_url=postgres_dsn, batch_lines=20)
    async with client_of(running) as client:
        await eventually(lambda: answers(client), 20)
        batch = await ended(client, await started(client, b"nothing\n" * 150))
        assert batch.errors is not None
        assert batch.errors.data is not None
        assert [error.line for error in batch.errors.data] == list(range(1, 101))
        batch = await ended(client, await started(client, jsonl(request_line(str(number)) for number in range(21))))
        assert batch.errors is not None
        assert batch.errors.data is not None
        assert [error.code for error in batch.errors.data] == ["too_many_tasks"]
        batch = await ended(client, await started(client, jsonl(request_line(str(number)) for number in range(20))))
        assert batch.status == "completed"


async def test_each_line_has_the_end_that_chat_would_have_had(bed: Bed, client: AsyncOpenAI) -> None:
    ends: dict[str, dict[str, Any]] = {
        "fails": {"status": TaskStatus.FAILED, "failure": Failure(code="context_too_long", message="too long")},
        "busy": {"status": TaskStatus.FAILED, "failure": Failure(code="no_capacity", message="none")},
        "late": {"status": TaskStatus.EXPIRED, "failure": Failure(code="deadline", message="late")},
        "stopped": {"status": TaskStatus.CANCELLED, "failure": Failure(code="cancelled", message="by somebody")},
        "declines": {"status": TaskStatus.REFUSED},
    }

    async def answer(router: StandIn, seen: Seen) -> None:
        end = ends.get(text_of(seen.task.messages[-1].content), {})
        await router.finish(seen, **({**end, "answer": None} if "failure" in end else end))

    bed.router.answer = answer
    bad: Mapping[str, Any] = {
        "no messages": {"messages": []},
        "no role": {"messages": [{"content": "x"}]},
        "unknown option": {"tempreature": 1},
        "streams": {"stream": True},
        "hurries": {"priority": "interactive"},
        "past": {"deadline": "2001-01-01T00:00:00Z"},
        "model": {"model": 7},
        "contradicts": {"privacy": "sensitive", "mode": "cloud"},
    }
    lines = [request_line(name, name) for name in ends]
    lines += [request_line("good"), *(request_line(name, **body) for name, body in bad.items())]
    batch = await ended(client, await started(client, jsonl(lines)))
    assert batch.status == "completed"
    counts = batch.request_counts
    assert counts is not None
    assert (counts.total, counts.completed, counts.failed) == (14, 2, 12)
    output = {line["custom_id"]: line["response"] for line in await lines_of(client, batch.output_file_id)}
    assert output.keys() == {"declines", "good"}
    assert output["declines"]["body"]["choices"][0]["finish_reason"] == "content_filter"
    errors = await lines_of(client, batch.error_file_id)
    assert [line["custom_id"] for line in errors] == ["fails", "busy", "late", "stopped", *bad]
    found = {line["custom_id"]: line["response"] for line in errors}
    assert {name: found[name]["status_code"] for name in ("fails", "busy", "late", "stopped")} == {
        "fails": 400, "busy": 503, "late": 504, "stopped": 499,
    }  # fmt: skip
    assert found["fails"]["body"]["error"]["code"] == "context_length_exceeded"
    assert {found[name]["status_code"] for name in bad} == {400}
    assert all(found[name]["body"]["error"]["message"] for name in bad)


async def test_the_headers_of_a_batch_hold_for_its_lines(bed: Bed, client: AsyncOpenAI) -> None:
    content = jsonl([request_line("a"), request_line("b", privacy="public"), request_line("c", privacy="sensitive")])
    batch = await started(client, content, extra_headers={"X-Headrace-Privacy": "sensitive"})
    batch = await ended(client, batch)
    assert [line["custom_id"] for line in await lines_of(client, batch.output_file_id)] == ["a", "c"]
    (error,) = await lines_of(client, batch.error_file_id)
    assert error["response"]["body"]["error"]["code"] == "contradiction"
    assert {seen.task.privacy for seen in bed.router.tasks} == {Privacy.SENSITIVE}
    for headers in (
        {"X-Headrace-Privacy": "secret"},
        {"X-Headrace-Nonsense": "1"},
        {"X-Headrace-Priority": "interactive"},
    ):
        with pytest.raises(openai.BadRequestError):
            await started(client, content, extra_headers=headers)


async def test_a_batch_waits_for_room_and_ends_when_it_is_turned_away(bed: Bed, postgres_dsn: str) -> None:
    """At most so many of its tasks are live, and one that the router turns away is submitted again."""
    live: set[str] = set()
    most = turned_away = 0

    async def answer(router: StandIn, seen: Seen) -> None:
        nonlocal most, turned_away
        if turned_away < 3 and seen.task.reply_partition is None:
            turned_away += 1
            failure = Failure(code="too_many_live_tasks", message="wait")
            await router.finish(seen, status=TaskStatus.FAILED, failure=failure, answer=None)
            return
        live.add(seen.task.task_id)
        most = max(most, len(live))
        await asyncio.sleep(0.05)
        live.discard(seen.task.task_id)
        await router.finish(seen)

    bed.router.answer = answer
    running = await bed.intake(database_url=postgres_dsn, batch_live_tasks_per_tenant=7, pending_tasks_per_tenant=1)
    async with client_of(running) as client:
        await eventually(lambda: answers(client), 20)
        batches = [await started(client, jsonl(request_line(f"{number}") for number in range(15))) for _ in range(2)]
        for _ in range(3):  # none of them counts for the tasks of other callers
            assert (await client.chat.completions.create(model="auto", messages=[{"role": "user", "content": "x"}])).id
        for batch in batches:
            batch = await ended(client, batch, 30)
            assert [line["custom_id"] for line in await lines_of(client, batch.output_file_id)] == [
                f"{number}" for number in range(15)
            ]
    assert most <= 7
    assert len({seen.task.task_id for seen in bed.router.tasks}) == len(bed.router.tasks) == 36


async def test_a_batch_waits_while_interactive_tasks_are_refused(bed: Bed, postgres_dsn: str) -> None:
    """Its lines do not fail: they stay in Postgres until callers who wait for an answer are taken on again."""
    one_at_a_time = asyncio.Lock()

    async def answer(router: StandIn, seen: Seen) -> None:
        async with one_at_a_time:
            await asyncio.sleep(0 if seen.task.lane == Lane.BATCH else 0.1)
        await router.finish(seen)

    bed.router.answer = answer
    running = await bed.intake(database_url=postgres_dsn)
    task = {"model": "gemma2:2b", "prompt": "Hi", "priority": "interactive", "privacy": "public"}

    async def is_refused() -> bool:
        return (await running.call("POST", "/v1/tasks", {**task, "deadline": 2}))[0] == 429

    async with client_of(running) as client:
        await eventually(lambda: answers(client), 20)
        for _ in range(150):
            assert (await running.call("POST", "/v1/tasks", task))[0] == 202
        await eventually(is_refused, 10)
        batch = await started(client, jsonl(request_line(f"{number}") for number in range(15)))
        for _ in range(8):
            assert await is_refused()
            await asyncio.sleep(0.5)
        assert not [seen for seen in bed.router.tasks if seen.task.lane == Lane.BATCH]
        status, problem, headers = await running.call("POST", "/v1/tasks", {**task, "priority": "batch"})
        assert (status, problem["type"]) == (429, "urn:headrace:problem:above-share")
        assert headers["Retry-After"] == "5"

        batch = await ended(client, batch, 30)

        assert batch.request_counts is not None
        assert (batch.request_counts.completed, batch.request_counts.failed) == (15, 0)


async def test_large_lines_share_the_room_in_bytes_and_one_larger_than_it_goes_alone(
    bed: Bed, postgres_dsn: str
) -> None:
    live: dict[str, int] = {}
    most = 0

    async def answer(router: StandIn, seen: Seen) -> None:
        nonlocal most
        live[seen.task.task_id] = len(seen.record.value or b"")
        if len(live) > 1:
            most = max(most, sum(live.values()))
        await asyncio.sleep(0.1)
        del live[seen.task.task_id]
        await router.finish(seen, answer=plain("done"))

    bed.router.answer = answer
    running = await bed.intake(database_url=postgres_dsn, batch_live_bytes_per_tenant=200_000)
    async with client_of(running) as client:
        await eventually(lambda: answers(client), 20)
        sizes = [50_000, 90_000, 400_000, 10, 150_000, 700_000, 90_000, 90_000, 10]
        lines = [request_line(f"{number}", "x" * size) for number, size in enumerate(sizes)]
        batch = await ended(client, await started(client, jsonl(lines)), 30)
        assert [line["custom_id"] for line in await lines_of(client, batch.output_file_id)] == [
            f"{number}" for number in range(len(sizes))
        ]
    assert 100_000 < most < 210_000


async def test_cancelling_keeps_what_is_finished(bed: Bed, postgres_dsn: str) -> None:
    async def answer(router: StandIn, seen: Seen) -> None:
        if int(text_of(seen.task.messages[-1].content)) < 5:
            await router.finish(seen)
            return
        await router.until(lambda: any(said.task_id == seen.task.task_id for said, _ in router.cancelled))
        failure = Failure(code="cancelled", message="as asked")
        await router.finish(seen, status=TaskStatus.CANCELLED, failure=failure, answer=None)

    bed.router.answer = answer
    running = await bed.intake(database_url=postgres_dsn, batch_live_tasks_per_tenant=10)
    async with client_of(running) as client:
        await eventually(lambda: answers(client), 20)
        batch = await started(client, jsonl(request_line(f"r{number}", str(number)) for number in range(30)))

        async def halfway() -> bool:
            counts = (await client.batches.retrieve(batch.id)).request_counts
            return counts is not None and counts.completed == 5 and len(bed.router.tasks) == 15

        await eventually(halfway, 20)
        with pytest.raises(openai.ConflictError):
            await client.files.delete(batch.input_file_id)
        batch = await client.batches.cancel(batch.id)
        assert batch.status == "cancelling"
        assert batch.cancelling_at is not None
        batch = await ended(client, batch)
        assert batch.status == "cancelled"
        assert batch.cancelled_at is not None
        assert [line["custom_id"] for line in await lines_of(client, batch.output_file_id)] == [
            f"r{number}" for number in range(5)
        ]
        errors = await lines_of(client, batch.error_file_id)
        assert [line["custom_id"] for line in errors] == [f"r{number}" for number in range(5, 30)]
        assert {(line["error"]["code"], line["response"]) for line in errors} == {("batch_cancelled", None)}
        assert len(bed.router.tasks) == 15
        assert len(bed.router.cancelled) == 10
        with pytest.raises(openai.ConflictError):
            await client.batches.cancel(batch.id)
        assert (await client.files.delete(batch.input_file_id)).deleted


async def test_what_has_not_ended_in_time_expires(bed: Bed, client: AsyncOpenAI, postgres_dsn: str) -> None:
    async def answer(router: StandIn, seen: Seen) -> None:
        if text_of(seen.task.messages[-1].content) == "quick":
            await router.finish(seen)

    bed.router.answer = answer
    batch = await started(
        client, jsonl([request_line("a", "quick"), request_line("b", "slow"), request_line("c", "quick")])
    )

    async def two() -> bool:
        counts = (await client.batches.retrieve(batch.id)).request_counts
        return counts is not None and counts.completed == 2

    await eventually(two, 20)
    connection = await asyncpg.connect(postgres_dsn, ssl=False)
    await connection.execute("UPDATE intake.batches SET expires_at = created_at - 60000")
    await connection.close()
    batch = await ended(client, batch)
    assert batch.status == "expired"
    assert batch.expired_at is not None
    assert [line["custom_id"] for line in await lines_of(client, batch.output_file_id)] == ["a", "c"]
    (error,) = await lines_of(client, batch.error_file_id)
    assert (error["custom_id"], error["error"]["code"]) == ("b", "batch_expired")

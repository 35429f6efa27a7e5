"""Responses that are continued, looked up, cancelled and deleted, and conversations, on a real Postgres."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import openai
import pytest
from headrace_contracts.content import plain, text_of
from headrace_contracts.events import (
    AnswerChoice,
    Failure,
    MessagePart,
    PartKind,
    Privacy,
    TaskStatus,
)
from headrace_testing.intake_bed import BOOTSTRAP_KEY, Bed, Running, Seen, StandIn, echo, silence
from headrace_testing.waiting import eventually

pytestmark = pytest.mark.stack


def client(intake: Running, key: str = BOOTSTRAP_KEY, **options: Any) -> Any:
    return openai.AsyncOpenAI(
        base_url=f"{intake.url}/v1", api_key=key, _strict_response_validation=True,
        **{"max_retries": 0, "timeout": 20, **options},
    )  # fmt: skip


@pytest.fixture
async def intake(bed: Bed, postgres_dsn: str) -> AsyncIterator[Running]:
    async with bed.running(database_url=postgres_dsn) as running:
        await until_it_has_its_database(running)
        yield running


async def until_it_has_its_database(running: Running) -> None:
    async def has_it() -> bool:
        return (await running.call("GET", "/v1/tasks"))[0] == 200

    await eventually(has_it, 20)


@pytest.fixture
async def ai(intake: Running) -> AsyncIterator[Any]:
    async with client(intake) as made:
        yield made


def said(seen: Seen) -> list[tuple[str, str]]:
    return [
        (message.role, text_of(message.content) or "".join(text_of(p.content) for p in message.parts if p.content))
        for message in seen.task.messages
    ]


async def ended(ai: Any, response: Any) -> Any:
    """Ask as programs do."""
    while response.status in ("queued", "in_progress"):
        await asyncio.sleep(0.05)
        response = await ai.responses.retrieve(response.id)
    return response


async def other_tenant(intake: Running) -> Any:
    _, made, _ = await intake.call("POST", "/v1/keys", {"tenant": "another", "scopes": ["tasks"]})
    return client(intake, made["key"])


async def test_a_loop_over_previous_responses_keeps_each_turn_once(
    bed: Bed, intake: Running, ai: Any, postgres_dsn: str
) -> None:
    previous: str | None = None
    for number in range(6):
        answer = await ai.responses.create(
            model="auto", input=f"Turn {number}", instructions=f"Rule {number}", previous_response_id=previous
        )
        assert answer.previous_response_id == previous
        previous = answer.id
    assert said(bed.router.tasks[-1]) == [
        ("system", "Rule 5"),
        *(pair for n in range(5) for pair in (("user", f"Turn {n}"), ("assistant", f"Echo: Turn {n}"))),
        ("user", "Turn 5"),
    ]
    stored = await ai.responses.retrieve(previous or "")
    assert (stored.output_text, stored.instructions, stored.status) == ("Echo: Turn 5", "Rule 5", "completed")
    connection = await asyncpg.connect(postgres_dsn)
    try:
        sizes = [row["size"] for row in await connection.fetch("SELECT length(said) AS size FROM intake.turns")]
    finally:
        await connection.close()
    assert len(sizes) == 6
    assert max(sizes) - min(sizes) < 200, "a turn holds only what was said in it"


async def test_a_tool_loop_continues_by_id(bed: Bed, ai: Any) -> None:
    async def calls_then_tells(router: StandIn, seen: Seen) -> None:
        if any(message.role == "tool" for message in seen.task.messages):
            await router.finish(seen, answer=plain("Sunny."))
            return
        part = MessagePart(kind=PartKind.TOOL_CALL, call_id="c1", name="get_weather", content=plain("{}"))
        choice = AnswerChoice(parts=(part,), finish_reason="tool_calls")
        await router.finish(seen, answer=plain(""), choices=(choice,), finish_reason="tool_calls")

    bed.router.answer = calls_then_tells
    tools: Any = [{"type": "function", "name": "get_weather", "parameters": {"type": "object", "properties": {}}}]
    first = await ai.responses.create(model="auto", input="Weather?", tools=tools)
    output: Any = {"type": "function_call_output", "call_id": "c1", "output": "sunny"}
    with pytest.raises(openai.BadRequestError, match="No tool output found for function call c1"):
        await ai.responses.create(model="auto", input="And?", previous_response_id=first.id, tools=tools)
    second = await ai.responses.create(model="auto", input=[output], previous_response_id=first.id, tools=tools)
    assert second.output_text == "Sunny."
    assert [role for role, _ in said(bed.router.tasks[-1])] == ["user", "assistant", "tool"]
    listed = [item async for item in ai.responses.input_items.list(second.id)]
    assert [(item.type, item.call_id) for item in listed] == [("function_call_output", "c1")]
    # The same by references to the items.
    wanted: Any = [{"type": "item_reference", "id": first.output[0].id}, output]
    await ai.responses.create(model="auto", input=wanted, tools=tools)
    assert bed.router.tasks[-1].task.messages[0].parts[0].call_id == "c1"
    with pytest.raises(openai.BadRequestError) as error:
        await ai.responses.create(model="auto", input=[{"type": "item_reference", "id": "msg_unknown_0"}])
    assert error.value.code == "item_not_found"


async def test_input_items_are_listed_as_they_were_given(ai: Any) -> None:
    url = "data:image/png;base64,iVBORw0KGgo="
    given: Any = [
        {"role": "developer", "content": "Be brief"},
        {"role": "user", "content": [
            {"type": "input_text", "text": "What is this?"}, {"type": "input_image", "image_url": url, "detail": "low"},
            {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0="},
        ]},
        {"role": "assistant", "content": "A dot."},
        {"role": "user", "content": "Sure?"},
    ]  # fmt: skip
    answer = await ai.responses.create(model="auto", input=given)
    items = [item async for item in ai.responses.input_items.list(answer.id, order="asc", limit=2)]
    documents = [item.to_dict() for item in items]
    assert [item["role"] for item in documents] == ["system", "user", "assistant", "user"]
    assert [part["type"] for part in documents[1]["content"]] == ["input_text", "input_image", "input_file"]
    assert documents[1]["content"][1]["image_url"] == url
    newest = await ai.responses.input_items.list(answer.id, limit=1)
    assert (newest.data[0].id, newest.has_more) == (documents[-1]["id"], True)


async def test_what_cannot_be_continued_is_refused(bed: Bed, intake: Running, ai: Any) -> None:
    async def refused(previous: str, code: str, by: Any = ai) -> None:
        with pytest.raises(openai.BadRequestError) as error:
            await by.responses.create(model="auto", input="And?", previous_response_id=previous)
        assert (error.value.code, error.value.param) == (code, "previous_response_id")

    unstored = await ai.responses.create(model="auto", input="Hello", store=False)
    chat = await ai.chat.completions.create(model="auto", messages=[{"role": "user", "content": "Hello"}])
    for unknown in ("resp_unknown", "nothing", unstored.id, "resp_" + chat.id.removeprefix("chatcmpl-")):
        await refused(unknown, "previous_response_not_found")
    mine = await ai.responses.create(model="auto", input="Hello")
    async with await other_tenant(intake) as stranger:
        await refused(mine.id, "previous_response_not_found", by=stranger)
        for call in (stranger.responses.retrieve, stranger.responses.cancel, stranger.responses.delete):
            with pytest.raises(openai.NotFoundError):
                await call(mine.id)
        with pytest.raises(openai.NotFoundError):
            await stranger.responses.input_items.list(mine.id)
    with pytest.raises(openai.NotFoundError):
        await ai.responses.retrieve(unstored.id)

    async def fail(router: StandIn, seen: Seen) -> None:
        await router.finish(seen, status=TaskStatus.FAILED, answer=None, failure=Failure(code="broken", message="gone"))

    bed.router.answer = silence
    running = await ai.responses.create(model="auto", input="Hello", background=True)
    await refused(running.id, "response_in_progress")
    bed.router.answer = fail
    failed = await ai.responses.create(model="auto", input="Hello", background=True)
    found = await ended(ai, failed)
    assert found.error is not None
    assert (found.status, found.error.code) == ("failed", "server_error")
    await refused(failed.id, "previous_response_failed")


async def test_privacy_is_never_lowered_by_continuing(bed: Bed, ai: Any) -> None:
    async def keep(router: StandIn, seen: Seen) -> None:
        await router.finish(seen, privacy=seen.task.privacy or Privacy.PUBLIC)

    bed.router.answer = keep
    first = await ai.responses.create(model="auto", input="Secret", extra_body={"privacy": "sensitive"})
    second = await ai.responses.create(model="auto", input="And?", previous_response_id=first.id)
    assert bed.router.tasks[-1].task.privacy is Privacy.SENSITIVE
    with pytest.raises(openai.PermissionDeniedError, match="sensitive"):
        await ai.responses.create(
            model="auto", input="And?", previous_response_id=second.id, extra_body={"privacy": "public"}
        )
    open_one = await ai.responses.create(model="auto", input="Open", extra_body={"privacy": "public"})
    await ai.responses.create(
        model="auto", input="And?", previous_response_id=open_one.id, extra_body={"privacy": "internal"}
    )
    assert [seen.task.privacy for seen in bed.router.tasks[-2:]] == [Privacy.PUBLIC, Privacy.INTERNAL]


async def test_a_background_response_is_polled_and_cancelled(bed: Bed, ai: Any) -> None:
    bed.router.answer = silence
    running = await ai.responses.create(model="auto", input="Hello", background=True)
    assert running.status == "queued"
    assert (await ai.responses.retrieve(running.id)).status == "in_progress"

    async def obey() -> None:
        await bed.router.until(lambda: bool(bed.router.tasks))
        await bed.router.until(lambda: bool(bed.router.cancelled))
        await bed.router.finish(bed.router.tasks[-1], status=TaskStatus.CANCELLED, answer=None)

    obeying = asyncio.create_task(obey())
    cancelled = await ai.responses.cancel(running.id)
    await obeying
    assert (cancelled.status, cancelled.output) == ("cancelled", [])
    assert (await ai.responses.cancel(running.id)).status == "cancelled"
    bed.router.answer = echo
    done = await ai.responses.create(model="auto", input="Hello", background=True)
    done = await ended(ai, done)
    assert (done.status, done.output_text) == ("completed", "Echo: Hello")


@pytest.mark.parametrize("after", [0, 4, 6])
async def test_a_stream_is_resumed_after_an_event(bed: Bed, ai: Any, postgres_dsn: str, after: int) -> None:
    stream = await ai.responses.create(model="auto", input="Hello", background=True, stream=True)
    events = [event async for event in stream]
    assert [event.type for event in events[:3]] == ["response.created", "response.queued", "response.in_progress"]
    response = events[-1].response.id
    rest = [event async for event in await ai.responses.retrieve(response, stream=True, starting_after=after)]
    assert [event.to_dict() for event in rest] == [event.to_dict() for event in events[after + 1 :]]
    whole = [event async for event in await ai.responses.retrieve(response, stream=True)]
    assert [event.type for event in whole] == [event.type for event in events]
    # Another process has only the end, and its event.
    other = await bed.intake(database_url=postgres_dsn, instance_id="intake-b")
    await until_it_has_its_database(other)
    async with client(other) as elsewhere:
        last = [
            event async for event in await elsewhere.responses.retrieve(response, stream=True, starting_after=after)
        ]
    assert [event.type for event in last] == ["response.completed"]
    assert last[0].sequence_number > after


async def test_a_deleted_response_is_erased(bed: Bed, intake: Running, ai: Any, postgres_dsn: str) -> None:
    first = await ai.responses.create(model="auto", input="My number is 4711")
    second = await ai.responses.create(model="auto", input="Again", previous_response_id=first.id)
    await ai.responses.delete(first.id)
    for call in (ai.responses.retrieve, ai.responses.delete):
        with pytest.raises(openai.NotFoundError):
            await call(first.id)
    with pytest.raises(openai.BadRequestError) as error:
        await ai.responses.create(model="auto", input="And?", previous_response_id=second.id)
    assert error.value.code == "previous_response_not_found"
    status, task, _ = await intake.call("GET", f"/v1/tasks/{first.id.removeprefix('resp_')}")
    assert (status, task["answer"], task["status"]) == (200, None, "succeeded")
    connection = await asyncpg.connect(postgres_dsn)
    try:
        rows = await connection.fetch("SELECT * FROM intake.turns") + await connection.fetch(
            "SELECT * FROM intake.tasks"
        )
    finally:
        await connection.close()
    assert "4711" not in str([dict(row) for row in rows if row["task_id"] == first.id.removeprefix("resp_")])
    assert (await ai.responses.retrieve(second.id)).output_text == "Echo: Again"


async def test_a_conversation_keeps_what_was_said(bed: Bed, intake: Running, ai: Any) -> None:
    made = await ai.conversations.create(
        metadata={"topic": "demo"}, items=[{"type": "message", "role": "user", "content": "Call me Ann."}]
    )
    assert made.metadata == {"topic": "demo"}
    for number in range(3):
        answer = await ai.responses.create(model="auto", input=f"Turn {number}", conversation=made.id)
        assert answer.conversation is not None
        assert answer.conversation.id == made.id
    last = bed.router.tasks[-1]
    assert last.task.session == made.id
    assert len({seen.record.partition for seen in bed.router.tasks}) == 1
    assert said(last) == [
        ("user", "Call me Ann."), ("user", "Turn 0"), ("assistant", "Echo: Turn 0"), ("user", "Turn 1"),
        ("assistant", "Echo: Turn 1"), ("user", "Turn 2"),
    ]  # fmt: skip
    await ai.conversations.items.create(made.id, items=[{"type": "message", "role": "user", "content": "By the way"}])
    items = [item async for item in ai.conversations.items.list(made.id, order="asc", limit=3)]
    assert [item.type for item in items] == ["message"] * 8
    one = await ai.conversations.items.retrieve(items[0].id or "", conversation_id=made.id)
    assert one.to_dict() == items[0].to_dict()
    await ai.conversations.update(made.id, metadata={"topic": "other"})
    assert (await ai.conversations.retrieve(made.id)).metadata == {"topic": "other"}
    async with await other_tenant(intake) as stranger:
        with pytest.raises(openai.NotFoundError):
            await stranger.conversations.retrieve(made.id)
        with pytest.raises(openai.NotFoundError):
            await stranger.responses.create(model="auto", input="Hello", conversation=made.id)
    gone = await ai.conversations.delete(made.id)
    assert gone.deleted
    for call in (ai.conversations.retrieve, ai.conversations.delete):
        with pytest.raises(openai.NotFoundError):
            await call(made.id)
    with pytest.raises(openai.NotFoundError):
        await ai.responses.create(model="auto", input="Hello", conversation=made.id)


async def test_a_conversation_is_locked_while_a_turn_runs(bed: Bed, ai: Any) -> None:
    made = await ai.conversations.create()
    bed.router.answer = silence
    await ai.responses.create(model="auto", input="Hello", conversation=made.id, background=True)
    with pytest.raises(openai.BadRequestError) as error:
        await ai.responses.create(model="auto", input="Me too", conversation=made.id)
    assert error.value.code == "conversation_locked"


async def test_a_conversation_of_two_hundred_turns(bed: Bed, ai: Any) -> None:
    made = await ai.conversations.create()
    for start in range(0, 200, 20):
        await ai.conversations.items.create(
            made.id,
            items=[{"type": "message", "role": "user", "content": f"Turn {start + n}"} for n in range(20)],
        )
    await ai.responses.create(model="auto", input="How many?", conversation=made.id)
    assert len(bed.router.tasks[-1].task.messages) == 201
    assert text_of(bed.router.tasks[-1].task.messages[199].content) == "Turn 199"


async def test_what_was_added_to_a_conversation_can_be_taken_back(bed: Bed, ai: Any, postgres_dsn: str) -> None:
    made = await ai.conversations.create()
    added = await ai.conversations.items.create(
        made.id,
        items=[
            {"type": "message", "role": "user", "content": "Weather?"},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Let me look."}]},
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "sunny"},
            {"type": "message", "role": "user", "content": "My number is 4711"},
        ],
    )
    assert [item.type for item in added.data] == [
        "message",
        "message",
        "function_call",
        "function_call_output",
        "message",
    ]
    await ai.conversations.items.delete(added.data[-1].id, conversation_id=made.id)
    with pytest.raises(openai.NotFoundError):
        await ai.conversations.items.delete(added.data[-1].id, conversation_id=made.id)
    await ai.responses.create(model="auto", input="So?", conversation=made.id)
    sent = bed.router.tasks[-1].task.messages
    assert [message.role for message in sent] == ["user", "assistant", "tool", "user"]
    assert [part.kind.value for part in sent[1].parts] == ["text", "tool_call"], "one answer is one message"
    newest = await ai.conversations.items.list(made.id, limit=1)
    with pytest.raises(openai.BadRequestError, match="belongs to a response"):
        await ai.conversations.items.delete(newest.data[0].id, conversation_id=made.id)
    connection = await asyncpg.connect(postgres_dsn)
    try:
        kept = await connection.fetchval("SELECT string_agg(said, '') FROM intake.turns")
    finally:
        await connection.close()
    assert base64.b64encode(b"My number is 4711").decode() not in kept


async def test_a_repeated_request_follows_its_turn(bed: Bed, ai: Any) -> None:
    made = await ai.conversations.create()
    first = await ai.responses.create(model="auto", input="Hello")
    bed.router.answer = silence
    for continuing in ({"conversation": made.id}, {"previous_response_id": first.id}):
        asked: Any = {"model": "auto", "input": "Once", "background": True, **continuing}
        key = {"Idempotency-Key": f"key-{next(iter(continuing))}"}
        running = await ai.responses.create(**asked, extra_headers=key)
        again = await ai.responses.create(**asked, extra_headers=key)
        assert (again.id, again.previous_response_id) == (running.id, running.previous_response_id)
        await bed.router.finish(bed.router.tasks[-1])
        done = await ended(ai, running)
        assert done.status == "completed"
        assert (await ai.responses.create(**asked, extra_headers=key)).id == running.id
    assert len({seen.task.task_id for seen in bed.router.tasks}) == 3

"""The unmodified `ollama` package against intake: the fleet as one big Ollama."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from headrace_contracts.content import plain, text_of
from headrace_contracts.events import (
    AnswerChoice,
    Content,
    Failure,
    Lane,
    MessagePart,
    ModelOperation,
    ModelStatus,
    NodeStatus,
    PartKind,
    Place,
    Privacy,
    ReplyKind,
    TaskStatus,
)
from headrace_contracts.topics import FLEET_STATUS
from headrace_runtime.connections import wall_clock_ms
from headrace_streams.publishing import Publication, Publisher
from headrace_testing.intake_bed import BOOTSTRAP_KEY, Bed, Running, Seen, StandIn, echo
from ollama import AsyncClient, Client, ResponseError

HELLO: Any = [{"role": "user", "content": "Hello"}]


def client(intake: Running, key: str = BOOTSTRAP_KEY, **headers: str) -> AsyncClient:
    told = {"Authorization": f"Bearer {key}", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return AsyncClient(host=intake.url, headers=told, timeout=10)


async def said_by(ai: AsyncClient, *, stream: bool, heard: list[str] | None = None) -> None:
    """Ask, and add what is said to `heard` as it comes."""
    if not stream:
        await ai.chat(model="llama3.2", messages=HELLO)
        return
    async for part in await ai.chat(model="llama3.2", messages=HELLO, stream=True):
        if heard is not None:
            heard.append(part.message.content or "")


@pytest.fixture
async def intake(bed: Bed) -> AsyncIterator[Running]:
    async with bed.running() as running:
        publisher = Publisher(bed.log.producer(), bed.codec, "test")
        llama = ModelStatus(
            name="llama3.2:latest", size_bytes=2_000_000, context_tokens=8_192, loaded=True,
            capabilities=("tools", "vision"),
            details={"digest": "f" * 64, "family": "llama", "modified_at": "2026-01-02T03:04:05Z"},
        )  # fmt: skip
        node = NodeStatus(
            node="n1", place=Place.LOCAL, provider="ollama", healthy=True, reported_at=wall_clock_ms(),
            models=(llama, ModelStatus(name="phi3:3.8b")), valid_for_ms=600_000,
        )  # fmt: skip
        await publisher.send(Publication(spec=FLEET_STATUS, event=node, event_id="1", key=b"n1", tenant="", time_ms=1))
        async with asyncio.timeout(30):
            while len((await client(running).list()).models) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        yield running


async def test_a_chat(bed: Bed, intake: Running) -> None:
    answer = await client(intake, X_Headrace_Privacy="sensitive").chat(
        model="llama3.2", messages=HELLO, options={"num_predict": 9, "num_ctx": 4096}, keep_alive="5m"
    )
    assert (answer.message.role, answer.message.content) == ("assistant", "Echo: Hello")
    assert (answer.model, answer.done, answer.done_reason) == ("llama3.2", True, "stop")
    assert (answer.prompt_eval_count, answer.eval_count) == (11, 5)
    assert answer.total_duration
    assert answer.eval_duration
    (seen,) = bed.router.tasks
    assert (seen.task.model, seen.task.stream, seen.task.lane) == ("ollama/llama3.2:latest", False, Lane.INTERACTIVE)
    assert (seen.task.privacy, seen.task.sampling.max_output_tokens) == (Privacy.SENSITIVE, 9)


@pytest.mark.parametrize("text", ["Hello", "line\nline ünï ☃", '{"a": "\\u0000"}'])
async def test_a_stream(intake: Running, text: str) -> None:
    parts = [
        part
        async for part in await client(intake).chat(
            model="phi3:3.8b", messages=[{"role": "user", "content": text}], stream=True
        )
    ]
    assert "".join(part.message.content or "" for part in parts) == f"Echo: {text}"
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert (parts[-1].done_reason, parts[-1].eval_count) == ("stop", 5)


async def test_streaming_is_what_happens_anyway(intake: Running) -> None:
    for path, body in (("/api/chat", {"messages": HELLO}), ("/api/generate", {"prompt": "Hello"})):
        said, headers = {"model": "phi3:3.8b", **body}, {"Authorization": f"Bearer {BOOTSTRAP_KEY}"}
        async with intake.http.post(intake.url + path, json=said, headers=headers) as response:
            assert response.content_type == "application/x-ndjson"
            lines = (await response.text()).splitlines()
        assert len(lines) > 1
        assert json.loads(lines[-1])["done"] is True


async def test_a_prompt(bed: Bed, intake: Running) -> None:
    ai = client(intake)
    whole = await ai.generate(model="phi3:3.8b", prompt="Hello", system="Be short.")
    assert (whole.response, whole.done_reason) == ("Echo: Hello", "stop")
    pieces = [part.response async for part in await ai.generate(model="phi3:3.8b", prompt="Hello", stream=True)]
    assert "".join(piece or "" for piece in pieces) == "Echo: Hello"
    assert [message.role for message in bed.router.tasks[0].task.messages] == ["system", "user"]


def get_weather(city: str) -> str:
    """The weather of a city.

    Args:
        city: Its name.
    """
    return f"sunny in {city}"


def read_clock() -> str:
    """The time."""
    return "it is noon"


async def call_tools(router: StandIn, seen: Seen) -> None:
    messages = seen.task.messages
    if messages[-1].role == "tool":
        results = [part for message in messages for part in message.parts if part.kind is PartKind.TOOL_RESULT]
        calls = [part for message in messages for part in message.parts if part.kind is PartKind.TOOL_CALL]
        assert [part.call_id for part in results] == [part.call_id for part in calls]
        said = " and ".join(text_of(part.content) for part in results if part.content is not None)
        await router.finish(seen, answer=plain(said))
        return
    parts = (
        MessagePart(kind=PartKind.REASONING, content=plain("Let me look."), provider="ollama"),
        MessagePart(kind=PartKind.TOOL_CALL, call_id="c1", name="get_weather", content=plain('{"city": "Lisbon"}')),
        MessagePart(kind=PartKind.TOOL_CALL, call_id="c2", name="read_clock", content=plain("")),
    )
    if seen.task.stream:
        await router.say(seen, "", 0)
    choice = AnswerChoice(index=0, parts=parts, finish_reason="tool_calls")
    await router.finish(seen, answer=plain(""), choices=(choice,), finish_reason="tool_calls")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_loop_with_two_tools(bed: Bed, intake: Running, stream: bool) -> None:
    bed.router.answer = call_tools
    ai = client(intake)
    tools: dict[str, Any] = {"get_weather": get_weather, "read_clock": read_clock}
    messages: list[Any] = [{"role": "user", "content": "What is the weather in Lisbon, and what time is it?"}]
    for _ in range(3):
        asked: Any = {"model": "llama3.2", "messages": messages, "tools": list(tools.values()), "think": True}
        if stream:
            parts = [part async for part in await ai.chat(**asked, stream=True)]
            message = parts[0].message
            for part in parts[1:]:
                message.content = (message.content or "") + (part.message.content or "")
                message.tool_calls = message.tool_calls or part.message.tool_calls
        else:
            message = (await ai.chat(**asked)).message
        messages.append(message)
        if not message.tool_calls:
            break
        for call in message.tool_calls:
            result = tools[call.function.name](**call.function.arguments)
            messages.append({"role": "tool", "tool_name": call.function.name, "content": result})
    assert messages[-1].content == "sunny in Lisbon and it is noon"
    first = bed.router.tasks[0].task
    assert first.options is not None
    assert [tool.name for tool in first.options.tools] == ["get_weather", "read_clock"]
    assert first.options.reasoning_effort == "medium"


@pytest.mark.parametrize("form", ["json", {"type": "object", "properties": {"a": {"type": "integer"}}}])
async def test_forms_images_and_vectors_reach_the_task(bed: Bed, intake: Running, form: Any) -> None:
    image = b"\x89PNG\r\n\x1a\n" + bytes(9)
    await client(intake).chat(
        model="llama3.2", messages=[{"role": "user", "content": "Look", "images": [image]}], format=form
    )
    (seen,) = bed.router.tasks
    assert seen.task.sampling.json
    shown = seen.task.messages[0].parts[1]
    assert (shown.media_type, shown.content) == ("image/png", Content(data=image))
    assert seen.task.options is None or seen.task.options.response_format is not None


async def embed(router: StandIn, seen: Seen) -> None:
    assert seen.task.operation is ModelOperation.EMBED
    assert seen.task.options is not None
    vectors = (Content(data=b"\0\0\x80?" * 2),) * len(seen.task.options.inputs)
    await router.finish(seen, answer=None, embeddings=vectors)


@pytest.mark.parametrize("given", ["Hello", ["Hello"], ["Hello", "there", "!"]])
async def test_vectors(bed: Bed, intake: Running, given: Any) -> None:
    bed.router.answer = embed
    found = await client(intake).embed(model="phi3:3.8b", input=given, truncate=True)
    assert list(found.embeddings) == [[1.0, 1.0]] * (1 if isinstance(given, str) else len(given))
    assert (found.model, found.prompt_eval_count) == ("phi3:3.8b", 11)
    assert list((await client(intake).embeddings(model="phi3:3.8b", prompt="Hello")).embedding) == [1.0, 1.0]


async def test_the_fleet_is_shown(intake: Running) -> None:
    ai = client(intake)
    models = {model.model: model for model in (await ai.list()).models}
    assert set(models) == {"llama3.2:latest", "phi3:3.8b"}
    assert models["llama3.2:latest"].digest == "f" * 64
    shown = await ai.show("llama3.2")
    assert shown.capabilities == ["completion", "tools", "vision"]
    assert shown.modelinfo is not None
    assert shown.modelinfo["llama.context_length"] == 8_192
    (loaded,) = (await ai.ps()).models
    assert (loaded.name, loaded.context_length) == ("llama3.2:latest", 8_192)
    _, version, _ = await intake.call("GET", "/api/version")
    assert tuple(map(int, version["version"].split("."))) >= (0, 13, 0)


async def test_a_model_is_loaded_without_a_task(bed: Bed, intake: Running) -> None:
    ai = client(intake)
    assert (await ai.generate(model="llama3.2", prompt="")).done_reason == "load"
    assert (await ai.chat(model="llama3.2", messages=[])).done_reason == "load"
    assert list((await ai.embed(model="llama3.2", input="")).embeddings) == []
    with pytest.raises(ResponseError) as caught:
        await ai.generate(model="nothing", prompt="")
    assert caught.value.status_code == 404
    assert bed.router.tasks == []


@pytest.mark.parametrize("what", ["pull", "push", "create", "copy", "delete", "blob"])
async def test_models_are_managed_elsewhere(intake: Running, what: str) -> None:
    ai = client(intake)
    calls: dict[str, Any] = {
        "pull": lambda: ai.pull("llama3.2"), "push": lambda: ai.push("llama3.2"),
        "create": lambda: ai.create("mine", from_="llama3.2"), "copy": lambda: ai.copy("a", "b"),
        "delete": lambda: ai.delete("a"),
        "blob": lambda: intake.call("POST", "/api/blobs/sha256:abc"),
    }  # fmt: skip
    if what == "blob":
        assert (await calls[what]())[0] == 403
        return
    if what == "copy" or what == "delete":
        with pytest.raises(ResponseError, match="managed on the nodes"):
            await calls[what]()
        return
    with pytest.raises(ResponseError, match="managed on the nodes") as caught:
        await calls[what]()
    assert caught.value.status_code == 403


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("unknown_model", 404),
        ("context_too_long", 400),
        ("incapable", 400),
        ("overloaded", 503),
        ("provider_error", 502),
    ],
)  # fmt: skip
async def test_failures_have_ollamas_form(bed: Bed, intake: Running, code: str, status: int, stream: bool) -> None:
    async def fail(router: StandIn, seen: Seen) -> None:
        await router.finish(seen, status=TaskStatus.FAILED, answer=None, failure=Failure(code=code, message="so it is"))

    bed.router.answer = fail
    with pytest.raises(ResponseError, match="so it is") as caught:
        await said_by(client(intake), stream=stream)
    assert caught.value.status_code == status


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"options": {"nothing": 1}}, "options.nothing"),
        ({"options": {"temperature": "hot"}}, "options.temperature"),
        ({"messages": "Hello"}, "messages"),
        ({"model": ""}, "model"),
        ({"privacy": "secret"}, "privacy"),
        ({"metadata": {}}, "metadata"),
    ],
)
async def test_what_is_wrong_is_said(bed: Bed, intake: Running, body: dict[str, Any], said: str) -> None:
    status, answer, _ = await intake.call("POST", "/api/chat", {"model": "llama3.2", "messages": HELLO, **body})
    assert (status, list(answer)) == (400, ["error"])
    assert said in answer["error"]
    assert bed.router.tasks == []


async def test_a_stream_that_breaks_says_so(bed: Bed, intake: Running) -> None:
    async def contradict(router: StandIn, seen: Seen) -> None:
        await router.say(seen, "One answer", 0)
        await asyncio.sleep(0.2)
        await router.reply(seen, ReplyKind.RESTARTED, attempt=2)
        await router.finish(seen, answer=plain("Another answer"))

    bed.router.answer = contradict
    heard: list[str] = []
    with pytest.raises(ResponseError, match="gave a different answer"):
        await said_by(client(intake), stream=True, heard=heard)
    assert "".join(heard) == "One answer"


async def test_a_slow_answer_keeps_the_connection_alive(bed: Bed) -> None:
    async def slow(router: StandIn, seen: Seen) -> None:
        await asyncio.sleep(0.6)
        await echo(router, seen)

    bed.router.answer = slow
    async with bed.running(heartbeat_seconds=0.1) as intake:
        parts = [part async for part in await client(intake).chat(model="auto", messages=HELLO, stream=True)]
    assert "".join(part.message.content or "" for part in parts) == "Echo: Hello"
    assert sum(not part.message.content for part in parts) > 2


async def test_a_key_is_asked_for(intake: Running) -> None:
    with pytest.raises(ResponseError) as caught:
        await AsyncClient(host=intake.url).list()
    assert caught.value.status_code == 401


async def test_the_synchronous_client_works_as_well(intake: Running) -> None:
    def ask() -> str:
        ai = Client(host=intake.url, headers={"Authorization": f"Bearer {BOOTSTRAP_KEY}"})
        parts = ai.chat(model="llama3.2", messages=HELLO, stream=True)
        return "".join(part.message.content or "" for part in parts)

    assert await asyncio.to_thread(ask) == "Echo: Hello"

"""Vectors of texts: the unmodified `openai` package against intake, and tasks with the operation `embed`."""

from __future__ import annotations

import asyncio
import base64
import struct
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from headrace_contracts.content import text_of
from headrace_contracts.events import Content, Failure, Lane, ModelOperation, Privacy, TaskStatus, Usage
from headrace_contracts.ids import route_key
from headrace_testing.intake_bed import BOOTSTRAP_KEY, Bed, Running, Seen, StandIn, open_bed


def vector(text: str, dimensions: int = 4) -> list[float]:
    return [float(len(text)), *(0.1 * place for place in range(1, dimensions))]


def packed(numbers: list[float]) -> Content:
    return Content(data=struct.pack(f"<{len(numbers)}f", *numbers))


async def embed(router: StandIn, seen: Seen) -> None:
    options = seen.task.options
    assert options is not None
    vectors = tuple(packed(vector(text_of(text), options.dimensions or 4)) for text in options.inputs)
    await router.finish(seen, answer=None, embeddings=vectors, usage=Usage(input_tokens=7), model="nomic")


@pytest.fixture
async def intake(bed: Bed) -> AsyncIterator[Running]:
    bed.router.answer = embed
    async with bed.running() as running:
        yield running


def client(intake: Running, **options: Any) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        base_url=f"{intake.url}/v1", api_key=BOOTSTRAP_KEY, **{"max_retries": 0, "timeout": 10, **options}
    )


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("more", [{}, {"encoding_format": "float"}, {"dimensions": 2}], ids=["plain", "float", "two"])
@pytest.mark.parametrize("given", ["one", ["one"], ["one", "three", "ünï ☃"]], ids=["text", "list", "three"])
async def test_texts_become_vectors(intake: Running, strict: bool, more: dict[str, Any], given: Any) -> None:
    async with client(intake, _strict_response_validation=strict) as ai:
        raw = await ai.embeddings.with_raw_response.create(model="nomic", input=given, user="ann", **more)
    answer = raw.parse()
    texts = [given] if isinstance(given, str) else given
    assert [one.index for one in answer.data] == list(range(len(texts)))
    for text, one in zip(texts, answer.data, strict=True):
        assert one.embedding == pytest.approx(vector(text, more.get("dimensions", 4)), abs=1e-6)
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (7, 7)
    assert answer.model == "ollama/nomic"
    assert raw.headers["X-Headrace-Task-Id"] == answer.headrace["task_id"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("form", ["float", "base64", None])
async def test_the_form_is_the_one_that_is_asked_for(intake: Running, form: str | None) -> None:
    body = {"model": "m", "input": ["one", "three"], **({} if form is None else {"encoding_format": form})}
    status, answer, _ = await intake.call("POST", "/v1/embeddings", body)
    assert status == 200
    for text, one in zip(body["input"], answer["data"], strict=True):
        found = one["embedding"]
        if form == "base64":
            assert found == base64.b64encode(packed(vector(text)).data).decode()
            continue
        assert struct.pack("<4f", *found) == packed(vector(text)).data, "no bit of a number is lost"


async def test_what_is_asked_is_in_the_task(bed: Bed, intake: Running) -> None:
    async with client(intake, default_headers={"X-Headrace-Privacy": "sensitive"}) as ai:
        await ai.embeddings.create(
            model="role:embed",
            input=["a", "b"],
            dimensions=8,
            extra_body={"session": "s", "budget": 0.5, "kind": "index"},
        )
        await ai.embeddings.create(model="auto", input="a", extra_body={"metadata": {"team": "x"}})
    first, second = (seen.task for seen in bed.router.tasks)
    assert (first.operation, first.messages, first.role, first.model) == (ModelOperation.EMBED, (), "embed", None)
    assert first.options is not None
    assert [text_of(one) for one in first.options.inputs] == ["a", "b"]
    assert (first.options.dimensions, first.session, first.kind) == (8, "s", "index")
    assert (first.privacy, first.lane, first.budget_nanodollars) == (Privacy.SENSITIVE, Lane.INTERACTIVE, 500_000_000)
    assert (second.kind, dict(second.labels), second.allow_cached) == ("embedding", {"team": "x"}, True)
    assert not second.stream
    expected = route_key(tenant=second.tenant, session=None, role=None, model=None, messages=[("input", b"a")])
    assert bed.router.tasks[1].record.key == expected.encode()


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input"),
        ({"input": [1, 2, 3]}, "input"),
        ({"input": [[1, 2], [3]]}, "input"),
        ({"input": ["a", 1]}, "input"),
        ({"input": ["a"] * 2_049}, "input"),
        ({}, "input"),
        ({"input": {"text": "a"}}, "input"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "dimensions": "many"}, "dimensions"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
        ({"input": "a", "stream": True}, "stream"),
        ({"input": "a", "temperature": 0.5}, "temperature"),
        ({"input": "a", "input_type": "query"}, "input_type"),
        ({"input": "a", "model": None}, "model"),
    ],
)
async def test_what_cannot_be_is_refused_by_name(bed: Bed, intake: Running, body: dict[str, Any], param: str) -> None:
    status, answer, _ = await intake.call("POST", "/v1/embeddings", {"model": "m", **body})
    assert status == 400
    assert answer["error"]["param"].startswith(param)
    assert bed.router.tasks == []


@pytest.mark.parametrize(("number", "dimensions", "fit"), [(1_000, 1_536, 512), (300, 3_072, 256), (2_000, 1_024, 768)])
async def test_more_vectors_than_fit_say_how_many_do(intake: Running, number: int, dimensions: int, fit: int) -> None:
    body = {"model": "m", "input": ["x"] * number, "dimensions": dimensions}
    status, answer, _ = await intake.call("POST", "/v1/embeddings", body)
    assert status == 413
    assert f"at most {fit} texts" in answer["error"]["message"]
    status, answer, _ = await intake.call("POST", "/v1/embeddings", {**body, "input": ["x"] * 64})
    assert (status, len(answer["data"]), len(answer["data"][0]["embedding"])) == (200, 64, dimensions)


@pytest.mark.parametrize(
    ("code", "status", "error"),
    [
        ("answer_too_large", 413, openai.APIStatusError),
        ("context_too_long", 400, openai.BadRequestError),
        ("incapable", 400, openai.BadRequestError),
        ("unknown_model", 404, openai.NotFoundError),
        ("invalid_vectors", 502, openai.InternalServerError),
        ("unsupported_operation", 502, openai.InternalServerError),
    ],
)
async def test_failures_are_errors(bed: Bed, intake: Running, code: str, status: int, error: type[Exception]) -> None:
    async def fail(router: StandIn, seen: Seen) -> None:
        await router.finish(seen, status=TaskStatus.FAILED, answer=None, failure=Failure(code=code, message="so it is"))

    bed.router.answer = fail
    async with client(intake) as ai:
        with pytest.raises(error, match="so it is") as caught:
            await ai.embeddings.create(model="m", input="a")
    assert caught.value.status_code == status  # type: ignore[attr-defined]


async def test_sealed_vectors_are_not_shown(bed: Bed, intake: Running) -> None:
    async def seal(router: StandIn, seen: Seen) -> None:
        await router.finish(seen, answer=None, embeddings=(Content(cipher="key-1", data=b"1234"),))

    bed.router.answer = seal
    status, answer, headers = await intake.call("POST", "/v1/embeddings", {"model": "m", "input": "a"})
    assert (status, answer["error"]["code"]) == (502, "answer-sealed")
    _, shown, _ = await intake.call("GET", f"/v1/tasks/{headers['X-Headrace-Task-Id']}")
    assert (shown["answer_sealed_with"], "embeddings" in shown) == ("key-1", False)


async def test_a_task_can_ask_for_vectors(bed: Bed, intake: Running) -> None:
    body = {"operation": "embed", "input": ["one", "three"], "role": "embed", "labels": {"a": "b"}, "dimensions": 3}
    status, task, _ = await intake.call("POST", "/v1/tasks", body, Prefer="wait=5")
    assert (status, task["status"], task["kind"], task["answer"]) == (200, "succeeded", "embedding", None)
    assert [one[0] for one in task["embeddings"]] == [3, 5]
    assert {len(one) for one in task["embeddings"]} == {3}
    _, again, _ = await intake.call("GET", f"/v1/tasks/{task['id']}")
    assert again["embeddings"] == task["embeddings"]
    (seen,) = bed.router.tasks
    assert (seen.task.operation, seen.task.lane) == (ModelOperation.EMBED, None)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"operation": "embed", "prompt": "a"}, "prompt"),
        ({"operation": "embed", "input": "a", "messages": []}, "messages"),
        ({"operation": "embed"}, "input"),
        ({"operation": "draw", "prompt": "a"}, "operation"),
        ({"input": "a"}, "input"),
    ],
)
async def test_an_operation_has_its_own_fields(bed: Bed, intake: Running, body: dict[str, Any], said: str) -> None:
    status, answer, _ = await intake.call("POST", "/v1/tasks", body)
    assert status == 400
    assert said in answer["detail"]
    assert bed.router.tasks == []


def test_the_synchronous_client_works_as_well() -> None:
    def ask(url: str) -> list[float]:
        with openai.OpenAI(
            base_url=f"{url}/v1", api_key=BOOTSTRAP_KEY, max_retries=0, _strict_response_validation=True
        ) as ai:
            return ai.embeddings.create(model="m", input="one").data[0].embedding

    async def scenario() -> list[float]:
        async with open_bed() as bed, bed.running() as intake:
            bed.router.answer = embed
            return await asyncio.to_thread(ask, intake.url)

    assert asyncio.run(scenario()) == pytest.approx(vector("one"))

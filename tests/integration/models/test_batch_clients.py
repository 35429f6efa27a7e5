"""Our clients of batch APIs against the simulator: what is sent, what comes back, and what may be wrong with it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from headrace_models.anthropic import Anthropic
from headrace_models.anthropic_batches import AnthropicBatches
from headrace_models.batch_calls import (
    LONGEST_RESULT_BYTES,
    BatchLook,
    BatchProvider,
    BatchState,
    FoundBatch,
    NotSubmitted,
    ResultKind,
    ResultLine,
    custom_id,
    number_of,
    result_lines,
)
from headrace_models.conversation import ChatMessage, ToolSpec
from headrace_models.errors import ProviderError, RetrySameProvider, TryAnotherProvider
from headrace_models.openai_compatible import OpenAICompatible
from headrace_models.ports import ChatRequest
from headrace_models.simulator import Simulator, SimulatorConfig, Speed
from headrace_models.simulator.batch_jobs import BatchFault
from headrace_models.simulator.faults import Fault, FaultKind
from pydantic import SecretStr

NAME = "0123456789abcdef0123456789abcdef"
MODELS = {"groq": "llama-3.3-70b-versatile", "anthropic": "claude-sonnet-4-6"}


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with Simulator(SimulatorConfig(speed=Speed(None))) as running:
        yield running


@pytest.fixture(params=sorted(MODELS))
async def batches(request: pytest.FixtureRequest, simulator: Simulator) -> AsyncIterator[BatchProvider]:
    provider: OpenAICompatible | Anthropic = (
        OpenAICompatible("groq", simulator.groq_url, SecretStr("key"))
        if request.param == "groq"
        else Anthropic(SecretStr("key"), base_url=simulator.anthropic_url)
    )
    yield provider.batches()
    await provider.close()


def asked(batches: BatchProvider, text: str, **changes: Any) -> ChatRequest:
    return ChatRequest(MODELS[batches.provider], (ChatMessage("user", text),), 60.0, **changes)


def question(number: int) -> str:
    return " ".join(["word"] * (number + 1))


async def submitted(batches: BatchProvider, count: int = 4, name: str = NAME) -> str:
    lines = [batches.line_of(custom_id(name, number), asked(batches, question(number))) for number in range(count)]
    return await batches.submit(name, lines)


async def all_of(batches: BatchProvider, batch_id: str) -> tuple[BatchLook, list[ResultLine]]:
    look = await batches.look(batch_id)
    return look, await batches.results(batch_id, look)


async def test_each_call_gets_its_answer_whatever_the_order(batches: BatchProvider, simulator: Simulator) -> None:
    batch_id = await submitted(batches)
    look, lines = await all_of(batches, batch_id)
    assert look.state is BatchState.ENDED
    assert [number_of(line.custom_id, NAME) for line in lines] == [3, 2, 1, 0]
    for line in lines:
        number = number_of(line.custom_id, NAME)
        assert number is not None
        result = await batches.answer_of(line, asked(batches, question(number)))
        assert f"has {number + 1} words" in result.text
        assert result.simulated
        assert result.usage.input_tokens > 0 < result.usage.output_tokens
    assert [entry.texts for entry in simulator.evidence.of(batches.provider)] == [
        (question(number),) for number in range(4)
    ]


async def test_files_and_results_are_gone_after_cleaning_up(batches: BatchProvider, simulator: Simulator) -> None:
    batch_id = await submitted(batches)
    look, _ = await all_of(batches, batch_id)
    await batches.clean_up(NAME, look)
    if batches.provider == "groq":
        assert simulator.files.files == ()
    else:
        assert (await batches.look(batch_id)).state is BatchState.GONE
    # Another worker may have done it already.
    await batches.clean_up(NAME, look)


async def test_a_batch_that_was_not_heard_of_is_found_again(batches: BatchProvider, simulator: Simulator) -> None:
    since = time.time_ns() // 1_000_000
    simulator.batches.plan(batches.provider, BatchFault.UNHEARD)
    with pytest.raises(RetrySameProvider):
        await submitted(batches)
    other = await submitted(batches, name="f" * 32)
    (_, lost) = simulator.batches.newest(batches.provider)
    assert await batches.find(NAME, 4, since, {other}) == FoundBatch(lost.job_id)
    assert await batches.find("e" * 32, 4, since, {other, lost.job_id}) == FoundBatch(None)
    # Long before: those batches are of others.
    assert await batches.find(NAME, 4, since + 10_000_000, set()) == FoundBatch(None)


async def test_a_running_batch_of_anthropic_does_not_say_whose_it_is(simulator: Simulator) -> None:
    provider = Anthropic(SecretStr("key"), base_url=simulator.anthropic_url)
    batches = provider.batches()
    simulator.batches.plan("anthropic", BatchFault.STUCK)
    await submitted(batches)
    assert await batches.find(NAME, 4, 0, set()) == FoundBatch(None, unsure=True)
    assert await batches.find(NAME, 5, 0, set()) == FoundBatch(None)
    await provider.close()


@pytest.mark.parametrize(
    ("fault", "error"), [(BatchFault.REFUSED, TryAnotherProvider), (BatchFault.BUSY, RetrySameProvider)]
)
async def test_it_is_told_when_surely_nothing_was_created(
    batches: BatchProvider, simulator: Simulator, fault: BatchFault, error: type[ProviderError]
) -> None:
    simulator.batches.plan(batches.provider, fault)
    with pytest.raises(NotSubmitted) as refused:
        await submitted(batches)
    assert type(refused.value.__cause__) is error
    assert simulator.batches.newest(batches.provider) == []
    # Again, with what the first try has left behind.
    await submitted(batches)
    assert len(simulator.files.files) == (2 if batches.provider == "groq" else 0)


async def test_a_cancelled_batch_gives_what_it_has(batches: BatchProvider, simulator: Simulator) -> None:
    simulator.batches.plan(batches.provider, BatchFault.STUCK)
    batch_id = await submitted(batches)
    assert (await batches.look(batch_id)).state is BatchState.RUNNING
    await batches.cancel(batch_id)
    _, lines = await all_of(batches, batch_id)
    kinds = {number_of(line.custom_id, NAME): line.kind for line in lines}
    assert kinds == {0: ResultKind.ANSWERED, 1: ResultKind.ANSWERED, 2: ResultKind.NOT_RUN, 3: ResultKind.NOT_RUN}


@pytest.mark.parametrize(
    ("fault", "numbers", "broken"),
    [
        (BatchFault.RESULT_MISSING, [3, 2, 1], 0),
        (BatchFault.RESULT_TWICE, [3, 2, 1, 0, 3], 0),
        (BatchFault.RESULT_UNKNOWN, [None, 3, 2, 1, 0], 0),
        (BatchFault.RESULT_BROKEN, [3, 2, 1, None], 1),
    ],
)
async def test_results_that_cannot_be_are_told_apart(
    batches: BatchProvider, simulator: Simulator, fault: BatchFault, numbers: list[int | None], broken: int
) -> None:
    simulator.batches.plan(batches.provider, fault)
    _, lines = await all_of(batches, await submitted(batches))
    assert [number_of(line.custom_id, NAME) for line in lines] == numbers
    assert sum(line.kind is ResultKind.BROKEN for line in lines) == broken


async def test_results_that_end_in_the_middle_are_read_again(batches: BatchProvider, simulator: Simulator) -> None:
    simulator.batches.plan(batches.provider, BatchFault.RESULTS_CUT)
    batch_id = await submitted(batches)
    with pytest.raises(RetrySameProvider):
        await all_of(batches, batch_id)
    _, lines = await all_of(batches, batch_id)
    assert len(lines) == 4


async def test_a_failed_call_of_a_batch_is_a_typed_failure(batches: BatchProvider, simulator: Simulator) -> None:
    simulator.faults.add(batches.provider, Fault(FaultKind.OVERLOADED), 1)
    _, lines = await all_of(batches, await submitted(batches))
    (failed,) = [line for line in lines if line.kind is ResultKind.FAILED]
    assert number_of(failed.custom_id, NAME) == 0
    assert failed.said["error"]


async def test_a_batch_that_the_provider_has_forgotten_is_gone(batches: BatchProvider, simulator: Simulator) -> None:
    simulator.batches.plan(batches.provider, BatchFault.GONE)
    batch_id = await submitted(batches)
    assert (await batches.look(batch_id)).state is BatchState.GONE


async def test_what_the_api_has_no_place_for_is_refused_before(batches: BatchProvider) -> None:
    with pytest.raises(TryAnotherProvider):
        batches.line_of(custom_id(NAME, 0), asked(batches, "several", choices=3))


async def test_a_call_is_the_same_as_an_ordinary_one_but_for_the_stream(batches: BatchProvider) -> None:
    tool = ToolSpec("look_up", "finds it", {"type": "object"}, None, None)
    line = batches.line_of("hr-x-0", asked(batches, "a \u2028 \n line", tools=(tool,), service_tier="flex"))
    assert b"\n" not in line
    assert b"look_up" in line
    for name in (b'"stream', b"service_tier", b"timeout"):
        assert name not in line


@pytest.mark.parametrize("said", ["../../v1/keys", "a/b", "", None, 7, "x" * 200, "a?b", "a b"])
async def test_an_id_that_leads_elsewhere_is_not_taken(simulator: Simulator, said: object) -> None:
    provider = Anthropic(SecretStr("key"), base_url=simulator.anthropic_url)
    batches = provider.batches()
    assert isinstance(batches, AnthropicBatches)
    batches._api._said = lambda *_args, **_named: answer({"id": said})  # type: ignore[method-assign]
    with pytest.raises(RetrySameProvider):
        await submitted(batches)
    await provider.close()


async def answer(document: dict[str, object]) -> dict[str, object]:
    await asyncio.sleep(0)
    return document


@pytest.mark.parametrize("size", [1, 3, 7, 1 << 20])
async def test_lines_of_results_are_read_however_they_are_cut(size: int) -> None:
    text = b'{"custom_id": "a"}\n\n  \nnot json\n[1]\n{"custom_id": "\xff"}\r\n{"custom_id": "b"}'

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(text), size):
            yield text[start : start + size]

    found = [None if line is None else line["custom_id"] async for line in result_lines(pieces())]
    assert found == ["a", None, None, "\ufffd", "b"]


async def test_a_line_of_results_without_end_is_skipped_and_not_kept() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(LONGEST_RESULT_BYTES // (1 << 20) + 2):
            yield b"x" * (1 << 20)
        yield b'\n{"custom_id": "a"}\n'

    assert [line async for line in result_lines(pieces())] == [None, {"custom_id": "a"}]


@pytest.mark.parametrize(
    "said", ["hr-x-0", f"hr-{NAME}-", f"hr-{NAME}-0 ", f"hr-{'f' * 32}-0", "", f"hr-{NAME}-9999999"]
)
def test_a_foreign_id_of_a_call_is_not_one_of_ours(said: str) -> None:
    assert number_of(said, NAME) is None

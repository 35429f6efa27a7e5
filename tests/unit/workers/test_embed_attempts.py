"""Attempts that ask for vectors of texts, and those that ask for what no worker does."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from headrace_contracts import events, topics
from headrace_contracts.content import plain
from headrace_contracts.events import Content, ModelOperation, Options, Outcome
from headrace_models.errors import RetrySameProvider, TryAnotherProvider
from headrace_models.ports import CallUsage
from headrace_streams.errors import RecordRefused
from headrace_streams.memory import NetworkRequest, Operation
from headrace_testing.workers import ScriptedProvider, WorkerBench, attempt, healthy


def embedding_attempt(*texts: str, **options: Any) -> events.AttemptRequested:
    inputs = tuple(map(plain, texts))
    return attempt(operation=ModelOperation.EMBED, messages=(), options=Options(inputs=inputs, **options), stream=True)


async def _run(provider: ScriptedProvider, request: events.AttemptRequested) -> tuple[Any, WorkerBench]:
    bench = WorkerBench()
    await bench.prepare()
    await bench.runner([healthy(provider)]).handle(bench.submit(request))
    (finished,) = bench.read(topics.ATTEMPTS_FINISHED)
    return finished, bench


@pytest.mark.parametrize("texts", [("one",), ("one", "two"), tuple(f"text {number}" for number in range(300))])
async def test_vectors_are_reported_with_what_was_read(texts: tuple[str, ...]) -> None:
    finished, bench = await _run(ScriptedProvider(), embedding_attempt(*texts, dimensions=16))
    assert (finished.outcome, finished.finish_reason, finished.content) == (Outcome.ANSWERED, "stop", None)
    assert len(finished.embeddings) == len(texts)
    assert {len(struct.unpack("<16f", one.data)) for one in finished.embeddings} == {16}
    assert {one.cipher for one in finished.embeddings} == {"none"}
    (usage,) = bench.read(topics.USAGE_RECORDED)
    calls = -(-len(texts) // 128)
    assert (usage.usage.input_tokens, usage.usage.output_tokens) == (5 * calls, 0)
    assert bench.read(topics.TASKS_REPLIES) == [], "vectors do not come in pieces"


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (Options(), "invalid_request"),
        (None, "invalid_request"),
        (Options(inputs=(plain("a"), plain(""))), "invalid_request"),
        (Options(inputs=(Content(cipher="key-1", data=b"sealed"),)), "content_sealed"),
    ],
)
async def test_texts_that_cannot_be_read_are_not_asked_about(options: Options | None, code: str) -> None:
    finished, bench = await _run(ScriptedProvider(), attempt(operation=ModelOperation.EMBED, options=options))
    assert finished.outcome is Outcome.FAILED_PERMANENT
    assert finished.failure.code == code
    assert bench.read(topics.USAGE_RECORDED) == []


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (RetrySameProvider("invalid_vectors", "NaN", provider="ollama", usage=CallUsage(3)), Outcome.FAILED_RETRYABLE),
        (TryAnotherProvider("unsupported_operation", "none", provider="ollama"), Outcome.FAILED_PERMANENT),
        (RuntimeError("a defect"), Outcome.FAILED_RETRYABLE),
    ],
)
async def test_failures_are_no_vectors(error: Exception, outcome: Outcome) -> None:
    provider = ScriptedProvider()
    provider.script = [error]
    finished, _ = await _run(provider, embedding_attempt("one"))
    assert (finished.outcome, finished.embeddings) == (outcome, ())


@pytest.mark.parametrize(
    "operation",
    [
        ModelOperation.RERANK,
        ModelOperation.TRANSCRIBE,
        ModelOperation.SPEAK,
        ModelOperation.DRAW,
        ModelOperation.UNKNOWN,
    ],
)
async def test_what_no_worker_does_fails_for_good(operation: ModelOperation) -> None:
    finished, bench = await _run(ScriptedProvider(), attempt(operation=operation))
    assert (finished.outcome, finished.failure.code) == (Outcome.FAILED_PERMANENT, "unsupported_operation")
    assert bench.read(topics.USAGE_RECORDED) == []


async def test_vectors_that_kafka_refuses_end_the_attempt() -> None:
    class Refusing:
        async def call(self, request: NetworkRequest, perform: Any) -> Any:
            if request.operation is Operation.APPEND and not self.refused:
                self.refused = True
                raise RecordRefused("too large")
            return perform()

        refused = True

    network = Refusing()
    bench = WorkerBench(network=network)
    await bench.prepare()
    record = bench.submit(embedding_attempt("one"))
    network.refused = False
    await bench.runner([healthy(ScriptedProvider())]).handle(record)
    (finished,) = bench.read(topics.ATTEMPTS_FINISHED)
    assert (finished.outcome, finished.failure.code, finished.embeddings) == (
        Outcome.FAILED_PERMANENT, "answer_too_large", (),
    )  # fmt: skip

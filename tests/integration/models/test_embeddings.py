"""Vectors of texts through the clients, against the simulator: what is right, and what a hostile provider says."""

from __future__ import annotations

import asyncio
import math
import struct
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from headrace_contracts.cargo import MOST_VECTOR_BYTES
from headrace_models import capabilities
from headrace_models.anthropic import Anthropic
from headrace_models.dialects import dialect_for
from headrace_models.embedding import INPUTS_PER_CALL, EmbedCall, embed, in_order, packed
from headrace_models.errors import RetrySameProvider, TryAnotherProvider
from headrace_models.ollama import OllamaNode
from headrace_models.openai_compatible import OpenAICompatible
from headrace_models.ports import CallUsage, EmbedRequest, EmbedResult, Provider
from headrace_models.simulator import Simulator, SimulatorConfig, Speed
from headrace_models.simulator.embeddings import DEFAULT_DIMENSIONS, embedding
from headrace_models.simulator.faults import OF_VECTORS, Fault, FaultKind
from headrace_models.tavily import Tavily
from pydantic import SecretStr

LOCAL, CLOUD = "nomic-embed-text:v1.5", "text-embedding-3-small"
MODELS = {"ollama": LOCAL, "groq": CLOUD}


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    nodes = {"workstation": ("phi3:3.8b", LOCAL)}
    async with Simulator(SimulatorConfig(speed=Speed(None), nodes=nodes)) as running:
        yield running


def _compatible(simulator: Simulator, dialect: str) -> OpenAICompatible:
    return OpenAICompatible("groq", simulator.groq_url, SecretStr("k"), dialect=dialect_for("", "", dialect))


@pytest.fixture(params=["ollama", "openai", "generic;dimensions=on"])
async def maker(request: pytest.FixtureRequest, simulator: Simulator) -> AsyncIterator[Provider]:
    made: Provider = (
        OllamaNode("workstation", simulator.ollama_url("workstation"))
        if request.param == "ollama"
        else _compatible(simulator, request.param)
    )
    await made.status()
    yield made
    await made.close()


def _asked(provider: Provider, *texts: str, **more: Any) -> EmbedRequest:
    return EmbedRequest(MODELS[provider.provider], texts, timeout_seconds=10, **more)


def _numbers(vector: bytes) -> list[float]:
    return list(struct.unpack(f"<{len(vector) // 4}f", vector))


def _cosine(one: bytes, other: bytes) -> float:
    return sum(a * b for a, b in zip(_numbers(one), _numbers(other), strict=True))


async def test_near_texts_have_near_vectors(maker: Provider) -> None:
    texts = ("the cat sat on the mat", "a cat sat on a mat", "offsets of a Kafka partition")
    result = await maker.embed(_asked(maker, *texts))
    first, near, far = result.vectors
    assert {len(vector) for vector in result.vectors} == {4 * DEFAULT_DIMENSIONS}
    assert _cosine(first, near) > 0.6 > 0.3 > _cosine(first, far)
    assert result.simulated
    assert result.usage.input_tokens > 10
    assert result.usage.output_tokens == 0
    assert _numbers(first) == pytest.approx(embedding(texts[0]), abs=1e-6)


@pytest.mark.parametrize("dimensions", [1, 64, 1024])
async def test_the_length_that_is_asked_for(maker: Provider, dimensions: int) -> None:
    result = await maker.embed(_asked(maker, "one", "two", dimensions=dimensions))
    assert {len(vector) for vector in result.vectors} == {4 * dimensions}


async def test_a_server_that_takes_no_length_is_not_asked_for_one(simulator: Simulator) -> None:
    client = _compatible(simulator, "mistral")
    with pytest.raises(TryAnotherProvider) as caught:
        await client.embed(_asked(client, "one", dimensions=8))
    assert caught.value.code == "request_rejected"
    assert (await client.embed(_asked(client, "one"))).vectors
    await client.close()


@pytest.mark.parametrize("kind", [*sorted(OF_VECTORS), FaultKind.EMPTY_ANSWER])
async def test_what_nobody_can_use_is_a_failure(maker: Provider, simulator: Simulator, kind: FaultKind) -> None:
    simulator.faults.add(maker.provider, Fault(kind), 1)
    with pytest.raises(RetrySameProvider) as caught:
        await maker.embed(_asked(maker, "one", "two", "three"))
    assert caught.value.code == "invalid_vectors"
    assert caught.value.usage.input_tokens > 0, "it was paid for"
    assert len((await maker.embed(_asked(maker, "one", "two", "three"))).vectors) == 3


async def test_a_vector_of_another_length_than_asked_for_is_a_failure(maker: Provider, simulator: Simulator) -> None:
    simulator.faults.add(maker.provider, Fault(FaultKind.VECTOR_SHORT), 1)
    with pytest.raises(TryAnotherProvider, match="vectors of 7 numbers, where 8 were asked for"):
        await maker.embed(_asked(maker, "one", dimensions=8))


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (FaultKind.RATE_LIMIT, "rate_limited"),
        (FaultKind.OVERLOADED, "overloaded"),
        (FaultKind.ERROR, "provider_error"),
        (FaultKind.UNAUTHORISED, "not_authorised"),
        (FaultKind.REDIRECT, "redirected"),
    ],
)
async def test_what_an_upstream_complains_of(maker: Provider, simulator: Simulator, kind: FaultKind, code: str) -> None:
    simulator.faults.add(maker.provider, Fault(kind), 1)
    with pytest.raises((RetrySameProvider, TryAnotherProvider)) as caught:
        await maker.embed(_asked(maker, "one"))
    assert caught.value.code == code


@pytest.mark.parametrize("kind", [FaultKind.NULL_COUNTS, FaultKind.NEGATIVE_COUNTS, FaultKind.VAST_COUNTS])
async def test_counts_that_cannot_be_are_estimated(maker: Provider, simulator: Simulator, kind: FaultKind) -> None:
    simulator.faults.add(maker.provider, Fault(kind), 1)
    assert (await maker.embed(_asked(maker, "x" * 400))).usage == CallUsage(input_tokens=100)


async def test_a_silent_server_is_given_up(maker: Provider, simulator: Simulator) -> None:
    simulator.faults.add(maker.provider, Fault(FaultKind.TIMEOUT), 1)
    with pytest.raises(RetrySameProvider) as caught:
        await maker.embed(EmbedRequest(MODELS[maker.provider], ("one",), timeout_seconds=0.2))
    assert caught.value.code == "timeout"


async def test_a_text_that_is_too_long_is_refused_and_not_cut_off(simulator: Simulator) -> None:
    node = OllamaNode("workstation", simulator.ollama_url("workstation"))
    await node.status()
    for text in ("word " * 3_000, "word " * 6_000):
        assert (await node.embed(EmbedRequest(LOCAL, ("short", text), timeout_seconds=10))).vectors
    with pytest.raises(TryAnotherProvider) as caught:
        await node.embed(EmbedRequest(LOCAL, ("short", "word " * 9_000), timeout_seconds=10))
    assert caught.value.code == "context_too_long"
    await node.close()


async def test_an_answer_that_was_made_elsewhere_is_refused(simulator: Simulator) -> None:
    node = OllamaNode("workstation", simulator.ollama_url("workstation"))
    await node.status()
    simulator.faults.add("ollama", Fault(FaultKind.ANSWERED_REMOTELY), 1)
    with pytest.raises(TryAnotherProvider) as caught:
        await node.embed(_asked(node, "a secret"))
    assert caught.value.code == "answered_remotely"
    with pytest.raises(TryAnotherProvider) as caught:
        await node.embed(_asked(node, "a secret"))
    assert caught.value.code == "model_missing"
    await node.close()


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda s: Anthropic(SecretStr("k"), base_url=s.anthropic_url), "unsupported_operation"),
        (lambda s: Tavily(SecretStr("k"), base_url=s.tavily_url), "unsupported_operation"),
        (lambda s: _compatible(s, "groq"), "unsupported_operation"),
        (lambda s: _compatible(s, "deepseek"), "unsupported_operation"),
    ],
)
async def test_who_makes_none_is_not_asked(
    simulator: Simulator, make: Callable[[Simulator], Provider], code: str
) -> None:
    provider = make(simulator)
    with pytest.raises(TryAnotherProvider) as caught:
        await provider.embed(EmbedRequest("m", ("one",), timeout_seconds=1))
    assert caught.value.code == code
    models = (await provider.status()).models
    assert all(capabilities.EMBEDDINGS not in (model.capabilities or ()) for model in models)
    await provider.close()


@pytest.mark.parametrize(
    "said",
    [None, [], "", "!!!", "AAA=", "AAAAAAA=", {"a": 1}, 7, [True], [None], ["1"], [[1.0]], [1.0, math.nan], [math.inf],
     [1e300], [10**40], "AADAfw=="],
)  # fmt: skip
def test_what_is_no_vector(said: object) -> None:
    assert packed(said) is None


@pytest.mark.parametrize(
    ("said", "numbers"),
    [
        ([1, 2.5], [1.0, 2.5]),
        ([0.0], [0.0]),
        ("AACAPwAAAMA=", [1.0, -2.0]),
        ([-1e-40], [pytest.approx(-1e-40, rel=1e-4)]),
    ],
)
def test_what_is_one(said: object, numbers: list[float]) -> None:
    found = packed(said)
    assert found is not None
    assert _numbers(found) == numbers


@pytest.mark.parametrize(
    ("indexes", "found"),
    [([1, 0], ["b", "a"]), ([0, 1], ["a", "b"]), ([0, 0], ["b"]), ([1, 2], ["a"]), ([0, "x"], ["a"]), ([-1, True], [])],
)
def test_vectors_are_taken_by_their_index(indexes: list[object], found: list[object]) -> None:
    assert in_order([{"index": index, "embedding": one} for index, one in zip(indexes, "ab", strict=True)]) == found


class _Counting:
    """Makes vectors of one length, and counts its calls."""

    provider = node = "counting"

    def __init__(self, dimensions: int) -> None:
        self.dimensions = dimensions
        self.calls: list[int] = []

    async def embed(self, request: EmbedRequest) -> EmbedResult:
        self.calls.append(len(request.inputs))
        call = EmbedCall("counting", request)
        call.accepted = True
        call.usage.hear(input_tokens=len(request.inputs))
        said = [[float(len(text))] * self.dimensions for text in request.inputs]
        return call.result(said, model="m", simulated=False)


@pytest.mark.parametrize("number", [1, INPUTS_PER_CALL, INPUTS_PER_CALL + 1, 3 * INPUTS_PER_CALL - 1])
async def test_many_texts_are_several_calls_and_one_result(number: int) -> None:
    provider: Any = _Counting(2)
    texts = tuple("x" * (place % 7 + 1) for place in range(number))
    result = await embed(provider, EmbedRequest("m", texts, timeout_seconds=5))
    assert [_numbers(vector)[0] for vector in result.vectors] == [len(text) for text in texts]
    assert max(provider.calls) <= INPUTS_PER_CALL
    assert result.usage.input_tokens == sum(provider.calls) == number


@pytest.mark.parametrize("dimensions", [768, 1536, 3072])
@pytest.mark.parametrize("stated", [True, False])
async def test_more_vectors_than_an_answer_holds_are_refused_early(dimensions: int, stated: bool) -> None:
    provider: Any = _Counting(dimensions)
    fit = MOST_VECTOR_BYTES // (4 * dimensions)
    request = EmbedRequest("m", ("x",) * (fit + 1), timeout_seconds=5, dimensions=dimensions if stated else None)
    with pytest.raises(TryAnotherProvider, match=f"at most {fit} texts") as caught:
        await embed(provider, request)
    assert caught.value.code == "answer_too_large"
    assert caught.value.usage.input_tokens == sum(provider.calls)
    assert len(provider.calls) == (0 if stated else 1)


async def test_what_was_consumed_before_a_failure_or_an_end_is_told() -> None:
    class Failing(_Counting):
        async def embed(self, request: EmbedRequest) -> EmbedResult:
            if self.calls:
                raise failure
            return await super().embed(request)

    texts = ("x",) * (INPUTS_PER_CALL + 5)
    failure: BaseException = RetrySameProvider("overloaded", "busy", provider="p", usage=CallUsage(2))
    provider: Any = Failing(3)
    with pytest.raises(RetrySameProvider) as caught:
        await embed(provider, EmbedRequest("m", texts, timeout_seconds=5))
    assert caught.value.usage.input_tokens == INPUTS_PER_CALL + 2
    failure = asyncio.CancelledError(CallUsage(4))
    with pytest.raises(asyncio.CancelledError) as ended:
        await embed(Failing(3), EmbedRequest("m", texts, timeout_seconds=5))  # type: ignore[arg-type]
    assert ended.value.args[0] == CallUsage(INPUTS_PER_CALL + 4)

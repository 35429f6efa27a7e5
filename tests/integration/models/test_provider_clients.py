"""Our clients, through the real packages, against the simulator: answers, refusals, errors, timeouts, cancellation."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest
from headrace_models.anthropic import Anthropic
from headrace_models.conversation import ChatMessage
from headrace_models.errors import ProviderError, RetrySameProvider, TryAnotherProvider
from headrace_models.ollama import OllamaNode
from headrace_models.openai_compatible import OpenAICompatible
from headrace_models.ports import ChatRequest, Provider
from headrace_models.searxng import SearXNG
from headrace_models.simulator import Simulator, SimulatorConfig, Speed
from headrace_models.simulator.answers import REFUSAL_MARK, REFUSAL_TEXT
from headrace_models.simulator.faults import Fault, FaultKind
from headrace_models.tavily import Tavily
from pydantic import SecretStr

PROVIDERS = ("ollama", "groq", "anthropic", "tavily", "searxng")
MODELS = {
    "ollama": "phi3:3.8b",
    "groq": "llama-3.3-70b-versatile",
    "anthropic": "claude-sonnet-4-6",
    "tavily": "tavily-search",
    "searxng": "web",
}
TALKERS = ("ollama", "groq", "anthropic")


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with Simulator(SimulatorConfig(speed=Speed(None))) as running:
        yield running


def _make(kind: str, simulator: Simulator, *, key: str = "test-key") -> Provider:
    makers: dict[str, Callable[[], Provider]] = {
        "ollama": lambda: OllamaNode("workstation", simulator.ollama_url("workstation")),
        "groq": lambda: OpenAICompatible("groq", simulator.groq_url, SecretStr(key)),
        "anthropic": lambda: Anthropic(SecretStr(key), base_url=simulator.anthropic_url),
        "tavily": lambda: Tavily(SecretStr(key), base_url=simulator.tavily_url),
        "searxng": lambda: SearXNG("search", simulator.searxng_url("search")),
    }
    return makers[kind]()


@pytest.fixture(params=PROVIDERS)
async def provider(request: pytest.FixtureRequest, simulator: Simulator) -> AsyncIterator[Provider]:
    made = _make(request.param, simulator)
    yield made
    await made.close()


@pytest.fixture(params=TALKERS)
async def talker(request: pytest.FixtureRequest, simulator: Simulator) -> AsyncIterator[Provider]:
    made = _make(request.param, simulator)
    yield made
    await made.close()


def _request(
    provider: Provider, text: str = "Review app.py:\ndef add_one(x):\n    return eval(x) + 1\n"
) -> ChatRequest:
    messages = (ChatMessage("system", "You review code."), ChatMessage("user", text))
    return ChatRequest(MODELS[provider.provider], messages, timeout_seconds=10)


async def _chat_failing(provider: Provider, request: ChatRequest) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await provider.chat(request, lambda _: None)
    return caught.value


async def test_an_answer_streams_in_pieces_that_join_to_the_result(talker: Provider) -> None:
    pieces: list[str] = []
    result = await talker.chat(_request(talker), pieces.append)
    assert len(pieces) > 1
    assert "".join(pieces) == result.text
    assert "evaluates text as code" in result.text
    assert result.finish_reason == "stop"
    assert not result.refused
    assert result.simulated
    assert result.model == MODELS[talker.provider]
    assert result.usage.input_tokens > 10
    assert result.usage.output_tokens > 10
    assert 0 < result.first_token_ms <= result.total_ms


async def test_pieces_are_handed_to_an_async_receiver_one_after_the_other(talker: Provider) -> None:
    pieces: list[str] = []

    async def receive(piece: str) -> None:
        await asyncio.sleep(0)
        pieces.append(piece)

    result = await talker.chat(_request(talker), receive)
    assert "".join(pieces) == result.text


async def test_the_same_prompt_gets_the_same_answer(talker: Provider) -> None:
    first = await talker.chat(_request(talker), lambda _: None)
    second = await talker.chat(_request(talker), lambda _: None)
    assert first.text == second.text
    other = await talker.chat(_request(talker, "Review b.py:\ndef other(): ...\n"), lambda _: None)
    assert other.text != first.text


async def test_an_answer_is_cut_at_its_limit(talker: Provider) -> None:
    result = await talker.chat(replace(_request(talker), max_output_tokens=5), lambda _: None)
    assert result.finish_reason == "length"
    assert result.usage.output_tokens == 5


async def test_a_stop_text_ends_the_answer(talker: Provider) -> None:
    result = await talker.chat(replace(_request(talker), stop=("evaluates",)), lambda _: None)
    assert "evaluates" not in result.text
    assert result.finish_reason == "stop"


async def test_json_is_one_json_value(talker: Provider) -> None:
    request = replace(_request(talker), json=True, temperature=0.2, seed=7)
    result = await talker.chat(request, lambda _: None)
    document = json.loads(result.text)
    assert document["functions"] == ["add_one"]
    assert document["findings"][0]["severity"] == "high"


@pytest.mark.parametrize("kind", ["groq", "anthropic"])
async def test_a_refusal_is_a_result(kind: str, simulator: Simulator) -> None:
    provider = _make(kind, simulator)
    result = await provider.chat(_request(provider, f"{REFUSAL_MARK} please"), lambda _: None)
    assert result.refused
    assert result.text == REFUSAL_TEXT
    simulator.faults.add(kind, Fault(FaultKind.REFUSAL), 1)
    assert (await provider.chat(_request(provider), lambda _: None)).refused
    assert not (await provider.chat(_request(provider), lambda _: None)).refused
    await provider.close()


@pytest.mark.parametrize(
    ("kind", "error", "code"),
    [
        (FaultKind.RATE_LIMIT, RetrySameProvider, "rate_limited"),
        (FaultKind.OVERLOADED, RetrySameProvider, "overloaded"),
        (FaultKind.ERROR, RetrySameProvider, "provider_error"),
        (FaultKind.QUOTA, TryAnotherProvider, "quota_exhausted"),
        (FaultKind.UNAUTHORISED, TryAnotherProvider, "not_authorised"),
        (FaultKind.MODEL_MISSING, TryAnotherProvider, "model_missing"),
        (FaultKind.BAD_REQUEST, TryAnotherProvider, "request_rejected"),
    ],
)
async def test_an_error_says_what_to_do(
    provider: Provider, simulator: Simulator, kind: FaultKind, error: type[ProviderError], code: str
) -> None:
    simulator.faults.add(provider.provider, Fault(kind), 1)
    caught = await _chat_failing(provider, _request(provider))
    assert type(caught) is error
    assert caught.code == code
    assert caught.status is not None
    assert provider.provider in caught.message
    assert "add_one" not in str(caught)
    assert (await provider.chat(_request(provider), lambda _: None)).text


@pytest.mark.parametrize("kind", ["groq", "anthropic", "tavily"])
async def test_retry_after_is_passed_on(kind: str, simulator: Simulator) -> None:
    provider = _make(kind, simulator)
    simulator.faults.add(kind, Fault(FaultKind.RATE_LIMIT, retry_after_seconds=2.5), 1)
    caught = await _chat_failing(provider, _request(provider))
    assert isinstance(caught, RetrySameProvider)
    assert caught.after_seconds == 2.5
    await provider.close()


async def test_silence_ends_at_the_timeout(provider: Provider, simulator: Simulator) -> None:
    simulator.faults.add(provider.provider, Fault(FaultKind.TIMEOUT), 1)
    caught = await _chat_failing(provider, replace(_request(provider), timeout_seconds=0.3))
    assert isinstance(caught, RetrySameProvider)
    assert caught.code == "timeout"


@pytest.mark.parametrize("kind", [FaultKind.DISCONNECT, FaultKind.STREAM_ERROR])
async def test_an_answer_that_breaks_off_is_no_answer(talker: Provider, simulator: Simulator, kind: FaultKind) -> None:
    simulator.faults.add(talker.provider, Fault(kind), 1)
    pieces: list[str] = []
    with pytest.raises(RetrySameProvider) as caught:
        await talker.chat(_request(talker), pieces.append)
    assert caught.value.code in ("connection_lost", "provider_error", "overloaded")
    assert caught.value.usage.input_tokens > 0


async def test_a_place_that_is_not_there_is_unreachable(unused_tcp_port: int) -> None:
    address = f"http://127.0.0.1:{unused_tcp_port}"
    providers: list[Provider] = [
        OllamaNode("gone", address),
        OpenAICompatible("groq", address, SecretStr("k")),
        Anthropic(SecretStr("k"), base_url=address),
        Tavily(SecretStr("k"), base_url=address),
    ]
    for provider in providers:
        caught = await _chat_failing(provider, _request(provider))
        assert isinstance(caught, RetrySameProvider), provider
        assert caught.code == "unreachable"
        assert caught.usage.input_tokens == 0
        status = await provider.status()
        assert not status.healthy
        assert status.reason
        await provider.close()


async def test_status_lists_models_and_tells_that_it_is_simulated(provider: Provider) -> None:
    status = await provider.status()
    assert status.healthy
    assert status.reason == ""
    assert status.simulated
    assert status.latency_ms is not None
    assert MODELS[provider.provider] in {model.name for model in status.models}


async def test_a_node_says_which_models_it_has_in_memory(simulator: Simulator) -> None:
    node = OllamaNode("workstation", simulator.ollama_url("workstation"))
    before = {model.name: model for model in (await node.status()).models}
    assert not before["phi3:3.8b"].loaded
    await node.chat(_request(node), lambda _: None)
    status = await node.status()
    after = {model.name: model for model in status.models}
    assert after["phi3:3.8b"].loaded
    assert after["phi3:3.8b"].size_bytes == 2_300_000_000
    assert after["phi3:3.8b"].context_tokens == 8192
    assert "simulator" in status.version
    await node.close()


async def test_an_unknown_model_and_an_unknown_node_are_told_apart(simulator: Simulator) -> None:
    node = OllamaNode("workstation", simulator.ollama_url("workstation"))
    request = replace(_request(node), model="llama3:8b")
    caught = await _chat_failing(node, request)
    assert isinstance(caught, TryAnotherProvider)
    assert caught.code == "model_missing"
    await node.close()
    missing = OllamaNode("missing", simulator.ollama_url("missing"))
    assert not (await missing.status()).healthy
    await missing.close()


async def test_a_wrong_key_makes_the_provider_unhealthy(simulator: Simulator) -> None:
    tavily = Tavily(SecretStr(""), base_url=f"{simulator.url}/nowhere")
    status = await tavily.status()
    assert not status.healthy
    assert "404" in status.reason
    await tavily.close()


async def test_models_that_refuse_sampling_parameters_are_not_sent_them(simulator: Simulator) -> None:
    provider = Anthropic(SecretStr("k"), base_url=simulator.anthropic_url)
    for model in ("claude-sonnet-5-5", "claude-sonnet-4-6"):
        request = replace(_request(provider), model=model, temperature=0.3, top_p=0.9)
        assert (await provider.chat(request, lambda _: None)).model == model
    await provider.close()


async def test_a_conversation_of_only_a_system_text_is_answered(talker: Provider) -> None:
    request = ChatRequest(MODELS[talker.provider], (ChatMessage("system", "Say hello."),), timeout_seconds=5)
    assert (await talker.chat(request, lambda _: None)).text


async def test_a_search_counts_as_a_search(simulator: Simulator) -> None:
    tavily = Tavily(SecretStr("k"), base_url=simulator.tavily_url)
    result = await tavily.chat(_request(tavily, "kafka journals"), lambda _: None)
    findings = json.loads(result.text)
    assert findings["results"][0]["url"].startswith("https://simulated.example/")
    assert result.usage.searches == 1
    assert result.usage.input_tokens == 0
    nothing = ChatRequest("tavily-search", (ChatMessage("system", "x"),), timeout_seconds=5)
    assert isinstance(await _chat_failing(tavily, nothing), TryAnotherProvider)
    await tavily.close()


async def test_cancelling_a_call_ends_it_at_the_provider() -> None:
    async with Simulator(SimulatorConfig(speed=Speed(0.2), slots_per_node=1)) as slow:
        node = OllamaNode("workstation", slow.ollama_url("workstation"))
        heard = asyncio.Event()
        running = asyncio.create_task(node.chat(_request(node), lambda _: heard.set()))
        await asyncio.wait_for(heard.wait(), 30)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        # The only slot of the node is free again, or this call would wait for the whole first answer.
        again = asyncio.Event()
        second = asyncio.create_task(node.chat(_request(node), lambda _: again.set()))
        await asyncio.wait_for(again.wait(), 30)
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        await node.close()


async def test_a_receiver_that_fails_ends_the_call_with_what_it_consumed(talker: Provider) -> None:
    def receive(_: str) -> None:
        raise TimeoutError("the receiver's own")

    with pytest.raises(RetrySameProvider) as caught:
        await talker.chat(_request(talker), receive)
    assert caught.value.code == "worker_error"
    assert "the receiver's own" not in str(caught.value)
    assert caught.value.usage.input_tokens > 0

"""The simulator's hostile behaviours, over each wire and through the real clients: what comes of each of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import aiohttp
import httpx2
import pytest
from headrace_models.anthropic import Anthropic
from headrace_models.conversation import ChatMessage
from headrace_models.errors import ProviderError
from headrace_models.ollama import OllamaNode
from headrace_models.openai_compatible import OpenAICompatible
from headrace_models.ports import ChatRequest, ChatResult, Provider
from headrace_models.simulator import Simulator, SimulatorConfig, Speed
from headrace_models.simulator.faults import OF_VECTORS, Fault, FaultKind
from headrace_models.simulator.hostile import ELSEWHERE, TORN
from headrace_models.tavily import Tavily
from pydantic import SecretStr

MODELS = {"ollama": "phi3:3.8b", "groq": "llama-3.3-70b-versatile", "anthropic": "claude-sonnet-4-6"}
CODES = {
    FaultKind.SILENCE: "timeout",
    FaultKind.KEEP_ALIVES: "timeout",
    FaultKind.UNFINISHED: "connection_lost",
    FaultKind.BROKEN_JSON: "provider_error",
    FaultKind.REPEATED_TOKEN: "connection_lost",
    FaultKind.EMPTY_ANSWER: "empty_answer",
    FaultKind.THINKING_ONLY: "empty_answer",
    FaultKind.THINKING_TO_THE_END: "empty_answer",
    FaultKind.UNKNOWN_FINISH: "unknown_finish",
    FaultKind.REDIRECT: "redirected",
    FaultKind.REDIRECT_AWAY: "redirected",
}
"""Codes of the failures; an answer is expected of the other kinds."""
SPOKEN = (
    FaultKind.JSON_BODY, FaultKind.TORN_CHARACTER, FaultKind.TORN_BYTES, FaultKind.NUMBER_AS_MODEL,
    FaultKind.HALF_CHARACTER_AS_MODEL,
)  # fmt: skip
COUNTS = (
    FaultKind.NULL_COUNTS, FaultKind.NEGATIVE_COUNTS, FaultKind.NAN_COUNTS, FaultKind.VAST_COUNTS,
    FaultKind.LARGE_COUNTS,
)  # fmt: skip


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with Simulator(SimulatorConfig(speed=Speed(None))) as running:
        yield running


@pytest.fixture(params=MODELS)
async def talker(request: pytest.FixtureRequest, simulator: Simulator) -> AsyncIterator[Provider]:
    made: dict[str, Provider] = {
        "ollama": OllamaNode("workstation", simulator.ollama_url("workstation")),
        "groq": OpenAICompatible("groq", simulator.groq_url, SecretStr("key")),
        "anthropic": Anthropic(SecretStr("key"), base_url=simulator.anthropic_url),
    }
    yield made[request.param]
    for one in made.values():
        await one.close()


def _request(provider: str) -> ChatRequest:
    return ChatRequest(
        MODELS[provider], (ChatMessage("user", "Explain parse() in app.py"),), timeout_seconds=10,
        first_token_seconds=0.6, between_tokens_seconds=0.4,
    )  # fmt: skip


async def _told(talker: Provider, simulator: Simulator, kind: FaultKind) -> ChatResult | ProviderError:
    simulator.faults.add(talker.provider, Fault(kind), 1)
    try:
        return await talker.chat(_request(talker.provider), lambda _: None)
    except ProviderError as error:
        return error


@pytest.mark.parametrize("kind", CODES)
async def test_what_is_no_answer_is_a_failure_with_its_code(
    talker: Provider, simulator: Simulator, kind: FaultKind
) -> None:
    told = await _told(talker, simulator, kind)
    assert isinstance(told, ProviderError)
    assert told.code == CODES[kind], told.message
    assert simulator.faults.taken == {(talker.provider, kind): 1}
    assert simulator.evidence.of(ELSEWHERE) == []


@pytest.mark.parametrize("kind", [*SPOKEN, *COUNTS])
async def test_an_answer_with_odd_details_is_the_same_answer(
    talker: Provider, simulator: Simulator, kind: FaultKind
) -> None:
    plain = await talker.chat(_request(talker.provider), lambda _: None)
    told = await _told(talker, simulator, kind)
    assert isinstance(told, ChatResult), told
    torn = kind in (FaultKind.TORN_CHARACTER, FaultKind.TORN_BYTES)
    assert told.text == plain.text + (TORN if torn else "")
    assert told.model == MODELS[talker.provider]
    if kind in COUNTS:
        # Estimated instead: not what was stated, and not nothing.
        assert 0 < told.usage.input_tokens < 1000
        assert 0 < told.usage.output_tokens < 1000
    else:
        assert told.usage == plain.usage


PATHS = {
    "ollama": "/ollama/workstation/api/chat",
    "groq": "/groq/openai/v1/chat/completions",
    "anthropic": "/anthropic/v1/messages",
}
ON_THE_WIRE = {
    FaultKind.NULL_COUNTS: b": null", FaultKind.NEGATIVE_COUNTS: b": -5", FaultKind.NAN_COUNTS: b": NaN",
    FaultKind.VAST_COUNTS: b": 1e+30", FaultKind.LARGE_COUNTS: b": 1180591620717411303424",
    FaultKind.NUMBER_AS_MODEL: b'"model": 7', FaultKind.HALF_CHARACTER_AS_MODEL: b'"model": "\\ud83d"',
    FaultKind.TORN_CHARACTER: b'"\\ude00"', FaultKind.TORN_BYTES: TORN.encode(), FaultKind.UNKNOWN_FINISH: b'"because"',
}  # fmt: skip
"""What stands in the body where nothing like it stands in an ordinary one."""


async def _chunks(simulator: Simulator, provider: str) -> list[bytes]:
    body = {
        "model": MODELS[provider], "stream": True, "stream_options": {"include_usage": True}, "max_tokens": 500,
        "messages": [{"role": "user", "content": "Explain parse() in app.py"}],
    }  # fmt: skip
    async with (
        aiohttp.ClientSession(simulator.url, headers={"Authorization": "Bearer key"}) as session,
        session.post(PATHS[provider], json=body) as answer,
    ):
        assert answer.status == 200
        return [chunk async for chunk, _ in answer.content.iter_chunks()]


@pytest.mark.parametrize("kind", ON_THE_WIRE)
@pytest.mark.parametrize("provider", MODELS)
async def test_the_wire_carries_what_the_fault_says(simulator: Simulator, provider: str, kind: FaultKind) -> None:
    def counted(chunks: list[bytes]) -> int:
        return b"".join(chunks).count(ON_THE_WIRE[kind])

    plain = await _chunks(simulator, provider)
    simulator.faults.add(provider, Fault(kind), 1)
    hostile = await _chunks(simulator, provider)
    assert counted(hostile) > counted(plain)
    assert counted(await _chunks(simulator, provider)) == counted(plain), "only this call was to be hostile"


@pytest.mark.parametrize("provider", MODELS)
async def test_a_character_is_torn_over_two_chunks(simulator: Simulator, provider: str) -> None:
    simulator.faults.add(provider, Fault(FaultKind.TORN_BYTES), 1)
    chunks = await _chunks(simulator, provider)
    (first,) = [at for at, chunk in enumerate(chunks) if chunk.endswith(TORN.encode()[:1])]
    assert chunks[first + 1].startswith(TORN.encode()[1:])


async def test_every_hostile_kind_is_tried() -> None:
    ordinary = {
        FaultKind.RATE_LIMIT, FaultKind.OVERLOADED, FaultKind.ERROR, FaultKind.QUOTA, FaultKind.UNAUTHORISED,
        FaultKind.MODEL_MISSING, FaultKind.BAD_REQUEST, FaultKind.REFUSAL, FaultKind.TIMEOUT, FaultKind.DISCONNECT,
        FaultKind.STREAM_ERROR,
    }  # fmt: skip
    assert set(FaultKind) - ordinary - OF_VECTORS == {*CODES, *SPOKEN, *COUNTS, FaultKind.ANSWERED_REMOTELY}


async def test_a_node_can_pass_one_model_on_without_saying_so(simulator: Simulator) -> None:
    node = OllamaNode("workstation", simulator.ollama_url("workstation"))
    simulator.faults.add("ollama", Fault(FaultKind.ANSWERED_REMOTELY), 9, "workstation", MODELS["ollama"])
    assert MODELS["ollama"] in [model.name for model in (await node.status()).models]
    with pytest.raises(ProviderError) as caught:
        await node.chat(_request("ollama"), lambda _: None)
    assert caught.value.code == "answered_remotely"
    assert len(simulator.evidence.of("ollama.com")) == 1
    other = await node.chat(replace(_request("ollama"), model="gemma2:2b"), lambda _: None)
    assert other.text
    # It is remembered: no second prompt leaves this way.
    with pytest.raises(ProviderError):
        await node.chat(_request("ollama"), lambda _: None)
    assert len(simulator.evidence.of("ollama.com")) == 1
    await node.close()
    with pytest.raises(ValueError, match="ollama only"):
        simulator.faults.add("groq", Fault(FaultKind.ANSWERED_REMOTELY), 1)


@pytest.mark.parametrize("kind", [FaultKind.REDIRECT, FaultKind.REDIRECT_AWAY])
@pytest.mark.parametrize("path", ["/groq/openai/v1/chat/completions", "/ollama/workstation/api/chat"])
async def test_content_that_follows_a_redirect_is_recorded(simulator: Simulator, kind: FaultKind, path: str) -> None:
    """The trap works: a client that follows redirects would be seen."""
    simulator.faults.add("groq" if "groq" in path else "ollama", Fault(kind), 1)
    body = {"model": "phi3:3.8b", "messages": [{"role": "user", "content": "a secret"}]}
    async with httpx2.AsyncClient(follow_redirects=True, headers={"Authorization": "Bearer key"}) as careless:
        response = await careless.post(simulator.url + path, json=body)
    assert response.url.path == f"/{ELSEWHERE}{path}"
    assert (response.url.host == "localhost") == (kind is FaultKind.REDIRECT_AWAY)
    (arrived,) = simulator.evidence.of(ELSEWHERE)
    assert "a secret" in arrived.texts[0]
    assert [entry.provider for _, entry in simulator.evidence.search(["a secret"])][1:] == [ELSEWHERE]


@pytest.mark.parametrize("kind", [FaultKind.REDIRECT, FaultKind.REDIRECT_AWAY])
async def test_a_search_follows_no_redirect(simulator: Simulator, kind: FaultKind) -> None:
    searching = Tavily(SecretStr("key"), base_url=simulator.tavily_url)
    simulator.faults.add("tavily", Fault(kind), 1)
    request = ChatRequest("tavily-search", (ChatMessage("user", "What is new?"),), timeout_seconds=10)
    with pytest.raises(ProviderError) as caught:
        await searching.chat(request, lambda _: None)
    assert caught.value.code == "redirected"
    assert simulator.evidence.of(ELSEWHERE) == []
    await searching.close()


async def test_the_faults_that_were_met_are_counted(simulator: Simulator) -> None:
    async with aiohttp.ClientSession(simulator.url) as session:
        for kind, model in (("redirect", "phi3:3.8b"), ("null_counts", "no-such-model"), ("silence", None)):
            plan = {"provider": "ollama", "kind": kind, "model": model}
            async with session.post("/control/faults", json=plan) as answer:
                assert answer.status == 200
        body = {"model": "phi3:3.8b", "messages": [{"role": "user", "content": "x"}]}
        async with session.post("/ollama/workstation/api/chat", json=body, allow_redirects=False) as answer:
            assert answer.status == 307
        async with session.get("/control/faults") as answer:
            found = await answer.json()
        assert found == {"pending": 2, "met": [{"provider": "ollama", "kind": "redirect", "count": 1}]}
        async with session.post("/control/faults", json={"provider": "groq", "kind": "answered_remotely"}) as answer:
            assert answer.status == 400

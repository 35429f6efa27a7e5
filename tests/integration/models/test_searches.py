"""Clients of search engines, against servers that answer as they should not."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from aiohttp import web
from headrace_models.conversation import ChatMessage
from headrace_models.errors import ProviderError, RetrySameProvider, TryAnotherProvider
from headrace_models.found_sources import LONGEST_EXCERPT, MOST_SOURCES, sources_in
from headrace_models.ports import ChatRequest, ChatResult, Provider
from headrace_models.searxng import SearXNG
from headrace_models.simulator import Simulator, SimulatorConfig, Speed
from headrace_models.simulator.faults import Fault, FaultKind
from headrace_models.tavily import Tavily
from pydantic import SecretStr

ENGINES = ("searxng", "tavily")


@dataclass
class Engine:
    """A search engine that answers what a test wants; `asked` are the queries that it got."""

    url: str = ""
    answer: Callable[[], web.StreamResponse] = web.Response

    def __post_init__(self) -> None:
        self.asked: list[str] = []

    async def search(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.query.get("q") or (await request.json())["query"])
        return self.answer()


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    made = Engine()
    app = web.Application()
    app.router.add_route("*", "/search", made.search)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


@pytest.fixture(params=ENGINES)
async def client(request: pytest.FixtureRequest, engine: Engine) -> AsyncIterator[Provider]:
    made: Provider = (
        SearXNG("search", engine.url) if request.param == "searxng" else Tavily(SecretStr("k"), base_url=engine.url)
    )
    yield made
    await made.close()


async def search(client: Provider, *said: tuple[str, str]) -> ChatResult:
    messages = tuple(ChatMessage(role, text) for role, text in said or (("user", "lake"),))  # type: ignore[arg-type]
    model = {"searxng": "web", "tavily": "tavily-search"}[client.provider]
    return await client.chat(ChatRequest(model, messages, timeout_seconds=10), lambda _: None)


def answers(engine: Engine, document: object, **more: Any) -> None:
    text = document if isinstance(document, str) else json.dumps(document)
    engine.answer = lambda: web.Response(text=text, content_type="application/json", **more)


async def test_the_query_is_one_short_line_and_the_answer_is_json(client: Provider, engine: Engine) -> None:
    answers(engine, {"results": [{"url": "https://a.example", "title": "A", "content": "12 m", "score": 1}]})
    result = await search(client, ("system", "x"), ("user", "how\ndeep\x00 " + "y" * 900), ("assistant", "z"))
    assert engine.asked == [("how deep " + "y" * 900)[:400]]
    assert json.loads(result.text)["results"] == [{"title": "A", "url": "https://a.example", "text": "12 m"}]
    assert (result.usage.searches, result.usage.input_tokens) == (1, 0)


async def test_what_is_hostile_is_left_out(client: Provider, engine: Engine) -> None:
    bad = ["javascript:alert(1)", "https://u:p@a.example", "file:///x", "", None, 7, {"a": 1}, "https://x/\u202e"]
    results: list[object] = [{"url": url, "title": "t", "content": "c"} for url in bad]
    results += [None, 7, "x", [], {"url": "https://nothing.example"}]
    hidden = "\x1b[31mred\x00 \u202egnitirw\u200b\U000e0041 \ud800" + "long " * 5_000
    results += [{"url": "https://ok.example/#a", "title": ["no text"], "content": hidden}]
    results += [{"url": f"https://more.example/{n}", "title": "t", "content": "c"} for n in range(50)]
    answers(engine, {"results": results, "answer": hidden})
    found = sources_in((await search(client)).text)
    assert len(found) == MOST_SOURCES
    assert found[0].url == "https://ok.example/#a"
    assert len(found[0].excerpt) <= LONGEST_EXCERPT
    assert found[0].excerpt.startswith("[31mred gnitirw")
    assert found[0].excerpt.isprintable()


@pytest.mark.parametrize(
    "text",
    [
        "", "no JSON", '{"results": [{"url": "https://a', "[]", "{}", '{"results": {}}', '{"results": null}',
        "[" * 100_000, '{"results": ' + "[" * 50_000, "<html>", '{"results": [' + '{"url": 1},' * 1_500_000,
    ],
    ids=range(11),
)  # fmt: skip
async def test_what_is_no_answer_fails_and_may_be_tried_again(client: Provider, engine: Engine, text: str) -> None:
    answers(engine, text)
    with pytest.raises(RetrySameProvider) as failed:
        await search(client)
    assert failed.value.code == "provider_error"
    # It was asked all the same.
    assert failed.value.usage.searches == 1


async def test_no_results_are_an_answer_unless_nobody_has_looked(engine: Engine) -> None:
    client = SearXNG("search", engine.url)
    answers(engine, {"results": [], "unresponsive_engines": []})
    assert sources_in((await search(client)).text) == []
    answers(engine, {"results": [], "unresponsive_engines": [["google", "CAPTCHA"], ["bing", "timeout"]]})
    with pytest.raises(RetrySameProvider) as failed:
        await search(client)
    assert "none of the 2 search engines" in failed.value.message
    await client.close()


async def test_a_searxng_without_json_says_what_to_do(engine: Engine) -> None:
    client = SearXNG("search", engine.url)
    answers(engine, "Forbidden", status=403)
    with pytest.raises(TryAnotherProvider) as failed:
        await search(client)
    assert "search.formats" in failed.value.message
    await client.close()


@pytest.mark.parametrize(
    ("kind", "again"),
    [
        (FaultKind.RATE_LIMIT, True), (FaultKind.ERROR, True), (FaultKind.BROKEN_JSON, True),
        (FaultKind.EMPTY_ANSWER, True), (FaultKind.UNAUTHORISED, False),
        (FaultKind.MODEL_MISSING, False),
    ],
)  # fmt: skip
async def test_faults_of_a_simulated_searxng(kind: FaultKind, again: bool) -> None:
    async with Simulator(SimulatorConfig(speed=Speed(None))) as simulator:
        client = SearXNG("search", simulator.searxng_url("web"))
        simulator.faults.add("searxng", Fault(kind), 1)
        with pytest.raises(ProviderError) as failed:
            await search(client)
        assert isinstance(failed.value, RetrySameProvider) is again
        first, second = [await search(client) for _ in range(2)]
        assert first.text == second.text
        assert first.simulated
        await client.close()


@pytest.mark.parametrize(("inside", "model"), [(False, "web"), (True, "inside")])
async def test_it_offers_one_model_by_its_reach(inside: bool, model: str, unused_tcp_port: int) -> None:
    async with Simulator(SimulatorConfig(speed=Speed(None))) as simulator:
        client = SearXNG("search", simulator.searxng_url("x"), inside=inside)
        status = await client.status()
        assert (status.healthy, [one.name for one in status.models], status.simulated) == (True, [model], True)
        assert simulator.evidence.count() == 0, "a look is no search"
        await client.close()
    gone = SearXNG("search", f"http://127.0.0.1:{unused_tcp_port}")
    assert (await gone.status()).unreachable
    await gone.close()

"""What is real and what is simulated."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping

import pytest
from aiohttp import web
from headrace_devstack.providers import choose_providers, find_ollama, ollama_url

SIMULATOR = "http://127.0.0.1:19084"


def test_with_nothing_about_all_is_simulated() -> None:
    chosen = choose_providers({}, ollama=None, simulator=SIMULATOR)
    assert chosen.simulated == ("ollama", "searxng", "groq", "anthropic", "tavily")
    nodes = chosen.local["HEADRACE_OLLAMA_NODES"].split(",")
    assert len(nodes) > 1
    assert all(node.startswith(f"{SIMULATOR}/ollama/") for node in nodes[:-2])
    assert nodes[-2:] == [
        f"metasearch={SIMULATOR}/searxng/metasearch;server=searxng",
        f"intranet={SIMULATOR}/searxng/intranet;server=searxng;reach=inside",
    ]
    assert chosen.cloud["HEADRACE_GROQ_URL"] == f"{SIMULATOR}/groq/openai/v1"
    assert chosen.cloud["HEADRACE_ANTHROPIC_URL"] == f"{SIMULATOR}/anthropic"
    assert chosen.cloud["HEADRACE_TAVILY_URL"] == f"{SIMULATOR}/tavily"


def test_an_ollama_that_answers_is_used() -> None:
    chosen = choose_providers({}, ollama="http://127.0.0.1:11434", simulator=SIMULATOR)
    assert chosen.local == {"HEADRACE_OLLAMA_NODES": "http://127.0.0.1:11434"}
    assert "ollama" not in chosen.simulated


def test_named_nodes_win_over_the_one_that_was_found() -> None:
    named = {"HEADRACE_OLLAMA_NODES": "http://10.0.0.1:11434,http://10.0.0.2:11434"}
    chosen = choose_providers(named, ollama="http://127.0.0.1:11434", simulator=SIMULATOR)
    assert chosen.local == named


@pytest.mark.parametrize("name", ["GROQ_API_KEY", "ANTHROPIC_API_KEY"])
def test_one_key_makes_the_cloud_real_and_nothing_beside_it_invented(name: str) -> None:
    chosen = choose_providers({name: "k"}, ollama=None, simulator=SIMULATOR)
    assert chosen.cloud == {name: "k"}
    assert chosen.simulated == ("ollama", "searxng")


def test_a_search_key_alone_is_no_model_provider() -> None:
    chosen = choose_providers({"TAVILY_API_KEY": "k"}, ollama=None, simulator=SIMULATOR)
    assert chosen.cloud["TAVILY_API_KEY"] == "simulated"


def test_an_empty_key_is_no_key() -> None:
    assert "groq" in choose_providers({"GROQ_API_KEY": ""}, ollama=None, simulator=SIMULATOR).simulated


def test_everything_can_be_simulated_on_request() -> None:
    about = {"GROQ_API_KEY": "k", "ANTHROPIC_API_KEY": "k", "HEADRACE_OLLAMA_NODES": "http://10.0.0.1:11434"}
    chosen = choose_providers(about, ollama=None, simulator=SIMULATOR, simulate_all=True)
    assert chosen.simulated == ("ollama", "searxng", "groq", "anthropic", "tavily")
    assert "k" not in chosen.cloud.values()


@pytest.mark.parametrize(
    ("value", "url"),
    [
        (None, "http://127.0.0.1:11434"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("gpu:9000", "http://gpu:9000"),
        ("gpu", "http://gpu:11434"),
        ("http://gpu:9000/", "http://gpu:9000"),
        ("https://gpu", "https://gpu:443"),
    ],
)
def test_the_variable_of_ollama_is_read_as_ollama_reads_it(value: str | None, url: str) -> None:
    environment: Mapping[str, str] = {} if value is None else {"OLLAMA_HOST": value}
    assert ollama_url(environment) == url


@pytest.fixture
async def server() -> AsyncIterator[tuple[str, dict[str, object]]]:
    answer: dict[str, object] = {"version": "0.12.0"}

    async def version(_: web.Request) -> web.Response:
        return web.Response(text=json.dumps(answer), content_type="application/json")

    app = web.Application()
    app.router.add_get("/api/version", version)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    yield f"127.0.0.1:{port}", answer
    await runner.cleanup()


async def test_an_ollama_is_found(server: tuple[str, dict[str, object]]) -> None:
    assert await find_ollama({"OLLAMA_HOST": server[0]}) == f"http://{server[0]}"


async def test_another_server_on_that_port_is_none(server: tuple[str, dict[str, object]]) -> None:
    server[1].clear()
    assert await find_ollama({"OLLAMA_HOST": server[0]}) is None


async def test_nothing_there_is_found_out_fast() -> None:
    async with asyncio.timeout(30):
        assert await find_ollama({"OLLAMA_HOST": "127.0.0.1:9"}) is None

"""Content goes to the configured origin and nowhere else, and what comes back has an end."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import httpx2
import pytest
from headrace_models.conversation import ChatMessage
from headrace_models.errors import ProviderError
from headrace_models.ollama import OllamaNode
from headrace_models.openai_compatible import OpenAICompatible
from headrace_models.ports import ChatRequest, Provider
from headrace_models.tavily import Tavily
from headrace_models.upstream.http import WrongOrigin, open_httpx_client
from headrace_testing.provider_faults.upstream import FakeUpstream, Script
from headrace_testing.provider_faults.wires import WIRES, Complaint, Wire, stream
from pydantic import SecretStr

PROMPT = "the secret of the house"
PROXIES = ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")


def request(model: str) -> ChatRequest:
    return ChatRequest(model, (ChatMessage("user", PROMPT),), timeout_seconds=5.0)


def answering(wire: Wire) -> Script:
    return Script(stream(wire))


def clients(url: str) -> list[Provider]:
    return [*(wire.client(url) for wire in WIRES.values()), Tavily(SecretStr("k"), base_url=url)]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("target", ["{url}/v1/chat/completions", "//{host}/api/chat", "{url}"])
async def test_no_client_follows_a_redirect(status: int, target: str) -> None:
    async with FakeUpstream(answering(WIRES["openai"])) as thief:
        location = target.format(url=thief.url, host=thief.url.removeprefix("http://"))
        async with FakeUpstream(Script([], status, {"Location": location})) as upstream:
            for client in clients(upstream.url):
                with pytest.raises(Exception, match="redirects to another address") as caught:
                    await client.chat(request("m"), lambda _: None)
                assert location not in str(caught.value)
                status_now = await client.status()
                assert not status_now.healthy
                await client.close()
        assert thief.requests == []


@pytest.mark.parametrize("name", WIRES)
async def test_proxies_of_the_environment_are_not_used(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wire = WIRES[name]
    async with FakeUpstream(answering(wire)) as thief, FakeUpstream(answering(wire)) as upstream:
        for variable in PROXIES:
            monkeypatch.setenv(variable, thief.url)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        client = wire.client(upstream.url)
        assert (await client.chat(request(wire.model), lambda _: None)).text == "Hello world"
        await client.close()
        assert thief.requests == []
        assert len(upstream.requests) == 1


async def test_a_proxy_is_used_where_it_is_configured() -> None:
    wire = WIRES["openai"]
    async with FakeUpstream(answering(wire)) as proxy:
        client = OpenAICompatible("groq", "http://groq.invalid/v1", SecretStr("k"), proxy=proxy.url)
        assert (await client.chat(request(wire.model), lambda _: None)).text == "Hello world"
        await client.close()
        assert [one.path for one in proxy.requests] == ["http://groq.invalid/v1/chat/completions"]


async def test_keys_of_a_netrc_file_and_names_of_the_environment_are_not_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login thief password stolen\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-another")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "project-of-another")
    for wire in WIRES.values():
        async with FakeUpstream(answering(wire)) as upstream:
            client = wire.client(upstream.url)
            await client.chat(request(wire.model), lambda _: None)
            await client.close()
            headers = upstream.requests[0].headers
            assert headers.get("authorization", "Bearer key") == "Bearer key"
            assert not any("of-another" in value for value in headers.values())
            assert headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/x", "https://127.0.0.1/x", "http://example.invalid/x"])
async def test_the_transport_refuses_another_origin(url: str) -> None:
    client = open_httpx_client("http://127.0.0.1:8000/v1")
    with pytest.raises(WrongOrigin):
        await client.post(url, content=b"secret")
    await client.aclose()


@pytest.mark.parametrize("name", WIRES)
async def test_content_is_in_no_log_at_any_level(name: str, caplog: pytest.LogCaptureFixture) -> None:
    wire = WIRES[name]
    caplog.set_level(logging.DEBUG)
    for quiet in ("httpx2", "httpcore2", "httpcore", "httpx", "anthropic"):
        # As headrace_runtime.logging does in every service.
        logging.getLogger(quiet).setLevel(logging.WARNING)
    body = wire.error_body(Complaint(PROMPT))
    for script in (answering(wire), Script([body], 400), Script([f"broken {PROMPT}".encode()])):
        async with FakeUpstream(script) as upstream:
            client = wire.client(upstream.url)
            if script.status == 200 and len(script.steps) > 1:
                await client.chat(request(wire.model), lambda _: None)
            else:
                with pytest.raises(ProviderError) as caught:
                    await client.chat(request(wire.model), lambda _: None)
                assert PROMPT not in str(caught.value)
            await client.close()
    assert PROMPT not in caplog.text


@pytest.mark.parametrize(
    "entry",
    [
        {"name": "gpt-oss:120b-cloud"},
        {"name": "kimi-k2:cloud"},
        {"name": "deepseek-v3.1:671B-CLOUD"},
        {"name": "team:latest", "remote_host": "https://ollama.com:443"},
        {"name": "team:latest", "remote_model": "gpt-oss:120b"},
        {"name": "team:latest", "remote_host": {"a": 1}},
    ],
)
async def test_a_model_that_runs_elsewhere_is_never_offered_nor_asked(entry: dict[str, object]) -> None:
    wire = WIRES["ollama"]
    model = {"model": entry["name"], "size": 384, **entry}
    own = {"name": "gemma2:2b", "model": "gemma2:2b", "size": 1_600_000_000}
    listed = wire.frame({"models": [own, model]})
    scripts = [
        Script([wire.frame({"version": "0.32.15"})]),
        Script([listed]),
        Script([wire.frame({"models": []})]),
        Script([wire.frame({"capabilities": ["completion"]})]),
        answering(wire),
    ]
    async with FakeUpstream(*scripts) as upstream:
        node = OllamaNode("n", upstream.url)
        status = await node.status()
        assert [one.name for one in status.models] == ["gemma2:2b"]
        with pytest.raises(Exception, match="does not run this model itself"):
            await node.chat(request(str(entry["name"])), lambda _: None)
        assert [one.path for one in upstream.requests] == ["/api/version", "/api/tags", "/api/ps", "/api/show"]
        assert (await node.chat(request("gemma2:2b"), lambda _: None)).text == "Hello world"
        await node.close()


async def test_a_model_that_has_once_answered_from_elsewhere_is_not_asked_again() -> None:
    wire = WIRES["ollama"]
    elsewhere = wire.frame({"model": "m", "remote_host": "https://ollama.com", "message": {"content": "hi"}})
    async with FakeUpstream(Script([elsewhere])) as upstream:
        node = OllamaNode("n", upstream.url)
        pieces: list[str] = []
        with pytest.raises(Exception, match="at another host"):
            await node.chat(request("m"), pieces.append)
        assert pieces == [], "no part of it is passed on"
        with pytest.raises(Exception, match="does not run this model itself"):
            await node.chat(request("m"), pieces.append)
        assert len(upstream.requests) == 1
        await node.close()


@pytest.mark.parametrize(
    "body",
    [b"[]", b'{"models": null}', b'{"models": [7, null, {"name": 7}, {"name": "\\ud83d"}]}', b"{}", b"\xff", b"<html>"],
)
async def test_no_list_of_models_breaks_a_status(body: bytes) -> None:
    for name, script in {
        "openai": [Script([body])],
        "anthropic": [Script([body])],
        "ollama": [Script([b'{"version": "1"}']), Script([body]), Script([body])],
    }.items():
        async with FakeUpstream(*script) as upstream:
            client = WIRES[name].client(upstream.url)
            status = await client.status()
            assert status.models == ()
            await client.close()


async def test_a_list_of_models_has_an_end() -> None:
    many = b'{"data": [' + b",".join(b'{"id": "m%d"}' % number for number in range(50_000)) + b"]}"
    for script, healthy in ((Script([many]), True), (Script([b"[" + b"7," * 2_000_000] * 4), False)):
        async with FakeUpstream(script) as upstream:
            client = WIRES["openai"].client(upstream.url)
            status = await client.status()
            assert status.healthy is healthy
            assert len(status.models) <= 1000
            assert sys.getsizeof(status.reason) < 1000
            await client.close()


def test_httpx_would_follow_the_environment_if_it_were_let() -> None:
    """So that the tests above are about our client, not about what httpx2 does anyway."""
    assert httpx2.AsyncClient().trust_env
    assert not open_httpx_client("http://127.0.0.1:1").trust_env

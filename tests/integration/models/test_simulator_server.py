"""The simulator by itself: unmodified packages talk to it, it paces, queues, records, and runs as a process."""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal
import stat
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import anthropic
import ollama
import openai
import pytest
from headrace_models.conversation import ChatMessage
from headrace_models.errors import RetrySameProvider
from headrace_models.ollama import OllamaNode
from headrace_models.ollama_listing import runs_elsewhere
from headrace_models.ports import ChatRequest
from headrace_models.simulator import Simulator, SimulatorConfig, Speed
from headrace_models.simulator.catalog import DEFAULT_NODES, REMOTE, node_model
from headrace_models.simulator.pace import paced
from headrace_models.simulator.received import RequestRecorder

PROMPT: Any = [{"role": "user", "content": "Review x.py: def f(a): return a"}]


@pytest.fixture
async def simulator(tmp_path: Path) -> AsyncIterator[Simulator]:
    async with Simulator(SimulatorConfig(speed=Speed(None), log=tmp_path / "sent.jsonl")) as running:
        yield running


async def test_the_openai_package_works_whole_and_streamed(simulator: Simulator) -> None:
    async with openai.AsyncOpenAI(base_url=simulator.groq_url, api_key="k", max_retries=0) as client:
        whole = await client.chat.completions.create(model="llama-3.1-8b-instant", messages=PROMPT)
        assert whole.system_fingerprint == "headrace-simulator"
        assert whole.usage is not None
        assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
        stream = await client.chat.completions.create(model="llama-3.1-8b-instant", messages=PROMPT, stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        assert text == whole.choices[0].message.content
        assert {model.owned_by async for model in client.models.list()} == {"headrace-simulator"}
        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.create(model="gpt-of-tomorrow", messages=PROMPT)


async def test_the_anthropic_package_works_whole_and_streamed(simulator: Simulator) -> None:
    async with anthropic.AsyncAnthropic(base_url=simulator.anthropic_url, api_key="k", max_retries=0) as client:
        arguments: Any = {"model": "claude-haiku-4-5", "max_tokens": 500, "messages": PROMPT, "system": "Be brief."}
        whole = await client.messages.create(**arguments)
        assert whole.id.startswith("msg_simulated_")
        assert whole.stop_reason == "end_turn"
        async with client.messages.stream(**arguments) as stream:
            text = "".join([piece async for piece in stream.text_stream])
            final = await stream.get_final_message()
        assert whole.content[0].type == "text"
        assert text == whole.content[0].text
        assert final.usage.output_tokens == whole.usage.output_tokens
        with pytest.raises(anthropic.BadRequestError):
            await client.messages.create(**{**arguments, "messages": []})


async def test_the_ollama_package_works_whole_and_streamed(simulator: Simulator) -> None:
    async with ollama.AsyncClient(host=simulator.ollama_url("workstation")) as client:
        whole = await client.chat(model="phi3:3.8b", messages=PROMPT)
        parts = [part async for part in await client.chat(model="phi3:3.8b", messages=PROMPT, stream=True)]
        assert "".join(part.message.content or "" for part in parts) == whole.message.content
        assert parts[-1].done
        assert parts[-1].eval_count == whole.eval_count
        generated = await client.generate(model="phi3:3.8b", prompt=PROMPT[0]["content"])
        assert generated.response == whole.message.content
        assert (await client.show("phi3:3.8b")).modelinfo is not None
        listed = {model.model for model in (await client.list()).models}
        assert listed == {"gemma2:2b", "qwen2.5-coder:1.5b", "phi3:3.8b", "nomic-embed-text:v1.5", "gpt-oss:120b-cloud"}
        assert [model.model for model in (await client.ps()).models] == ["phi3:3.8b"]


@pytest.mark.parametrize("node", sorted(DEFAULT_NODES))
async def test_every_node_lists_a_model_that_runs_elsewhere_as_ollama_lists_it(simulator: Simulator, node: str) -> None:
    url = simulator.ollama_url(node)
    async with aiohttp.ClientSession() as session:
        entries = {entry["name"]: entry for entry in (await _get(session, f"{url}/api/tags"))["models"]}
        elsewhere = {name: entry for name, entry in entries.items() if runs_elsewhere(entry)}
        assert set(elsewhere) == set(DEFAULT_NODES[node]) & set(REMOTE)
        assert len(elsewhere) == 1
        (name, entry), *_ = elsewhere.items()
        assert entry["remote_host"] == "https://ollama.com:443"
        assert entry["remote_model"] == REMOTE[name].remote_model != name
        async with session.post(f"{url}/api/show", json={"model": name}) as response:
            assert runs_elsewhere(await response.json())
        for path, body in (("chat", {"messages": PROMPT}), ("generate", {"prompt": "hello"})):
            async with session.post(f"{url}/api/{path}", json={"model": name, **body}) as response:
                parts = [json.loads(line) for line in (await response.text()).splitlines()]
            assert parts[-1]["done"]
            assert {part["remote_host"] for part in parts} == {"https://ollama.com:443"}
            assert {(part["model"], part["remote_model"]) for part in parts} == {(name, REMOTE[name].remote_model)}
        assert (await _get(session, f"{url}/api/ps"))["models"] == [], "it takes no memory of the node"
        sent = (await _get(session, f"{simulator.url}/control/received"))["received"]
        assert [(entry["provider"], entry["node"]) for entry in sent] == [("ollama.com", node)] * 2


@pytest.mark.parametrize(
    ("name", "remote_model"),
    [
        ("gpt-oss:120b-cloud", "gpt-oss:120b"), ("team-helper:latest", "kimi-k2:1t"), ("glm-4.6:cloud", "glm-4.6"),
        ("Qwen3-VL:235B-Cloud", "Qwen3-VL:235B"), ("phi3:3.8b", ""), ("cloud:7b", ""), ("acloud", ""),
    ],
)  # fmt: skip
def test_a_model_of_a_node_runs_where_its_list_or_its_name_says(name: str, remote_model: str) -> None:
    model = node_model(name)
    assert (model.name, model.remote_model, bool(model.remote_host)) == (name, remote_model, bool(remote_model))


async def test_requests_without_a_key_are_refused(simulator: Simulator) -> None:
    async with aiohttp.ClientSession() as session:
        for path in ("/groq/openai/v1/chat/completions", "/anthropic/v1/messages", "/tavily/search"):
            async with session.post(simulator.url + path, json={"messages": PROMPT}) as response:
                assert response.status == 401
                assert response.headers["x-headrace-simulated"] == "1"
    assert simulator.evidence.count() == 0


async def test_what_was_sent_can_be_listed_and_searched(simulator: Simulator, tmp_path: Path) -> None:
    async with ollama.AsyncClient(host=simulator.ollama_url("workstation")) as client:
        await client.chat(model="phi3:3.8b", messages=PROMPT)
    text = PROMPT[0]["content"]
    async with aiohttp.ClientSession(simulator.url) as session:
        listed = await _get(session, "/control/received?provider=ollama")
        assert listed["complete"]
        assert listed["received"][0]["sha256s"] == [hashlib.sha256(text.encode()).hexdigest()]
        assert "texts" not in listed["received"][0]
        assert (await _get(session, "/control/received?provider=groq"))["count"] == 0
        with_texts = await _get(session, "/control/received?texts=1")
        assert with_texts["received"][0]["texts"] == [text]
        async with session.post("/control/search", json={"needles": ["absent", "def f(a)"]}) as response:
            hits = (await response.json())["hits"]
        assert hits == [{"needle": 1, "provider": "ollama", "node": "workstation", "number": 1}]
        async with session.post("/control/search", json={"needles": [""]}) as response:
            assert response.status == 400
        async with session.delete("/control/received"):
            pass
        assert (await _get(session, "/control/received"))["count"] == 0
    log = tmp_path / "sent.jsonl"
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    (line,) = [json.loads(line) for line in log.read_text().splitlines()]
    assert (line["provider"], line["node"], line["model"]) == ("ollama", "workstation", "phi3:3.8b")
    assert text not in log.read_text()


async def test_faults_are_planned_over_http(simulator: Simulator) -> None:
    async with aiohttp.ClientSession(simulator.url) as session:
        plan = {"provider": "groq", "kind": "error", "count": 2}
        async with session.post("/control/faults", json=plan) as response:
            assert (await response.json())["pending"] == 2
        async with openai.AsyncOpenAI(base_url=simulator.groq_url, api_key="k", max_retries=0) as client:
            with pytest.raises(openai.InternalServerError):
                await client.chat.completions.create(model="llama-3.1-8b-instant", messages=PROMPT)
            async with session.delete("/control/faults"):
                pass
            answered = await client.chat.completions.create(model="llama-3.1-8b-instant", messages=PROMPT)
            assert answered.choices[0].finish_reason == "stop"
        async with session.post("/control/faults", json={"provider": "groq", "kind": "nonsense"}) as response:
            assert response.status == 400
            assert "rate_limit" in (await response.json())["error"]


async def _get(session: aiohttp.ClientSession, path: str) -> Any:
    async with session.get(path) as response:
        return await response.json()


def test_evidence_that_had_to_forget_says_so() -> None:
    evidence = RequestRecorder(most_bytes=100)
    for _ in range(3):
        evidence.record("groq", "groq", "m", [ChatMessage("user", "x" * 60)])
    assert not evidence.complete
    assert evidence.count() == 3
    assert len(evidence.of(None)) == 1


async def test_a_realistic_answer_takes_its_time() -> None:
    model = node_model("phi3:3.8b")
    speed = Speed(10.0)
    tokens = ["x "] * 40
    began = time.perf_counter()
    pieces = [(piece, time.perf_counter() - began) async for piece in paced(tokens, model, speed)]
    assert "".join(piece for piece, _ in pieces) == "".join(tokens)
    # uvloop's timers count whole milliseconds: each may end almost one too early.
    assert pieces[0][1] > model.first_token_seconds / 10 - 0.002
    assert 0.15 < pieces[-1][1] < 15
    assert len(pieces) > 3


def test_speeds_are_read_from_the_command_line() -> None:
    assert Speed.parse("instant") == Speed(None)
    assert Speed.parse("realistic") == Speed(1.0)
    assert Speed.parse("10") == Speed(10.0)
    for wrong in ("fast", "0", "-1"):
        with pytest.raises(ValueError, match=r"speed|convert"):
            Speed.parse(wrong)


async def test_it_runs_as_a_process_until_it_is_told_to_stop(unused_tcp_port: int) -> None:
    command = [sys.executable, "-m", "headrace_models.simulator", "--port", str(unused_tcp_port)]
    options = ["--speed", "instant", "--node", "mine=phi3:3.8b", "--fault", "ollama:error:1"]
    process = await asyncio.create_subprocess_exec(*command, *options, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), 20)
        assert line.decode() == f"simulator listening on http://127.0.0.1:{unused_tcp_port}\n"
        node = OllamaNode("mine", f"http://127.0.0.1:{unused_tcp_port}/ollama/mine")
        request = ChatRequest("phi3:3.8b", (ChatMessage("user", "hello"),), timeout_seconds=5)
        with pytest.raises(RetrySameProvider, match="answered 500"):
            await node.chat(request, lambda _: None)
        assert (await node.chat(request, lambda _: None)).simulated
        await node.close()
        second = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
        _, told = await asyncio.wait_for(second.communicate(), 20)
        assert second.returncode == 1
        assert b"cannot listen" in told
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 30) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()

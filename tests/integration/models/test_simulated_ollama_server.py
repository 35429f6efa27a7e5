"""The simulated Ollama server behaves as the real one: memory, queue, contexts, keys, what an operator does to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from headrace_models.simulator import Simulator, SimulatorConfig, Speed
from headrace_models.simulator.context_limit import cut_to
from headrace_models.simulator.exchange import messages_of
from headrace_models.simulator.node_settings import NodeSettingInvalid, NodeSettings, parse_node_settings

SMALL, LARGE = "gemma2:2b", "llama3:8b"
Said = tuple[int, dict[str, Any]]


@asynccontextmanager
async def server(**settings: Any) -> AsyncIterator[tuple[Simulator, aiohttp.ClientSession]]:
    known = NodeSettings(**settings)
    config = SimulatorConfig(speed=Speed(None), nodes={"n": (SMALL, "phi3:3.8b", LARGE)}, servers={"n": known})
    async with Simulator(config) as running, aiohttp.ClientSession() as session:
        yield running, session


async def chat(simulator: Simulator, session: aiohttp.ClientSession, model: str = SMALL, **more: Any) -> Said:
    body = {"model": model, "messages": [{"role": "user", "content": "Say hello."}], "stream": False, **more}
    headers = more.pop("headers", {})
    async with session.post(f"{simulator.ollama_url('n')}/api/chat", json=body, headers=headers) as response:
        return response.status, await response.json()


async def loaded(simulator: Simulator, session: aiohttp.ClientSession) -> dict[str, Any]:
    async with session.get(f"{simulator.ollama_url('n')}/api/ps") as response:
        return {model["name"]: model for model in (await response.json())["models"]}


async def test_models_that_do_not_fit_together_follow_each_other_and_one_that_never_fits_is_refused() -> None:
    async with server(memory_gb=4.0) as (simulator, session):
        assert (await chat(simulator, session))[0] == 200
        assert (await chat(simulator, session, "phi3:3.8b"))[0] == 200
        assert set(await loaded(simulator, session)) == {SMALL, "phi3:3.8b"}
        status, said = await chat(simulator, session, LARGE)
        assert status == 500
        assert said["error"] == "model requires more system memory (4.4 GiB) than is available (4.0 GiB)"


async def test_at_most_so_many_models_are_loaded_and_idle_ones_go() -> None:
    async with server(max_loaded_models=1) as (simulator, session):
        for model in (SMALL, LARGE):
            assert (await chat(simulator, session, model))[0] == 200
            assert list(await loaded(simulator, session)) == [model]


async def test_a_queue_is_full_while_a_model_is_loaded_and_never_for_a_loaded_one() -> None:
    async with server(max_queue=2, load_gb_per_second=4.0) as (simulator, session):
        simulator.nodes["n"].memory._faster = 1.0
        calls = [asyncio.create_task(chat(simulator, session)) for _ in range(4)]
        found = [status for status, _ in await asyncio.gather(*calls)]
        assert sorted(found) == [200, 200, 503, 503]
        found = [status for status, _ in await asyncio.gather(*[chat(simulator, session) for _ in range(20)])]
        assert found == [200] * 20


async def test_a_loaded_model_stays_as_long_as_the_call_says() -> None:
    async with server() as (simulator, session):
        assert (await chat(simulator, session, keep_alive=0))[0] == 200
        assert not await loaded(simulator, session)
        await chat(simulator, session, keep_alive="10m")
        first = (await loaded(simulator, session))[SMALL]["expires_at"]
        await chat(simulator, session, keep_alive=-1)
        assert (await loaded(simulator, session))[SMALL]["expires_at"] > first.replace("20", "21", 1)
        assert (await chat(simulator, session, keep_alive="soon"))[0] == 400
        # Without a prompt it is loaded or unloaded only.
        status, said = await chat(simulator, session, messages=[], keep_alive=0)
        assert (status, said["done_reason"]) == (200, "unload")
        assert not await loaded(simulator, session)


async def test_another_context_loads_a_model_again() -> None:
    async with server() as (simulator, session):
        await chat(simulator, session, options={"num_ctx": 8192})
        assert (await loaded(simulator, session))[SMALL]["context_length"] == 8192
        await chat(simulator, session, options={"num_ctx": 4096})
        assert (await loaded(simulator, session))[SMALL]["context_length"] == 4096


async def test_a_long_prompt_is_cut_in_silence_unless_it_must_not_be() -> None:
    async with server() as (simulator, session):
        told = {"role": "system", "content": "Be brief."}
        messages = [told, *[{"role": "user", "content": "word " * 900} for _ in range(4)]]
        asked: dict[str, Any] = {"messages": messages, "options": {"num_ctx": 1024}}
        status, said = await chat(simulator, session, **asked)
        assert status == 200
        assert said["prompt_eval_count"] <= 1024 + 8
        status, said = await chat(simulator, session, **asked, truncate=False)
        assert (status, said["error"]) == (400, "the input length exceeds the context length")
        read = messages_of(messages)
        assert [one.role for one in cut_to(read, 1024)] == ["system", "user"]
        assert len(cut_to(read, 100)[-1].text) < len(read[-1].text)


async def test_troubles_are_switched_on_and_off_while_it_runs() -> None:
    async with server() as (simulator, session):

        async def change(**changes: Any) -> int:
            async with session.post(f"{simulator.url}/control/nodes/n", json=changes) as response:
                return response.status

        assert await change(removed=[SMALL]) == 200
        assert (await chat(simulator, session))[0] == 404
        assert await change(pull=SMALL, load_fails="*") == 200
        status, said = await chat(simulator, session)
        assert (status, said["error"]) == (500, "llama runner process has terminated: exit status 2")
        assert await change(load_fails=[], token="secret") == 200
        assert (await chat(simulator, session))[0] == 401
        assert await change(token="", hangs=True) == 200
        waiting = asyncio.create_task(chat(simulator, session))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        assert SMALL in await loaded(simulator, session)
        assert await change(hangs=False) == 200
        assert (await waiting)[0] == 200
        assert await change(speed_of_light=1) == 400
        async with session.get(f"{simulator.url}/control/nodes") as response:
            assert (await response.json())["n"]["settings"]["hangs"] is False


async def test_a_deadlock_leaves_every_call_waiting_while_health_answers() -> None:
    async with server(max_loaded_models=1, deadlocks=True) as (simulator, session):
        node = simulator.nodes["n"]
        node.settings.hangs = True
        first = asyncio.create_task(chat(simulator, session))
        await asyncio.sleep(0.05)
        second = asyncio.create_task(chat(simulator, session, LARGE))
        await asyncio.sleep(0.05)
        node.settings.hangs = False
        assert (await first)[0] == 200
        third = asyncio.create_task(chat(simulator, session))
        await asyncio.sleep(0.15)
        assert not second.done()
        assert not third.done()
        assert list(await loaded(simulator, session)) == [SMALL]
        node.settings.deadlocks = False
        assert {status for status, _ in await asyncio.gather(second, third)} == {200}


@pytest.mark.parametrize("text", ["n:num_parallel=0", "n:hangs=maybe", "n:memory_gb=much", "n:memory_gb=-1", "n:x=1"])
def test_settings_that_cannot_be_are_refused(text: str) -> None:
    with pytest.raises(NodeSettingInvalid):
        parse_node_settings(text)


def test_settings_are_read_from_text() -> None:
    name, changes = parse_node_settings("n:num_parallel=2,load_fails=a:1b+b,hangs=true,keep_alive=-1")
    settings = NodeSettings()
    settings.change(changes)
    assert (name, settings.num_parallel, settings.load_fails) == ("n", 2, frozenset({"a:1b", "b"}))
    assert (settings.hangs, settings.keep_alive) == (True, -1.0)

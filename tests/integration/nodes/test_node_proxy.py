"""The proxy in front of a simulated Ollama: who is let in, who waits, and what nobody can do to the node."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from headrace.errors import Misconfigured
from headrace.node.call_queue import CallQueue
from headrace.node.proxy import OllamaProxy, ProxyOptions
from headrace.node.serving_tls import ServingTls
from headrace_models.conversation import ChatMessage
from headrace_models.ollama import OllamaNode
from headrace_models.ports import ChatRequest
from headrace_models.simulator.pace import Speed
from headrace_models.simulator.server import Simulator, SimulatorConfig
from headrace_models.upstream.node_certificates import NodeCertificates
from headrace_testing.certificates import Authority
from pydantic import SecretStr

ASKED = ChatRequest("gemma2:2b", (ChatMessage("user", "hello"),), 30.0)


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with Simulator(SimulatorConfig(speed=Speed(None), nodes={"mac": ("gemma2:2b",)})) as running:
        yield running


class Ollama:
    """Runs as many calls as come, until each is released; remembers how many at once, and which broke off."""

    def __init__(self) -> None:
        self.running = self.most = self.broken = self.began = 0
        self.release = asyncio.Event()
        self.flood = 0

    async def chat(self, request: web.Request) -> web.StreamResponse:
        await request.read()
        self.began += 1
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            response = web.StreamResponse()
            await response.prepare(request)
            await response.write(b'{"message":{"content":"a"},"done":false}\n')
            for _ in range(self.flood):
                await response.write(b"x" * 65_536)
            await self.release.wait()
            await response.write(b'{"done":true,"eval_count":40,"eval_duration":2000000000}\n')
            return response
        except (asyncio.CancelledError, ConnectionError):
            self.broken += 1
            raise
        finally:
            self.running -= 1


@asynccontextmanager
async def ollama() -> AsyncIterator[tuple[Ollama, str]]:
    one = Ollama()
    app = web.Application()
    app.router.add_post("/api/chat", one.chat)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield one, f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        one.release.set()
        await runner.cleanup()


@asynccontextmanager
async def proxy(
    upstream: str, *, slots: int = 1, room: int = 4, **options: Any
) -> AsyncIterator[tuple[str, CallQueue, OllamaProxy]]:
    queue = CallQueue(slots, room)
    made = OllamaProxy(ProxyOptions(upstream, **options), queue)
    await made.start()
    scheme = "https" if options.get("tls") is not None else "http"
    try:
        yield f"{scheme}://127.0.0.1:{made.port}", queue, made
    finally:
        await made.stop()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - looks on
            await asyncio.sleep(0.005)


async def post(session: aiohttp.ClientSession, url: str, **options: Any) -> tuple[int, Any, str]:
    options.setdefault("json", {"model": "m"})
    async with session.post(url, **options) as response:
        return response.status, response.headers, await response.text()


async def test_a_worker_works_through_it_as_with_ollama_itself(simulator: Simulator) -> None:
    async with proxy(simulator.ollama_url("mac"), token="t0ken") as (url, queue, _):
        node = OllamaNode("mac", url, token=SecretStr("t0ken"))
        stranger = OllamaNode("mac", url)
        pieces: list[str] = []
        try:
            status = await node.status()
            assert (status.healthy, [model.name for model in status.models]) == (True, ["gemma2:2b"])
            result = await node.chat(ASKED, pieces.append)
            assert result.text == "".join(pieces)
            assert result.simulated
            assert len(pieces) > 1, "an answer goes out as it comes"
            assert queue.state.tokens_per_second is not None
            assert "401" in (await stranger.status()).reason
        finally:
            await node.close()
            await stranger.close()


async def test_only_what_workers_use_is_let_through(simulator: Simulator) -> None:
    async with proxy(simulator.ollama_url("mac")) as (url, _, _one), aiohttp.ClientSession() as session:
        for method, path in (
            ("POST", "/api/pull"), ("DELETE", "/api/delete"), ("POST", "/api/create"), ("POST", "/v1/chat/completions"),
            ("GET", "/api/chat"), ("POST", "/api/chat/../pull"), ("GET", "/control/faults"),
        ):  # fmt: skip
            async with session.request(method, url + path) as response:
                assert response.status in (404, 405), path
                assert "error" in await response.json()
        status, _, said = await post(session, f"{url}/api/chat", headers={"Origin": "http://evil.example"})
        assert (status, "web pages" in said) == (403, True)
        async with session.get(f"{url}/api/headrace/queue") as response:
            assert (await response.json())["slots"] == 1


async def test_few_run_some_wait_and_the_rest_is_told_when() -> None:
    async with (
        ollama() as (node, upstream),
        proxy(upstream, slots=2, room=2) as (url, queue, _),
        aiohttp.ClientSession() as session,
    ):
        calls = [asyncio.create_task(post(session, f"{url}/api/chat")) for _ in range(2)]
        await until(lambda: node.running == 2)
        batch = {"X-Headrace-Lane": "batch"}
        late = [asyncio.create_task(post(session, f"{url}/api/chat", headers=batch)) for _ in range(2)]
        await until(lambda: queue.state.waiting == 2)
        status, headers, said = await post(session, f"{url}/api/chat", headers=batch)
        assert status == 503
        assert int(headers["Retry-After"]) >= 1
        assert headers["Headrace-Queue"] == "running=2, waiting=2, slots=2"
        assert "2 calls run and 2 wait" in said
        urgent = asyncio.create_task(post(session, f"{url}/api/chat"))
        await until(lambda: any(call.done() for call in late))
        node.release.set()
        results = [status for status, _, _ in await asyncio.gather(*calls, *late, urgent)]
        assert sorted(results) == [200, 200, 200, 200, 503]
        assert node.most == 2
        assert queue.state.tokens_per_second == 20.0


async def test_a_caller_that_goes_ends_its_call_of_ollama_and_frees_the_slot() -> None:
    async with ollama() as (node, upstream), proxy(upstream) as (url, queue, _), aiohttp.ClientSession() as session:
        leaving = asyncio.create_task(post(session, f"{url}/api/chat"))
        await until(lambda: node.running == 1)
        waiting = asyncio.create_task(post(session, f"{url}/api/chat"))
        await until(lambda: queue.state.waiting == 1)
        leaving.cancel()
        await until(lambda: node.broken == 1 and node.began == 2)
        node.release.set()
        assert (await waiting)[0] == 200


async def test_a_slow_caller_holds_no_slot_and_one_that_takes_no_answer_is_dropped() -> None:
    async with (
        ollama() as (node, upstream),
        proxy(upstream, body_seconds=0.3, write_seconds=0.3) as (url, queue, _),
        aiohttp.ClientSession() as session,
    ):
        port = int(url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /api/chat HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        await asyncio.sleep(0.05)
        assert queue.state.running == 0
        assert b" 408 " in await asyncio.wait_for(reader.readline(), 5)
        writer.close()

        node.flood = 400
        _, deaf = await asyncio.open_connection("127.0.0.1", port)
        deaf.write(b"POST /api/chat HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
        await until(lambda: node.running == 1)
        await until(lambda: queue.state.running == 0)
        deaf.close()
        node.flood = 0
        node.release.set()
        assert (await post(session, f"{url}/api/chat"))[0] == 200


async def test_bodies_have_limits_one_by_one_and_together() -> None:
    async with ollama() as (_node, upstream), proxy(upstream, room=50, body_limit_bytes=1_000) as (
        url, queue, _,
    ), aiohttp.ClientSession() as session:  # fmt: skip
        assert (await post(session, f"{url}/api/chat", json=None, data=b"x" * 1_001))[0] == 413

        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(3):
                yield b"x" * 500

        assert (await post(session, f"{url}/api/chat", json=None, data=pieces()))[0] == 413
        held = [asyncio.create_task(post(session, f"{url}/api/chat", json=None, data=b"x" * 1_000)) for _ in range(4)]
        await until(lambda: queue.state.running + queue.state.waiting == 4)
        status, _, said = await post(session, f"{url}/api/chat", json=None, data=b"x" * 1_000)
        assert (status, "too large for one more" in said) == (503, True)
        for call in held:
            call.cancel()
        await asyncio.gather(*held, return_exceptions=True)


async def test_connections_without_a_request_are_closed() -> None:
    async with ollama() as (node, upstream), proxy(upstream, slots=2, idle_seconds=0.2) as (url, _, _one):
        port = int(url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /api/chat HTTP/1.1\r\nHost:")
        async with aiohttp.ClientSession() as session:
            call = asyncio.create_task(post(session, f"{url}/api/chat"))
            with contextlib.suppress(ConnectionError):
                assert await asyncio.wait_for(reader.read(), 5) == b""
            await asyncio.sleep(0.5)
            node.release.set()
            assert (await call)[0] == 200, "a long call is no idle connection"
        writer.close()


async def test_ollama_that_is_away_or_breaks_off_is_told_as_such() -> None:
    async with (
        ollama() as (node, upstream),
        proxy(upstream, call_seconds=0.3) as (url, _, _one),
        aiohttp.ClientSession() as session,
    ):
        with pytest.raises(aiohttp.ClientError):
            await post(session, f"{url}/api/chat")
        await until(lambda: node.broken == 1)
    async with proxy(upstream) as (url, _, _one), aiohttp.ClientSession() as session:
        status, _, said = await post(session, f"{url}/api/chat")
        assert status == 502
        assert "Ollama does not answer" in json.loads(said)["error"]


async def test_mutual_tls_lets_in_whom_the_authority_has_signed_and_renews_itself(
    tmp_path: Path, simulator: Simulator
) -> None:
    ours, theirs = Authority(tmp_path, "ours"), Authority(tmp_path, "theirs")
    served, worker, stranger = ours.certificate("node"), ours.certificate("worker"), theirs.certificate("stranger")
    tls = ServingTls(served, served, ours.file)
    async with proxy(simulator.ollama_url("mac"), tls=tls.context) as (url, _, _one):

        async def status(ca: Path, certificate: Path | None) -> str | None:
            shown = NodeCertificates(ca, certificate, certificate)
            node = OllamaNode("mac", url, certificates=shown.context)
            try:
                found = await node.status()
                if found.healthy:
                    await node.chat(ASKED, lambda text: None)
                return None if found.healthy else found.reason
            finally:
                await node.close()

        assert await status(ours.file, worker) is None
        assert await status(ours.file, stranger) is not None
        assert await status(ours.file, None) is not None
        assert "certificate" in str(await status(theirs.file, worker)), "a node that is another is not sent anything"
        assert not tls.reload()
        ours.certificate("node")  # a new one in the same file
        assert tls.reload()
        assert await status(ours.file, worker) is None
        served.write_text("no certificate")
        with pytest.raises(Misconfigured):
            tls.reload()
        assert await status(ours.file, worker) is None


def test_certificates_of_a_worker_are_read_again_when_they_change(tmp_path: Path) -> None:
    ours = Authority(tmp_path, "ours")
    shown = ours.certificate("worker")
    certificates = NodeCertificates(ours.file, shown, shown)
    assert certificates.context.verify_mode is ssl.CERT_REQUIRED
    assert not certificates.reload()
    ours.certificate("worker")
    assert certificates.reload()

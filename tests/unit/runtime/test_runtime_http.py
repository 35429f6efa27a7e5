"""The HTTP API: errors in four shapes, ids, bodies, keys, event streams, drains; and the ops server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from headrace_runtime.access import KEY_RANDOM_BYTES, Scope, hash_secret, make_key
from headrace_runtime.authentication import authentication, require
from headrace_runtime.health import Health
from headrace_runtime.http import DRAINING, IN_PROGRESS, new_app, parse_model, read_json, read_model
from headrace_runtime.http_server import HttpServer, disconnected
from headrace_runtime.metrics import Metrics
from headrace_runtime.ops import OpsServer
from headrace_runtime.problems import ErrorShape, Problem
from headrace_runtime.sse import ServerEvent, event_stream, last_event_id
from multidict import CIMultiDict
from pydantic import BaseModel, SecretStr

PEPPER = SecretStr("pepper-for-tests")
KEY = make_key(bytes(KEY_RANDOM_BYTES))
NOTHING = "There is nothing at this path."


class Stored:
    key_id = KEY.key_id
    tenant = "acme"
    secret_hash = hash_secret(PEPPER.get_secret_value(), KEY.secret)
    scopes = ("tasks",)
    requests_per_minute: int | None = None
    revoked_at: int | None = None


SHAPES = {
    "models": ErrorShape.OPENAI,
    "chat": ErrorShape.OPENAI,
    "messages": ErrorShape.ANTHROPIC,
    "ollama": ErrorShape.OLLAMA,
}


class Body(BaseModel):
    role: str
    priority: int = 0


class ServedApi:
    """An application with one route per behaviour, on a free port."""

    def __init__(self) -> None:
        self.metrics = Metrics("test")
        self.stored = Stored()
        self.now = 1000.0
        self.source_closed = asyncio.Event()
        self.release = asyncio.Event()
        self.entered = asyncio.Event()
        keys = authentication({KEY.key_id: self.stored}, PEPPER, public=("/open",), now=lambda: self.now)
        self.app = new_app(
            metrics=self.metrics,
            body_limit_bytes=1000,
            error_shape=lambda request: SHAPES.get(request.path.rsplit("/", 2)[-2], ErrorShape.PROBLEM_DETAILS),
            origins=("https://console.example",),
            middlewares=(keys,),
        )
        add = self.app.router.add_route
        add("GET", "/open", self._open)
        add("GET", "/v1/whoami", self._whoami)
        add("GET", "/v1/costs", self._costs)
        add("POST", "/v1/tasks", self._tasks)
        add("POST", "/v1/chat/completions", self._tasks)
        add("GET", "/v1/broken", self._broken)
        add("GET", "/v1/models/broken", self._broken)
        add("GET", "/v1/conflict", self._conflict)
        add("GET", "/v1/events", self._events)
        add("GET", "/v1/answer", self._answer)
        add("GET", "/v1/whole", self._whole)
        add("GET", "/v1/slow", self._slow)
        self.server = HttpServer(self.app, "127.0.0.1", 0)

    async def _open(self, _request: web.Request) -> web.Response:
        return web.json_response({})

    async def _whoami(self, request: web.Request) -> web.Response:
        caller = require(request, Scope.TASKS)
        return web.json_response({"tenant": caller.tenant, "key": caller.key_id})

    async def _costs(self, request: web.Request) -> web.Response:
        require(request, Scope.COSTS)
        return web.json_response({})

    async def _tasks(self, request: web.Request) -> web.Response:
        body = await read_model(request, Body)
        return web.json_response(body.model_dump(), status=202)

    async def _broken(self, _request: web.Request) -> web.Response:
        raise RuntimeError("the inside of the service")

    async def _conflict(self, _request: web.Request) -> web.Response:
        raise Problem(409, "idempotency-conflict", "This key was used with other content.", extra={"task_id": "t1"})

    async def _numbers(self, start: int) -> AsyncIterator[ServerEvent]:
        try:
            for number in range(start, start + 3):
                yield ServerEvent(json.dumps({"n": number}), event="delta", id=str(number))
            self.entered.set()
            await self.release.wait()
            yield ServerEvent("last", id="last")
        finally:
            self.source_closed.set()

    async def _events(self, request: web.Request) -> web.StreamResponse:
        start = int(last_event_id(request) or "-1") + 1
        return await event_stream(request, self._numbers(start), heartbeat_seconds=0.05, resumable=True)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        return await event_stream(
            request, self._numbers(0), heartbeat_seconds=5, resumable=False, headers={"X-Model": "phi3"}
        )

    async def _until_gone(self, request: web.Request) -> AsyncIterator[ServerEvent]:
        try:
            yield ServerEvent("[DONE]")
            await disconnected(request)
        finally:
            self.source_closed.set()

    async def _whole(self, request: web.Request) -> web.StreamResponse:
        return await event_stream(request, self._until_gone(request), heartbeat_seconds=5, resumable=False)

    async def _slow(self, _request: web.Request) -> web.Response:
        self.entered.set()
        await self.release.wait()
        return web.json_response({"done": True})


@pytest.fixture
async def api() -> AsyncIterator[ServedApi]:
    made = ServedApi()
    await made.server.start()
    yield made
    made.release.set()
    await made.server.stop()


@pytest.fixture
async def client(api: ServedApi) -> AsyncIterator[aiohttp.ClientSession]:
    headers = {"Authorization": f"Bearer {KEY}"}
    async with aiohttp.ClientSession(f"http://127.0.0.1:{api.server.port}", headers=headers) as session:
        yield session


async def _json(response: aiohttp.ClientResponse) -> Any:
    return json.loads(await response.text())


async def test_a_problem_is_told_by_rfc_9457(client: aiohttp.ClientSession) -> None:
    async with client.get("/v1/conflict", headers={"X-Request-Id": "req-1"}) as response:
        assert response.status == 409
        assert response.content_type == "application/problem+json"
        assert response.headers["X-Request-Id"] == "req-1"
        assert await _json(response) == {
            "type": "urn:headrace:problem:idempotency-conflict",
            "title": "Conflict",
            "status": 409,
            "detail": "This key was used with other content.",
            "instance": "urn:headrace:request:req-1",
            "task_id": "t1",
        }


@pytest.mark.parametrize(("path", "shape"), [("/v1/broken", "problem"), ("/v1/models/broken", "openai")])
async def test_an_unforeseen_error_tells_nothing_of_itself(
    client: aiohttp.ClientSession, path: str, shape: str
) -> None:
    async with client.get(path) as response:
        text = await response.text()
        assert response.status == 500
        assert "inside" not in text
        assert ("error" in json.loads(text)) == (shape == "openai")


async def test_unknown_paths_and_wrong_methods_are_problems_too(client: aiohttp.ClientSession) -> None:
    async with client.get("/nowhere") as response:
        assert response.status == 404
        assert (await _json(response))["type"] == "urn:headrace:problem:not-found"
    async with client.delete("/v1/tasks") as response:
        assert response.status == 405
        assert response.headers["Allow"] == "POST"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/nowhere", {"error": {"message": NOTHING, "type": "invalid_request_error", "param": None,
                                        "code": "not_found"}}),
        ("/v1/messages/nowhere", {"type": "error", "error": {"type": "not_found_error", "message": NOTHING},
                                  "request_id": "req-7"}),
        ("/api/ollama/nowhere", {"error": NOTHING}),
    ],
    ids=["openai", "anthropic", "ollama"],
)  # fmt: skip
async def test_errors_have_the_form_of_the_paths_clients(
    client: aiohttp.ClientSession, path: str, body: dict[str, object]
) -> None:
    async with client.get(path, headers={"X-Request-Id": "req-7"}) as response:
        assert response.status == 404
        assert await _json(response) == body
        assert response.headers.get("request-id", "req-7") == "req-7"


@pytest.mark.parametrize(
    ("path", "status"), [("/v1/whoami", 200), ("/v1/broken", 500), ("/nowhere", 404), ("/v1/answer", 200)]
)
async def test_a_page_of_an_allowed_origin_may_read_every_answer(
    client: aiohttp.ClientSession, path: str, status: int
) -> None:
    async with client.get(path, headers={"Origin": "https://console.example"}) as response:
        assert response.status == status
        assert response.headers["Access-Control-Allow-Origin"] == "https://console.example"
        assert response.headers["Vary"] == "Origin"
        assert "X-Request-Id" in response.headers["Access-Control-Expose-Headers"]
    async with client.get(path, headers={"Origin": "https://console.example.evil.example"}) as response:
        assert "Access-Control-Allow-Origin" not in response.headers


async def test_a_preflight_request_needs_no_key_and_is_answered_for_allowed_origins_only(
    api: ServedApi, client: aiohttp.ClientSession
) -> None:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,x-stainless-os"}
    url = f"http://127.0.0.1:{api.server.port}/v1/tasks"
    async with aiohttp.ClientSession() as browser:
        async with browser.options(url, headers={"Origin": "https://console.example", **asked}) as response:
            assert response.status == 204
            assert response.headers["Access-Control-Allow-Headers"] == "authorization,x-stainless-os"
            assert "POST" in response.headers["Access-Control-Allow-Methods"]
        async with browser.options(url, headers={"Origin": "https://other.example", **asked}) as response:
            assert response.status == 405
            assert "Access-Control-Allow-Origin" not in response.headers
        async with browser.post(url, headers={"Origin": "https://console.example"}) as response:
            assert response.status == 401
            assert response.headers["Access-Control-Allow-Origin"] == "https://console.example"


async def test_request_ids_are_made_where_none_or_a_bad_one_is_given(client: aiohttp.ClientSession) -> None:
    seen = set()
    for given in (None, "bad id with spaces", "x" * 200):
        async with client.get("/v1/whoami", headers={"X-Request-Id": given} if given else {}) as response:
            seen.add(response.headers["X-Request-Id"])
    assert len(seen) == 3
    assert all(len(made) == 16 for made in seen)


@pytest.mark.parametrize(
    ("body", "content_type", "status", "kind"),
    [
        (b"{", "application/json", 400, "malformed-json"),
        (b"\xff\xfe", "application/json", 400, "malformed-json"),
        (b"[" * 900, "application/json", 400, "malformed-json"),
        (b"{}", "text/plain", 415, "unsupported-media-type"),
        (b'{"role": "' + b"x" * 2000 + b'"}', "application/json", 413, "body-too-large"),
        (b'{"priority": "high secret"}', "application/json", 400, "invalid-request"),
    ],
)
async def test_bad_bodies_are_told_apart(
    client: aiohttp.ClientSession, body: bytes, content_type: str, status: int, kind: str
) -> None:
    async with client.post("/v1/tasks", data=body, headers={"Content-Type": content_type}) as response:
        assert response.status == status
        document = await _json(response)
        assert document["type"] == f"urn:headrace:problem:{kind}"
        assert "secret" not in json.dumps(document)


async def test_wrong_fields_are_all_named(client: aiohttp.ClientSession) -> None:
    async with client.post("/v1/tasks", json={"priority": "high"}) as response:
        fields = {error["field"] for error in (await _json(response))["errors"]}
        assert fields == {"role", "priority"}
    async with client.post("/v1/chat/completions", json={"priority": 1}) as response:
        error = (await _json(response))["error"]
        assert error["param"] == "role"
        assert error["type"] == "invalid_request_error"
    with pytest.raises(Problem):
        parse_model([], Body)


async def test_a_good_body_passes(client: aiohttp.ClientSession) -> None:
    async with client.post("/v1/tasks", json={"role": "review"}) as response:
        assert response.status == 202
        assert await _json(response) == {"role": "review", "priority": 0}


async def test_callers_are_known_by_bearer_or_header_and_held_to_their_scopes(
    api: ServedApi, client: aiohttp.ClientSession
) -> None:
    async with client.get("/v1/whoami") as response:
        assert await _json(response) == {"tenant": "acme", "key": KEY.key_id}
    async with client.get("/v1/costs") as response:
        assert response.status == 403
    url = f"http://127.0.0.1:{api.server.port}"
    async with aiohttp.ClientSession(url) as stranger:
        async with stranger.get("/v1/whoami", headers={"X-Api-Key": str(KEY)}) as response:
            assert response.status == 200
        async with stranger.get("/open") as response:
            assert response.status == 200
        for headers in ({}, {"Authorization": "Bearer nonsense"}, {"Authorization": f"Basic {KEY}"}):
            async with stranger.get("/v1/whoami", headers=headers) as response:
                assert response.status == 401
                assert response.headers["WWW-Authenticate"].startswith("Bearer")
        async with stranger.get("/v1/models/x", headers={}) as response:
            assert (await _json(response))["error"]["code"] == "invalid_api_key"


OTHER = str(make_key(bytes([7]) * KEY_RANDOM_BYTES))


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([("Authorization", f"Bearer {KEY}"), ("X-Api-Key", OTHER)], 400),
        ([("Authorization", f"Bearer {OTHER}"), ("X-Api-Key", str(KEY))], 400),
        ([("Authorization", "Bearer nonsense"), ("X-Api-Key", str(KEY))], 400),
        ([("Authorization", f"Bearer {KEY}"), ("X-Api-Key", str(KEY)[:-1])], 400),
        ([("Authorization", "Basic dTpw"), ("X-Api-Key", str(KEY))], 400),
        ([("Authorization", "Bearer "), ("X-Api-Key", str(KEY))], 400),
        ([("X-Api-Key", str(KEY)), ("X-Api-Key", OTHER)], 400),
        ([("Authorization", f"Bearer {KEY}"), ("Authorization", f"Bearer {OTHER}")], 400),
        ([("Authorization", f"Bearer {KEY}"), ("X-Api-Key", str(KEY))], 200),
        ([("Authorization", f"bearer {KEY}"), ("X-Api-Key", "")], 200),
        ([("Authorization", ""), ("X-Api-Key", str(KEY))], 200),
        ([("Authorization", f"Bearer {OTHER}"), ("X-Api-Key", OTHER)], 401),
    ],
)
async def test_of_two_keys_none_wins_in_silence(api: ServedApi, headers: list[tuple[str, str]], status: int) -> None:
    async with aiohttp.ClientSession(f"http://127.0.0.1:{api.server.port}") as stranger:
        async with stranger.get("/v1/whoami", headers=CIMultiDict(headers)) as response:
            assert response.status == status
            document = await _json(response)
            if status == 400:
                assert document["type"] == "urn:headrace:problem:contradiction"
                assert "X-Api-Key" in document["detail"]
                assert str(KEY) not in json.dumps(document)
        if status == 400:
            async with stranger.get("/v1/models/x", headers=CIMultiDict(headers)) as response:
                assert (response.status, (await _json(response))["error"]["code"]) == (400, "contradiction")


async def test_a_limited_key_is_told_its_rate_and_refused_above_it(
    api: ServedApi, client: aiohttp.ClientSession
) -> None:
    api.stored.requests_per_minute = 2
    for remaining in (1, 0):
        async with client.get("/v1/whoami") as response:
            assert response.status == 200
            assert response.headers["RateLimit"].startswith(f'"key";r={remaining}')
    async with client.get("/v1/whoami") as response:
        assert response.status == 429
        assert response.headers["Retry-After"] == "30"
    api.now += 30
    async with client.get("/v1/whoami") as response:
        assert response.status == 200


async def test_requests_are_counted_by_route_and_status(api: ServedApi, client: aiohttp.ClientSession) -> None:
    async with client.get("/v1/whoami"):
        pass
    labels = {"method": "GET", "route": "/v1/whoami", "status": "200"}
    assert api.metrics.registry.get_sample_value("headrace_http_request_seconds_count", labels) == 1
    assert api.metrics.registry.get_sample_value("headrace_http_open_requests") == 0


def test_an_event_on_the_wire_keeps_its_lines_and_admits_no_forged_fields() -> None:
    event = ServerEvent("one\ntwo\r\nthree\u2028still three", event="delta", id="7", retry_ms=100)
    assert event.encode().decode() == (
        "event: delta\nid: 7\nretry: 100\ndata: one\ndata: two\ndata: three\u2028still three\n\n"
    )
    for forged in (ServerEvent("x", id="1\ndata: y"), ServerEvent("x", event="a\rb")):
        with pytest.raises(ValueError, match="line break"):
            forged.encode()


async def _read_until(response: aiohttp.ClientResponse, mark: bytes) -> bytes:
    received = b""
    async with asyncio.timeout(30):
        while mark not in received:
            chunk = await response.content.readany()
            assert chunk, f"the stream ended before {mark!r}: {received!r}"
            received += chunk
    return received


async def test_a_stream_resumes_after_the_last_event_id_and_beats_while_silent(client: aiohttp.ClientSession) -> None:
    async with client.get("/v1/events", headers={"Last-Event-ID": "4"}) as response:
        assert response.content_type == "text/event-stream"
        assert "X-Request-Id" in response.headers
        received = await _read_until(response, b": heartbeat")
        assert received.startswith(b'event: delta\nid: 5\ndata: {"n": 5}\n\n')
    async with client.get("/v1/events?last_event_id=9") as response:
        assert b"id: 10" in await _read_until(response, b"id: 12")
    async with client.get("/v1/events", headers={"Last-Event-ID": "x" * 600}) as response:
        assert response.status == 400


async def test_a_stream_ends_with_its_source(api: ServedApi, client: aiohttp.ClientSession) -> None:
    api.release.set()
    async with client.get("/v1/answer") as response:
        assert response.headers["X-Model"] == "phi3"
        assert (await response.read()).endswith(b"id: last\ndata: last\n\n")
    await asyncio.wait_for(api.source_closed.wait(), 30)


async def test_a_caller_that_goes_away_closes_the_source(api: ServedApi, client: aiohttp.ClientSession) -> None:
    async with client.get("/v1/events") as response:
        await _read_until(response, b"id: 2")
        response.close()
    await asyncio.wait_for(api.source_closed.wait(), 30)


async def test_a_caller_that_goes_away_with_the_whole_answer_was_answered(
    api: ServedApi, client: aiohttp.ClientSession
) -> None:
    async with client.get("/v1/whole") as response:
        await _read_until(response, b"data: [DONE]\n\n")
        response.close()
    await asyncio.wait_for(api.source_closed.wait(), 30)
    await asyncio.wait_for(api.app[IN_PROGRESS].none_open.wait(), 30)
    counted = {
        status: api.metrics.registry.get_sample_value(
            "headrace_http_request_seconds_count", {"method": "GET", "route": "/v1/whole", "status": status}
        )
        for status in ("200", "499")
    }
    assert counted == {"200": 1, "499": None}


async def test_a_drain_sends_resumable_streams_away_and_waits_for_the_others(
    api: ServedApi, client: aiohttp.ClientSession
) -> None:
    async with client.get("/v1/events") as resumable, client.get("/v1/answer") as answer:
        await _read_until(resumable, b"id: 2")
        await _read_until(answer, b"id: 2")
        draining = asyncio.create_task(api.server.drain())
        await asyncio.wait_for(resumable.content.read(), 30)
        assert not draining.done()
        assert api.app[DRAINING].is_set()
        api.release.set()
        assert b"data: last" in await answer.content.read()
        await asyncio.wait_for(draining, 30)


async def test_a_drain_answers_open_requests_and_takes_no_new_connections(
    api: ServedApi, client: aiohttp.ClientSession
) -> None:
    slow = asyncio.create_task(_get_json(client, "/v1/slow"))
    await asyncio.wait_for(api.entered.wait(), 30)
    draining = asyncio.create_task(api.server.drain())
    await asyncio.sleep(0.02)
    assert not draining.done()
    async with aiohttp.ClientSession() as fresh:
        with pytest.raises(aiohttp.ClientConnectionError):
            await fresh.get(f"http://127.0.0.1:{api.server.port}/open")
    api.release.set()
    assert await asyncio.wait_for(slow, 30) == {"done": True}
    await asyncio.wait_for(draining, 30)


async def _get_json(client: aiohttp.ClientSession, path: str) -> Any:
    async with client.get(path) as response:
        return await _json(response)


async def test_json_is_read_without_a_model_too() -> None:
    app = new_app(metrics=Metrics("test"), body_limit_bytes=100)

    async def echo(request: web.Request) -> web.Response:
        return web.json_response(await read_json(request))

    app.router.add_post("/echo", echo)
    server = HttpServer(app, "127.0.0.1", 0)
    await server.start()
    async with aiohttp.ClientSession() as session:
        url = f"http://127.0.0.1:{server.port}/echo"
        headers = {"Content-Type": "application/merge-patch+json"}
        async with session.post(url, data=b"[1]", headers=headers) as response:
            assert await _json(response) == [1]
    await server.stop()


@pytest.fixture
async def ops() -> AsyncIterator[OpsServer]:
    health = Health()
    health.set("kafka", "not connected")
    server = OpsServer(
        host="127.0.0.1",
        port=0,
        service="headrace-test",
        version="1.2",
        instance="i",
        health=health,
        metrics=Metrics("test"),
    )
    server.health = health  # type: ignore[attr-defined]
    await server.start()
    yield server
    await server.stop()


async def test_the_ops_server_gives_out_the_service_s_documents_and_fresh_metrics() -> None:
    metrics = Metrics("test")
    asked = 0

    def refresh() -> None:
        nonlocal asked
        asked += 1
        gauge.clear()
        gauge.labels(str(asked)).set(asked)

    metrics.before_scrape(refresh)
    gauge = metrics.gauge("freshness", "How often it was asked for.", ("time",))
    metrics.documents["work"] = lambda: {"outstanding_work_seconds": 12.5}
    metrics.pages["fleet"] = lambda: f"<!doctype html><p>asked {asked} times"
    server = OpsServer(
        host="127.0.0.1", port=0, service="s", version="1", instance="i", health=Health(), metrics=metrics
    )
    await server.start()
    async with aiohttp.ClientSession(f"http://127.0.0.1:{server.port}") as session:
        async with session.get("/work") as response:
            assert (response.status, await _json(response)) == (200, {"outstanding_work_seconds": 12.5})
        for time in ("1", "2"):
            async with session.get("/metrics") as response:
                shown = await response.text()
            assert f'headrace_test_freshness{{time="{time}"}} {time}.0' in shown
            assert shown.count("headrace_test_freshness{") == 1
        async with session.get("/fleet") as response:
            assert (response.content_type, await response.text()) == ("text/html", "<!doctype html><p>asked 2 times")
            assert response.headers["Content-Security-Policy"].startswith("default-src 'none'"), "nothing may run"
    await server.stop()


async def test_the_ops_server_tells_health_and_metrics(ops: OpsServer) -> None:
    health: Health = ops.health  # type: ignore[attr-defined]
    async with aiohttp.ClientSession(f"http://127.0.0.1:{ops.port}") as session:
        async with session.get("/healthz") as response:
            assert response.status == 200
            document = await _json(response)
            assert document["status"] == "alive"
            assert document["version"] == "1.2"
        async with session.get("/readyz") as response:
            assert response.status == 503
            assert (await _json(response))["checks"] == {"kafka": "not connected"}
        health.set("kafka", None)
        health.add("tables", lambda: None)
        async with session.get("/readyz") as response:
            assert response.status == 200
            assert (await _json(response))["checks"] == {"kafka": "ok", "tables": "ok"}
        async with session.get("/metrics") as response:
            assert response.content_type == "text/plain"
            assert "headrace_runtime_loop_lag_seconds" in await response.text()
        health.add_liveness("poller", lambda: "its thread has died")
        async with session.get("/healthz") as response:
            assert response.status == 503
            assert (await _json(response))["checks"] == {"poller": "its thread has died"}


@pytest.mark.parametrize(
    ("name", "reason"),
    [("history", "waits: no database"), ("live windows", "down"), ("h.tasks.submitted[3]", "suspended: x")],
)
async def test_what_is_degraded_is_named_while_ready_and_what_is_reported_is_not_ready(
    ops: OpsServer, name: str, reason: str
) -> None:
    health: Health = ops.health  # type: ignore[attr-defined]
    health.set("kafka", None)
    waits: list[str | None] = [None]
    health.add_degradation("submissions", lambda: waits[0])

    async def ready() -> tuple[int, Any]:
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{ops.port}/readyz") as response:
            return response.status, await _json(response)

    assert (await ready())[1]["degraded"] == {}
    health.degrade(name, reason)
    waits[0] = "partition 3 waits"
    status, document = await ready()
    assert (status, document["status"]) == (200, "ready")
    assert document["degraded"] == {name: reason, "submissions": "partition 3 waits"}
    health.degrade(name, None)
    health.degrade("never there", None)
    waits[0] = None
    health.report(name, reason)
    status, document = await ready()
    assert (status, document["degraded"], document["checks"]) == (503, {}, {"kafka": "ok", name: reason})
    health.report(name, None)
    status, document = await ready()
    assert (status, document["checks"]) == (200, {"kafka": "ok"})

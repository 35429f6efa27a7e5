"""Retries, errors and event streams, against a service on loopback that answers as each test says."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing

import pytest
from aiohttp import web
from headrace.errors import (
    Conflict,
    HeadraceError,
    NotAllowed,
    NotFound,
    NotUnderstood,
    OverBudget,
    RequestInvalid,
    RetryLater,
    ServiceFailed,
    Unavailable,
)
from headrace.transport import Transport, pause_before

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Service:
    """Answers requests with one handler after the other, and keeps the requests."""

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[web.Request] = []
        self._handlers: list[Handler] = []

    def will(self, *handlers: Handler) -> None:
        self._handlers += handlers

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        return await self._handlers.pop(0)(request)


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    made = Service()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


@pytest.fixture
async def transport() -> AsyncIterator[Transport]:
    made = Transport("hr_id_secret", patience_seconds=3.0)
    yield made
    await made.close()


def says(status: int, document: object = None, **headers: str) -> Handler:
    async def handler(_request: web.Request) -> web.StreamResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.json_response(document if document is not None else {}, status=status, headers=named)

    return handler


def problem(status: int, kind: str, detail: str = "no", **headers: str) -> Handler:
    return says(status, {"type": f"urn:headrace:problem:{kind}", "detail": detail, "status": status}, **headers)


async def breaks(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.close()
    return web.Response()


async def test_a_good_answer_comes_back_parsed_and_the_key_goes_along(service: Service, transport: Transport) -> None:
    service.will(says(202, {"id": "t"}))
    reply = await transport.call("POST", f"{service.url}/v1/tasks", body={"prompt": "x"})
    assert (reply.status, reply.document) == (202, {"id": "t"})
    assert service.requests[0].headers["Authorization"] == "Bearer hr_id_secret"


async def test_what_may_succeed_later_is_sent_again(service: Service, transport: Transport) -> None:
    service.will(
        problem(503, "not-accepted", Retry_After="0"), problem(429, "rate-limit-exceeded", Retry_After="0"),
        breaks, problem(502, ""), says(200, {"ok": True}),
    )  # fmt: skip
    reply = await transport.call("POST", f"{service.url}/x", body={"a": 1}, headers={"Idempotency-Key": "k"})
    assert reply.document == {"ok": True}
    assert [request.headers["Idempotency-Key"] for request in service.requests] == ["k"] * 5


@pytest.mark.parametrize("failure", [breaks, problem(503, "accept-uncertain", Retry_After="0"), problem(502, "")])
async def test_what_may_have_been_done_is_not_repeated_when_that_would_do_it_twice(
    service: Service, transport: Transport, failure: Handler
) -> None:
    service.will(failure)
    with pytest.raises((Unavailable, RetryLater)):
        await transport.call("POST", f"{service.url}/v1/keys", body={}, repeatable=False)
    assert len(service.requests) == 1


async def test_what_was_surely_not_done_is_repeated_in_any_case(service: Service, transport: Transport) -> None:
    service.will(problem(429, "rate-limit-exceeded", Retry_After="0"), says(201, {"key": "x"}))
    reply = await transport.call("POST", f"{service.url}/v1/keys", body={}, repeatable=False)
    assert reply.status == 201


async def test_patience_ends_at_once_when_the_service_asks_for_more(service: Service, transport: Transport) -> None:
    service.will(problem(429, "rate-limit-exceeded", "Wait.", Retry_After="60"))
    with pytest.raises(RetryLater, match="Wait") as caught:
        await transport.call("GET", service.url)
    assert caught.value.after_seconds == 60.0


async def test_nobody_there() -> None:
    transport = Transport(None, patience_seconds=0.0)
    with pytest.raises(Unavailable, match=r"http://127\.0\.0\.1:9 cannot be reached"):
        await transport.call("GET", "http://127.0.0.1:9/v1/tasks")
    await transport.close()


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, RequestInvalid), (401, NotAllowed), (402, OverBudget), (403, NotAllowed), (404, NotFound),
        (409, Conflict), (413, RequestInvalid), (500, ServiceFailed),
    ],
)  # fmt: skip
async def test_refusals_become_errors_by_what_to_do(
    service: Service, transport: Transport, status: int, expected: type[HeadraceError]
) -> None:
    service.will(problem(status, "some-kind", "In words."))
    with pytest.raises(expected, match="In words") as caught:
        await transport.call("GET", service.url)
    assert getattr(caught.value, "kind", None) == "some-kind"
    assert len(service.requests) == 1


@pytest.mark.parametrize("kind", ["below-floor", "privacy", "mode", "no-consent"])
async def test_what_no_key_may_ask_for_is_the_requests_fault(service: Service, transport: Transport, kind: str) -> None:
    service.will(problem(403, kind, "In words."))
    with pytest.raises(RequestInvalid, match="In words") as caught:
        await transport.call("GET", service.url)
    assert (caught.value.status, caught.value.kind) == (403, kind)


async def test_wrong_fields_are_told(service: Service, transport: Transport) -> None:
    errors = [{"field": "budget", "message": "must be positive"}]
    service.will(says(400, {"type": "urn:headrace:problem:invalid-request", "detail": "d", "errors": errors}))
    with pytest.raises(RequestInvalid) as caught:
        await transport.call("GET", service.url)
    assert caught.value.fields == (("budget", "must be positive"),)


async def test_an_answer_that_is_not_of_the_api_says_so(service: Service, transport: Transport) -> None:
    async def page(_request: web.Request) -> web.StreamResponse:
        return web.Response(text="<html>", content_type="text/html")

    service.will(page)
    with pytest.raises(NotUnderstood, match="text/html, not JSON"):
        await transport.call("GET", service.url)


def streams(*pieces: bytes, cut: bool = False) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
        if cut:
            assert request.transport is not None
            request.transport.close()
        else:
            await response.write_eof()
        return response

    return handler


async def test_a_broken_stream_goes_on_after_the_last_event(service: Service, transport: Transport) -> None:
    service.will(
        streams(b"id: 1\ndata: a\n\n", b"id: 2\ndata: b\n\nid: 3\nda", cut=True),
        problem(503, "starting", Retry_After="0"),
        streams(b"id: 3\ndata: c\n\n"),
        streams(b": nothing new\n\n"),
        says(204),
    )
    async with aclosing(transport.events(f"{service.url}/events")) as events:
        seen = [event.data async for event in events]
    assert seen == ["a", "b", "c"]
    assert [request.headers.get("Last-Event-ID") for request in service.requests] == [None, "2", "2", "3", "3"]


async def test_an_id_without_data_moves_the_place_and_one_that_was_cut_does_not(
    service: Service, transport: Transport
) -> None:
    opened: list[bool] = []
    service.will(
        streams(b"retry: 1000\n: heartbeat\nid: 0:7\n\n", b"id: 0:9\ndata: unfini", cut=True),
        streams(b"data: x\n\n"),
        says(204),
    )
    stream = transport.events(f"{service.url}/feed", on_open=lambda: opened.append(True))
    assert [event.data async for event in stream] == ["x"]
    assert [request.headers.get("Last-Event-ID") for request in service.requests] == [None, "0:7", "0:7"]
    assert len(opened) == 2


async def test_a_refused_stream_raises_at_once(service: Service, transport: Transport) -> None:
    service.will(problem(410, "events-gone"))
    with pytest.raises(NotFound) as caught:
        async for _ in transport.events(f"{service.url}/events"):
            pass
    assert caught.value.status == 410


def test_pauses_grow_and_stay_within_their_bounds() -> None:
    assert [pause_before(attempt, 1.0) for attempt in (1, 2, 3, 9)] == [0.1, 0.2, 0.4, 5.0]
    assert pause_before(3, 0.0) == pytest.approx(0.2)

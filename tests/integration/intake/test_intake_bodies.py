"""Bodies that mean nothing, or not the same to everybody: refused at every endpoint, in its own error shape."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from headrace_contracts.content import text_of
from headrace_testing.bad_bodies import BAD_BODIES
from headrace_testing.intake_bed import BOOTSTRAP_KEY, Bed, Running
from yarl import URL

ENDPOINTS = [
    ("POST", "/v1/tasks"),
    ("POST", "/v1/chat/completions"),
    ("PUT", "/v1/preferences"),
    ("POST", "/v1/keys"),
]


@pytest.fixture
async def intake(bed: Bed) -> AsyncIterator[Running]:
    async with bed.running() as running:
        yield running


async def send(intake: Running, method: str, path: str, body: bytes, **headers: str) -> tuple[int, Any, Any]:
    told = {"Authorization": f"Bearer {BOOTSTRAP_KEY}", "Content-Type": "application/json", **headers}
    async with intake.http.request(method, intake.url + path, data=body, headers=told) as response:
        return response.status, json.loads(await response.read()), response.headers


def told_kind(path: str, document: Any) -> tuple[str, str | None]:
    """Kind (or OpenAI's code) and field of an error, in the shape of its path."""
    if path.startswith("/v1/chat"):
        error = document["error"]
        assert error["type"] == "invalid_request_error"
        return error["code"], error["param"]
    errors = document.get("errors")
    return document["type"].removeprefix("urn:headrace:problem:"), errors[0]["field"] if errors else None


@pytest.mark.parametrize(("method", "path"), ENDPOINTS)
async def test_every_endpoint_refuses_a_bad_body_in_its_own_shape(
    bed: Bed, intake: Running, method: str, path: str
) -> None:
    codes = {415: "unsupported_media_type", 413: "request_too_large"} if "chat" in path else {}
    for name, bad in BAD_BODIES.items():
        status, document, headers = await send(intake, method, path, bad.body, **bad.headers)
        found = (status, *told_kind(path, document))
        assert found == (bad.status, codes.get(bad.status, bad.kind), bad.param), name
        assert ("Accept-Encoding" in headers) == (bad.status == 415), name
    assert not bed.router.tasks


@pytest.mark.parametrize(("method", "path"), ENDPOINTS[:2])
@pytest.mark.parametrize(
    ("body", "param"),
    [
        (r'{"messages": [{"role": "user", "content": "cut \ud83d"}]}', "messages.0.content"),
        (r'{"messages": [{"role": "user", "content": [{"text": "\ude00"}]}]}', "messages.0.content.0.text"),
        (r'{"messages": [{"role": "tool", "content": "\udfff", "tool_call_id": "1"}]}', "messages.0.content"),
        (r'{"session": "s\ud83d"}', "session"),
        (r'{"subject": "\ud83d"}', "subject"),
        (r'{"user": "\udc00"}', "user"),
        (r'{"stop": ["END", "\ud83d"]}', "stop.1"),
        (r'{"metadata": {"team": "\ud83d"}}', "metadata.team"),
        (r'{"labels": {"\ud83d": "x"}}', "labels"),
        (r'{"unknown": {"id": "\ud83d"}}', "unknown.id"),
    ],
)  # fmt: skip
async def test_half_a_character_is_refused_wherever_it_stands(
    intake: Running, method: str, path: str, body: str, param: str
) -> None:
    whole = {"model": "auto", "messages": [{"role": "user", "content": "Hello"}]}
    sent = json.dumps({**whole, **json.loads(body)}).encode()
    status, document, _ = await send(intake, method, path, sent)
    assert (status, told_kind(path, document)) == (400, ("lone-surrogate", param))


@pytest.mark.parametrize("path", ["/v1/tasks", "/v1/chat/completions"])
@pytest.mark.parametrize(
    ("header", "status"),
    [
        (b"X-Headrace-Session: a\xff", 400),
        (b"X-Headrace-User: \xed\xa0\xbd", 400),
        (b"X-Headrace-Budget: 1\xe9", 400),
        (b"X-Headrace-Subject: caf\xc3\xa9", 200),
        (b"Idempotency-Key: a\xff", 400),
        (b"X-Api-Key: hr_aaaqeayeaudaocaj_\xff", 400),
    ],
)
async def test_a_header_that_is_not_utf8_is_refused(intake: Running, path: str, header: bytes, status: int) -> None:
    body = json.dumps({"model": "auto", "messages": [{"role": "user", "content": "Hello"}]}).encode()
    url = URL(intake.url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(
        f"POST {path} HTTP/1.1\r\nHost: intake\r\nAuthorization: Bearer {BOOTSTRAP_KEY}\r\nPrefer: wait=5\r\n"
        f"Connection: close\r\nContent-Length: {len(body)}\r\n".encode()
        + header
        + b"\r\n\r\n"
        + body
    )
    answer = await asyncio.wait_for(reader.read(), 30)
    writer.close()
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer
    if status == 400:
        assert header.split(b":")[0] in answer


@pytest.mark.parametrize(("method", "path"), ENDPOINTS[:2])
@pytest.mark.parametrize(
    ("body", "param"),
    [
        ('{"privacy": "sensitive", "model": "auto", "privacy": "public"}', "privacy"),
        ('{"budget": 0, "budget": 100}', "budget"),
        ('{"messages": [{"role": "user", "content": "a", "content": "b"}]}', "messages.0.content"),
        ('{"metadata": {"team": "a", "team": "a"}}', "metadata.team"),
    ],
)
async def test_a_key_that_is_there_twice_is_named(
    bed: Bed, intake: Running, method: str, path: str, body: str, param: str
) -> None:
    status, document, _ = await send(intake, method, path, body.encode())
    assert (status, told_kind(path, document)) == (400, ("duplicate-key", param))
    assert not bed.router.tasks


async def test_emoji_as_two_escapes_and_packed_bodies_are_taken(bed: Bed, intake: Running) -> None:
    said = "\U0001f600 caf\u00e9 \U0010ffff"
    body = json.dumps({"model": "auto", "messages": [{"role": "user", "content": said}]}).encode()
    assert b"\\ud83d\\ude00" in body
    for path, packed, coding in (
        ("/v1/chat/completions", body, "identity"),
        ("/v1/chat/completions", gzip.compress(body, mtime=0), "gzip"),
        ("/v1/tasks", gzip.compress(body, mtime=0), "GZIP"),
    ):
        status, *_ = await send(intake, "POST", path, packed, **{"Content-Encoding": coding})
        assert status in (200, 202)
    await bed.router.until(lambda: len(bed.router.tasks) == 3)
    assert {text_of(seen.task.messages[0].content) for seen in bed.router.tasks} == {said}

"""The callers of `make bench-gateway`, and the upstream that answers them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest
from headrace_gateway_bench.load import CallerLoad, NotAnswered, check, read_response, run
from headrace_gateway_bench.upstream import ANSWER_TOKENS, LAST_WORD, PIECES, UpstreamConnection, answer

CHAT = "/v1/chat/completions"


def load(port: int, **more: object) -> CallerLoad:
    now = time.monotonic()
    usual: dict[str, object] = {"host": "127.0.0.1", "port": port, "path": CHAT, "headers": {"Authorization": "x"}}
    usual |= {"model": "m", "callers": 3, "streamed": False, "opens_at": now, "closes_at": now + 0.5}
    return CallerLoad(**{**usual, **more})  # type: ignore[arg-type]


@asynccontextmanager
async def serving(reply: bytes | None = None) -> AsyncIterator[int]:
    """The upstream, or one that always replies with these bytes and closes the connection."""

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert reply is not None
        await reader.readuntil(b"\r\n\r\n")
        writer.write(reply)
        await writer.drain()
        writer.close()

    loop = asyncio.get_running_loop()
    if reply is None:
        server = await loop.create_server(UpstreamConnection, "127.0.0.1", 0)
    else:
        server = await asyncio.start_server(once, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize(("streamed", "events"), [(False, 0), (True, len(PIECES) + 4)])
async def test_callers_are_answered_whole(streamed: bool, events: int) -> None:
    async with serving() as port:
        answers = await run(load(port, streamed=streamed))

    assert answers.errors == {}
    assert answers.milliseconds
    assert len(answers.first_milliseconds) == len(answers.milliseconds)
    assert all(
        0 < first <= whole for first, whole in zip(answers.first_milliseconds, answers.milliseconds, strict=True)
    )
    assert answers.events == events * len(answers.milliseconds)


async def test_what_ends_before_the_window_opens_does_not_count() -> None:
    async with serving() as port:
        now = time.monotonic()
        answers = await run(load(port, opens_at=now + 60, closes_at=now + 0.2))

    assert answers.milliseconds == []
    assert answers.errors == {}


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", "status 503"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "the end of the answer is missing"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "neither a length nor chunks"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}", "IncompleteReadError"),
    ],
)
async def test_failures_are_counted_by_reason_and_are_no_answers(reply: bytes, reason: str) -> None:
    async with serving(reply) as port:
        answers = await run(load(port, callers=1))

    assert answers.milliseconds == []
    assert answers.errors[reason] > 0


def test_every_prompt_is_new_and_every_length_right() -> None:
    first, second = (load(1).request(name).partition(b"\r\n\r\n") for name in ("a-1", "a-22"))

    for head, _, body in (first, second):
        assert f"Content-Length: {len(body)}".encode() in head.split(b"\r\n")
        assert b"Authorization: x" in head.split(b"\r\n")
    prompts = [json.loads(body)["messages"][0]["content"] for _, _, body in (first, second)]
    assert prompts[0] != prompts[1]
    # Headrace answers from its cache only what has these.
    assert {"temperature", "seed"}.isdisjoint(json.loads(first[2]))


def test_a_stream_that_breaks_off_is_no_answer() -> None:
    with pytest.raises(NotAnswered, match="no end"):
        check(200, f'data: {{"content":"{LAST_WORD}"}}\n\n'.encode(), streamed=True)


async def test_a_response_in_chunks_is_put_together() -> None:
    reader = asyncio.StreamReader()
    reader.feed_data(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\nnext"
    )

    response = await read_response(reader)

    assert (response.status, response.body) == (200, b"abc0123456789")
    assert response.fields == {b"transfer-encoding": b"chunked"}
    assert await reader.readexactly(4) == b"next"


def parsed(response: bytes) -> Mapping[str, object]:
    document: Mapping[str, object] = json.loads(response.partition(b"\r\n\r\n")[2])
    return document


def test_the_upstream_answers_a_chat_with_text_and_usage() -> None:
    said = parsed(answer(CHAT.encode(), b'{"stream": false}'))

    assert said["choices"][0]["message"]["content"] == "".join(PIECES)  # type: ignore[index]
    assert said["usage"]["completion_tokens"] == ANSWER_TOKENS  # type: ignore[index]


def test_the_upstream_lists_its_model_and_is_a_node_without_models() -> None:
    assert parsed(answer(b"/v1/models", b""))["data"]
    assert parsed(answer(b"/api/tags", b"")) == {"models": []}
    assert answer(b"/elsewhere", b"").startswith(b"HTTP/1.1 404")


async def test_the_upstream_takes_requests_in_pieces_and_several_at_once() -> None:
    request = load(1).request("a")
    async with serving() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request[:30])
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.write(request[30:] + request)
        for _ in range(2):
            response = await read_response(reader)
            assert response.status == 200
            assert LAST_WORD.encode() in response.body
        writer.close()


def test_headers_take_turns_from_request_to_request() -> None:
    turning = load(80, turns=[{"Authorization": "first"}, {"Authorization": "second"}])

    heads = [turning.request("prompt", turn).partition(b"\r\n\r\n")[0] for turn in range(3)]

    assert [head.split(b"Authorization: ")[1].split(b"\r\n")[0] for head in heads] == [b"first", b"second", b"first"]
    assert b"Authorization: x\r\n" in load(80).request("prompt", 3)

"""The load: callers in a closed loop, each of which asks again as soon as it was answered, in a process of their own.

Written on plain sockets, since a client library would take as much processor time as some of what is measured. Every
prompt is new, so that neither a cache nor the sharing of equal requests under way can answer.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from headrace_bench.children import serve

from headrace_gateway_bench.upstream import LAST_WORD

CONNECT_AGAIN_SECONDS = 0.1
ANSWER_SECONDS = 60.0
"""A request without a whole answer by then has failed."""

_TEXT = "Read the note below and reply with one short sentence about what it says, no more than twenty words. Note "


@dataclass(frozen=True, slots=True, kw_only=True)
class CallerLoad:
    """One window of load, which `callers` begin at once.

    Attributes:
        headers: Beside those of every request.
        turns: Headers that the requests of each caller have in turn, beside those.
        streamed: Whether answers are asked for as streams of events.
        opens_at, closes_at: LoadAnswers that end between these times of `time.monotonic()`, which is the same in all
            processes of a machine, count; those before only warm up.
    """

    host: str
    port: int
    path: str
    headers: Mapping[str, str]
    model: str
    callers: int
    streamed: bool
    opens_at: float
    closes_at: float
    turns: Sequence[Mapping[str, str]] = ()

    def request(self, name: str, turn: int = 0) -> bytes:
        """A whole request, with a prompt that has this name in it, and the headers whose turn it is."""
        turned = self.turns[turn % len(self.turns)] if self.turns else {}
        asked = {"model": self.model, "max_tokens": 64, "stream": self.streamed}
        return chat_request(self.host, self.port, self.path, {**self.headers, **turned}, name, asked)


def chat_request(
    host: str, port: int, path: str, headers: Mapping[str, str], name: str, asked: Mapping[str, Any]
) -> bytes:
    """A whole request for a chat completion, with a prompt that has this name in it, and what else it asks for."""
    body = json.dumps({**asked, "messages": [{"role": "user", "content": f"{_TEXT}{name}."}]}).encode()
    own = {**headers, "Content-Type": "application/json", "Content-Length": str(len(body))}
    head = [f"POST {path} HTTP/1.1", f"Host: {host}:{port}"]
    head += [f"{field_name}: {value}" for field_name, value in own.items()]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


@dataclass(slots=True)
class LoadAnswers:
    """What came back within the window.

    Attributes:
        milliseconds: From request to whole answer, of each request that was answered.
        first_milliseconds: From request to the first byte of its body, likewise.
        errors: How many requests failed, by reason.
        events: Events of the streams, all together.
    """

    milliseconds: list[float] = field(default_factory=list)
    first_milliseconds: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    events: int = 0


class NotAnswered(Exception):
    """The response is none that a caller could use; the message says why, without what differs from case to case."""


def check(status: int, body: bytes, *, streamed: bool) -> int:
    """How many events the answer has (0 if it is none of events). Raises NotAnswered."""
    if status != 200:
        raise NotAnswered(f"status {status}")
    if LAST_WORD.encode() not in body:
        raise NotAnswered("the end of the answer is missing")
    if not streamed:
        return 0
    if b"data: [DONE]" not in body:
        raise NotAnswered("the stream has no end")
    return body.count(b"data: ")


@dataclass(frozen=True, slots=True)
class LoadResponse:
    """What a caller got.

    Attributes:
        fields: Of the head, in lower case.
        first: When the first byte of the body was there, by `time.monotonic()`.
    """

    status: int
    fields: Mapping[bytes, bytes]
    body: bytes
    first: float


async def read_response(reader: asyncio.StreamReader) -> LoadResponse:
    """The whole response.

    Raises:
        NotAnswered: it has neither a length nor chunks.
        asyncio.IncompleteReadError: the connection ended before it.
    """
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    status = int(lines[0].split(b" ", 2)[1])
    pairs = (line.split(b":", 1) for line in lines[1:] if b":" in line)
    fields = {name: value.strip() for name, value in pairs}
    if (length := fields.get(b"content-length")) is not None:
        body = await reader.readexactly(int(length))
        return LoadResponse(status, fields, body, time.monotonic())
    if fields.get(b"transfer-encoding") != b"chunked":
        raise NotAnswered("neither a length nor chunks")
    first = 0.0
    body = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += (await reader.readexactly(size + 2))[:-2]
        first = first or time.monotonic()
    await reader.readexactly(2)
    return LoadResponse(status, fields, body, first)


async def call(load: CallerLoad, name: str, answers: LoadAnswers) -> None:
    """One caller, until the window closes."""
    first_turn = random.randrange(len(load.turns) or 1)
    streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
    number = 0
    while (began := time.monotonic()) < load.closes_at:
        number += 1
        failed = ""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                if streams is None:
                    streams = await asyncio.open_connection(load.host, load.port)
                reader, writer = streams
                writer.write(load.request(f"{name}-{number}", first_turn + number))
                response = await read_response(reader)
                events = check(response.status, response.body, streamed=load.streamed)
        except NotAnswered as error:
            failed = str(error)
        except (OSError, EOFError, TimeoutError) as error:
            failed = type(error).__name__
            if streams is not None:
                streams[1].close()
                streams = None
            await asyncio.sleep(CONNECT_AGAIN_SECONDS)
        ended = time.monotonic()
        if not load.opens_at <= ended <= load.closes_at:
            continue
        if failed:
            answers.errors[failed] += 1
        else:
            answers.milliseconds.append(round((ended - began) * 1000, 3))
            answers.first_milliseconds.append(round((response.first - began) * 1000, 3))
            answers.events += events
    if streams is not None:
        streams[1].close()


async def run(load: CallerLoad) -> LoadAnswers:
    """The whole load: what came back within its window."""
    answers = LoadAnswers()
    run_name = f"{time.time_ns():x}"
    async with asyncio.TaskGroup() as group:
        for number in range(load.callers):
            group.create_task(call(load, f"{run_name}-{number}", answers))
    return answers


def _play(request: Mapping[str, Any]) -> Mapping[str, object]:
    import uvloop

    return asdict(uvloop.run(run(CallerLoad(**request))))


if __name__ == "__main__":
    serve(_play)

"""An OpenAI-compatible API that answers every chat at once, as a process of its own.

The answer is fixed and prepared, so that the upstream costs all systems the same, and as little as it can. It lists its
one model, and it is an Ollama server without models as well, so that Headrace's local worker has a node to look at and
no simulator runs.

Run as a module it prints its port and serves until its standard input ends.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Final

MODEL: Final = "gpt-4o-mini"
"""A name whose price LiteLLM knows, and whose tokens it can count without getting a tokenizer from elsewhere."""
PIECES: Final = (
    "The river ", "carries what ", "it is given, ", "one leaf after ", "another, to where ", "the valley rests."
)  # fmt: skip
"""Text of the answer as it is streamed: about twenty tokens."""
LAST_WORD: Final = "rests."
"""An answer without it is not whole."""
PROMPT_TOKENS: Final = 40
ANSWER_TOKENS: Final = 20

_USAGE: Final = {
    "prompt_tokens": PROMPT_TOKENS,
    "completion_tokens": ANSWER_TOKENS,
    "total_tokens": PROMPT_TOKENS + ANSWER_TOKENS,
}
_COMMON: Final = {"id": "chatcmpl-bench", "created": 1_700_000_000, "model": MODEL}


def _json(status: str, document: object) -> bytes:
    body = json.dumps(document, separators=(",", ":")).encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _plain() -> bytes:
    message = {"role": "assistant", "content": "".join(PIECES)}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    return _json("200 OK", {**_COMMON, "object": "chat.completion", "choices": [choice], "usage": _USAGE})


def _streamed() -> bytes:
    """One chunk of HTTP for each event, all in one write."""
    deltas: list[tuple[dict[str, str], str | None]] = [({"role": "assistant", "content": ""}, None)]
    deltas += [({"content": piece}, None) for piece in PIECES]
    deltas.append(({}, "stop"))
    events: list[dict[str, object]] = [
        {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]} for delta, reason in deltas
    ]
    events.append({"choices": [], "usage": _USAGE})
    texts = [
        json.dumps({**_COMMON, "object": "chat.completion.chunk", **event}, separators=(",", ":")) for event in events
    ]
    data = [f"data: {text}\n\n".encode() for text in (*texts, "[DONE]")]
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in data) + b"0\r\n\r\n"


_PLAIN: Final = _plain()
_STREAMED: Final = _streamed()
_FIXED: Final = {
    b"/v1/models": _json("200 OK", {"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "bench"}]}),
    b"/api/version": _json("200 OK", {"version": "0.30.0"}),
    b"/api/tags": _json("200 OK", {"models": []}),
    b"/api/ps": _json("200 OK", {"models": []}),
}
_UNKNOWN: Final = _json("404 Not Found", {"error": {"message": "there is nothing here"}})


def answer(path: bytes, body: bytes) -> bytes:
    """The response to a request, head and all."""
    if path == b"/v1/chat/completions":
        return _STREAMED if b'"stream":true' in body.replace(b" ", b"") else _PLAIN
    return _FIXED.get(path, _UNKNOWN)


class UpstreamConnection(asyncio.Protocol):
    """Answers the requests of one connection in turn."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment] # uvloop's is one without deriving from it

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._received[:end])
            length = _content_length(head)
            whole = end + 4 + length
            if len(self._received) < whole:
                return
            body = bytes(self._received[end + 4 : whole])
            del self._received[:whole]
            self._transport.write(answer(head.split(b" ", 2)[1].partition(b"?")[0], body))


def _content_length(head: bytes) -> int:
    """Clients here send no other bodies than those with a length."""
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(UpstreamConnection, "127.0.0.1", 0, backlog=1024)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    async with server:
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    import uvloop

    uvloop.run(_serve())

"""Requests that are nearly right: every endpoint, with one to four things changed in body, headers, query or bytes."""

from __future__ import annotations

import asyncio
import copy
import json
import random
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, quote_from_bytes

from headrace_testing.up import RunningStack

from headrace_attack.report import Outcome
from headrace_attack.victims import Tenant
from headrace_attack.wire import Wire, request

_CONNECTIONS: Final = 12
_WAIT_SECONDS: Final = 3.0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A request that works, of which all others are mutations.

    Attributes:
        api: intake, skills or costs.
        admin: Whether it takes the administrator's key.
        ends: False if its answer is a stream, or may come late.
    """

    api: str
    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    body: Any = None
    headers: tuple[tuple[str, str], ...] = ()
    admin: bool = False
    ends: bool = True


_OPTIONS: Final = {
    "privacy": "public", "priority": "batch", "budget": "0.5", "deadline": 30, "session": "s", "subject": "x",
    "role": "conversation_scribe", "kind": "k", "user": "u", "mode": "hybrid", "allow_cached": True, "max_tokens": 4,
    "temperature": 0.5, "top_p": 0.9, "stop": ["x"], "seed": 7, "stream": False,
}  # fmt: skip
_MESSAGES: Final = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": [{"type": "text", "text": "Hello"}, {"type": "text", "text": "there"}]},
    {"role": "assistant", "content": "Hello.", "refusal": None, "tool_calls": [], "annotations": []},
    {"role": "user", "content": "Say one word."},
]
_ITEMS: Final = [
    {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello"}]},
    {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c", "output": "done"},
    {"role": "user", "content": "Say one word."},
]
_ANTHROPIC: Final = {
    "model": "auto", "max_tokens": 3, "system": [{"type": "text", "text": "Be short.",
    "cache_control": {"type": "ephemeral"}}], "stream": True, "temperature": 0.5, "top_k": 3, "stop_sequences": ["x"],
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "Hello"}, {"type": "image", "source": {
            "type": "base64", "media_type": "image/png", "data": "AAAA"}}]},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "done"}]},
    ],
    "tools": [{"name": "f", "input_schema": {"type": "object"}}], "tool_choice": {"type": "auto"},
    "thinking": {"type": "disabled"}, "metadata": {"user_id": "u"},
}  # fmt: skip
_TASK: Final = "01980000-0000-7000-8000-000000000001"

ENDPOINTS: Final = (
    Endpoint("intake", "POST", "/v1/tasks", body={**_OPTIONS, "prompt": "Hello", "labels": {"a": "b"}, "json": False},
             headers=(("Idempotency-Key", "k"), ("Prefer", "wait=0"), ("X-Headrace-Privacy", "public"))),
    Endpoint("intake", "POST", "/v1/tasks", body={"messages": _MESSAGES, "model": "auto", "deadline": 20}),
    Endpoint("intake", "GET", "/v1/tasks", query=(("status", "succeeded"), ("since", "2026-01-01T00:00:00Z"),
             ("until", "1999999999999"), ("limit", "5"), ("cursor", "WzEsICJ4Il0"), ("user", "u"), ("role", "r"))),
    Endpoint("intake", "GET", f"/v1/tasks/{_TASK}"),
    Endpoint("intake", "DELETE", f"/v1/tasks/{_TASK}", query=(("reason", "none"),)),
    Endpoint("intake", "GET", f"/v1/tasks/{_TASK}/events", headers=(("Last-Event-ID", "0:1"),), ends=False),
    Endpoint("intake", "POST", "/v1/chat/completions", ends=False, headers=(("X-Headrace-Deadline", "1"),),
             body={"model": "auto", "messages": _MESSAGES, "max_completion_tokens": 3, "n": 1, "stream": True,
             "user": "u",
                   "stream_options": {"include_usage": True}, "response_format": {"type": "text"},
                   "metadata": {"a": "b"},
                   "temperature": 1, "logit_bias": {}, "tools": []}),
    Endpoint("intake", "POST", "/v1/responses", ends=False, headers=(("X-Headrace-Deadline", "1"),),
             body={"model": "auto", "input": _ITEMS, "instructions": "Be short.", "max_output_tokens": 3, "store": True,
                   "stream": False, "background": True, "metadata": {"a": "b"}, "tools": [{"type": "function",
                   "name": "f", "parameters": {"type": "object"}}], "tool_choice": "auto", "include": [],
                   "text": {"format": {"type": "text"}}, "reasoning": {"effort": "low"}, "truncation": "auto"}),
    Endpoint("intake", "POST", "/v1/responses", ends=False,
             body={"model": "auto", "input": "Hello", "previous_response_id": f"resp_{_TASK}"}),
    Endpoint("intake", "GET", f"/v1/responses/resp_{_TASK}", query=(("stream", "true"), ("starting_after", "1"))),
    Endpoint("intake", "POST", f"/v1/responses/resp_{_TASK}/cancel"),
    Endpoint("intake", "DELETE", f"/v1/responses/resp_{_TASK}"),
    Endpoint("intake", "GET", f"/v1/responses/resp_{_TASK}/input_items", query=(("limit", "3"), ("order", "asc"),
             ("after", "x"))),
    Endpoint("intake", "POST", "/v1/conversations", ends=False, body={"items": _ITEMS, "metadata": {"a": "b"}}),
    Endpoint("intake", "GET", "/v1/conversations/conv_1"),
    Endpoint("intake", "POST", "/v1/conversations/conv_1", ends=False, body={"metadata": {"a": "b"}}),
    Endpoint("intake", "POST", "/v1/conversations/conv_1/items", ends=False, body={"items": _ITEMS}),
    Endpoint("intake", "GET", "/v1/conversations/conv_1/items", query=(("limit", "3"), ("order", "asc"))),
    Endpoint("intake", "DELETE", "/v1/conversations/conv_1"),
    Endpoint("intake", "GET", "/v1/conversations/conv_1/items/msg_1"),
    Endpoint("intake", "DELETE", "/v1/conversations/conv_1/items/msg_1"),
    Endpoint("intake", "POST", "/v1/completions", ends=False, headers=(("X-Headrace-Deadline", "1"),),
             body={"model": "auto", "prompt": ["Hello", "there"], "n": 1, "max_tokens": 3, "echo": True,
             "logprobs": 1}),
    Endpoint("intake", "POST", "/v1/embeddings", ends=False, headers=(("X-Headrace-Deadline", "1"),),
             body={"model": "role:embed", "input": ["Hello", "there"], "dimensions": 8, "encoding_format": "base64"}),
    Endpoint("intake", "POST", "/v1/moderations", ends=False, headers=(("X-Headrace-Deadline", "1"),),
             body={"model": "auto", "input": ["Hello", "there"]}),
    Endpoint("intake", "POST", "/v1/messages", ends=False, headers=(("X-Headrace-Deadline", "1"),
             ("anthropic-version", "2023-06-01"), ("X-Headrace-On-Disconnect", "cancel")), body=_ANTHROPIC),
    Endpoint("intake", "POST", "/v1/messages/count_tokens", body=_ANTHROPIC),
    Endpoint("intake", "POST", "/api/chat", ends=False, headers=(("X-Headrace-Deadline", "1"),),
             body={"model": "gemma2:2b", "messages": [{"role": "user", "content": "Hello", "images": ["AAAA"]}],
                   "stream": True, "format": "json", "options": {"num_predict": 3, "temperature": 0.5, "stop": ["x"]},
                   "think": False, "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]}),
    Endpoint("intake", "POST", "/api/generate", ends=False, headers=(("X-Headrace-Deadline", "1"),),
             body={"model": "gemma2:2b", "prompt": "Hello", "system": "Be short.", "stream": False,
                   "options": {"num_predict": 3}, "keep_alive": "5m"}),
    Endpoint("intake", "POST", "/api/embed", ends=False, headers=(("X-Headrace-Deadline", "1"),),
             body={"model": "nomic-embed-text:v1.5", "input": ["Hello"], "truncate": True, "dimensions": 8}),
    Endpoint("intake", "POST", "/api/show", body={"model": "gemma2:2b", "verbose": True}),
    Endpoint("intake", "GET", "/api/tags"),
    Endpoint("intake", "GET", "/api/ps"),
    Endpoint("intake", "GET", "/api/version"),
    Endpoint("intake", "POST", "/api/embeddings", ends=False, headers=(("X-Headrace-Deadline", "1"),),
             body={"model": "nomic-embed-text:v1.5", "prompt": "Hello"}),
    *(Endpoint("intake", method, f"/api/{path}", body={"model": "gemma2:2b"})
      for method, path in (("POST", "pull"), ("POST", "push"), ("POST", "create"), ("POST", "copy"),
                           ("DELETE", "delete"), ("POST", "blobs/sha256:0"))),
    Endpoint("intake", "GET", "/v1/files", query=(("limit", "3"), ("after", "file-x"), ("order", "asc"))),
    Endpoint("intake", "GET", "/v1/files/file-x"),
    Endpoint("intake", "GET", "/v1/files/file-x/content"),
    Endpoint("intake", "DELETE", "/v1/files/file-x"),
    Endpoint("intake", "POST", "/v1/batches",
             body={"input_file_id": "file-x", "endpoint": "/v1/chat/completions", "completion_window": "24h",
                   "metadata": {"a": "b"}, "output_expires_after": {"anchor": "created_at", "seconds": 3600}}),
    Endpoint("intake", "GET", "/v1/batches", query=(("limit", "3"), ("after", "batch_x"))),
    Endpoint("intake", "GET", "/v1/batches/batch_x"),
    Endpoint("intake", "POST", "/v1/batches/batch_x/cancel"),
    Endpoint("intake", "GET", "/v1/models"),
    Endpoint("intake", "GET", "/v1/models/ollama/gemma2:2b"),
    Endpoint("intake", "POST", "/v1/keys", admin=True,
             body={"tenant": "mutant", "name": "n", "scopes": ["tasks"], "requests_per_minute": 5}),
    Endpoint("intake", "GET", "/v1/keys", query=(("tenant", "mutant"),), admin=True),
    Endpoint("intake", "DELETE", "/v1/keys/aaaaaaaaaaaaaaaa", admin=True),
    Endpoint("intake", "GET", "/v1/preferences", query=(("user", "u"),)),
    Endpoint("intake", "PUT", "/v1/preferences", query=(("user", "u"),),
             body={"ai_mode": "local", "privacy_level": "high", "preferred_provider": "groq",
             "allowed_providers": ["groq"]}),
    Endpoint("intake", "DELETE", "/v1/preferences", query=(("user", "u"),)),
    Endpoint("skills", "POST", "/v1/skills", ends=False, body={
        "name": "mutant", "body": "text", "title": "t", "summary": "s", "interests": ["testing"], "author": "a"}),
    Endpoint("skills", "GET", "/v1/skills", query=(("q", "text"), ("interest", "testing"), ("limit", "3"), ("cursor",
    "x"))),
    Endpoint("skills", "GET", "/v1/skills/feed", query=(("interest", "testing"),), headers=(("Last-Event-ID", "0-1"),),
             ends=False),
    Endpoint("skills", "GET", "/v1/skills/mutant", query=(("version", "1"),)),
    Endpoint("skills", "GET", "/v1/skills/mutant/versions"),
    Endpoint("skills", "DELETE", "/v1/skills/mutant", ends=False),
    Endpoint("costs", "GET", "/v1/costs", query=(("since", "2026-01-01"), ("until", "2099-01-01"), ("group_by",
    "day,model"),
             ("tenant", "mutant"))),
    Endpoint("costs", "GET", "/v1/costs/live", query=(("tenant", "mutant"),)),
    Endpoint("costs", "GET", "/v1/costs/forecast", query=(("by", "model"), ("hours", "24")), admin=True),
)  # fmt: skip

_ODD_TEXTS: Final = (
    "", " ", "\0", "\u0000a", "\ud800", "a\udfffb", "\U0001f600", "\u202e", "%s%n", "' OR 1=1 --", "../../etc/passwd",
    "x" * 201, "x" * 5_000, "\x1b[31m", "\r\nX-A: b", "é" * 200, "NaN", "-1", "1e400", "9" * 5_000, "0x10", "²", "١٢",
    "2026-02-30T00:00:00Z", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00+23:59", "null", "[]", "{}", "true", "1_000",
)  # fmt: skip
_ODD_VALUES: Final[tuple[Any, ...]] = (
    None, True, False, 0, -1, 1e308, -1e308, 1e-320, 2**31, 2**53 + 1, 2**63, -(2**63) - 1, 10**300, [], {}, [[]],
    [None],
    {"": ""}, {"a": {"b": {"c": []}}}, [{}] * 50, ["x"] * 500, {"type": "text", "text": None}, {"$ref": "#"}, 0.1 + 0.2,
    *_ODD_TEXTS,
)  # fmt: skip
_RAW_NUMBERS: Final = (
    "9" * 5_000,
    "1e999",
    "-0",
    "NaN",
    "Infinity",
    "1" + "0" * 400,
    "0.1e-9999",
    "-" + "9" * 4_500,
    "01",
)
_HEADERS: Final = (
    "Idempotency-Key", "Prefer", "Last-Event-ID", "X-Request-Id", "Content-Encoding", "Content-Type", "Expect",
    "Accept",
    "X-Headrace-Privacy", "X-Headrace-Deadline", "X-Headrace-Budget", "X-Headrace-Session", "X-Headrace-User", "Cookie",
    "X-Headrace-Nothing", "traceparent", "tracestate", "X-Api-Key", "Transfer-Encoding", "Range", "If-None-Match",
    "Upgrade", "Connection", "Content-Length", "Accept-Encoding", "Authorization", "Origin", "Host",
)  # fmt: skip
_ODD_BYTES: Final = (
    b"", b"\xff", b"\x80\x81", b"\xed\xa0\x80", b"a" * 9_000, b"gzip", b"gzip, br", b"deflate", b"chunked",
    b"100-continue",
    b"\xc3\x28", b"9" * 5_000, b"-1", b"1", b"99999999999999999999", b"websocket", b"close", b"keep-alive", b"\x01",
    b"a, b",
    b"application/json; charset=utf-16", b"text/plain", b"application/json; charset=\xff",
    b"00-" + b"f" * 32 + b"-0-01",
    b"wait=99999999999999999999", b"wait=\xb2", b"Bearer", b"Bearer \xff", b"Basic eDp4", b"bytes=0-", b"*",
)  # fmt: skip
_METHODS: Final = (
    "GET",
    "POST",
    "PUT",
    "PATCH",
    "DELETE",
    "HEAD",
    "OPTIONS",
    "TRACE",
    "CONNECT",
    "get",
    "G\x00T",
    "X" * 50,
)


def _nodes(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path]
    if isinstance(value, dict):
        for key, item in value.items():
            found += _nodes(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            found += _nodes(item, (*path, index))
    return found


def _mutate_body(chance: random.Random, body: Any) -> Any:
    body = copy.deepcopy(body)
    path = chance.choice(_nodes(body))
    if not path:
        return chance.choice([body, *_ODD_VALUES])
    parent = body
    for step in path[:-1]:
        parent = parent[step]
    match chance.randrange(5):
        case 0 if isinstance(parent, dict):
            del parent[path[-1]]
        case 1 if isinstance(parent, dict):
            parent[chance.choice([*_ODD_TEXTS, "tenant", "task_id", "__proto__", "privacy "])] = chance.choice(
                _ODD_VALUES
            )
        case 2 if isinstance(parent, list):
            parent *= chance.choice([2, 50])
        case _:
            parent[path[-1]] = chance.choice(_ODD_VALUES)
    return body


def _encoded(chance: random.Random, body: Any) -> bytes:
    text = json.dumps(body)
    if chance.random() < 0.08 and any(digit in text for digit in "0123456789"):
        digit = chance.choice([character for character in text if character.isdigit()])
        text = text.replace(digit, chance.choice(_RAW_NUMBERS), 1)
    if chance.random() < 0.05 and text.startswith('{"'):
        text = text[:1] + text[1 : text.find(",")] + "," + text[1:]  # the first member twice
    raw = text.encode()
    if chance.random() < 0.05:
        raw = chance.choice([
            b"\xff\xfe" + raw, raw[: len(raw) // 2], raw + b"}", b"[" * 100_000, b'{"a":' * 5_000, b"", b"\0",
            b"\xef\xbb\xbf" + raw,
            raw.replace(b'"', b"'"), raw.decode().encode("utf-16"), b"1" * 6_000, b'"' + b"\\ud800" * 10 + b'"',
        ])  # fmt: skip
    return raw


def _flipped(chance: random.Random, raw: bytes) -> bytes:
    changed = bytearray(raw)
    for _ in range(chance.randrange(1, 6)):
        place = chance.randrange(len(changed))
        match chance.randrange(3):
            case 0:
                changed[place] = chance.randrange(256)
            case 1:
                del changed[place]
            case _:
                changed.insert(place, chance.randrange(256))
    return bytes(changed)


def _quoted(text: str) -> str:
    return quote_from_bytes(text.encode("utf-8", "surrogatepass"))


def mutation(chance: random.Random, endpoint: Endpoint, key: str) -> bytes:
    """A request that differs from the endpoint's in one to four ways."""
    method, path, query = endpoint.method, endpoint.path, list(endpoint.query)
    headers: list[tuple[str, str | bytes]] = list(endpoint.headers)
    body = endpoint.body
    for _ in range(chance.choice([1, 1, 1, 2, 2, 3, 4])):
        match chance.randrange(10):
            case 0 | 1 | 2 | 3 if body is not None:
                body = _mutate_body(chance, body)
            case 4:
                headers.append((chance.choice(_HEADERS), chance.choice(_ODD_BYTES)))
            case 5 if headers:
                headers.append(chance.choice(headers))
            case 6:
                odd = chance.choice(_ODD_TEXTS)
                name = chance.choice([name for name, _ in query] or ["user", "limit", "cursor"])
                query = [(key_, value) for key_, value in query if key_ != name or chance.random() < 0.2]
                query.append((name, odd))
            case 7:
                parts = path.split("/")
                odd_part = quote(chance.choice(_ODD_TEXTS).encode("utf-8", "surrogatepass"), safe="")
                parts[chance.randrange(1, len(parts))] = chance.choice(
                    [odd_part, "%ff%fe", "%00", "..", "a%2fb", "%", "%zz"]
                )
                path = "/".join(parts)[:8_000]
            case 8 if chance.random() < 0.3:
                method = chance.choice(_METHODS)
            case _:
                if body is not None:
                    body = _mutate_body(chance, body)
                else:
                    query.append((chance.choice(["limit", "since", "q", "x"]), chance.choice(_ODD_TEXTS)))
    encoded = "&".join(f"{_quoted(name)}={_quoted(value)}" for name, value in query)[:7_000]
    raw = request(
        method, path + (f"?{encoded}" if encoded else ""), key=key,
        body=None if body is None else _encoded(chance, body), headers=tuple(headers),
    )  # fmt: skip
    return _flipped(chance, raw) if chance.random() < 0.1 else raw


async def mutated_requests(
    stack: RunningStack, attacker: Tenant, attempts: int, chance: random.Random
) -> list[Outcome]:
    """`attempts` mutated requests over all endpoints; one outcome for each service."""
    urls = {"intake": stack.intake_url, "skills": stack.skills_url, "costs": stack.costs_url}
    outcomes = {api: Outcome(f"mutated requests: {api}") for api in urls}
    await asyncio.gather(*(
        _send(urls, outcomes, attacker, stack.api_key, attempts // _CONNECTIONS, random.Random(chance.random()))
        for _ in range(_CONNECTIONS)
    ))  # fmt: skip
    return list(outcomes.values())


async def _send(
    urls: dict[str, str],
    outcomes: dict[str, Outcome],
    attacker: Tenant,
    admin_key: str,
    attempts: int,
    chance: random.Random,
) -> None:
    wires = {api: Wire(url) for api, url in urls.items()}
    for _ in range(attempts):
        endpoint = chance.choice(ENDPOINTS)
        raw = mutation(chance, endpoint, admin_key if endpoint.admin else attacker.key)
        answer = await wires[endpoint.api].send(raw, seconds=_WAIT_SECONDS, whole=endpoint.ends)
        outcome = outcomes[endpoint.api]
        # A request that announces more than it sends is waited for, rightly: the server's own limits end it.
        outcome.count("waits" if answer.timed_out else answer.status)
        if answer.status == 500:
            outcome.through.append(f"500 for {raw[:300]!r}")
    for wire in wires.values():
        wire.close()

"""How each kind of upstream would say the same thing: a text, its end, its counts, an error."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from headrace_models.anthropic import Anthropic
from headrace_models.ollama import OllamaNode
from headrace_models.openai_compatible import OpenAICompatible
from headrace_models.ports import Provider
from pydantic import SecretStr

HELLO: Final = ("Hello ", "world")
COUNTED: Final = {"read": 12, "written": 5}
"""What a well-behaved upstream reports for it."""
STANDARD: Final = object()


@dataclass(frozen=True, slots=True)
class Complaint:
    """An error as its provider names it: type, code and text."""

    message: str
    type: str = "invalid_request_error"
    code: str | None = None


def _json(document: object) -> bytes:
    return json.dumps(document).encode()


class Wire(ABC):
    """One wire format. The methods without an underscore give the bytes of one event, or of one body.

    Attributes:
        good_end: Its reason for the end of a whole answer.
        count_names: Its names of counts.
    """

    name: str
    title: str
    provider: str
    model: str
    good_end: str
    count_names: Mapping[str, str]

    @abstractmethod
    def client(self, url: str) -> Provider: ...
    @abstractmethod
    def start(self, **counts: Any) -> bytes: ...
    @abstractmethod
    def text(self, piece: str) -> bytes: ...
    @abstractmethod
    def thought(self, piece: str) -> bytes: ...
    @abstractmethod
    def end(self, reason: object = STANDARD, **counts: Any) -> bytes: ...
    @abstractmethod
    def done(self) -> bytes: ...
    @abstractmethod
    def whole(self, text: str, reason: object = STANDARD, **counts: Any) -> bytes: ...
    @abstractmethod
    def keep_alive(self) -> bytes: ...
    @abstractmethod
    def reason(self, kind: str) -> str: ...
    @abstractmethod
    def frame(self, document: object) -> bytes: ...
    @abstractmethod
    def _complaint(self, complaint: Complaint) -> dict[str, Any]: ...

    def error(self, complaint: Complaint) -> bytes:
        return self.frame(self._complaint(complaint))

    def error_body(self, complaint: Complaint) -> bytes:
        return _json(self._complaint(complaint))

    def _end(self, reason: object) -> object:
        return self.good_end if reason is STANDARD else reason

    def _usage(self, counts: Mapping[str, Any]) -> dict[str, Any]:
        return {self.count_names[name]: value for name, value in counts.items() if name in self.count_names}


class OpenAIWire(Wire):
    name = "openai"
    title = "OpenAI-compatible"
    provider = "groq"
    model = "llama-3.3-70b-versatile"
    good_end = "stop"
    count_names: Mapping[str, str] = {"read": "prompt_tokens", "written": "completion_tokens", "total": "total_tokens"}

    def client(self, url: str) -> Provider:
        return OpenAICompatible(self.provider, url, SecretStr("key"))

    def frame(self, document: object) -> bytes:
        return b"data: " + _json(document) + b"\n\n"

    def _chunk(self, **changes: Any) -> bytes:
        return self.frame({"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": self.model, **changes})

    def _choice(self, delta: object, reason: object = None) -> list[Any]:
        return [{"index": 0, "delta": delta, "finish_reason": reason}]

    def start(self, **counts: Any) -> bytes:
        usage = {"usage": self._usage(counts)} if counts else {}
        return self._chunk(choices=self._choice({"role": "assistant", "content": ""}), **usage)

    def text(self, piece: str) -> bytes:
        return self._chunk(choices=self._choice({"content": piece}))

    def thought(self, piece: str) -> bytes:
        return self._chunk(choices=self._choice({"reasoning": piece}))

    def _usage(self, counts: Mapping[str, Any]) -> dict[str, Any]:
        said = super()._usage(counts)
        if "cached" in counts:
            said["prompt_tokens_details"] = {"cached_tokens": counts["cached"]}
        return said

    def end(self, reason: object = STANDARD, **counts: Any) -> bytes:
        last = self._chunk(choices=self._choice({}, self._end(reason)))
        return last + (self._chunk(choices=[], usage=self._usage(counts)) if counts else b"")

    def done(self) -> bytes:
        return b"data: [DONE]\n\n"

    def _complaint(self, complaint: Complaint) -> dict[str, Any]:
        return {"error": {"message": complaint.message, "type": complaint.type, "code": complaint.code, "param": None}}

    def whole(self, text: str, reason: object = STANDARD, **counts: Any) -> bytes:
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "finish_reason": self._end(reason)}
        document = {"id": "chatcmpl-1", "object": "chat.completion", "model": self.model, "choices": [choice]}
        return _json({**document, "usage": self._usage(counts)})

    def keep_alive(self) -> bytes:
        return b": keep-alive\n\n"

    def reason(self, kind: str) -> str:
        return {"length": "length", "refusal": "content_filter"}[kind]


class AnthropicWire(Wire):
    name = "anthropic"
    title = "Anthropic"
    provider = "anthropic"
    model = "claude-haiku-4-5"
    good_end = "end_turn"
    count_names: Mapping[str, str] = {
        "read": "input_tokens", "written": "output_tokens", "cached": "cache_read_input_tokens",
    }  # fmt: skip

    def client(self, url: str) -> Provider:
        return Anthropic(SecretStr("key"), base_url=url)

    def frame(self, document: object) -> bytes:
        kind = document.get("type", "message") if isinstance(document, dict) else "message"
        return f"event: {kind}\n".encode() + b"data: " + _json(document) + b"\n\n"

    def start(self, **counts: Any) -> bytes:
        # As the real one: the prompt's count, and a first, interim count of what is written.
        usage = self._usage(counts or {"read": COUNTED["read"], "written": 1})
        message = {"id": "msg_1", "type": "message", "role": "assistant", "model": self.model, "content": []}
        begun = self.frame({"type": "message_start", "message": {**message, "stop_reason": None, "usage": usage}})
        block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
        return begun + self.frame(block)

    def text(self, piece: str) -> bytes:
        delta = {"type": "text_delta", "text": piece}
        return self.frame({"type": "content_block_delta", "index": 0, "delta": delta})

    def thought(self, piece: str) -> bytes:
        delta = {"type": "thinking_delta", "thinking": piece}
        return self.frame({"type": "content_block_delta", "index": 0, "delta": delta})

    def end(self, reason: object = STANDARD, **counts: Any) -> bytes:
        stopped = self.frame({"type": "content_block_stop", "index": 0})
        delta = {"stop_reason": self._end(reason), "stop_sequence": None}
        usage = {"usage": self._usage(counts)} if counts else {}
        return stopped + self.frame({"type": "message_delta", "delta": delta, **usage})

    def done(self) -> bytes:
        return self.frame({"type": "message_stop"})

    def _complaint(self, complaint: Complaint) -> dict[str, Any]:
        return {"type": "error", "error": {"type": complaint.type, "message": complaint.message}}

    def whole(self, text: str, reason: object = STANDARD, **counts: Any) -> bytes:
        message = {"id": "msg_1", "type": "message", "role": "assistant", "model": self.model}
        content = [{"type": "text", "text": text}]
        return _json({**message, "content": content, "stop_reason": self._end(reason), "usage": self._usage(counts)})

    def keep_alive(self) -> bytes:
        return self.frame({"type": "ping"})

    def reason(self, kind: str) -> str:
        return {"length": "max_tokens", "refusal": "refusal"}[kind]


class OllamaWire(Wire):
    name = "ollama"
    title = "Ollama"
    provider = "ollama"
    model = "gemma2:2b"
    good_end = "stop"
    count_names: Mapping[str, str] = {"read": "prompt_eval_count", "written": "eval_count"}

    def client(self, url: str) -> Provider:
        return OllamaNode("node-1", url)

    def frame(self, document: object) -> bytes:
        return _json(document) + b"\n"

    def _part(self, content: str, *, done: bool = False, **more: Any) -> dict[str, Any]:
        message = {"role": "assistant", "content": content}
        return {"model": self.model, "created_at": "2026-11-28T00:00:00Z", "message": message, "done": done, **more}

    def start(self, **counts: Any) -> bytes:
        return self.frame(self._part("", **self._usage(counts)))

    def text(self, piece: str) -> bytes:
        return self.frame(self._part(piece))

    def thought(self, piece: str) -> bytes:
        part = self._part("")
        part["message"]["thinking"] = piece
        return self.frame(part)

    def end(self, reason: object = STANDARD, **counts: Any) -> bytes:
        return self.frame(self._part("", done=True, done_reason=self._end(reason), **self._usage(counts)))

    def done(self) -> bytes:
        return b""

    def _complaint(self, complaint: Complaint) -> dict[str, Any]:
        return {"error": complaint.message}

    def whole(self, text: str, reason: object = STANDARD, **counts: Any) -> bytes:
        return _json(self._part(text, done=True, done_reason=self._end(reason), **self._usage(counts)))

    def keep_alive(self) -> bytes:
        return b"\n"

    def reason(self, kind: str) -> str:
        # Ollama has no safety system of its own.
        return {"length": "length", "refusal": "stop"}[kind]


WIRES: Final[Mapping[str, Wire]] = {wire.name: wire for wire in (OpenAIWire(), AnthropicWire(), OllamaWire())}


def stream(
    wire: Wire, *between: bytes, text: tuple[str, ...] = HELLO, reason: object = STANDARD, **counts: Any
) -> list[bytes]:
    """A whole answer, with `between` after its first piece. Without counts, COUNTED; `counts=None` for none."""
    if counts == {"counts": None}:
        counts = {}
    elif not counts:
        counts = dict(COUNTED)
    pieces = [wire.text(piece) for piece in text]
    return [wire.start(), *pieces[:1], *between, *pieces[1:], wire.end(reason, **counts), wire.done()]

"""Anthropic's Messages API: `/anthropic/v1/...`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from aiohttp import web

from headrace_models.conversation import ChatMessage, ToolSelection
from headrace_models.simulator.catalog import ANTHROPIC
from headrace_models.simulator.exchange import (
    Answer,
    Prompt,
    SimulatorState,
    Spoken,
    compose,
    json_object,
    messages_of,
    offered_tools,
    said,
    spoken,
    text_of,
)
from headrace_models.simulator.faults import Fault, FaultKind
from headrace_models.simulator.hostile import (
    Forms,
    hang,
    interrupt,
    is_kind,
    json_bytes,
    json_response,
    redirected,
    stated_count,
    stated_finish,
    stated_model,
    stream_response,
)
from headrace_models.simulator.pace import Speed
from headrace_models.simulator.tool_use import OfferedTool
from headrace_models.wire import SIMULATED_MESSAGE_PREFIX

_ERRORS: Final[Mapping[FaultKind, tuple[int, str, str]]] = {
    FaultKind.RATE_LIMIT: (429, "rate_limit_error", "This request would exceed your rate limit"),
    FaultKind.OVERLOADED: (529, "overloaded_error", "Overloaded"),
    FaultKind.ERROR: (500, "api_error", "Internal server error"),
    FaultKind.QUOTA: (400, "invalid_request_error", "Your credit balance is too low to access the API"),
    FaultKind.UNAUTHORISED: (401, "authentication_error", "invalid x-api-key"),
    FaultKind.MODEL_MISSING: (404, "not_found_error", "model not found"),
    FaultKind.BAD_REQUEST: (400, "invalid_request_error", "invalid request"),
}
_STOP_REASON: Final = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "refusal": "refusal"}
SIGNATURE: Final = "c2ltdWxhdGVkIHNpZ25hdHVyZQ=="
"""Signs what the simulator thinks; it takes thinking back with a signature only."""


class AnthropicWire:
    """The API's routes."""

    provider: Final = "anthropic"

    def __init__(self, world: SimulatorState) -> None:
        self._world = world
        self._number = 0

    def add_routes(self, app: web.Application) -> None:
        app.router.add_get("/anthropic/v1/models", self._models)
        app.router.add_post("/anthropic/v1/messages", self._messages)

    async def _models(self, request: web.Request) -> web.Response:
        if not _has_key(request):
            return _error(_ERRORS[FaultKind.UNAUTHORISED])
        data = [
            {"type": "model", "id": name, "display_name": f"{name} (simulated)", "created_at": "2026-01-01T00:00:00Z"}
            for name in ANTHROPIC
        ]
        names = list(ANTHROPIC)
        return web.json_response({"data": data, "has_more": False, "first_id": names[0], "last_id": names[-1]})

    async def _messages(self, request: web.Request) -> web.StreamResponse:
        if not _has_key(request):
            return _error(_ERRORS[FaultKind.UNAUTHORISED])
        try:
            document = await json_object(request)
            messages, tools = self._asked(document)
        except (ValueError, KeyError, TypeError) as error:
            return _error((400, "invalid_request_error", str(error)))
        model_name = str(document.get("model") or "")
        self._world.evidence.record(self.provider, self.provider, model_name, messages)
        fault = self._world.faults.take(self.provider, self.provider, model_name)
        if is_kind(fault, FaultKind.TIMEOUT):
            return await hang(request)
        if (elsewhere := redirected(request, fault)) is not None:
            return elsewhere
        if fault is not None and fault.kind in _ERRORS:
            return _error(_ERRORS[fault.kind], fault.retry_after_seconds)
        prompt = self._prompt(document, messages, tools)
        if not isinstance(prompt, Prompt):
            return _error(prompt)
        return await self._speak(request, prompt, fault, document)

    async def answered(self, document: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Status and document of the answer to one call of a batch."""
        try:
            messages, tools = self._asked(document)
        except (ValueError, KeyError, TypeError) as error:
            return 400, _complaint((400, "invalid_request_error", str(error)))
        fault = self._world.faults.take(self.provider, self.provider, str(document.get("model") or ""))
        if fault is not None and fault.kind in _ERRORS:
            return _ERRORS[fault.kind][0], _complaint(_ERRORS[fault.kind])
        prompt = self._prompt(document, messages, tools)
        if not isinstance(prompt, Prompt):
            return prompt[0], _complaint(prompt)
        return 200, await self._whole(prompt, compose(prompt, fault), fault, Speed(None))

    @staticmethod
    def _asked(document: dict[str, Any]) -> tuple[tuple[ChatMessage, ...], tuple[OfferedTool, ...]]:
        """Messages, with the system's, and tools. Raises ValueError, KeyError, TypeError."""
        messages = messages_of(document.get("messages"))
        tools = offered_tools(document.get("tools"))
        if not isinstance(document.get("max_tokens"), int):
            raise ValueError("max_tokens: Field required")
        system = text_of(document.get("system") or "")
        return ((ChatMessage("system", system), *messages) if system else messages), tools

    @staticmethod
    def _prompt(
        document: dict[str, Any], messages: tuple[ChatMessage, ...], tools: tuple[OfferedTool, ...]
    ) -> Prompt | tuple[int, str, str]:
        """What is asked for, or the error that it is answered with."""
        model = ANTHROPIC.get(str(document.get("model") or ""))
        if model is None:
            return _ERRORS[FaultKind.MODEL_MISSING]
        sampling = [name for name in ("temperature", "top_p") if name in document]
        if len(sampling) > (1 if model.takes_sampling else 0):
            return (400, "invalid_request_error", f"{' and '.join(sampling)} cannot be set for this model")
        choice = document.get("tool_choice") or {}
        return Prompt(
            model=model,
            messages=messages,
            max_tokens=document["max_tokens"],
            stop=tuple(document.get("stop_sequences") or ()),
            as_json="one JSON value" in text_of(document.get("system") or ""),
            schema=((document.get("output_config") or {}).get("format") or {}).get("schema"),
            tools=tools,
            tool_choice=_tool_choice(choice),
            parallel=choice.get("disable_parallel_tool_use") is not True,
            thinks=(document.get("thinking") or {}).get("type") in ("enabled", "adaptive"),
        )

    def _head(self, prompt: Prompt, answer: Answer, fault: Fault | None) -> dict[str, Any]:
        self._number += 1
        return {
            "id": f"{SIMULATED_MESSAGE_PREFIX}{self._number}",
            "type": "message",
            "role": "assistant",
            "model": stated_model(fault, prompt.model.name),
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": _usage(answer, 1, fault),
        }

    async def _whole(self, prompt: Prompt, answer: Answer, fault: Fault | None, speed: Speed) -> dict[str, Any]:
        """The answer that is no stream."""
        text = await said(answer, prompt.model, speed, fault)
        return {
            **self._head(prompt, answer, fault),
            "content": _content(answer, text),
            "stop_reason": stated_finish(fault, _stop_reason(answer)),
            "stop_sequence": answer.stopped_by or None,
            "usage": _usage(answer, answer.output_tokens, fault),
        }

    async def _speak(
        self, request: web.Request, prompt: Prompt, fault: Fault | None, document: dict[str, Any]
    ) -> web.StreamResponse:
        answer = compose(prompt, fault)
        if not document.get("stream") or is_kind(fault, FaultKind.JSON_BODY):
            return json_response(await self._whole(prompt, answer, fault, self._world.speed))
        stop_reason = stated_finish(fault, _stop_reason(answer))
        stop_sequence = answer.stopped_by or None
        message = self._head(prompt, answer, fault)
        response = stream_response("text/event-stream", fault)
        await response.prepare(request)
        await _write(response, "message_start", {"message": message})
        block, index = "", -1
        async for piece in spoken(answer, prompt.model, self._world.speed, fault):
            if f"{piece.kind}{piece.call}" != block:
                if index >= 0:
                    await _end_block(response, index, block)
                block, index = f"{piece.kind}{piece.call}", index + 1
                await _write(
                    response, "content_block_start", {"index": index, "content_block": _opening(answer, piece)}
                )
            await _write(response, "content_block_delta", {"index": index, "delta": _delta(piece)})
        if await interrupt(request, response, fault, _FORMS):
            return response
        if index >= 0:
            await _end_block(response, index, block)
        end = {"delta": {"stop_reason": stop_reason, "stop_sequence": stop_sequence}}
        await _write(
            response, "message_delta", {**end, "usage": {"output_tokens": stated_count(fault, answer.output_tokens)}}
        )
        await _write(response, "message_stop", {})
        await response.write_eof()
        return response


def _stop_reason(answer: Answer) -> str:
    return "stop_sequence" if answer.stopped_by else _STOP_REASON[answer.finish]


async def _end_block(response: web.StreamResponse, index: int, block: str) -> None:
    if block.startswith("thinking"):
        delta = {"type": "signature_delta", "signature": SIGNATURE}
        await _write(response, "content_block_delta", {"index": index, "delta": delta})
    await _write(response, "content_block_stop", {"index": index})


def _opening(answer: Answer, piece: Spoken) -> dict[str, Any]:
    match piece.kind:
        case "thinking":
            return {"type": "thinking", "thinking": "", "signature": ""}
        case "call":
            call = answer.calls[piece.call]
            return {"type": "tool_use", "id": call.call_id, "name": call.name, "input": {}}
        case _:
            return {"type": "text", "text": ""}


def _delta(piece: Spoken) -> dict[str, Any]:
    match piece.kind:
        case "thinking":
            return {"type": "thinking_delta", "thinking": piece.text}
        case "call":
            return {"type": "input_json_delta", "partial_json": piece.text}
        case _:
            return {"type": "text_delta", "text": piece.text}


def _content(answer: Answer, text: str) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    if answer.thinking:
        blocks.append({"type": "thinking", "thinking": "".join(answer.thinking), "signature": SIGNATURE})
    if text or not answer.calls:
        blocks.append({"type": "text", "text": text})
    calls = [
        {"type": "tool_use", "id": call.call_id, "name": call.name, "input": json.loads(call.arguments)}
        for call in answer.calls
    ]
    return blocks + calls


def _tool_choice(choice: Mapping[str, Any]) -> ToolSelection | None:
    match choice.get("type"):
        case "auto" | "none":
            return ToolSelection(choice["type"])
        case "any":
            return ToolSelection("required")
        case "tool":
            return ToolSelection("required", (str(choice.get("name")),))
        case _:
            return None


def _has_key(request: web.Request) -> bool:
    # The API accepts both; which one the package sends depends on its version.
    return bool(request.headers.get("X-Api-Key") or request.headers.get("Authorization"))


async def _write(response: web.StreamResponse, event: str, document: dict[str, Any]) -> None:
    await response.write(_framed(event, document))


def _framed(event: str, document: dict[str, Any]) -> bytes:
    return b"event: " + event.encode() + b"\ndata: " + json_bytes({"type": event, **document}) + b"\n\n"


_FORMS: Final = Forms(
    keep_alive=_framed("ping", {}),
    broken=b'event: content_block_delta\ndata: {"type": "content_block_delta", "delta": {"ty\n\n',
    error=_framed("error", {"error": {"type": "overloaded_error", "message": "Overloaded"}}),
)


def _usage(answer: Answer, output_tokens: int, fault: Fault | None) -> dict[str, Any]:
    return {
        "input_tokens": stated_count(fault, answer.input_tokens),
        "output_tokens": stated_count(fault, output_tokens),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
    }


def _complaint(what: tuple[int, str, str]) -> dict[str, Any]:
    _, kind, text = what
    return {"type": "error", "error": {"type": kind, "message": text}, "request_id": "req_simulated"}


def _error(what: tuple[int, str, str], retry_after: float | None = None) -> web.Response:
    headers = {"Retry-After": f"{retry_after:g}"} if retry_after is not None else None
    return web.json_response(_complaint(what), status=what[0], headers=headers)

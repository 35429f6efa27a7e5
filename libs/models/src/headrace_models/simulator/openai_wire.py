"""OpenAI's chat API as Groq offers it: `/groq/openai/v1/...`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

from aiohttp import web

from headrace_models.simulator.catalog import GROQ
from headrace_models.simulator.exchange import (
    Answer,
    Prompt,
    SimulatorState,
    compose,
    json_object,
    messages_of,
    spoken,
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
from headrace_models.wire import SIMULATOR_FINGERPRINT

_ERRORS: Final[Mapping[FaultKind, tuple[int, str, str | None, str]]] = {
    FaultKind.RATE_LIMIT: (429, "requests", "rate_limit_exceeded", "Rate limit reached"),
    FaultKind.OVERLOADED: (503, "service_unavailable", None, "The service is overloaded"),
    FaultKind.ERROR: (500, "internal_server_error", None, "Internal server error"),
    FaultKind.QUOTA: (429, "insufficient_quota", "insufficient_quota", "You exceeded your current quota"),
    FaultKind.UNAUTHORISED: (401, "invalid_request_error", "invalid_api_key", "Invalid API key"),
    FaultKind.MODEL_MISSING: (404, "invalid_request_error", "model_not_found", "The model does not exist"),
    FaultKind.BAD_REQUEST: (400, "invalid_request_error", None, "Invalid request"),
}
_FINISH: Final = {"stop": "stop", "length": "length", "refusal": "content_filter"}


class OpenAIWire:
    """One provider's routes."""

    provider: Final = "groq"

    def __init__(self, world: SimulatorState) -> None:
        self._world = world
        self._number = 0

    def add_routes(self, app: web.Application) -> None:
        app.router.add_get("/groq/openai/v1/models", self._models)
        app.router.add_post("/groq/openai/v1/chat/completions", self._chat)

    async def _models(self, request: web.Request) -> web.Response:
        if not _has_key(request):
            return _error(_ERRORS[FaultKind.UNAUTHORISED])
        data = [
            {
                "id": model.name,
                "object": "model",
                "created": 1_700_000_000,
                "owned_by": SIMULATOR_FINGERPRINT,
                "active": True,
                "context_window": model.context_tokens,
            }
            for model in GROQ.values()
        ]
        return web.json_response({"object": "list", "data": data})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        if not _has_key(request):
            return _error(_ERRORS[FaultKind.UNAUTHORISED])
        try:
            document = await json_object(request)
            messages = messages_of(document.get("messages"))
        except ValueError as error:
            return _error((400, "invalid_request_error", None, str(error)))
        model_name = str(document.get("model") or "")
        self._world.evidence.record(self.provider, self.provider, model_name, messages)
        fault = self._world.faults.take(self.provider, self.provider, model_name)
        if is_kind(fault, FaultKind.TIMEOUT):
            return await hang(request)
        if (elsewhere := redirected(request, fault)) is not None:
            return elsewhere
        if fault is not None and fault.kind in _ERRORS:
            return _error(_ERRORS[fault.kind], fault.retry_after_seconds)
        model = GROQ.get(model_name)
        if model is None:
            return _error(_ERRORS[FaultKind.MODEL_MISSING])
        as_json = (document.get("response_format") or {}).get("type") in ("json_object", "json_schema")
        if as_json and not any("json" in message.text.lower() for message in messages):
            return _error((400, "invalid_request_error", None, "'messages' must contain the word 'json'"))
        stop = document.get("stop") or ()
        prompt = Prompt(
            model=model,
            messages=messages,
            max_tokens=document.get("max_completion_tokens") or document.get("max_tokens"),
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
            as_json=as_json,
        )
        return await self._speak(request, prompt, fault, document)

    async def _speak(
        self, request: web.Request, prompt: Prompt, fault: Fault | None, document: dict[str, Any]
    ) -> web.StreamResponse:
        self._number += 1
        head = {
            "id": f"chatcmpl-simulated-{self._number}",
            "created": int(time.time()),
            "model": stated_model(fault, prompt.model.name),
            "system_fingerprint": SIMULATOR_FINGERPRINT,
        }
        answer = compose(prompt, fault)
        pieces = spoken(answer, prompt.model, self._world.speed, fault)
        finish = stated_finish(fault, _FINISH[answer.finish])
        if not document.get("stream") or is_kind(fault, FaultKind.JSON_BODY):
            message = {"role": "assistant", "content": "".join([piece async for piece in pieces])}
            choice = {"index": 0, "message": message, "finish_reason": finish, "logprobs": None}
            return json_response(
                {**head, "object": "chat.completion", "choices": [choice], "usage": _usage(answer, fault)}
            )
        response = stream_response("text/event-stream", fault)
        await response.prepare(request)
        chunk = {**head, "object": "chat.completion.chunk"}
        await _write(response, {**chunk, "choices": [_choice({"role": "assistant", "content": ""}, None)]})
        async for piece in pieces:
            await _write(response, {**chunk, "choices": [_choice({"content": piece}, None)]})
        if await interrupt(request, response, fault, _FORMS):
            return response
        await _write(response, {**chunk, "choices": [_choice({}, finish)]})
        if (document.get("stream_options") or {}).get("include_usage"):
            await _write(response, {**chunk, "choices": [], "usage": _usage(answer, fault)})
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response


def _has_key(request: web.Request) -> bool:
    return request.headers.get("Authorization", "").startswith("Bearer ")


async def _write(response: web.StreamResponse, document: dict[str, Any]) -> None:
    await response.write(_framed(document))


def _framed(document: dict[str, Any]) -> bytes:
    return b"data: " + json_bytes(document) + b"\n\n"


_FORMS: Final = Forms(
    keep_alive=b": keep-alive\n\n",
    broken=b'data: {"choices": [{"index": 0, "delta": {"con\n\n',
    error=_framed({"error": {"message": "failed", "type": "server_error", "code": "server_error"}}),
)


def _choice(delta: dict[str, Any], finish: str | None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}


def _usage(answer: Answer, fault: Fault | None) -> dict[str, Any]:
    return {
        "prompt_tokens": stated_count(fault, answer.input_tokens),
        "completion_tokens": stated_count(fault, len(answer.tokens)),
        "total_tokens": stated_count(fault, answer.input_tokens + len(answer.tokens)),
        "prompt_tokens_details": {"cached_tokens": 0},
    }


def _error(what: tuple[int, str, str | None, str], retry_after: float | None = None) -> web.Response:
    status, kind, code, text = what
    headers = {"Retry-After": f"{retry_after:g}"} if retry_after is not None else None
    document = {"error": {"message": text, "type": kind, "param": None, "code": code}}
    return web.json_response(document, status=status, headers=headers)

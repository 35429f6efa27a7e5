"""OpenAI's chat API as Groq offers it, `/groq/openai/v1/...`, and as servers on machines of our own do."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

from aiohttp import web

from headrace_models.conversation import ChatMessage, ToolSelection
from headrace_models.simulator.answers import count_tokens
from headrace_models.simulator.catalog import EMBEDDERS, GROQ, SimulatedModel, node_model
from headrace_models.simulator.embeddings import in_base64, vectors
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
from headrace_models.simulator.prompt_cache import BilledPromptCache
from headrace_models.simulator.tool_use import OfferedTool
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
_FINISH: Final = {"stop": "stop", "length": "length", "tool_calls": "tool_calls", "refusal": "content_filter"}


class OpenAIWire:
    """One provider's routes.

    Args:
        nodes: Machines of our own and their models, at `/vllm/<node>/v1/...`, which ask for no key; None for Groq.
    """

    def __init__(self, world: SimulatorState, nodes: Mapping[str, tuple[str, ...]] | None = None) -> None:
        self._world = world
        self._number = 0
        self._nodes = nodes
        self._prompts: dict[str, BilledPromptCache] = {}
        self.provider: Final = "groq" if nodes is None else "vllm"
        self._root = "/groq/openai/v1" if nodes is None else "/vllm/{node}/v1"

    def add_routes(self, app: web.Application) -> None:
        app.router.add_get(f"{self._root}/models", self._models)
        app.router.add_post(f"{self._root}/chat/completions", self._chat)
        app.router.add_post(f"{self._root}/embeddings", self._embed)

    def _offered(self, request: web.Request) -> Mapping[str, SimulatedModel]:
        if self._nodes is None:
            return GROQ
        return {name: node_model(name) for name in self._nodes.get(request.match_info["node"], ())}

    def _lets_in(self, request: web.Request) -> bool:
        return self._nodes is not None or request.headers.get("Authorization", "").startswith("Bearer ")

    def _node(self, request: web.Request) -> str:
        return request.match_info.get("node", self.provider)

    async def _models(self, request: web.Request) -> web.Response:
        if not self._lets_in(request):
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
            for model in self._offered(request).values()
        ]
        return web.json_response({"object": "list", "data": data})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        if not self._lets_in(request):
            return _error(_ERRORS[FaultKind.UNAUTHORISED])
        try:
            document = await json_object(request)
            messages = messages_of(document.get("messages"))
            tools = offered_tools(document.get("tools"))
        except (ValueError, KeyError, TypeError) as error:
            return _error((400, "invalid_request_error", None, str(error)))
        model_name = str(document.get("model") or "")
        self._world.evidence.record(self.provider, self._node(request), model_name, messages)
        fault = self._world.faults.take(self.provider, self._node(request), model_name)
        if is_kind(fault, FaultKind.TIMEOUT):
            return await hang(request)
        if (elsewhere := redirected(request, fault)) is not None:
            return elsewhere
        if fault is not None and fault.kind in _ERRORS:
            return _error(_ERRORS[fault.kind], fault.retry_after_seconds)
        prompt = self._prompt(document, messages, tools, self._offered(request).get(model_name))
        if not isinstance(prompt, Prompt):
            return _error(prompt)
        return await self._speak(request, prompt, fault, document)

    async def answered(self, document: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Status and document of the answer to one call of a batch."""
        try:
            messages, tools = messages_of(document.get("messages")), offered_tools(document.get("tools"))
        except (ValueError, KeyError, TypeError) as error:
            return 400, _complaint((400, "invalid_request_error", None, str(error)))
        model_name = str(document.get("model") or "")
        fault = self._world.faults.take(self.provider, self.provider, model_name)
        if fault is not None and fault.kind in _ERRORS:
            return _ERRORS[fault.kind][0], _complaint(_ERRORS[fault.kind])
        prompt = self._prompt(document, messages, tools, GROQ.get(model_name))
        if not isinstance(prompt, Prompt):
            return prompt[0], _complaint(prompt)
        return 200, await self._whole(prompt, fault, document, Speed(None))

    @staticmethod
    def _prompt(
        document: dict[str, Any],
        messages: tuple[ChatMessage, ...],
        tools: tuple[OfferedTool, ...],
        model: SimulatedModel | None,
    ) -> Prompt | tuple[int, str, str | None, str]:
        """What is asked for, or the error that it is answered with."""
        if model is None:
            return _ERRORS[FaultKind.MODEL_MISSING]
        form = document.get("response_format") or {}
        schema = (form.get("json_schema") or {}).get("schema")
        as_json = form.get("type") == "json_object"
        if as_json and not any("json" in message.text.lower() for message in messages):
            return (400, "invalid_request_error", None, "'messages' must contain the word 'json'")
        stop = document.get("stop") or ()
        return Prompt(
            model=model,
            messages=messages,
            max_tokens=document.get("max_completion_tokens") or document.get("max_tokens"),
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
            as_json=as_json,
            schema=schema,
            tools=tools,
            tool_choice=_tool_choice(document.get("tool_choice")),
            parallel=document.get("parallel_tool_calls") is not False,
            thinks=document.get("reasoning_effort") not in (None, "none"),
            choices=document.get("n") or 1,
        )

    async def _speak(
        self, request: web.Request, prompt: Prompt, fault: Fault | None, document: dict[str, Any]
    ) -> web.StreamResponse:
        if not document.get("stream") or is_kind(fault, FaultKind.JSON_BODY):
            return json_response(await self._whole(prompt, fault, document, self._world.speed))
        head = self._head(prompt, fault)
        answers = [compose(prompt, fault, number) for number in range(prompt.choices)]
        logprobs = document.get("logprobs") is True
        response = stream_response("text/event-stream", fault)
        await response.prepare(request)
        chunk = {**head, "object": "chat.completion.chunk"}
        for number, answer in enumerate(answers):
            opening = _choice({"role": "assistant", "content": ""}, None, number)
            await _write(response, {**chunk, "choices": [opening]})
            async for piece in spoken(answer, prompt.model, self._world.speed, fault):
                choice = _choice(_delta(answer, piece), None, number)
                if logprobs and piece.kind == "text":
                    choice["logprobs"] = {"content": [_logprob(piece.text)]}
                await _write(response, {**chunk, "choices": [choice]})
            if await interrupt(request, response, fault, _FORMS):
                return response
            finish = stated_finish(fault, _FINISH[answer.finish])
            await _write(response, {**chunk, "choices": [_choice({}, finish, number)]})
        if (document.get("stream_options") or {}).get("include_usage"):
            await _write(response, {**chunk, "choices": [], "usage": _usage(answers, fault, self._cached(prompt))})
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response

    def _cached(self, prompt: Prompt) -> int:
        """Tokens of a prompt that are billed as cached."""
        return self._prompts.setdefault(prompt.model.name, BilledPromptCache()).read(prompt.messages)

    def _head(self, prompt: Prompt, fault: Fault | None) -> dict[str, Any]:
        self._number += 1
        return {
            "id": f"chatcmpl-simulated-{self._number}",
            "created": int(time.time()),
            "model": stated_model(fault, prompt.model.name),
            "system_fingerprint": SIMULATOR_FINGERPRINT,
        }

    async def _whole(
        self, prompt: Prompt, fault: Fault | None, document: dict[str, Any], speed: Speed
    ) -> dict[str, Any]:
        """The answer that is no stream."""
        head = self._head(prompt, fault)
        answers = [compose(prompt, fault, number) for number in range(prompt.choices)]
        choices = []
        for number, answer in enumerate(answers):
            text = await said(answer, prompt.model, speed, fault)
            finish = stated_finish(fault, _FINISH[answer.finish])
            logprobs = document.get("logprobs") is True
            given = {"content": [_logprob(token) for token in answer.tokens]} if logprobs else None
            message = _message(answer, text)
            choices.append({"index": number, "message": message, "finish_reason": finish, "logprobs": given})
        return {
            **head,
            "object": "chat.completion",
            "choices": choices,
            "usage": _usage(answers, fault, self._cached(prompt)),
        }

    async def _embed(self, request: web.Request) -> web.StreamResponse:
        if not self._lets_in(request):
            return _error(_ERRORS[FaultKind.UNAUTHORISED])
        document = await json_object(request)
        given = document.get("input")
        texts = [given] if isinstance(given, str) else list(given or ())
        if not texts or not all(isinstance(text, str) for text in texts):
            return _error((400, "invalid_request_error", None, "'input' must be a text or a list of texts"))
        model_name = str(document.get("model") or "")
        messages = tuple(ChatMessage("user", text) for text in texts)
        self._world.evidence.record(self.provider, self._node(request), model_name, messages)
        fault = self._world.faults.take(self.provider, self._node(request), model_name)
        if is_kind(fault, FaultKind.TIMEOUT):
            return await hang(request)
        if (elsewhere := redirected(request, fault)) is not None:
            return elsewhere
        if fault is not None and fault.kind in _ERRORS:
            return _error(_ERRORS[fault.kind], fault.retry_after_seconds)
        if model_name not in EMBEDDERS:
            return _error(_ERRORS[FaultKind.MODEL_MISSING])
        short = document.get("encoding_format") == "base64"
        data = [
            {"object": "embedding", "index": place, "embedding": in_base64(one) if short else one}
            for place, one in enumerate(vectors(texts, document.get("dimensions"), fault))
        ]
        tokens = stated_count(fault, sum(count_tokens(text) for text in texts))
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return json_response({"object": "list", "data": data, "model": stated_model(fault, model_name), "usage": usage})


def _tool_choice(choice: Any) -> ToolSelection | None:
    match choice:
        case "none" | "auto" | "required":
            return ToolSelection(choice)
        case {"function": {"name": str(name)}}:
            return ToolSelection("required", (name,))
        case _:
            return None


def _message(answer: Answer, text: str) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": text or None}
    if answer.thinking:
        message["reasoning"] = "".join(answer.thinking)
    if answer.calls:
        message["tool_calls"] = [
            {"id": call.call_id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in answer.calls
        ]
    return message


def _delta(answer: Answer, piece: Spoken) -> dict[str, Any]:
    match piece.kind:
        case "thinking":
            return {"reasoning": piece.text}
        case "call":
            call = answer.calls[piece.call]
            said_first = {"id": call.call_id, "type": "function"} if piece.opens else {}
            name = {"name": call.name} if piece.opens else {}
            function = {**name, "arguments": piece.text}
            return {"tool_calls": [{"index": piece.call, **said_first, "function": function}]}
        case _:
            return {"content": piece.text}


def _logprob(token: str) -> dict[str, Any]:
    return {"token": token, "logprob": -0.1 * len(token.strip()), "bytes": list(token.encode()), "top_logprobs": []}


async def _write(response: web.StreamResponse, document: dict[str, Any]) -> None:
    await response.write(_framed(document))


def _framed(document: dict[str, Any]) -> bytes:
    return b"data: " + json_bytes(document) + b"\n\n"


_FORMS: Final = Forms(
    keep_alive=b": keep-alive\n\n",
    broken=b'data: {"choices": [{"index": 0, "delta": {"con\n\n',
    error=_framed({"error": {"message": "failed", "type": "server_error", "code": "server_error"}}),
)


def _choice(delta: dict[str, Any], finish: str | None, number: int = 0) -> dict[str, Any]:
    return {"index": number, "delta": delta, "finish_reason": finish, "logprobs": None}


def _usage(answers: list[Answer], fault: Fault | None, cached: int) -> dict[str, Any]:
    read, written = answers[0].input_tokens, sum(answer.output_tokens for answer in answers)
    return {
        "prompt_tokens": stated_count(fault, read),
        "completion_tokens": stated_count(fault, written),
        "total_tokens": stated_count(fault, read + written),
        "prompt_tokens_details": {"cached_tokens": cached, "image_tokens": answers[0].image_tokens},
        "completion_tokens_details": {"reasoning_tokens": sum(len(answer.thinking) for answer in answers)},
    }


def _complaint(what: tuple[int, str, str | None, str]) -> dict[str, Any]:
    _, kind, code, text = what
    return {"error": {"message": text, "type": kind, "param": None, "code": code}}


def _error(what: tuple[int, str, str | None, str], retry_after: float | None = None) -> web.Response:
    headers = {"Retry-After": f"{retry_after:g}"} if retry_after is not None else None
    return web.json_response(_complaint(what), status=what[0], headers=headers)

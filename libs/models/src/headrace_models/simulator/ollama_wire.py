"""Ollama's API for a fleet of simulated nodes: `/ollama/<node>/api/...`."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from aiohttp import web

from headrace_models.conversation import ChatMessage, ToolSelection
from headrace_models.demanded_calls import TITLE
from headrace_models.simulator.answers import count_tokens, tokens_of
from headrace_models.simulator.catalog import OLLAMA_CLOUD, SimulatedModel, node_model
from headrace_models.simulator.context_limit import TOO_LONG
from headrace_models.simulator.embeddings import vectors
from headrace_models.simulator.exchange import (
    Answer,
    Prompt,
    SimulatorState,
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
from headrace_models.simulator.model_memory import CallRefused
from headrace_models.simulator.ollama_node import SimulatedNode, keep_alive_of
from headrace_models.simulator.ollama_pulls import OllamaPulls
from headrace_models.wire import SIMULATOR_NAME

VERSION: Final = f"0.12.0-headrace-{SIMULATOR_NAME}"
_CLOUD: Final = "ollama.com"
"""Receiver of what a node passes on: not one of our own, so that checks see what reaches it as gone."""
_ERRORS: Final[Mapping[FaultKind, tuple[int, str]]] = {
    FaultKind.RATE_LIMIT: (429, "too many requests"),
    FaultKind.OVERLOADED: (503, "server busy, please try again. maximum pending requests exceeded"),
    FaultKind.ERROR: (500, "llama runner process has terminated"),
    FaultKind.QUOTA: (402, "payment required"),
    FaultKind.UNAUTHORISED: (401, "unauthorized"),
    FaultKind.MODEL_MISSING: (404, "model not found"),
    FaultKind.BAD_REQUEST: (400, "invalid request"),
}


class OllamaWire:
    """The nodes and their routes."""

    def __init__(self, world: SimulatorState, nodes: Mapping[str, SimulatedNode]) -> None:
        self._world = world
        self._nodes = nodes

    def add_routes(self, app: web.Application) -> None:
        base = "/ollama/{node}"
        app.router.add_get(base, self._alive)
        app.router.add_get(base + "/", self._alive)
        app.router.add_get(base + "/api/version", self._version)
        app.router.add_get(base + "/api/tags", self._tags)
        app.router.add_get(base + "/api/ps", self._ps)
        app.router.add_post(base + "/api/show", self._show)
        app.router.add_post(base + "/api/chat", self._chat)
        app.router.add_post(base + "/api/generate", self._generate)
        app.router.add_post(base + "/api/embed", self._embed)
        OllamaPulls(self._node).add_routes(app, base)

    def _node(self, request: web.Request) -> SimulatedNode:
        node = self._nodes.get(request.match_info["node"])
        if node is None:
            raise web.HTTPNotFound(text=json.dumps({"error": "no such node"}), content_type="application/json")
        try:
            node.expect_token(request.headers.get("Authorization"))
        except CallRefused as refused:
            raise web.HTTPUnauthorized(
                text=json.dumps({"error": refused.text}), content_type="application/json"
            ) from refused
        return node

    async def _alive(self, request: web.Request) -> web.Response:
        self._node(request)
        return web.Response(text="Ollama is running")

    async def _version(self, request: web.Request) -> web.Response:
        self._node(request)
        return web.json_response({"version": VERSION})

    async def _tags(self, request: web.Request) -> web.Response:
        models = [_describe(model) for model in self._node(request).models.values()]
        return web.json_response({"models": models})

    async def _ps(self, request: web.Request) -> web.Response:
        node = self._node(request)
        running = [{**_describe(node_model(one["model"])), **one} for one in node.running()]
        return web.json_response({"models": running})

    async def _show(self, request: web.Request) -> web.Response:
        node = self._node(request)
        document = await json_object(request)
        model = node.models.get(str(document.get("model") or document.get("name")))
        if model is None:
            return _error(404, "model not found")
        return web.json_response(
            {
                **_remote(model),
                "details": _describe(model)["details"],
                "model_info": {"general.architecture": "llama", "llama.context_length": model.context_tokens},
                "capabilities": [*([] if "embedding" in model.capabilities else ["completion"]), *model.capabilities],
            }
        )

    async def _embed(self, request: web.Request) -> web.StreamResponse:
        node, document = self._node(request), await json_object(request)
        given, model_name, name = document.get("input"), str(document.get("model") or ""), request.match_info["node"]
        texts = [str(text) for text in ([given] if isinstance(given, str) else list(given or ()))]
        model = node.models.get(model_name)
        fault = self._world.faults.take("ollama", name, model_name)
        if model is not None and is_kind(fault, FaultKind.ANSWERED_REMOTELY):
            model = replace(model, remote_host=OLLAMA_CLOUD, remote_model=model.name)
        receiver = _CLOUD if model is not None and model.remote_host else "ollama"
        self._world.evidence.record(receiver, name, model_name, tuple(ChatMessage("user", text) for text in texts))
        if is_kind(fault, FaultKind.TIMEOUT):
            return await hang(request)
        if (elsewhere := redirected(request, fault)) is not None:
            return elsewhere
        if fault is not None and fault.kind in _ERRORS:
            return _error(*_ERRORS[fault.kind])
        if model is None:
            return _error(404, f"model '{model_name}' not found")
        if "embedding" not in model.capabilities:
            return _error(501, "this model does not support embeddings")
        counts = [count_tokens(text) for text in texts]
        asked = (document.get("options") or {}).get("num_ctx")
        if document.get("truncate") is False and max(counts, default=0) > node.context(model, asked):
            return _error(400, TOO_LONG)
        made = vectors(texts, document.get("dimensions"), fault)
        try:
            async with node.memory.running(model, asked, keep_alive_of(document.get("keep_alive"))):
                await node.hang()
        except CallRefused as refused:
            return _error(refused.status, refused.text)
        return json_response({
            "model": stated_model(fault, model_name), **_remote(model), "embeddings": made, "total_duration": 1_000_000,
            "load_duration": 0, "prompt_eval_count": stated_count(fault, sum(counts)),
        })  # fmt: skip

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        document = await json_object(request)
        return await self._answer(request, document, document.get("messages"), as_chat=True)

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        document = await json_object(request)
        messages = [{"role": "user", "content": str(document["prompt"])}] if document.get("prompt") else []
        if messages and document.get("system"):
            messages.insert(0, {"role": "system", "content": str(document["system"])})
        return await self._answer(request, document, messages, as_chat=False)

    async def _answer(
        self, request: web.Request, document: dict[str, Any], entries: Any, *, as_chat: bool
    ) -> web.StreamResponse:
        node, name = self._node(request), request.match_info["node"]
        model_name = str(document.get("model") or "")
        if not entries and model_name in node.models:
            return await self._load(node, node.models[model_name], document, as_chat=as_chat)
        try:
            messages = messages_of(entries)
            tools = offered_tools(document.get("tools"))
        except (ValueError, KeyError, TypeError) as error:
            return _error(400, str(error))
        model = node.models.get(model_name)
        fault = self._world.faults.take("ollama", name, model_name)
        if model is not None and is_kind(fault, FaultKind.ANSWERED_REMOTELY):
            model = replace(model, remote_host=OLLAMA_CLOUD, remote_model=model.name)
        receiver = _CLOUD if model is not None and model.remote_host else "ollama"
        self._world.evidence.record(receiver, name, model_name, messages)
        if is_kind(fault, FaultKind.TIMEOUT):
            return await hang(request)
        if (elsewhere := redirected(request, fault)) is not None:
            return elsewhere
        if fault is not None and fault.kind in _ERRORS:
            return _error(*_ERRORS[fault.kind])
        if model is None:
            return _error(404, f"model '{model_name}' not found")
        options = document.get("options") or {}
        form = document.get("format")
        schema = form if isinstance(form, dict) else None
        demanded = schema is not None and schema.get("title") == TITLE
        prompt = Prompt(
            model=model,
            messages=messages,
            max_tokens=options.get("num_predict"),
            stop=tuple(options.get("stop") or ()),
            as_json=form == "json",
            schema=None if demanded else schema,
            tools=tools,
            tool_choice=ToolSelection("required") if demanded else None,
            parallel=schema is None or not demanded or schema.get("type") == "array",
            thinks=bool(document.get("think")),
        )
        if (objection := _objection(prompt, document)) is not None:
            return _error(400, objection)
        if model.remote_host:
            return await self._speak(request, prompt, fault, document, as_chat=as_chat)
        try:
            keep_alive, began = keep_alive_of(document.get("keep_alive")), time.perf_counter_ns()
            async with node.memory.running(model, options.get("num_ctx"), keep_alive) as loaded:
                await node.hang()
                seen = node.read(messages, loaded, truncate=document.get("truncate") is not False)
                paced = node.paced(loaded, seen)
                prompt = replace(prompt, model=paced, messages=seen)
                loading = time.perf_counter_ns() - began
                return await self._speak(request, prompt, fault, document, as_chat=as_chat, loading=loading)
        except CallRefused as refused:
            return _error(refused.status, refused.text)

    async def _load(
        self, node: SimulatedNode, model: SimulatedModel, document: Mapping[str, Any], *, as_chat: bool
    ) -> web.Response:
        """A request without a prompt loads a model, or unloads it where it may be kept for no time."""
        try:
            keep_alive = keep_alive_of(document.get("keep_alive"))
            asked = None if keep_alive == 0 else (document.get("options") or {}).get("num_ctx")
            async with node.memory.running(model, asked, keep_alive):
                pass
        except CallRefused as refused:
            return _error(refused.status, refused.text)
        reason = "unload" if keep_alive == 0 else "load"
        return web.json_response({**_part(model, "", as_chat=as_chat), "done": True, "done_reason": reason})

    async def _speak(
        self,
        request: web.Request,
        prompt: Prompt,
        fault: Fault | None,
        document: dict[str, Any],
        *,
        as_chat: bool,
        loading: int = 0,
    ) -> web.StreamResponse:
        began = time.perf_counter_ns()
        answer = compose(prompt, fault)
        if prompt.tool_choice is not None:
            answer = _written_down(answer, prompt.parallel)
        named = {"model": stated_model(fault, prompt.model.name)}
        if document.get("stream") is False or is_kind(fault, FaultKind.JSON_BODY):
            text = await said(answer, prompt.model, self._world.speed, fault)
            part = _part(prompt.model, text, answer if not fault else None, as_chat=as_chat)
            return json_response({**part, **named, **_end(answer, began, fault, loading)})
        response = stream_response("application/x-ndjson", fault)
        await response.prepare(request)
        spoke = 0
        async for piece in spoken(answer, prompt.model, self._world.speed, fault):
            if piece.kind == "call":
                spoke += len(piece.text)
                continue
            part = _part(prompt.model, piece.text, as_chat=as_chat, thinking=piece.kind == "thinking")
            await _write(response, {**part, **named, "done": False})
        if spoke and spoke == sum(len(call.arguments) for call in answer.calls):
            # This API sends calls whole.
            whole = _part(prompt.model, "", answer, as_chat=as_chat)
            whole["message"].pop("thinking", None)
            await _write(response, {**whole, **named, "done": False})
        empty = {**_part(prompt.model, "", as_chat=as_chat), **named}
        forms = Forms(
            keep_alive=json_bytes({**empty, "done": False}) + b"\n",
            broken=b'{"message": {"role": "assistant", "con\n',
            error=json_bytes({"error": "an error was encountered while running the model"}) + b"\n",
        )
        if await interrupt(request, response, fault, forms):
            return response
        await _write(response, {**empty, **_end(answer, began, fault, loading)})
        await response.write_eof()
        return response


def _objection(prompt: Prompt, document: Mapping[str, Any]) -> str | None:
    """Why the server does not answer, in Ollama's words."""
    model = prompt.model
    if prompt.tools and "tools" not in model.capabilities:
        return f"registry.ollama.ai/library/{model.name} does not support tools"
    if document.get("think") and "thinking" not in model.capabilities:
        return f'"{model.name}" does not support thinking'
    return None


def _written_down(answer: Answer, parallel: bool) -> Answer:
    """The calls as the text that the schema of calls lets a model write."""
    calls = [{"name": call.name, "arguments": json.loads(call.arguments)} for call in answer.calls]
    if not calls:
        return answer
    text = json.dumps(calls if parallel else calls[0], ensure_ascii=False)
    return replace(answer, tokens=tuple(tokens_of(text)), calls=(), finish="stop")


async def _write(response: web.StreamResponse, document: dict[str, Any]) -> None:
    await response.write(json_bytes(document) + b"\n")


def _part(
    model: SimulatedModel, text: str, whole: Answer | None = None, *, as_chat: bool, thinking: bool = False
) -> dict[str, Any]:
    """A part of an answer; with `whole`, what it thinks and calls too."""
    content: dict[str, Any]
    if as_chat:
        said_so = {"thinking": text, "content": ""} if thinking else {"content": text}
        content = {"message": {"role": "assistant", **said_so}}
        if whole is not None and whole.thinking:
            content["message"]["thinking"] = "".join(whole.thinking)
        if whole is not None and whole.calls:
            content["message"]["tool_calls"] = [
                {"function": {"index": place, "name": call.name, "arguments": json.loads(call.arguments)}}
                for place, call in enumerate(whole.calls)
            ]
    else:
        content = {"thinking": text, "response": ""} if thinking else {"response": text}
    return {"model": model.name, **_remote(model), "created_at": datetime.now(UTC).isoformat(), **content}


def _remote(model: SimulatedModel) -> dict[str, str]:
    """Where a model runs if not here, as Ollama names it in lists, descriptions and answers."""
    return {"remote_model": model.remote_model, "remote_host": model.remote_host} if model.remote_host else {}


def _end(answer: Answer, began_ns: int, fault: Fault | None, loading_ns: int) -> dict[str, Any]:
    total = time.perf_counter_ns() - began_ns
    return {
        "done": True,
        "done_reason": stated_finish(fault, "length" if answer.finish == "length" else "stop"),
        "total_duration": total + loading_ns,
        "load_duration": loading_ns,
        "prompt_eval_count": stated_count(fault, answer.input_tokens),
        "prompt_eval_duration": total // 10,
        "eval_count": stated_count(fault, answer.output_tokens),
        "eval_duration": total - total // 10,
    }


def _describe(model: SimulatedModel) -> dict[str, Any]:
    family, _, size = model.name.partition(":")
    return {
        "name": model.name,
        "model": model.name,
        **_remote(model),
        "modified_at": "2026-01-01T00:00:00Z",
        "size": model.size_bytes,
        "digest": hashlib.sha256(model.name.encode()).hexdigest(),
        "details": {
            "parent_model": "",
            "format": "" if model.remote_host else "gguf",
            "family": family,
            "families": [family],
            "parameter_size": size.upper(),
            "quantization_level": "Q4_0",
        },
    }


def _error(status: int, text: str) -> web.Response:
    return web.json_response({"error": text}, status=status)

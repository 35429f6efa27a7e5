"""An Ollama node: its models, its health, its chats and vectors; answers are read as everything from outside."""

from __future__ import annotations

import json
import logging
import ssl
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import httpx2
from headrace_contracts.events import Lane, PlacementAction
from headrace_contracts.headers import LANE_OF_CALL
from headrace_contracts.model_settings import NO_DEFAULTS, NodeDefaults
from pydantic import SecretStr

from headrace_models import capabilities, ollama_models
from headrace_models.answer import FinishReason
from headrace_models.call import Call, calling
from headrace_models.conversation import AnswerSchema
from headrace_models.demanded_calls import calls_in
from headrace_models.embedding import MOST_VECTORS_BYTES, EmbedCall
from headrace_models.errors import TryAnotherProvider
from headrace_models.ollama_listing import Shown, details_of, runs_elsewhere, shown
from headrace_models.ollama_models import PlacementFailed, PullProgress
from headrace_models.ollama_requests import ABLE, body_of, embed_body_of, kept_for, load_length
from headrace_models.ports import (
    CallUsage,
    ChatRequest,
    ChatResult,
    EmbedRequest,
    EmbedResult,
    ModelInfo,
    OnPiece,
    OnText,
    ProviderStatus,
    no_pieces,
)
from headrace_models.upstream.complaints import Complained, Complaint, complaint_in
from headrace_models.upstream.events import lines
from headrace_models.upstream.http import because, expect_ok, open_client, read_body
from headrace_models.upstream.values import MOST_MODELS, Unreadable, count, document, items, mapping, name, text
from headrace_models.wire import SIMULATED_HEADER, SIMULATOR_NAME

_log = logging.getLogger(__name__)

_STATUS_TIMEOUT_SECONDS: Final = 3.0
_SHOWN_AT_ONCE: Final = 32
_FINISH_REASONS: Final[Mapping[str, FinishReason]] = {"stop": "stop", "length": "length"}


class OllamaNode:
    """One node: its models, its health, its chats.

    Models that the node only passes on to another host are not offered, and an answer that was made elsewhere is
    refused: whoever asks a node means that the content stays there.

    `address` is a base URL such as `http://127.0.0.1:11434`; without `http://` and port, Ollama's own port is assumed.
    `keep_alive` is how long the node keeps a model in memory after a call: a duration in Ollama's notation, a number of
    seconds, negative for as long as it runs. None leaves it to the node, whose own setting and pins then hold.
    `defaults` are what this node says of its models; a request's own settings go before both.
    `token` is sent as a bearer token; `certificates` are what to trust and to show instead of the system's.
    """

    provider: Final = "ollama"

    def __init__(
        self,
        node: str,
        address: str,
        *,
        keep_alive: str | int | None = None,
        defaults: NodeDefaults = NO_DEFAULTS,
        token: SecretStr | None = None,
        certificates: ssl.SSLContext | None = None,
    ) -> None:
        self.node = node
        self._name = f"ollama node {node}"
        self._keep_alive = keep_alive
        self._defaults = defaults
        self._simulated = False
        self._models: dict[str, ModelInfo] = {}
        """What is known of its models, by name."""
        self._shown: dict[str, Shown] = {}
        """What it shows of its models, by digest: that does not change."""
        self._elsewhere: frozenset[str] = frozenset()
        """Names of models that are known to run at another host."""
        self._client = open_client(_base_url(address), key=token, certificates=certificates)

    async def chat(self, request: ChatRequest, on_text: OnText, on_piece: OnPiece = no_pieces) -> ChatResult:
        call = Call(self._name, request, on_text, on_piece, maker=self.provider)
        model = request.model
        async with calling(call):
            self._expect_here(model)
            capabilities.expect(request, ABLE, self.provider)
            async with self._client.stream(
                "POST", "api/chat", json=self._body(request), headers=_lane(request.batch)
            ) as response:
                await expect_ok(response)
                call.accepted = True
                self._simulated = SIMULATED_HEADER in response.headers
                # Read to the very end, even after the part that says done: a connection with unread data is closed
                # instead of reused for the next call.
                async for line in lines(response.aiter_raw()):
                    if line.strip():
                        model = await self._take(call, mapping(document(line)), model)
        return call.result(model=model, simulated=self._simulated, request_id="")

    async def embed(self, request: EmbedRequest) -> EmbedResult:
        call = EmbedCall(self._name, request)
        async with calling(call):
            self._expect_here(request.model)
            known = self._models.get(request.model)
            body = embed_body_of(request, known, keep_alive=self._keep_alive, defaults=self._defaults)
            async with self._client.stream("POST", "api/embed", json=body, headers=_lane(request.batch)) as response:
                await expect_ok(response)
                call.accepted = True
                simulated = SIMULATED_HEADER in response.headers
                said = mapping(document(await read_body(response, MOST_VECTORS_BYTES)))
            self._expect_made_here(said, request.model, call.spent)
            if said.get("error") and (complaint := complaint_in(said)):
                raise Complained(complaint)
            call.usage.hear(input_tokens=said.get("prompt_eval_count"))
        return call.result(items(said.get("embeddings")), model=name(said.get("model")), simulated=simulated)

    def _expect_here(self, model: str) -> None:
        if model in self._elsewhere or runs_elsewhere({"model": model}):
            message = f"{self._name} does not run this model itself"
            raise TryAnotherProvider("model_missing", message, provider=self.provider)

    def _expect_made_here(self, part: Mapping[str, Any], model: str, spent: Callable[[], CallUsage]) -> None:
        if runs_elsewhere(part):
            self._elsewhere |= {model}
            _log.error("%s had an answer of %s made at another host", self._name, model)
            breach = f"{self._name} had this answer made at another host; set OLLAMA_NO_CLOUD=1 there"
            raise TryAnotherProvider("answered_remotely", breach, provider=self.provider, usage=spent())

    def _body(self, request: ChatRequest) -> dict[str, Any]:
        known = self._models.get(request.model)
        return body_of(request, known, keep_alive=self._keep_alive, defaults=self._defaults)

    async def _take(self, call: Call, part: Mapping[str, Any], model: str) -> str:
        self._expect_made_here(part, call.request.model, call.spent)
        if part.get("error") and (complaint := complaint_in(part)):
            raise Complained(complaint)
        message = mapping(part.get("message"))
        await call.hear_reasoning(text(message.get("thinking")))
        said = text(message.get("content"))
        if call.request.must_call:
            call.hear_unspoken(said)
        else:
            await call.hear(said)
        for called in map(mapping, items(message.get("tool_calls"))):
            function = mapping(called.get("function"))
            arguments = function.get("arguments")
            written = arguments if isinstance(arguments, str) else json.dumps(arguments or {}, ensure_ascii=False)
            # Each comes whole; servers before 0.13 give no id.
            await call.hear_call(object(), written, call_id=name(called.get("id")), name=name(function.get("name")))
        call.hear_logprobs(items(part.get("logprobs")))
        done = part.get("done") is True
        call.usage.hear(input_tokens=part.get("prompt_eval_count"), output_tokens=part.get("eval_count"), final=done)
        if done:
            # Servers before 0.1.45 name no reason.
            reason = _FINISH_REASONS.get(str(part.get("done_reason") or "stop"))
            if call.unspoken:
                await _hear_demanded(call, call.unspoken, reason)
            await call.finish(reason)
            call.all_said()
        return name(part.get("model")) or model

    def keeps_to(self, schema: AnswerSchema, model: str) -> bool:
        # Its grammar lets no other token through.
        return True

    async def status(self) -> ProviderStatus:
        began = time.perf_counter()
        try:
            version = name(mapping(await self._document("api/version"))["version"])
            latency_ms = (time.perf_counter() - began) * 1000
            listed = _entries(await self._document("api/tags"))
            running = _entries(await self._document("api/ps"))
        except Complained as refused:
            return ProviderStatus(False, f"{self._name} answered {refused.complaint.status}")
        except httpx2.HTTPError as error:
            return ProviderStatus(False, f"{self._name} cannot be reached ({because(error)})", unreachable=True)
        except (Unreadable, KeyError):
            return ProviderStatus(False, f"{self._name} does not respond like Ollama; check its address")
        remote = frozenset(
            model for one in (*listed, *running) if runs_elsewhere(one) and (model := _model_name(one)) is not None
        )
        if remote - self._elsewhere:
            _log.warning(
                "%s lists models that run at another host, which are not offered: %s",
                self._name, ", ".join(sorted(remote)),
            )  # fmt: skip
        # What has once answered remotely stays out, whatever the list says: the list is no proof.
        self._elsewhere |= remote
        loaded = {_model_name(one): one for one in running}
        offered = [
            (model, one) for one in listed if (model := _model_name(one)) is not None and model not in self._elsewhere
        ]
        await self._look_closely(offered)
        models = tuple(
            _model_info(model, one, loaded.get(model), self._shown.get(_digest(one))) for model, one in offered
        )
        self._models = {model.name: model for model in models}
        self._simulated = SIMULATOR_NAME in version
        return ProviderStatus(True, "", models, latency_ms, version, self._simulated)

    async def _look_closely(self, listed: list[tuple[str, Mapping[str, Any]]]) -> None:
        """Ask what models can do, some at a time: a node with hundreds of them is known after some probes."""
        unknown = {_digest(entry): model for model, entry in listed if _digest(entry) not in self._shown}
        for digest, model in list(unknown.items())[:_SHOWN_AT_ONCE]:
            try:
                async with self._client.stream(
                    "POST", "api/show", json={"model": model}, timeout=_STATUS_TIMEOUT_SECONDS
                ) as response:
                    await expect_ok(response)
                    self._shown[digest] = shown(document(await read_body(response)))
            except (Complained, Unreadable, httpx2.HTTPError) as error:
                _log.info("%s does not show what %s can do: %s", self._name, model, type(error).__name__)
        present = {_digest(entry) for _, entry in listed}
        self._shown = {digest: known for digest, known in self._shown.items() if digest in present}

    async def _document(self, path: str) -> object:
        async with self._client.stream("GET", path, timeout=_STATUS_TIMEOUT_SECONDS) as response:
            if response.status_code != 200:
                raise Complained(Complaint(status=response.status_code))
            return document(await read_body(response))

    async def place(
        self, action: PlacementAction, model: str, on_progress: Callable[[PullProgress], None],
        *, num_ctx: int | None = None, keep_alive: str | None = None,
    ) -> None:  # fmt: skip
        """Carry out a placement request. A model is loaded as calls with the same num_ctx and keep_alive need it: for
        another length Ollama would load it again. Raises PlacementFailed, and ValueError for an unknown action."""
        if runs_elsewhere({"model": model}):
            raise PlacementFailed("a model of this name runs at another host", again=False)
        known = self._models.get(model)
        able = frozenset() if known is None or known.capabilities is None else known.capabilities
        embeds_only = capabilities.EMBEDDINGS in able and capabilities.JSON_SCHEMA not in able
        match action:
            case PlacementAction.PULL:
                await ollama_models.pull(self._client, model, on_progress)
            case PlacementAction.LOAD:
                await ollama_models.load(
                    self._client, model, keep_alive=kept_for(keep_alive, self._keep_alive, self._defaults),
                    num_ctx=load_length(known, num_ctx, self._defaults), embeds_only=embeds_only,
                )  # fmt: skip
            case PlacementAction.UNLOAD:
                await ollama_models.unload(self._client, model, embeds_only=embeds_only)
            case PlacementAction.REMOVE:
                await ollama_models.remove(self._client, model)
            case PlacementAction.UNKNOWN:
                raise ValueError("the action is unknown")

    async def close(self) -> None:
        await self._client.aclose()


async def _hear_demanded(call: Call, written: str, reason: FinishReason | None) -> None:
    """What a model wrote that had to call tools: calls; any other text as it is, unless it was cut off."""
    calls = calls_in(written)
    for name_of_tool, arguments in calls or ():
        await call.hear_call(object(), arguments, name=name_of_tool)
    if calls is None and reason != "length":
        await call.hear(written)


def _lane(batch: bool) -> Mapping[str, str] | None:
    return {LANE_OF_CALL: Lane.BATCH} if batch else None


def _base_url(address: str) -> str:
    return address if "://" in address else f"http://{address}" if ":" in address else f"http://{address}:11434"


def _entries(listed: object) -> list[Mapping[str, Any]]:
    return [mapping(entry) for entry in items(mapping(listed).get("models"))[:MOST_MODELS]]


def _model_name(entry: Mapping[str, Any]) -> str | None:
    return name(entry.get("model")) or name(entry.get("name")) or None


def _digest(entry: Mapping[str, Any]) -> str:
    """Identifies what a model is; its name for servers that give no digest."""
    return name(entry.get("digest")) or f"name:{_model_name(entry)}"


def _model_info(
    model: str, entry: Mapping[str, Any], in_memory: Mapping[str, Any] | None, known: Shown | None
) -> ModelInfo:
    size = entry.get("size")
    return ModelInfo(
        name=model,
        size_bytes=size if isinstance(size, int) and 0 <= size < 2**63 else None,
        context_tokens=known.context_tokens if known is not None else None,
        loaded=in_memory is not None,
        loaded_context_tokens=count(in_memory.get("context_length")) if in_memory is not None else None,
        capabilities=known.capabilities if known is not None else None,
        details=details_of(entry),
    )

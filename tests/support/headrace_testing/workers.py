"""A worker's parts on the in-memory log, and a scripted provider."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from headrace_contracts import events, topics
from headrace_contracts.codec import Codec, Registry
from headrace_contracts.content import plain
from headrace_contracts.errors import Origin
from headrace_contracts.headers import WEIGHT
from headrace_contracts.ids import attempt_id
from headrace_contracts.memory_registry import MemoryRegistry
from headrace_contracts.topics import TOPICS, TopicSpec
from headrace_models.answer import FinishReason, SpokenPiece
from headrace_models.conversation import AnswerSchema
from headrace_models.embedding import packed
from headrace_models.errors import ProviderError
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
    hand_out,
    no_pieces,
)
from headrace_models.simulator.embeddings import embedding
from headrace_models.worker.endpoint import Endpoint, EndpointView
from headrace_models.worker.paid_calls import PaidCalls
from headrace_models.worker.pool import Pool
from headrace_models.worker.runner import AttemptRunner, Forbid, IsCancelled, RunnerOptions, RunObserver
from headrace_streams.memory import MemoryCluster, MemoryLog
from headrace_streams.memory.network import Network
from headrace_streams.publishing import Publication, Publisher
from headrace_streams.records import Record

PREFIX = "headrace."


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class ScriptedProvider:
    """Answers with the pieces of `answer`; the entries of `script` are used first, one per call."""

    def __init__(self, provider: str = "ollama", node: str = "node-1", models: Sequence[str] = ("gemma2:2b",)) -> None:
        self.provider = provider
        self.node = node
        self.answer: Sequence[str] = ("Hel", "lo")
        self.finish_reason: FinishReason = "stop"
        self.script: list[ProviderError | Exception | asyncio.Event | ChatResult | Sequence[str]] = []
        self.asked: list[ChatRequest] = []
        self.running = 0
        self.closed = False
        self.current = ProviderStatus(True, "", tuple(ModelInfo(name, loaded=True) for name in models), 1.0, "1.2.3")

    async def chat(self, request: ChatRequest, on_text: OnText, on_piece: OnPiece = no_pieces) -> ChatResult:
        self.asked.append(request)
        self.running += 1
        try:
            return await self._chat(request, on_text)
        finally:
            self.running -= 1

    async def _chat(self, request: ChatRequest, on_text: OnText) -> ChatResult:
        step = self.script.pop(0) if self.script else self.answer
        if isinstance(step, Exception):
            raise step
        if isinstance(step, asyncio.Event):
            await step.wait()
            step = self.answer
        if isinstance(step, ChatResult):
            return step
        for piece in step:
            await hand_out(on_text, no_pieces, SpokenPiece("text", piece))
        return ChatResult("".join(step), self.finish_reason, CallUsage(7, 3), request.model, 2.0, 5.0, False, "id-1")

    async def embed(self, request: EmbedRequest) -> EmbedResult:
        step = self.script.pop(0) if self.script else None
        if isinstance(step, Exception):
            raise step
        vectors = tuple(packed(embedding(text, request.dimensions or 8)) or b"" for text in request.inputs)
        return EmbedResult(vectors, CallUsage(5), request.model, 3.0, False)

    def keeps_to(self, schema: AnswerSchema, model: str) -> bool:
        return False

    async def status(self) -> ProviderStatus:
        return self.current

    async def close(self) -> None:
        self.closed = True


def first_of(views: Sequence[EndpointView], model: str) -> EndpointView | None:
    """The endpoint with the most free slots among those that list the model."""
    return max((view for view in views if model in view.models), key=lambda view: view.free, default=None)


def healthy(provider: ScriptedProvider, slots: int = 4) -> Endpoint:
    """An endpoint that has been checked."""
    endpoint = Endpoint(provider, slots)
    endpoint.seen(provider.current)
    return endpoint


class WorkerBench:
    """All topics in memory, and the parts of a worker on them; `await prepare()` first."""

    def __init__(self, network: Network | None = None, registry: Registry | None = None) -> None:
        self.cluster = MemoryCluster()
        self.log = MemoryLog(self.cluster, network=network)
        self.codec = Codec(registry or MemoryRegistry(), PREFIX)
        self.producer = self.log.producer()
        self.publisher = Publisher(self.producer, self.codec, "headrace/test/worker")
        self._numbers = itertools.count(1)

    async def prepare(self) -> None:
        for spec in TOPICS.values():
            self.cluster.create_topic(PREFIX + spec.name, spec.partitions)
        await self.codec.prepare(TOPICS.values(), register=True)

    def runner(
        self,
        endpoints: Sequence[Endpoint],
        *,
        choose: Callable[[Sequence[EndpointView], str], EndpointView | None] = first_of,
        observer: RunObserver | None = None,
        forbid: Forbid = lambda _request: None,
        is_cancelled: IsCancelled = lambda _task_id, _tenant: False,
        outcomes_to: TopicSpec = topics.ATTEMPTS_FINISHED,
        paid: PaidCalls | None = None,
        **options: Any,
    ) -> AttemptRunner:
        return AttemptRunner(
            codec=self.codec,
            publisher=self.publisher,
            pool=Pool(endpoints, choose),
            options=RunnerOptions(worker="worker-1", **options),
            outcomes_to=outcomes_to,
            clock_ms=now_ms,
            new_id=lambda: f"execution-{next(self._numbers)}",
            forbid=forbid,
            is_cancelled=is_cancelled,
            paid=paid,
            observer=observer,
        )

    def submit(
        self,
        request: events.AttemptRequested,
        spec: TopicSpec = topics.WORK_LOCAL_INTERACTIVE,
        key: bytes = b"p:route",
        weight: int | None = None,
    ) -> Record:
        """Append an attempt as the router does; the record as it stands in the log."""
        publication = Publication(
            spec=spec,
            event=request,
            event_id=request.attempt_id,
            key=key,
            tenant=request.tenant,
            time_ms=request.requested_at,
            subject=request.task_id,
            traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        )
        record = self.publisher.record_of(publication)
        if weight is not None:
            record = replace(record, headers=(*record.headers, (WEIGHT, str(weight).encode())))
        placed = self.cluster.append(record, now_ms())
        return self.cluster.records(placed.topic, placed.partition)[placed.offset]

    def records(self, spec: TopicSpec) -> list[Record]:
        return list(self.cluster.records(PREFIX + spec.name))

    def read(self, spec: TopicSpec) -> list[Any]:
        """The events of a topic."""
        return [
            self.codec.decode(spec.record, record.value, Origin(record.topic, record.partition, record.offset))
            for record in self.records(spec)
        ]


def attempt(task_id: str = "task-1", number: int = 1, **changes: Any) -> events.AttemptRequested:
    """An attempt that asks gemma2:2b of ollama."""
    values: dict[str, Any] = {
        "attempt_id": attempt_id(task_id, number),
        "task_id": task_id,
        "tenant": "acme",
        "user": "ann",
        "number": number,
        "home_partition": 3,
        "provider": "ollama",
        "model": "gemma2:2b",
        "messages": (events.Message(role="user", content=plain("Say hello.")),),
        "sampling": events.Sampling(max_output_tokens=64),
        "privacy": events.Privacy.INTERNAL,
        "lane": events.Lane.INTERACTIVE,
        "role": "scribe",
        "requested_at": now_ms() - 20,
    }
    return events.AttemptRequested(**{**values, **changes})

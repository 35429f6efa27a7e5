"""Events of the domain fleet.

Generated from schemas/ by `make generate`; edit the schemas instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar

from headrace_contracts.frozen import cheaply_made


@cheaply_made
@dataclass(frozen=True, slots=True, kw_only=True)
class AnnouncedModel:
    """A model on a node, as its Ollama lists it.

    Attributes:
        name: The node's name for it.
        size_bytes: Size on disk, in bytes; null if unknown.
        loaded: Whether it is in memory.
        vram_bytes: Memory of graphics processors that it occupies, in bytes; null if it is not in memory or
            that is unknown.
        expires_at: When the node will remove it from memory; null if it is not there or stays. Milliseconds
            since the epoch, UTC.
    """

    FULL_NAME: ClassVar[str] = "headrace.fleet.AnnouncedModel"

    name: str
    size_bytes: int | None = None
    loaded: bool = False
    vram_bytes: int | None = None
    expires_at: int | None = None

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "name": self.name,
            "size_bytes": self.size_bytes,
            "loaded": self.loaded,
            "vram_bytes": self.vram_bytes,
            "expires_at": self.expires_at,
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> AnnouncedModel:
        return cls(
            name=data["name"],
            size_bytes=data["size_bytes"],
            loaded=data["loaded"],
            vram_bytes=data["vram_bytes"],
            expires_at=data["expires_at"],
        )


@cheaply_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A graphics processor of a node.

    Attributes:
        name: Its maker's name, such as NVIDIA GeForce RTX 4060.
        memory_bytes: Its memory, in bytes; null if unknown.
        used_bytes: Memory in use by whatever runs there, in bytes; null if unknown.
        busy_percent: Share of the last moments in which it computed, in percent; null if unknown.
        watts: Power that it draws, in watts; null if unknown.
    """

    FULL_NAME: ClassVar[str] = "headrace.fleet.Gpu"

    name: str
    memory_bytes: int | None = None
    used_bytes: int | None = None
    busy_percent: int | None = None
    watts: float | None = None

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "name": self.name,
            "memory_bytes": self.memory_bytes,
            "used_bytes": self.used_bytes,
            "busy_percent": self.busy_percent,
            "watts": self.watts,
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> Gpu:
        return cls(
            name=data["name"],
            memory_bytes=data["memory_bytes"],
            used_bytes=data["used_bytes"],
            busy_percent=data["busy_percent"],
            watts=data["watts"],
        )


@cheaply_made
@dataclass(frozen=True, slots=True, kw_only=True)
class ModelObserved:
    """How a model has done at a node or provider in the last minutes, as its worker has seen it.

    Attributes:
        calls: Answers that this is of.
        first_output_p50_ms: Median time to the first piece of an answer, in milliseconds.
        first_output_p95_ms: 95th percentile of it, in milliseconds.
        tokens_per_second_p50: Median speed of an answer after its first piece, in tokens per second. Null: no
            answer was long enough.
        tokens_per_second_p5: 5th percentile of it: 19 of 20 answers were faster.
    """

    FULL_NAME: ClassVar[str] = "headrace.fleet.ModelObserved"

    calls: int
    first_output_p50_ms: float
    first_output_p95_ms: float
    tokens_per_second_p50: float | None = None
    tokens_per_second_p5: float | None = None

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "calls": self.calls,
            "first_output_p50_ms": self.first_output_p50_ms,
            "first_output_p95_ms": self.first_output_p95_ms,
            "tokens_per_second_p50": self.tokens_per_second_p50,
            "tokens_per_second_p5": self.tokens_per_second_p5,
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> ModelObserved:
        return cls(
            calls=data["calls"],
            first_output_p50_ms=data["first_output_p50_ms"],
            first_output_p95_ms=data["first_output_p95_ms"],
            tokens_per_second_p50=data["tokens_per_second_p50"],
            tokens_per_second_p5=data["tokens_per_second_p5"],
        )


@cheaply_made
@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStatus:
    """One model on a node.

    Attributes:
        name: As the node names it.
        size_bytes: Its size in memory.
        context_tokens: Maximum context length, in tokens.
        loaded: Whether it is in memory.
        capabilities: What it can do: tools, vision, audio, json_schema, embeddings, reasoning, logprobs. Null:
            not known.
        details: What its node says of it beyond that: digest, family, parameter_size, quantization_level,
            modified_at.
        observed: How its calls went in the last minutes. Null: there were none.
    """

    FULL_NAME: ClassVar[str] = "headrace.fleet.ModelStatus"

    name: str
    size_bytes: int | None = None
    context_tokens: int | None = None
    loaded: bool = False
    capabilities: tuple[str, ...] | None = None
    details: Mapping[str, str] = field(default_factory=dict)
    observed: ModelObserved | None = None

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "name": self.name,
            "size_bytes": self.size_bytes,
            "context_tokens": self.context_tokens,
            "loaded": self.loaded,
            "capabilities": None if self.capabilities is None else list(self.capabilities),
            "details": dict(self.details),
            "observed": None if self.observed is None else ("headrace.fleet.ModelObserved", self.observed.to_avro(named)) if named else self.observed.to_avro(named),
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> ModelStatus:
        return cls(
            name=data["name"],
            size_bytes=data["size_bytes"],
            context_tokens=data["context_tokens"],
            loaded=data["loaded"],
            capabilities=None if (value_capabilities := data["capabilities"]) is None else tuple(value_capabilities),
            details=data["details"],
            observed=None if (value_observed := data["observed"]) is None else ModelObserved.from_avro(value_observed),
        )


@cheaply_made
@dataclass(frozen=True, slots=True, kw_only=True)
class NodeAnnounced:
    """A node as its agent (`headrace node`) announces it: where it is reached, what it is made of, what it runs.

    Attributes:
        node: Name of the node; also the record's key.
        site: Site whose workers may use it.
        url: Address at which workers reach it: Ollama, or the agent's proxy in front of it.
        slots: Concurrent calls that it runs.
        labels: Labels that a routing policy can require.
        settings: How models are loaded and asked there where nobody says otherwise, as in a list of nodes:
            num_ctx, max_num_ctx, keep_alive, think, top_k, slots.<model>.
        drained: Whether its agent accepts no new calls, as while it stops.
        healthy: Whether Ollama answers its agent.
        reason: Why it is not healthy, or drained.
        agent: Id of the agent's process: two processes must not announce one node.
        host: Host name of the agent's machine.
        agent_version: Release of the agent.
        ollama_version: Release of Ollama; empty if unknown.
        started_at: When the agent started. Milliseconds since the epoch, UTC.
        models: Models that it has.
        cpus: Logical processors; null if unknown.
        memory_bytes: Main memory, in bytes; null if unknown.
        memory_free_bytes: Main memory that programs can still get, in bytes; null if unknown.
        gpus: Its graphics processors, as far as they are known.
        watts: Power that processors and graphics processors draw together, in watts; null if unknown.
        running: Model calls that its proxy runs; null without a proxy.
        waiting: Model calls that wait in its proxy; null without a proxy.
        tokens_per_second: Observed output speed of one call through its proxy, in tokens per second; null if
            unknown.
        valid_for_ms: How long after announced_at this is valid without another announcement, in milliseconds.
        announced_at: When this was determined. Milliseconds since the epoch, UTC.
    """

    FULL_NAME: ClassVar[str] = "headrace.fleet.NodeAnnounced"

    node: str
    site: str = ''
    url: str
    slots: int = 1
    labels: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    drained: bool = False
    healthy: bool = True
    reason: str = ''
    agent: str
    host: str = ''
    agent_version: str = ''
    ollama_version: str = ''
    started_at: int
    models: tuple[AnnouncedModel, ...] = ()
    cpus: int | None = None
    memory_bytes: int | None = None
    memory_free_bytes: int | None = None
    gpus: tuple[Gpu, ...] = ()
    watts: float | None = None
    running: int | None = None
    waiting: int | None = None
    tokens_per_second: float | None = None
    valid_for_ms: int = 15000
    announced_at: int

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "node": self.node,
            "site": self.site,
            "url": self.url,
            "slots": self.slots,
            "labels": dict(self.labels),
            "settings": dict(self.settings),
            "drained": self.drained,
            "healthy": self.healthy,
            "reason": self.reason,
            "agent": self.agent,
            "host": self.host,
            "agent_version": self.agent_version,
            "ollama_version": self.ollama_version,
            "started_at": self.started_at,
            "models": [item.to_avro(named) for item in self.models],
            "cpus": self.cpus,
            "memory_bytes": self.memory_bytes,
            "memory_free_bytes": self.memory_free_bytes,
            "gpus": [item.to_avro(named) for item in self.gpus],
            "watts": self.watts,
            "running": self.running,
            "waiting": self.waiting,
            "tokens_per_second": self.tokens_per_second,
            "valid_for_ms": self.valid_for_ms,
            "announced_at": self.announced_at,
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> NodeAnnounced:
        return cls(
            node=data["node"],
            site=data["site"],
            url=data["url"],
            slots=data["slots"],
            labels=data["labels"],
            settings=data["settings"],
            drained=data["drained"],
            healthy=data["healthy"],
            reason=data["reason"],
            agent=data["agent"],
            host=data["host"],
            agent_version=data["agent_version"],
            ollama_version=data["ollama_version"],
            started_at=data["started_at"],
            models=tuple([AnnouncedModel.from_avro(item) for item in data["models"]]),
            cpus=data["cpus"],
            memory_bytes=data["memory_bytes"],
            memory_free_bytes=data["memory_free_bytes"],
            gpus=tuple([Gpu.from_avro(item) for item in data["gpus"]]),
            watts=data["watts"],
            running=data["running"],
            waiting=data["waiting"],
            tokens_per_second=data["tokens_per_second"],
            valid_for_ms=data["valid_for_ms"],
            announced_at=data["announced_at"],
        )


@cheaply_made
@dataclass(frozen=True, slots=True, kw_only=True)
class NodeDrained:
    """An operator's decision that a node gets no new calls; a tombstone ends it.

    Attributes:
        node: Name of the node; also the record's key.
        reason: Why, in the operator's words.
        drained_by: Who decided it: user@host.
        drained_at: When it was decided. Milliseconds since the epoch, UTC.
    """

    FULL_NAME: ClassVar[str] = "headrace.fleet.NodeDrained"

    node: str
    reason: str = ''
    drained_by: str = ''
    drained_at: int

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "node": self.node,
            "reason": self.reason,
            "drained_by": self.drained_by,
            "drained_at": self.drained_at,
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> NodeDrained:
        return cls(
            node=data["node"],
            reason=data["reason"],
            drained_by=data["drained_by"],
            drained_at=data["drained_at"],
        )


class Place(StrEnum):
    """Whether a node is ours."""

    LOCAL = "local"
    CLOUD = "cloud"


class PlacementAction(StrEnum):
    """What is to happen with a model on a node: pull puts it on the disk, load into memory, unload out of memory, remove from the disk."""

    UNKNOWN = "unknown"
    PULL = "pull"
    LOAD = "load"
    UNLOAD = "unload"
    REMOVE = "remove"


class PlacementPhase(StrEnum):
    """How far a placement has come."""

    UNKNOWN = "unknown"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@cheaply_made
@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementStatus:
    """What became of a placement request.

    Attributes:
        request_id: Id of the request.
        model: The model.
        action: What was asked for.
        phase: How far it has come.
        completed_bytes: pull: bytes received so far; null if unknown.
        total_bytes: pull: bytes to receive; null if unknown.
        reason: What it is at, or why it failed.
        updated_at: When this was determined. Milliseconds since the epoch, UTC.
    """

    FULL_NAME: ClassVar[str] = "headrace.fleet.PlacementStatus"

    request_id: str
    model: str
    action: PlacementAction
    phase: PlacementPhase
    completed_bytes: int | None = None
    total_bytes: int | None = None
    reason: str = ''
    updated_at: int

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "request_id": self.request_id,
            "model": self.model,
            "action": self.action,
            "phase": self.phase,
            "completed_bytes": self.completed_bytes,
            "total_bytes": self.total_bytes,
            "reason": self.reason,
            "updated_at": self.updated_at,
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> PlacementStatus:
        return cls(
            request_id=data["request_id"],
            model=data["model"],
            action=PlacementAction(data["action"]),
            phase=PlacementPhase(data["phase"]),
            completed_bytes=data["completed_bytes"],
            total_bytes=data["total_bytes"],
            reason=data["reason"],
            updated_at=data["updated_at"],
        )


@cheaply_made
@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """An Ollama node or a cloud provider, as a worker sees it.

    Attributes:
        node: Name of the node or provider.
        place: Whether it is ours.
        provider: ollama, groq, anthropic, …
        worker: Worker that reports.
        site: Site of the worker that reports: the attempts for its nodes go to this site's topics. Empty: to
            those without a site.
        healthy: Whether it accepts work.
        reason: Why not, if it does not.
        simulated: Whether it is a simulator.
        models: Models it offers.
        slots: Maximum concurrent attempts.
        busy: Attempts running now.
        tokens_per_second: Observed output speed of one attempt, in tokens per second.
        latency_ms: Round-trip time, in milliseconds.
        hardware: Labels of its hardware.
        placements: The newest placement requests that this worker has begun, oldest first.
        valid_for_ms: How long after reported_at this is valid without another report, in milliseconds.
        reported_at: When the status was determined. Milliseconds since the epoch, UTC.
    """

    FULL_NAME: ClassVar[str] = "headrace.fleet.NodeStatus"

    node: str
    place: Place
    provider: str
    worker: str = ''
    site: str = ''
    healthy: bool
    reason: str = ''
    simulated: bool = False
    models: tuple[ModelStatus, ...] = ()
    slots: int = 1
    busy: int = 0
    tokens_per_second: float | None = None
    latency_ms: float | None = None
    hardware: Mapping[str, str] = field(default_factory=dict)
    placements: tuple[PlacementStatus, ...] = ()
    valid_for_ms: int = 15000
    reported_at: int

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "node": self.node,
            "place": self.place,
            "provider": self.provider,
            "worker": self.worker,
            "site": self.site,
            "healthy": self.healthy,
            "reason": self.reason,
            "simulated": self.simulated,
            "models": [item.to_avro(named) for item in self.models],
            "slots": self.slots,
            "busy": self.busy,
            "tokens_per_second": self.tokens_per_second,
            "latency_ms": self.latency_ms,
            "hardware": dict(self.hardware),
            "placements": [item.to_avro(named) for item in self.placements],
            "valid_for_ms": self.valid_for_ms,
            "reported_at": self.reported_at,
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> NodeStatus:
        return cls(
            node=data["node"],
            place=Place(data["place"]),
            provider=data["provider"],
            worker=data["worker"],
            site=data["site"],
            healthy=data["healthy"],
            reason=data["reason"],
            simulated=data["simulated"],
            models=tuple([ModelStatus.from_avro(item) for item in data["models"]]),
            slots=data["slots"],
            busy=data["busy"],
            tokens_per_second=data["tokens_per_second"],
            latency_ms=data["latency_ms"],
            hardware=data["hardware"],
            placements=tuple([PlacementStatus.from_avro(item) for item in data["placements"]]),
            valid_for_ms=data["valid_for_ms"],
            reported_at=data["reported_at"],
        )


@cheaply_made
@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementRequested:
    """An operator's request to put a model on a node, or to take it away.

    Attributes:
        request_id: Id of the request.
        node: Name of the node; also the record's key.
        model: The model, by its name on the node.
        action: What is to happen.
        num_ctx: load: length of the context to load it with, in tokens. Null: as the node is set.
        keep_alive: load: how long it stays in memory without a call: a duration such as 30m, or seconds;
            negative: as long as the node runs. Null: as the node is set.
        requested_by: Who asked for it: user@host.
        requested_at: When it was asked for. Milliseconds since the epoch, UTC.
        valid_until: When it is not begun any more. Milliseconds since the epoch, UTC.
    """

    FULL_NAME: ClassVar[str] = "headrace.fleet.PlacementRequested"

    request_id: str
    node: str
    model: str
    action: PlacementAction
    num_ctx: int | None = None
    keep_alive: str | None = None
    requested_by: str = ''
    requested_at: int
    valid_until: int

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "request_id": self.request_id,
            "node": self.node,
            "model": self.model,
            "action": self.action,
            "num_ctx": self.num_ctx,
            "keep_alive": self.keep_alive,
            "requested_by": self.requested_by,
            "requested_at": self.requested_at,
            "valid_until": self.valid_until,
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> PlacementRequested:
        return cls(
            request_id=data["request_id"],
            node=data["node"],
            model=data["model"],
            action=PlacementAction(data["action"]),
            num_ctx=data["num_ctx"],
            keep_alive=data["keep_alive"],
            requested_by=data["requested_by"],
            requested_at=data["requested_at"],
            valid_until=data["valid_until"],
        )

"""Events of the domain fleet.

Generated from schemas/ by `make generate`; edit the schemas instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar



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
    """

    FULL_NAME: ClassVar[str] = "headrace.fleet.ModelStatus"

    name: str
    size_bytes: int | None = None
    context_tokens: int | None = None
    loaded: bool = False
    capabilities: tuple[str, ...] | None = None
    details: Mapping[str, str] = field(default_factory=dict)

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "name": self.name,
            "size_bytes": self.size_bytes,
            "context_tokens": self.context_tokens,
            "loaded": self.loaded,
            "capabilities": None if self.capabilities is None else list(self.capabilities),
            "details": dict(self.details),
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
        )


class Place(StrEnum):
    """Whether a node is ours."""

    LOCAL = "local"
    CLOUD = "cloud"


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
            valid_for_ms=data["valid_for_ms"],
            reported_at=data["reported_at"],
        )

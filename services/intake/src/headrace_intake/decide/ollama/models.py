"""The models of the fleet as Ollama lists them: those of Ollama nodes by their names, others with their provider."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from headrace_contracts.designation import AUTO, ROLE_PREFIX
from headrace_contracts.events import ModelStatus, NodeStatus
from headrace_models import capabilities

from headrace_intake.decide.models import is_fresh
from headrace_intake.decide.ollama.options import PROVIDER
from headrace_intake.decide.views import rfc3339

_LATEST: Final = ":latest"
_CAPABILITIES: Final = {
    capabilities.TOOLS: "tools", capabilities.VISION: "vision", capabilities.AUDIO: "audio",
    capabilities.REASONING: "thinking", capabilities.EMBEDDINGS: "embedding",
}  # fmt: skip
"""By ours, in Ollama's words."""
_UNKNOWN_TIME: Final = "1970-01-01T00:00:00Z"


@dataclass(frozen=True, slots=True)
class FleetModel:
    """A model that a healthy node or provider offers, under the name to request."""

    name: str
    status: ModelStatus
    node: NodeStatus


def offered_models(nodes: Iterable[NodeStatus], now_ms: int) -> dict[str, FleetModel]:
    """By name. Of several nodes with the same model, one that has it in memory stands for it."""
    found: dict[str, FleetModel] = {}
    for node in sorted(nodes, key=lambda node: (node.provider != PROVIDER, node.node)):
        if not node.healthy or not is_fresh(node, now_ms):
            continue
        for model in node.models:
            name = model.name if node.provider == PROVIDER else f"{node.provider}/{model.name}"
            if name not in found or (model.loaded and not found[name].status.loaded):
                found[name] = FleetModel(name, model, node)
    return found


def named(name: str, models: Mapping[str, FleetModel]) -> FleetModel | None:
    """The model that a caller means: by its name, by `<name>:latest` for one without a tag, or by `ollama/<name>`."""
    bare = name.removeprefix(f"{PROVIDER}/")
    return models.get(name) or models.get(bare) or (models.get(bare + _LATEST) if ":" not in bare else None)


def requested(name: str, models: Mapping[str, FleetModel]) -> str:
    """The model to submit a task for. A name that nobody offers now is left to the router, which may know it later."""
    if name.removesuffix(_LATEST) == AUTO:
        return AUTO
    if name.startswith(ROLE_PREFIX):
        return name.removesuffix(_LATEST)
    found = named(name, models)
    if found is None:
        return name
    return f"{PROVIDER}/{found.status.name}" if found.node.provider == PROVIDER else found.name


def listed(models: Mapping[str, FleetModel]) -> list[dict[str, Any]]:
    """For GET /api/tags."""
    return [_described(model) for model in models.values()]


def running(models: Mapping[str, FleetModel]) -> list[dict[str, Any]]:
    """For GET /api/ps: those in the memory of a node of ours."""
    return [
        {
            **_described(model),
            "expires_at": rfc3339(model.node.reported_at + model.node.valid_for_ms),
            "size_vram": model.status.size_bytes or 0,
            "context_length": model.status.context_tokens or 0,
        }
        for model in models.values()
        if model.status.loaded and model.node.provider == PROVIDER
    ]


def description(model: FleetModel) -> dict[str, Any]:
    """For POST /api/show. What a node does not tell, such as the license and the template, is empty."""
    details = _details(model)
    family = details["family"] or "unknown"
    context = model.status.context_tokens
    return {
        "license": "",
        "modelfile": f"FROM {model.name}\n",
        "parameters": "",
        "template": "",
        "details": details,
        "model_info": {
            "general.architecture": family,
            **({} if context is None else {f"{family}.context_length": context}),
        },
        "capabilities": _capabilities(model.status.capabilities),
        "modified_at": model.status.details.get("modified_at", _UNKNOWN_TIME),
    }


def _capabilities(names: Iterable[str] | None) -> list[str]:
    known = [] if names is None else [_CAPABILITIES[name] for name in sorted(names) if name in _CAPABILITIES]
    return known if known == ["embedding"] else ["completion", *known]


def _described(model: FleetModel) -> dict[str, Any]:
    said = model.status.details
    return {
        "name": model.name,
        "model": model.name,
        "modified_at": said.get("modified_at", _UNKNOWN_TIME),
        "size": model.status.size_bytes or 0,
        # Clients cut it to twelve digits, and some keep models by it.
        "digest": said.get("digest") or hashlib.sha256(model.name.encode()).hexdigest(),
        "details": _details(model),
    }


def _details(model: FleetModel) -> dict[str, Any]:
    said = model.status.details
    family = said.get("family", "")
    return {
        "parent_model": "",
        "format": said.get("format", ""),
        "family": family,
        "families": [family] if family else [],
        "parameter_size": said.get("parameter_size", ""),
        "quantization_level": said.get("quantization_level", ""),
    }

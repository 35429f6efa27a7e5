"""The models that callers can name, for GET /v1/models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from headrace_contracts.designation import AUTO
from headrace_contracts.events import NodeStatus, Place


def is_fresh(node: NodeStatus, now_ms: int) -> bool:
    """Whether the node's last report is still current."""
    return now_ms <= node.reported_at + node.valid_for_ms


def offered(nodes: Iterable[NodeStatus], now_ms: int) -> dict[str, dict[str, Any]]:
    """Models of healthy nodes by the name to request, and `auto`."""
    nowhere: dict[str, Any] = {"place": None, "nodes": [], "simulated": False}
    found: dict[str, dict[str, Any]] = {AUTO: _entry(AUTO, "headrace", nowhere)}
    for node in sorted(nodes, key=lambda node: node.node):
        if not node.healthy or not is_fresh(node, now_ms):
            continue
        for model in node.models:
            name = f"{node.provider}/{model.name}"
            entry = found.setdefault(
                name, _entry(name, node.provider, {"place": str(node.place), "nodes": [], "simulated": node.simulated})
            )
            # A node is reported by every worker that uses it.
            if node.node not in entry["headrace"]["nodes"]:
                entry["headrace"]["nodes"].append(node.node)
            entry["headrace"]["simulated"] |= node.simulated
    return found


def _entry(name: str, owner: str, origin: Mapping[str, Any]) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": owner, "headrace": dict(origin)}


def provider_places(nodes: Iterable[NodeStatus]) -> dict[str, Place]:
    """Where each provider runs models, whether or not it is healthy at the moment; one cloud node makes it cloud."""
    places: dict[str, Place] = {}
    for node in nodes:
        if places.get(node.provider) is not Place.CLOUD:
            places[node.provider] = node.place
    return places

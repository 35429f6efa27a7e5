"""Which node runs an attempt."""

from __future__ import annotations

from collections.abc import Sequence

from headrace_models.worker.endpoint import EndpointView


def choose_node(nodes: Sequence[EndpointView], model: str) -> EndpointView | None:
    """The node where the call is expected to end first; None when no node has the model.

    That may be one without a free slot, if it has one soon and is so much faster. Of nodes that are equal the one with
    the smaller part of its slots taken, then by name.
    """
    names = {model, tagged(model), model.removesuffix(":latest")}
    offering = [node for node in nodes if not names.isdisjoint(node.models)]
    return min(offering, key=_order, default=None)


def tagged(model: str) -> str:
    """A model's full name: Ollama reads a name without a tag as its `latest`."""
    return model if ":" in model else f"{model}:latest"


def _order(node: EndpointView) -> tuple[float, bool, float, str]:
    return node.expected_seconds, node.free <= 0, node.busy / max(1, node.slots), node.name

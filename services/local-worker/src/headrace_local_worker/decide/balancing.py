"""Which node runs an attempt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from headrace_models.worker.endpoint import EndpointView

_UNKNOWN_SECONDS: Final = 1.0
"""Assumed for a node that has not run the model yet: short enough that it is tried soon."""
_LOAD_SECONDS: Final = 5.0
"""Assumed for loading a model into memory."""


def choose_node(nodes: Sequence[EndpointView], model: str) -> EndpointView | None:
    """The node with the shortest expected time to an answer; None when no node has the model.

    A node with a free slot is preferred. Then the observed time of a call of this model decides, scaled by the node's
    other calls, plus the time to load the model and to reach the node; ties are broken by name.
    """
    wanted = tagged(model)
    offering = [node for node in nodes if any(tagged(name) == wanted for name in node.models)]
    return min(offering, key=lambda node: _order(node, model, wanted), default=None)


def tagged(model: str) -> str:
    """A model's full name: Ollama reads a name without a tag as its `latest`."""
    return model if ":" in model else f"{model}:latest"


def _order(node: EndpointView, model: str, wanted: str) -> tuple[bool, float, str]:
    usual = node.seconds.get(model, _UNKNOWN_SECONDS)
    loading = 0.0 if any(tagged(name) == wanted for name in node.loaded) else _LOAD_SECONDS
    reaching = (node.latency_ms or 0.0) / 1000
    expected = usual * (1 + node.busy / node.slots) + loading + reaching
    return node.free <= 0, expected, node.name

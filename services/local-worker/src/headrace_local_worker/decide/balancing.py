"""Which node runs an attempt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from headrace_models.worker.pool import EndpointView

_UNKNOWN_SECONDS: Final = 1.0
"""Reckoned for a node that has not run a model yet: short enough to be tried soon."""
_LOAD_SECONDS: Final = 5.0
"""Reckoned for bringing a model into memory."""


def choose_node(nodes: Sequence[EndpointView], model: str) -> EndpointView | None:
    """The node where an answer may be expected first; None when no node has the model.

    A node with a free slot goes before one without. Among them the observed time of a call of this model decides,
    stretched by what else the node runs, plus the time to load the model and to reach the node; at last the name.
    """
    wanted = tagged(model)
    offering = [node for node in nodes if any(tagged(name) == wanted for name in node.models)]
    return min(offering, key=lambda node: _order(node, model, wanted), default=None)


def tagged(model: str) -> str:
    """A model's full name: Ollama takes a name without a tag as its `latest`."""
    return model if ":" in model else f"{model}:latest"


def _order(node: EndpointView, model: str, wanted: str) -> tuple[bool, float, str]:
    usual = node.seconds.get(model, _UNKNOWN_SECONDS)
    loading = 0.0 if any(tagged(name) == wanted for name in node.loaded) else _LOAD_SECONDS
    reaching = (node.latency_ms or 0.0) / 1000
    expected = usual * (1 + node.busy / node.slots) + loading + reaching
    return node.free <= 0, expected, node.name

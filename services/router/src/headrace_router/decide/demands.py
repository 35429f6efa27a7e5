"""What a task demands of a model beyond text, by the names that nodes report (`headrace_models.capabilities`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from headrace_contracts.cargo import has_urls
from headrace_contracts.events import ModelOperation, NodeStatus, PartKind, Place, TaskSubmitted
from headrace_models import capabilities

from headrace_router.decide.fleet import tagged

_OF_PARTS: Final = {
    PartKind.IMAGE: capabilities.VISION,
    PartKind.AUDIO: capabilities.AUDIO,
    PartKind.FILE: capabilities.FILES,
    PartKind.TOOL_CALL: capabilities.TOOLS,
    PartKind.TOOL_RESULT: capabilities.TOOLS,
}


def demands(task: TaskSubmitted) -> frozenset[str]:
    """What the model must be able to do; empty for plain text.

    A schema is no demand: an answer is checked against it wherever it comes from. Neither is thinking: it is a hint.
    """
    found = {_OF_PARTS[part.kind] for message in task.messages for part in message.parts if part.kind in _OF_PARTS}
    if has_urls(task.messages):
        found.add(capabilities.URLS)
    if task.operation is ModelOperation.EMBED:
        found.add(capabilities.EMBEDDINGS)
    options = task.options
    if options is not None:
        if options.tools:
            found.add(capabilities.TOOLS)
        if options.top_logprobs is not None:
            found.add(capabilities.LOGPROBS)
        if options.choices > 1:
            found.add(capabilities.CHOICES)
    return frozenset(found)


def capable(
    nodes: Sequence[NodeStatus], model: str, place: Place, demanded: frozenset[str]
) -> tuple[Sequence[NodeStatus], frozenset[str]]:
    """The nodes whose model can do all of it, and what the others lack.

    A node that does not say what its model can do may be able to do anything: its answer will tell.
    """
    if not demanded:
        return nodes, frozenset()
    name = tagged(model, place)
    able, lacking = [], set[str]()
    for node in nodes:
        lacks = _lacks(demanded, (m.capabilities for m in node.models if tagged(m.name, place) == name))
        if lacks:
            lacking |= lacks
        else:
            able.append(node)
    return able, frozenset(lacking)


def _lacks(demanded: frozenset[str], told: Iterable[Sequence[str] | None]) -> frozenset[str]:
    return min((demanded - frozenset(demanded if one is None else one) for one in told), key=len, default=frozenset())

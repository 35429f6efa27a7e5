"""What a task demands of a model beyond text, by the names that nodes report (`headrace_models.capabilities`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from headrace_contracts.cargo import has_urls
from headrace_contracts.events import ModelOperation, PartKind, TaskSubmitted
from headrace_models import capabilities

from headrace_router.decide.offers import Offer

_OF_PARTS: Final = {
    PartKind.IMAGE: capabilities.VISION,
    PartKind.AUDIO: capabilities.AUDIO,
    PartKind.FILE: capabilities.FILES,
    PartKind.TOOL_CALL: capabilities.TOOLS,
    PartKind.TOOL_RESULT: capabilities.TOOLS,
}

_NOTHING: Final[frozenset[str]] = frozenset()


def demands(task: TaskSubmitted) -> frozenset[str]:
    """What the model must be able to do; empty for plain text.

    A schema is no demand: an answer is checked against it wherever it comes from. Neither is thinking: it is a hint.
    """
    options = task.options
    if options is None and task.operation is ModelOperation.CHAT and not any(one.parts for one in task.messages):
        return _NOTHING
    found = {_OF_PARTS[part.kind] for message in task.messages for part in message.parts if part.kind in _OF_PARTS}
    if has_urls(task.messages):
        found.add(capabilities.URLS)
    if task.operation is ModelOperation.EMBED:
        found.add(capabilities.EMBEDDINGS)
    if options is not None:
        if options.tools:
            found.add(capabilities.TOOLS)
        if options.top_logprobs is not None:
            found.add(capabilities.LOGPROBS)
        if options.choices > 1:
            found.add(capabilities.CHOICES)
    return frozenset(found)


def capable(offer: Offer, usable: Sequence[int], demanded: frozenset[str]) -> tuple[tuple[int, ...], frozenset[str]]:
    """The places in an offer, of these, of the nodes whose model can do all of it, and what the others lack.

    A node that does not say what its model can do may be able to do anything: its answer will tell.
    """
    able, lacking = [], set[str]()
    for place in usable:
        lacks = _lacks(demanded, (status.capabilities for status in offer.statuses[place]))
        if lacks:
            lacking |= lacks
        else:
            able.append(place)
    return tuple(able), frozenset(lacking)


def _lacks(demanded: frozenset[str], told: Iterable[Sequence[str] | None]) -> frozenset[str]:
    return min((demanded - frozenset(demanded if one is None else one) for one in told), key=len, default=frozenset())

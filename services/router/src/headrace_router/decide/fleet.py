"""What the nodes and providers offer at a given time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from typing import Any

from headrace_contracts.events import NodeStatus, Place


class Fleet:
    """The newest status of every node and provider, indexed by model. Immutable; a new status makes a new fleet."""

    def __init__(self, nodes: Iterable[NodeStatus] = ()) -> None:
        self.nodes = tuple(nodes)
        by_model: defaultdict[tuple[str, str], list[NodeStatus]] = defaultdict(list)
        for node in self.nodes:
            for model in node.models:
                by_model[node.provider, tagged(model.name, node.place)].append(node)
        local: defaultdict[str, list[NodeStatus]] = defaultdict(list)
        for node in self.nodes:
            if node.place is Place.LOCAL:
                local[node.site].append(node)
        self._local: Mapping[str, Sequence[NodeStatus]] = dict(local)
        self.providers = frozenset(node.provider for node in self.nodes)
        self._by_model: Mapping[tuple[str, str], Sequence[NodeStatus]] = by_model
        self.rankings: dict[Hashable, Sequence[Any]] = {}
        """Orders of candidates that follow from this fleet; see `decide.ordering`."""

    def offering(self, provider: str, model: str, place: Place, now: int) -> Sequence[NodeStatus]:
        """The usable nodes of a provider that offer a model."""
        nodes = self._by_model.get((provider, tagged(model, place)), ())
        return [node for node in nodes if node.place is place and usable(node, now)]

    def healthy(self, provider: str, model: str, place: Place) -> Sequence[NodeStatus]:
        """The nodes of a provider that offered a model when they last reported, however long ago that is."""
        nodes = self._by_model.get((provider, tagged(model, place)), ())
        return [node for node in nodes if node.place is place and node.healthy]

    def providers_of(self, model: str, now: int) -> Sequence[tuple[str, Place]]:
        """The providers with a usable node that offers a model of this name; local ones first, then by name."""
        found = {
            (node.provider, node.place)
            for node in self.nodes
            if usable(node, now)
            and any(tagged(offered.name, node.place) == tagged(model, node.place) for offered in node.models)
        }
        return sorted(found, key=lambda item: (item[1] is not Place.LOCAL, item[0]))

    def usable_at(self, site: str, now: int) -> Sequence[NodeStatus]:
        """The usable local nodes of a site."""
        return [node for node in self._local.get(site, ()) if usable(node, now)]

    def hears(self, site: str, now: int) -> bool:
        """Whether a local worker of a site has reported, usable nodes or not, so recently that its report counts."""
        return any(now < expires_at(node) for node in self._local.get(site, ()))

    def sites(self) -> Collection[str]:
        """The sites of local nodes, heard now or not."""
        return self._local.keys()

    def has_usable(self, now: int, provider: str | None = None) -> bool:
        """Whether any node, of a provider or at all, is usable."""
        return any(usable(node, now) for node in self.nodes if provider in (None, node.provider))


def usable(node: NodeStatus, now: int) -> bool:
    """Whether a node accepts work according to a report that has not expired."""
    return node.healthy and now < expires_at(node)


def expires_at(node: NodeStatus) -> int:
    """Until when a report counts, in milliseconds since the epoch."""
    return node.reported_at + node.valid_for_ms


def gained(before: NodeStatus | None, after: NodeStatus, now: int) -> bool:
    """Whether a new status offers anything that the previous one did not; if so, waiting tasks are re-evaluated."""
    if not usable(after, now):
        return False
    if before is None or not usable(before, now) or (before.hardware, before.site) != (after.hardware, after.site):
        return True
    return not {model.name for model in after.models} <= {model.name for model in before.models}


def longest_context(nodes: Iterable[NodeStatus], model: str, place: Place) -> int | None:
    """The longest context that any of these nodes has for a model, in tokens; None if one of them reports none."""
    name = tagged(model, place)
    sizes = [m.context_tokens for node in nodes for m in node.models if tagged(m.name, place) == name]
    known = [size for size in sizes if size is not None]
    return max(known) if known and len(known) == len(sizes) else None


def tagged(model: str, place: Place) -> str:
    """A model's full name: on local nodes, a name without a tag means its `latest`."""
    return model if place is Place.CLOUD or ":" in model else f"{model}:latest"

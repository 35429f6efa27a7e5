"""What the nodes and providers offer at a given time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from headrace_contracts.events import ModelStatus, NodeStatus, Place

from headrace_router.decide.offers import NO_OFFER, Offer, tagged

__all__ = ["Fleet", "expires_at", "gained", "tagged", "usable"]

_Name = tuple[str, str]
"""Provider and full name of a model."""
_MOST_NAMES: Final = 100_000
"""Of models that were ever offered, until what is remembered is begun anew."""


class _Line:
    """What is remembered from one state of a fleet to the next.

    Attributes:
        newest: Number of the newest state; only that may use the rest.
        moved: By provider and model the number of the state in which its nodes were last others than before, the
            latest last.
        rankings: Orders of candidates that follow from the fleet; see `decide.ordering`.
        kinds: What is the same for many tasks, whatever the fleet; see `decide.kinds`.
    """

    __slots__ = ("kinds", "moved", "newest", "rankings")

    def __init__(self) -> None:
        self.newest = 0
        self.moved: dict[_Name, int] = {}
        self.rankings: dict[Hashable, Any] = {}
        self.kinds: dict[Hashable, Any] = {}


class Fleet:
    """The newest status of every node and provider, indexed by model. Immutable; a new status makes a new fleet.

    What it remembers follows from it, so that it changes no decision: the same without `before` decides the same.

    Args:
        before: The fleet that this one follows. What is known there of models whose nodes have not reported since is
            not found out again.
    """

    def __init__(self, nodes: Iterable[NodeStatus] = (), before: Fleet | None = None) -> None:
        self.nodes = tuple(nodes)
        by_model: defaultdict[_Name, list[tuple[NodeStatus, ModelStatus]]] = defaultdict(list)
        local: defaultdict[str, list[NodeStatus]] = defaultdict(list)
        for node in self.nodes:
            is_local = node.place is Place.LOCAL
            if is_local:
                local[node.site].append(node)
            provider = node.provider
            for model in node.models:
                name = model.name
                by_model[provider, tagged(name, Place.LOCAL) if is_local else name].append((node, model))
        self._local: Mapping[str, Sequence[NodeStatus]] = dict(local)
        self._by_model: Mapping[_Name, Sequence[tuple[NodeStatus, ModelStatus]]] = by_model
        self.providers = frozenset([node.provider for node in self.nodes])
        self._offers: dict[tuple[str, str, Place], Offer] = {}
        self._line: _Line = _Line()
        self.number: int = 0
        if before is None or before._line.newest != before.number or len(before._line.moved) > _MOST_NAMES:
            return
        self._line = before._line
        self.number = before.number + 1
        self._line.newest = self.number
        if self.providers == before.providers:
            self.providers = before.providers
        stayed = {id(node) for node in before.nodes} & {id(node) for node in self.nodes}
        moved = self._line.moved
        for node in (*before.nodes, *self.nodes):
            if id(node) not in stayed:
                for model in node.models:
                    full_name = node.provider, tagged(model.name, node.place)
                    moved.pop(full_name, None)
                    moved[full_name] = self.number
        self._offers = {
            key: offer
            for key, offer in before._offers.items()
            if moved.get((key[0], tagged(key[1], key[2]))) != self.number
        }

    def moved_since(self, number: int) -> Iterator[tuple[str, str]]:
        """Provider and full name of the models whose nodes have reported since the state of this number."""
        for name in reversed(self._line.moved):
            if self._line.moved[name] <= number:
                return
            yield name

    @property
    def rankings(self) -> dict[Hashable, Any]:
        """Orders of candidates that are remembered; see `decide.ordering`."""
        return self._line.rankings if self._line.newest == self.number else {}

    @property
    def kinds(self) -> dict[Hashable, Any]:
        """What is remembered of the kinds of tasks; see `decide.kinds`."""
        return self._line.kinds

    def offer(self, provider: str, model: str, place: Place) -> Offer:
        """Who offers a model of a provider."""
        key = provider, model, place
        found = self._offers.get(key)
        if found is None:
            offered = self._by_model.get((provider, tagged(model, place)))
            if offered is None:
                return NO_OFFER
            found = self._offers[key] = Offer([pair for pair in offered if pair[0].place is place])
        return found

    def offering(self, provider: str, model: str, place: Place, now: int) -> Sequence[NodeStatus]:
        """The usable nodes of a provider that offer a model."""
        offer = self.offer(provider, model, place)
        return [offer.nodes[index] for index in offer.usable(now)]

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

"""What offers one model: the nodes of a provider that have it, and what each of them says of it. Looked up once."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Any, Final

from headrace_contracts.events import ModelStatus, NodeStatus, Place

Room = tuple[tuple[NodeStatus, ...], int | None]
"""The nodes of a site, and the longest context that any of them has for the model, in tokens; None if one of them
reports none."""


class Offer:
    """The nodes of one place that offered a model when they last reported, in one state of the fleet.

    Attributes:
        nodes: All of them, whether their reports still count or not.
        statuses: What each says of the model; a node may list it twice.
        healthy: Those that took work.
        figures: What follows from them for comparisons, as far as it was asked for; see `decide.ordering`.
    """

    __slots__ = ("_rooms", "_since", "_until", "_usable", "figures", "healthy", "nodes", "statuses")

    def __init__(self, found: Iterable[tuple[NodeStatus, ModelStatus]]) -> None:
        by_node: dict[int, tuple[NodeStatus, list[ModelStatus]]] = {}
        for node, status in found:
            by_node.setdefault(id(node), (node, []))[1].append(status)
        self.nodes = tuple([node for node, _ in by_node.values()])
        self.statuses = tuple([tuple(said) for _, said in by_node.values()])
        self.healthy: Sequence[tuple[NodeStatus, ModelStatus]] = tuple(
            [(node, said[0]) for node, said in by_node.values() if node.healthy]
        )
        self.figures: dict[Hashable, Any] = {}
        self._usable: tuple[int, ...] = ()
        self._since = self._until = 0
        self._rooms: tuple[tuple[int, ...], Sequence[Room]] = ((), ())

    def usable(self, now: int) -> tuple[int, ...]:
        """The places in `nodes` of those that are usable, `now` in milliseconds since the epoch.

        Remembered until one of their reports expires.
        """
        if not self._since <= now < self._until:
            ends = [
                (place, node.reported_at + node.valid_for_ms) for place, node in enumerate(self.nodes) if node.healthy
            ]
            found = [(place, end) for place, end in ends if now < end]
            self._usable = tuple([place for place, _ in found])
            # Those that have expired were usable before.
            self._since = max([end for _, end in ends if end <= now], default=_LONG_AGO)
            self._until = min([end for _, end in found], default=_FAR_AHEAD)
        return self._usable

    def rooms(self, places: tuple[int, ...]) -> Sequence[Room]:
        """The nodes at these places by site, in order, each with the longest context there."""
        if self._rooms[0] is not places:
            sites: dict[str, list[int]] = {}
            for place in places:
                sites.setdefault(self.nodes[place].site, []).append(place)
            rooms = [
                (tuple([self.nodes[place] for place in there]), self._longest_context(there))
                for there in sites.values()
            ]
            self._rooms = places, rooms
        return self._rooms[1]

    def _longest_context(self, places: Iterable[int]) -> int | None:
        sizes = [status.context_tokens for place in places for status in self.statuses[place]]
        known = [size for size in sizes if size is not None]
        return max(known) if known and len(known) == len(sizes) else None


_LONG_AGO: Final = -(2**63)
_FAR_AHEAD: Final = 2**63
NO_OFFER: Final = Offer(())
"""Of a model that nobody offers."""


def tagged(model: str, place: Place) -> str:
    """A model's full name: on local nodes, a name without a tag means its `latest`."""
    return model if place is Place.CLOUD or ":" in model else f"{model}:latest"

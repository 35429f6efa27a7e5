"""What to do when the nodes, or the workers that share them, are others than before."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from headrace_local_worker.decide.nodes import NodeSpec


@dataclass(frozen=True, slots=True)
class Changes:
    """To be done in this order.

    Attributes:
        left: Names of nodes that get no more work.
        joined: Nodes that are new, or at another address than before.
        resized: Nodes with other slots or labels than before.
    """

    left: tuple[str, ...] = ()
    joined: tuple[NodeSpec, ...] = ()
    resized: tuple[NodeSpec, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.left or self.joined or self.resized)


def changes(before: Mapping[str, NodeSpec], now: Mapping[str, NodeSpec]) -> Changes:
    """The way from the nodes before to those of now."""
    moved = {name for name in before.keys() & now.keys() if before[name].url != now[name].url}
    return Changes(
        left=tuple(sorted((before.keys() - now.keys()) | moved)),
        joined=tuple(now[name] for name in sorted((now.keys() - before.keys()) | moved)),
        resized=tuple(now[name] for name in sorted(before.keys() & now.keys() - moved) if before[name] != now[name]),
    )


def shared(nodes: Mapping[str, NodeSpec], worker: str, workers: Collection[str]) -> Mapping[str, NodeSpec]:
    """The nodes with the slots that this worker may use of each, when `workers` use them all at once."""
    return {name: replace(spec, slots=share(spec.slots, name, worker, workers)) for name, spec in nodes.items()}


def share(slots: int, node: str, worker: str, workers: Collection[str]) -> int:
    """The slots of a node that one of several workers may use.

    They are divided evenly; what is left over goes to other workers at each node. Every worker gets at least one, since
    any of them may be handed an attempt that only this node can run: a node then queues what is beyond its slots.
    """
    everyone = sorted({worker, *workers})
    position = (everyone.index(worker) + zlib.crc32(node.encode())) % len(everyone)
    each, left_over = divmod(slots, len(everyone))
    return max(1, each + (position < left_over))

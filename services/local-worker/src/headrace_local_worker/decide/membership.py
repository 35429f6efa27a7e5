"""What to do when the nodes, or the workers that share them, have changed."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from headrace_contracts.model_settings import NodeDefaults

from headrace_local_worker.decide.nodes import NodeSpec


@dataclass(frozen=True, slots=True)
class Changes:
    """To be applied in this order.

    Attributes:
        left: Names of nodes that get no more work.
        joined: Nodes that are new, or are reached or asked in another way.
        resized: Nodes of which something else has changed.
    """

    left: tuple[str, ...] = ()
    joined: tuple[NodeSpec, ...] = ()
    resized: tuple[NodeSpec, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.left or self.joined or self.resized)


def changes(before: Mapping[str, NodeSpec], now: Mapping[str, NodeSpec]) -> Changes:
    """The changes from the previous nodes to the current ones."""
    moved = {name for name in before.keys() & now.keys() if _way_to(before[name]) != _way_to(now[name])}
    return Changes(
        left=tuple(sorted((before.keys() - now.keys()) | moved)),
        joined=tuple(now[name] for name in sorted((now.keys() - before.keys()) | moved)),
        resized=tuple(now[name] for name in sorted(before.keys() & now.keys() - moved) if before[name] != now[name]),
    )


def _way_to(node: NodeSpec) -> tuple[str, str, str, NodeDefaults]:
    return node.url, node.server, node.token_env, node.defaults


def shared(nodes: Mapping[str, NodeSpec], worker: str, workers: Collection[str]) -> Mapping[str, NodeSpec]:
    """The nodes with this worker's share of each node's slots when `workers` use them concurrently."""
    return {name: replace(spec, slots=share(spec.slots, name, worker, workers)) for name, spec in nodes.items()}


def share(slots: int, node: str, worker: str, workers: Collection[str]) -> int:
    """One worker's share of a node's slots.

    Slots are divided evenly; the remainder goes to different workers at each node. Every worker gets at least one,
    since any of them may receive an attempt that only this node can run: the node then queues what exceeds its slots.
    """
    everyone = sorted({worker, *workers})
    position = (everyone.index(worker) + zlib.crc32(node.encode())) % len(everyone)
    each, left_over = divmod(slots, len(everyone))
    return max(1, each + (position < left_over))

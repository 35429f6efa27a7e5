"""Which nodes there are when several sources name some of the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal
from urllib.parse import urlsplit

from headrace_local_worker.decide.nodes import NodeSpec

SourceName = Literal["static", "kubernetes", "announced", "dns"]
PRECEDENCE: Final[Sequence[SourceName]] = ("static", "kubernetes", "announced", "dns")
"""Whose word counts for a node of several sources. What an operator wrote comes first, then what the cluster says; an
agent says more of its node than DNS, which knows an address only."""
_PORTS: Final[Mapping[str, int]] = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class MergedNodes:
    """The nodes of all sources.

    Attributes:
        nodes: By name.
        renamed: Names that belong to another node, with the name under which the node is used instead.
    """

    nodes: Mapping[str, NodeSpec]
    renamed: Mapping[str, str]


def origin_of(url: str) -> str:
    """Host and port of an address: nodes that share them are one."""
    parsed = urlsplit(url)
    host = (parsed.hostname or "").rstrip(".")
    return f"{host}:{parsed.port or _PORTS.get(parsed.scheme, 0)}"


def merged(found: Mapping[SourceName, Mapping[str, NodeSpec]]) -> MergedNodes:
    """The nodes of all sources; one that several name, by its address, as the first of them by `PRECEDENCE` does.

    Whoever wins, a node that its agent has drained gets no calls. Where two nodes have one name, that of the later
    source is used as `<name>@<host>:<port>`.
    """
    nodes: dict[str, NodeSpec] = {}
    renamed: dict[str, str] = {}
    names_at: dict[tuple[str, str], list[str]] = {}
    for source in PRECEDENCE:
        fresh: dict[tuple[str, str], list[str]] = {}
        for spec in sorted(found.get(source, {}).values(), key=lambda spec: spec.name):
            # One server may stand for several nodes below paths of their own, as the simulator does.
            place = origin_of(spec.url), urlsplit(spec.url).path.rstrip("/")
            if place in names_at:
                for name in names_at[place]:
                    nodes[name] = replace(nodes[name], drained=nodes[name].drained or spec.drained)
                continue
            name = spec.name
            if name in nodes:
                name = renamed[spec.name] = f"{spec.name}@{''.join(place)}"
            nodes[name] = replace(spec, name=name)
            fresh.setdefault(place, []).append(name)
        names_at |= fresh
    return MergedNodes(nodes, renamed)

"""Which nodes follow from SRV records (RFC 2782), and when to ask for them again."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from headrace_contracts.model_settings import NO_DEFAULTS, NodeDefaults
from headrace_models.local_servers import is_a_clouds

from headrace_local_worker.decide.nodes import (
    NodesInvalid,
    NodeSpec,
    name_of,
    parse_options,
    split_defaults,
    split_slots,
)

SHORTEST_SECONDS: Final = 5.0
LONGEST_SECONDS: Final = 300.0
"""Limits of how long an answer stands, whatever its time to live says: no flood of questions, and no node for days that
is no more."""
_NAME: Final = re.compile(r"_[A-Za-z0-9-]+\._tcp(\.[A-Za-z0-9_-]+)+\.?")
_MOST_NODES: Final = 1_000
_SCHEME: Final = "scheme"
_TOKEN: Final = "token_env"


@dataclass(frozen=True, slots=True)
class SrvName:
    """A name to look up, and what holds for all its nodes.

    Attributes:
        name: Such as `_ollama._tcp.example.org`.
        secure: Whether its nodes speak TLS.
        slots: Of a node; 0 for the default.
        hardware: Labels.
        token_env, defaults: As of `NodeSpec`.
    """

    name: str
    secure: bool = False
    slots: int = 0
    hardware: Mapping[str, str] = field(default_factory=dict)
    token_env: str = ""
    defaults: NodeDefaults = NO_DEFAULTS


@dataclass(frozen=True, slots=True)
class SrvTarget:
    """A host and port in an answer; the host `.` says that there is no such service."""

    host: str
    port: int


def parse_srv_names(entries: Sequence[str]) -> tuple[SrvName, ...]:
    """Parse `_ollama._tcp.example.org;slots=2;scheme=https;gpu=a100, ...`. Raises NodesInvalid."""
    names = []
    for entry in entries:
        name, *options = (part.strip() for part in entry.split(";"))
        if _NAME.fullmatch(name) is None:
            raise NodesInvalid(f"{name!r} is not the name of SRV records, such as _ollama._tcp.example.org")
        given = parse_options(entry, options)
        scheme = given.pop(_SCHEME, "http")
        if scheme not in ("http", "https"):
            raise NodesInvalid(f"{_SCHEME} of {entry!r} must be http or https")
        token_env = given.pop(_TOKEN, "")
        defaults = split_defaults(entry, given)
        slots, hardware = split_slots(given)
        if slots is None:
            raise NodesInvalid(f"slots of {entry!r} must be a number above 0")
        names.append(SrvName(name.rstrip("."), scheme == "https", slots, hardware, token_env, defaults))
    return tuple(names)


def nodes_of_targets(name: SrvName, targets: Iterable[SrvTarget], default_slots: int) -> Mapping[str, NodeSpec]:
    """The nodes of an answer, by name. Priorities and weights count for nothing: Headrace balances by what it sees."""
    nodes: dict[str, NodeSpec] = {}
    for target in sorted(set(targets), key=lambda target: (target.host, target.port)):
        host = target.host.rstrip(".").lower()
        # Whoever answers for the name must not send our content to a cloud.
        if host and not is_a_clouds(host) and 0 < target.port < 65_536 and len(nodes) < _MOST_NODES:
            url = f"{'https' if name.secure else 'http'}://{host}:{target.port}"
            spec = NodeSpec(
                name_of(url), url, name.slots or default_slots, name.hardware, token_env=name.token_env,
                defaults=name.defaults, slots_told=name.slots > 0,
            )  # fmt: skip
            nodes[spec.name] = spec
    return nodes


def stands_seconds(ttl_seconds: float) -> float:
    """How long an answer stands."""
    return min(max(ttl_seconds, SHORTEST_SECONDS), LONGEST_SECONDS)


def again_seconds(failures: int) -> float:
    """When to ask again after failures in a row: soon, then less and less often."""
    return min(SHORTEST_SECONDS * 2.0 ** min(failures - 1, 10), 60.0)

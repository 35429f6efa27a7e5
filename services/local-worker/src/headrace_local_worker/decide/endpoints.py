"""Which nodes follow from the EndpointSlices of a Service."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from headrace_models.local_servers import LOCAL_PROVIDERS, OLLAMA, OPENAI_COMPATIBLE_SERVERS

from headrace_local_worker.decide.nodes import API_PATH, NodeSpec, name_of, split_slots

AddressType = Literal["IPv4", "IPv6", "FQDN"]

_PREFERRED: Final[Mapping[str, int]] = {"IPv4": 0, "IPv6": 1, "FQDN": 2}
_ZONE: Final = "zone"
SERVER_LABEL: Final = "headrace.dev/server"
"""Of a Service, for what its pods run if that is not Ollama; Kubernetes copies it to the Service's slices."""


@dataclass(frozen=True, slots=True)
class Port:
    """A port of a slice; `secure` if the Service declares it as https."""

    number: int
    secure: bool = False


@dataclass(frozen=True, slots=True)
class SliceEndpoint:
    """One backend of a Service.

    Attributes:
        ready: Whether it may get new work; true if the cluster does not specify it.
        terminating: Whether it is shutting down; it may still be serving.
        pod: Name of the pod behind it; empty for one outside the cluster.
        machine: Name of the cluster node it runs on; empty if unknown.
    """

    address: str
    ready: bool = True
    terminating: bool = False
    pod: str = ""
    hostname: str = ""
    machine: str = ""
    zone: str = ""

    @property
    def usable(self) -> bool:
        """Whether it should get new work. A Service may publish a terminating backend as ready; here it is not."""
        return self.ready and not self.terminating


@dataclass(frozen=True, slots=True)
class Slice:
    """Some backends of a Service, all of one address family and with the same ports.

    Attributes:
        server: What runs there, by the label `SERVER_LABEL` that it has from its Service; Ollama without one.
    """

    name: str
    family: AddressType
    ports: Mapping[str, Port]
    endpoints: tuple[SliceEndpoint, ...]
    server: str = OLLAMA


@dataclass(frozen=True, slots=True)
class Listed:
    """The complete set; slices not in it are gone."""

    slices: tuple[Slice, ...]


@dataclass(frozen=True, slots=True)
class Changed:
    """A slice was added or changed."""

    slice: Slice


@dataclass(frozen=True, slots=True)
class Removed:
    """A slice was removed."""

    name: str


SliceEvent = Listed | Changed | Removed


def after(slices: Mapping[str, Slice], event: SliceEvent) -> Mapping[str, Slice]:
    """The slices after an event, by name."""
    match event:
        case Listed(listed):
            return {one.name: one for one in listed}
        case Changed(one):
            return {**slices, one.name: one}
        case Removed(name):
            return {known: one for known, one in slices.items() if known != name}


@dataclass(frozen=True, slots=True)
class NodeRules:
    """How endpoints become nodes.

    Attributes:
        port: Name of the servers' port. A slice with only one port needs no name.
        slots: Concurrent calls of a node whose machine's labels do not specify them.
        labels: Labels of machines by their name in fleet.status; `slots` is read as the number of slots.
    """

    port: str
    slots: int
    labels: Mapping[str, str] = field(default_factory=dict)


class LabelsInvalid(ValueError):
    """The list of labels is invalid; the message names the entry and the reason."""


def parse_labels(entries: Sequence[str]) -> Mapping[str, str]:
    """Parse a list of labels such as `gpu=nvidia.com/gpu.product`. Raises LabelsInvalid."""
    labels: dict[str, str] = {}
    for entry in entries:
        name, equals, label = (part.strip() for part in entry.partition("="))
        if not (name and equals and label):
            raise LabelsInvalid(f"{entry!r} must read <name>=<label>, as in gpu=nvidia.com/gpu.product")
        if name in labels:
            raise LabelsInvalid(f"{name!r} is given two labels: {labels[name]} and {label}")
        labels[name] = label
    return labels


@dataclass(frozen=True, slots=True)
class DiscoveredNodes:
    """The result of evaluating the slices.

    Attributes:
        nodes: By name.
        objections: What cannot be used, and how to fix it.
    """

    nodes: Mapping[str, NodeSpec]
    objections: tuple[str, ...] = ()


def nodes_of(slices: Iterable[Slice], machines: Mapping[str, Mapping[str, str]], rules: NodeRules) -> DiscoveredNodes:
    """The nodes that should get work.

    A node is named after the pod behind an endpoint, else its hostname, else its address. It may appear in several
    slices: one per address family, and two of the same family while the cluster moves it; then the family decides, then
    the address.

    Args:
        machines: Labels of cluster nodes, as far as they are known.
    """
    best: dict[str, tuple[int, str, NodeSpec]] = {}
    objections: list[str] = []
    for one in slices:
        if one.server not in LOCAL_PROVIDERS:
            if one.endpoints:
                objections.append(_no_server(one))
            continue
        port = _port_of(one, rules.port)
        if port is None:
            if one.endpoints:
                objections.append(_no_port(one, rules.port))
            continue
        for endpoint in one.endpoints:
            if not endpoint.usable:
                continue
            spec, objection = _spec_of(endpoint, one, port, machines.get(endpoint.machine, {}), rules)
            if objection:
                objections.append(objection)
            rank = (_PREFERRED[one.family], spec.url, spec)
            known = best.get(spec.name)
            if known is None or rank[:2] < known[:2]:
                best[spec.name] = rank
    nodes = {name: spec for name, (_, _, spec) in sorted(best.items())}
    return DiscoveredNodes(nodes, tuple(sorted(set(objections))))


def machines_of(slices: Iterable[Slice]) -> frozenset[str]:
    """Names of the cluster nodes whose labels are needed."""
    return frozenset(
        endpoint.machine for one in slices for endpoint in one.endpoints if endpoint.machine and endpoint.usable
    )


def pods_of(slices: Iterable[Slice]) -> frozenset[str]:
    """The pods that should get work."""
    return frozenset(endpoint.pod for one in slices for endpoint in one.endpoints if endpoint.pod and endpoint.usable)


def _port_of(one: Slice, name: str) -> Port | None:
    if name in one.ports:
        return one.ports[name]
    return next(iter(one.ports.values())) if len(one.ports) == 1 else None


def _no_port(one: Slice, name: str) -> str:
    there = ", ".join(repr(port) for port in sorted(one.ports)) or "none"
    return (
        f"EndpointSlice {one.name} has no port called {name!r} (it has: {there}): its endpoints are not used. "
        "Give the Service's port that name, or set HEADRACE_DISCOVERY_PORT."
    )


def _no_server(one: Slice) -> str:
    known = ", ".join(sorted(LOCAL_PROVIDERS))
    return (
        f"EndpointSlice {one.name} is labelled {SERVER_LABEL}={one.server!r}, which is none of {known}: its endpoints "
        "are not used. Correct the label of its Service."
    )


def _spec_of(
    endpoint: SliceEndpoint, of: Slice, port: Port, labels: Mapping[str, str], rules: NodeRules
) -> tuple[NodeSpec, str]:
    host = f"[{endpoint.address}]" if of.family == "IPv6" else endpoint.address
    url = f"{'https' if port.secure else 'http'}://{host}:{port.number}"
    options = {name: labels[label] for name, label in rules.labels.items() if labels.get(label)}
    slots, hardware = split_slots(options)
    objection = ""
    if slots is None:
        slots = rules.slots
        objection = (
            f"cluster node {endpoint.machine} has a label for slots that is not a number above 0: "
            f"{rules.slots} are assumed. Correct the label {rules.labels['slots']}."
        )
    told = bool(slots) and not objection
    slots = slots or rules.slots
    if endpoint.zone:
        hardware.setdefault(_ZONE, endpoint.zone)
    name = endpoint.pod or endpoint.hostname or name_of(url)
    if of.server in OPENAI_COMPATIBLE_SERVERS:
        url += API_PATH
    return NodeSpec(name, url, slots, hardware, of.server, slots_told=told), objection

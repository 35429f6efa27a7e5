"""Settings of the local worker."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from headrace_runtime.settings import CommaList, ServiceSettings, setting
from pydantic import AfterValidator

from headrace_local_worker.decide.endpoints import NodeRules, parse_labels
from headrace_local_worker.decide.nodes import NodeSpec, parse_nodes


def _usable(entries: tuple[str, ...]) -> tuple[str, ...]:
    parse_nodes(entries, default_slots=1)
    return entries


def _readable(entries: tuple[str, ...]) -> tuple[str, ...]:
    parse_labels(entries)
    return entries


class LocalWorkerSettings(ServiceSettings):
    """Everything the local worker can be told."""

    service_name: ClassVar[str] = "local-worker"

    ollama_nodes: Annotated[CommaList, AfterValidator(_usable)] = setting(
        ("http://127.0.0.1:11434",),
        unit="[name=]URL[;slots=n][;label=value], ...",
        reason="Ollama nodes to run attempts on; slots and hardware labels may be given for each.",
    )
    discovery: Literal["static", "kubernetes"] = setting(
        "static",
        unit="static | kubernetes",
        reason="Whether the nodes are those of HEADRACE_OLLAMA_NODES, or the endpoints of a Service of the Kubernetes "
        "cluster, joining and leaving as they come and go.",
    )
    discovery_selector: str = setting(
        "kubernetes.io/service-name=ollama",
        unit="label selector",
        reason="EndpointSlices whose endpoints are nodes.",
        min_length=1,
    )
    discovery_namespace: str = setting(
        "", unit="name", reason="Namespace of these slices; empty means the one this worker runs in."
    )
    discovery_port: str = setting(
        "http", unit="name", reason="Port of these slices that Ollama listens on; a slice's only port needs no name."
    )
    discovery_labels: Annotated[CommaList, AfterValidator(_readable)] = setting(
        (),
        unit="name=label, ...",
        reason="Labels of cluster nodes to tell the fleet as hardware, as in gpu=nvidia.com/gpu.product; the one named "
        "slots replaces HEADRACE_NODE_SLOTS there. Needs the right to get cluster nodes.",
    )
    discovery_peers: str = setting(
        "",
        unit="label selector",
        reason="EndpointSlices of the local workers' own Service, in this worker's namespace: they share the slots of "
        "each node. Empty when there is only one worker. HEADRACE_INSTANCE_ID must be the pod's name.",
    )
    node_slots: int = setting(
        4,
        unit="calls",
        reason="Calls that a node gets at once where it names no slots; as OLLAMA_NUM_PARALLEL there. With several "
        "workers on one node, divide them, unless HEADRACE_DISCOVERY_PEERS does.",
        ge=1,
    )
    keep_alive: str = setting(
        "30m", unit="Ollama duration", reason="How long a node keeps a model in memory after a call."
    )
    look_seconds: float = setting(3.0, unit="s", reason="Time between two looks at a node's health and models.", gt=0)
    report_seconds: float = setting(
        5.0,
        unit="s",
        reason="Longest time between two reports to the fleet; each stands for three times as long.",
        gt=0,
    )
    call_seconds: float = setting(300.0, unit="s", reason="Longest time for one answer of a model.", gt=0)
    delta_milliseconds: float = setting(
        10.0, unit="ms", reason="Pieces of a streamed answer that come faster than this go out together.", ge=0
    )
    cancel_history_seconds: float = setting(
        3600.0,
        unit="s",
        reason="Age of the cancellation requests that are read at the start: an attempt may have waited that long.",
        ge=0,
    )
    max_in_flight: int = setting(
        64, unit="attempts", reason="Attempts in hand at once, those that wait for a free slot included.", ge=2
    )
    interactive_weight: int = setting(
        8, unit="starts", reason="Attempts that somebody waits for, to each batch attempt, while there are both.", ge=1
    )

    def rules(self) -> NodeRules:
        """How endpoints become nodes."""
        return NodeRules(self.discovery_port, self.node_slots, parse_labels(self.discovery_labels))

    def nodes(self) -> tuple[NodeSpec, ...]:
        """The nodes, with their slots and labels."""
        return parse_nodes(self.ollama_nodes, self.node_slots)

    def kafka_config(self) -> dict[str, str]:
        """As for every service; but a worker that comes or goes makes the others give up only what moves to it.

        Its topics need not be cut at the same endpoints as others, and a call of a model is too dear to be dropped for
        a rebalance that leaves its partition where it was.
        """
        return {"partition.assignment.strategy": "cooperative-sticky", **super().kafka_config()}

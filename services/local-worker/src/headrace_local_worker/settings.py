"""Settings of the local worker."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Final, Literal

from headrace_contracts.sites import NO_SITE, site_name
from headrace_runtime.settings import CommaList, setting
from headrace_runtime.worker_settings import WorkerSettings
from pydantic import AfterValidator

from headrace_local_worker.decide.endpoints import NodeRules, parse_labels
from headrace_local_worker.decide.nodes import NodeSpec, parse_nodes

NODE_DECIDES: Final = "node"
_DURATION: Final = re.compile(r"-?[0-9]{1,9}|-?([0-9]{1,9}(\.[0-9]{1,9})?(ns|us|µs|ms|s|m|h))+")
"""As Go's time.ParseDuration, or whole seconds."""


def _usable(entries: tuple[str, ...]) -> tuple[str, ...]:
    parse_nodes(entries, default_slots=1)
    return entries


def _site(name: str) -> str:
    return site_name(name) if name else NO_SITE


def _readable(entries: tuple[str, ...]) -> tuple[str, ...]:
    parse_labels(entries)
    return entries


def _duration(text: str) -> str:
    if text != NODE_DECIDES and not _DURATION.fullmatch(text):
        raise ValueError(f"must be a duration such as 30m or 1h30m, a number of seconds, or {NODE_DECIDES}")
    return text


class LocalWorkerSettings(WorkerSettings):
    """All settings of the local worker."""

    service_name: ClassVar[str] = "local-worker"

    site: Annotated[str, AfterValidator(_site)] = setting(
        NO_SITE,
        unit="name",
        reason="Site of this worker: workers of one site reach the same nodes, and share topics and a consumer group. "
        "Workers that reach other nodes need another site. Empty for the topics without a site.",
    )
    ollama_nodes: Annotated[CommaList, AfterValidator(_usable)] = setting(
        ("http://127.0.0.1:11434",),
        unit="[name=]URL[;slots=n][;server=kind][;label=value], ...",
        reason="Machines to run attempts on, each with optional slots and hardware labels. server: what runs there if "
        "it is not Ollama, one of vllm, llama.cpp, lmstudio, mlx, openai-compatible.",
    )
    discovery: Literal["static", "kubernetes"] = setting(
        "static",
        unit="static | kubernetes",
        reason="Whether the nodes are those of HEADRACE_OLLAMA_NODES, or the endpoints of a Kubernetes Service, "
        "which join and leave with its pods.",
    )
    discovery_selector: str = setting(
        "kubernetes.io/service-name=ollama",
        unit="label selector",
        reason="EndpointSlices whose endpoints are nodes.",
        min_length=1,
    )
    discovery_namespace: str = setting("", unit="name", reason="Namespace of these slices; empty for the worker's own.")
    discovery_port: str = setting(
        "http", unit="name", reason="Name of Ollama's port in these slices; not needed if they have only one port."
    )
    discovery_labels: Annotated[CommaList, AfterValidator(_readable)] = setting(
        (),
        unit="name=label, ...",
        reason="Labels of cluster nodes to report as hardware, as in gpu=nvidia.com/gpu.product; the one named "
        "slots overrides HEADRACE_NODE_SLOTS. Needs the right to get cluster nodes.",
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
        reason="Concurrent calls to a node that specifies no slots; same as OLLAMA_NUM_PARALLEL there. With several "
        "workers per node, divide them, unless HEADRACE_DISCOVERY_PEERS does that.",
        ge=1,
    )
    keep_alive: Annotated[str, AfterValidator(_duration)] = setting(
        "30m",
        unit="Ollama duration | seconds | node",
        reason="How long a node keeps a model in memory after a call, as in 30m or 90; -1: as long as it runs. node: "
        "as the node is set (OLLAMA_KEEP_ALIVE), so that models pinned there stay.",
    )
    look_seconds: float = setting(3.0, unit="s", reason="Time between two checks of a node's health and models.", gt=0)
    call_seconds: float = setting(
        1800.0,
        unit="s",
        reason="Longest time for one answer of a model. attempts.timeout of the policy ends it earlier, by lane.",
        gt=0,
    )
    first_token_seconds: float = setting(
        240.0,
        unit="s",
        reason="Longest time until a model's first token; loading it into memory is part of that.",
        gt=0,
    )
    between_tokens_seconds: float = setting(
        60.0,
        unit="s",
        reason="Longest time from one token to the next; a provider's keep-alives are silence.",
        gt=0,
    )
    max_in_flight: int = setting(
        256,
        unit="attempts",
        reason="Attempts in flight at once, including those that wait for a free slot. Beyond that, each set of nodes "
        "with the same models has room for twice its slots and eight.",
        ge=2,
    )

    def node_keep_alive(self) -> str | int | None:
        """What a call tells a node, which takes a number for seconds and refuses one in quotes; None for nothing."""
        if self.keep_alive == NODE_DECIDES:
            return None
        return int(self.keep_alive) if self.keep_alive.lstrip("-").isdecimal() else self.keep_alive

    def rules(self) -> NodeRules:
        """How endpoints become nodes."""
        return NodeRules(self.discovery_port, self.node_slots, parse_labels(self.discovery_labels))

    def nodes(self) -> tuple[NodeSpec, ...]:
        """The nodes, with their slots and labels."""
        return parse_nodes(self.ollama_nodes, self.node_slots)

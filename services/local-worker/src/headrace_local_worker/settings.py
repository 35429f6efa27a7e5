"""Settings of the local worker."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Final, Self

from headrace_contracts.model_settings import ModelSettingInvalid, duration, for_ollama
from headrace_contracts.sites import NO_SITE, site_name
from headrace_models.upstream.node_certificates import CertificatesUnusable, NodeCertificates
from headrace_runtime.settings import CommaList, setting
from headrace_runtime.worker_settings import WorkerSettings
from pydantic import AfterValidator, SecretStr, model_validator

from headrace_local_worker.decide.endpoints import NodeRules, parse_labels
from headrace_local_worker.decide.merging import PRECEDENCE
from headrace_local_worker.decide.nodes import NodeSpec, parse_nodes
from headrace_local_worker.decide.srv_records import SrvName, parse_srv_names

NODE_DECIDES: Final = "node"


def _usable(entries: tuple[str, ...]) -> tuple[str, ...]:
    parse_nodes(entries, default_slots=1)
    return entries


def _site(name: str) -> str:
    return site_name(name) if name else NO_SITE


def _readable(entries: tuple[str, ...]) -> tuple[str, ...]:
    parse_labels(entries)
    return entries


def _sources(entries: tuple[str, ...]) -> tuple[str, ...]:
    unknown = set(entries) - set(PRECEDENCE)
    if unknown or not entries:
        raise ValueError(f"must be one or several of {', '.join(PRECEDENCE)}, with commas between")
    return entries


def _srv_names(entries: tuple[str, ...]) -> tuple[str, ...]:
    names = [name.name.lower() for name in parse_srv_names(entries)]
    if len(set(names)) < len(names):
        raise ValueError("names one name twice")
    return entries


def _duration(text: str) -> str:
    try:
        return text if text == NODE_DECIDES else duration("it", text)
    except ModelSettingInvalid:
        raise ValueError(f"must be a duration such as 30m or 1h30m, a number of seconds, or {NODE_DECIDES}") from None


class TokenMissing(Exception):
    """Set the variable that the message names."""


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
        unit="[name=]URL[;slots=n][;server=kind][;setting=value][;label=value], ...",
        reason="Machines to run attempts on, each with optional slots and hardware labels. server: what runs there if "
        "it is not Ollama, one of vllm, llama.cpp, lmstudio, mlx, openai-compatible. Settings of a node's models: "
        "num_ctx, max_num_ctx, keep_alive, think, top_k, slots.<model>.",
    )
    discovery: Annotated[CommaList, AfterValidator(_sources)] = setting(
        ("static",),
        unit="static | dns | kubernetes | announced, ...",
        reason="Where nodes come from, one or several: HEADRACE_OLLAMA_NODES; SRV records; the endpoints of a "
        "Kubernetes Service; the agents of the nodes themselves (`headrace node`).",
    )
    discovery_dns: Annotated[CommaList, AfterValidator(_srv_names)] = setting(
        (),
        unit="name[;slots=n][;scheme=https][;setting=value][;label=value], ...",
        reason="SRV records whose targets are nodes, as in _ollama._tcp.example.org, for HEADRACE_DISCOVERY=dns.",
    )
    key_pepper: SecretStr | None = setting(
        None,
        unit="secret",
        reason="The installation's secret, as in the services with an API: announcements of nodes are checked with it. "
        "Required for HEADRACE_DISCOVERY=announced.",
        min_length=16,
    )
    node_token: SecretStr | None = setting(
        None,
        unit="secret",
        reason="Bearer token for every node that has none of its own (token_env=VARIABLE in its entry): what the "
        "proxies of node agents ask for.",
    )
    node_tls_ca: Path | None = setting(
        None,
        unit="path",
        reason="Certificates (PEM) of the only authorities that sign certificates of nodes with https; by default "
        "the system's. Like the next two, read again when the file changes.",
    )
    node_tls_cert: Path | None = setting(
        None, unit="path", reason="Certificate (PEM) to show to nodes that ask for one, for mutual TLS."
    )
    node_tls_key: Path | None = setting(None, unit="path", reason="Its private key (PEM, without a passphrase).")
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

    batch_interruptions: int = setting(
        2,
        unit="interruptions",
        reason="How often a batch attempt may be interrupted, and begin anew, for an interactive one that would wait "
        "longer than 10 s for a slot. 0: never.",
        ge=0,
        le=100,
    )

    @model_validator(mode="after")
    def _sources_are_complete(self) -> Self:
        if "announced" in self.discovery and self.key_pepper is None:
            raise ValueError(
                "HEADRACE_DISCOVERY=announced needs HEADRACE_KEY_PEPPER: announcements are checked with it"
            )
        if "dns" in self.discovery and not self.discovery_dns:
            raise ValueError("HEADRACE_DISCOVERY=dns needs HEADRACE_DISCOVERY_DNS: the names to look up")
        return self

    @model_validator(mode="after")
    def _certificates_can_be_used(self) -> Self:
        if (self.node_tls_cert is None) != (self.node_tls_key is None):
            raise ValueError("HEADRACE_NODE_TLS_CERT and HEADRACE_NODE_TLS_KEY must be set together")
        try:
            self.node_certificates()
        except CertificatesUnusable as error:
            raise ValueError(f"HEADRACE_NODE_TLS_CA, _CERT and _KEY: {error}") from None
        return self

    def node_certificates(self) -> NodeCertificates | None:
        """What to trust and to show at nodes with https; None for the system's. Raises CertificatesUnusable."""
        if self.node_tls_ca is None and self.node_tls_cert is None:
            return None
        return NodeCertificates(self.node_tls_ca, self.node_tls_cert, self.node_tls_key)

    def token_of(self, node: NodeSpec) -> SecretStr | None:
        """What a node asks for. Raises TokenMissing."""
        if not node.token_env:
            return self.node_token
        token = self.environment.get(node.token_env, "").strip()
        if not token:
            raise TokenMissing(f"{node.token_env} is not set: it must hold the token of node {node.name}")
        return SecretStr(token)

    def srv_names(self) -> tuple[SrvName, ...]:
        """The SRV records to look up."""
        return parse_srv_names(self.discovery_dns)

    def node_keep_alive(self) -> str | int | None:
        """What a call tells a node, which takes a number for seconds and refuses one in quotes; None for nothing."""
        return None if self.keep_alive == NODE_DECIDES else for_ollama(self.keep_alive)

    def rules(self) -> NodeRules:
        """How endpoints become nodes."""
        return NodeRules(self.discovery_port, self.node_slots, parse_labels(self.discovery_labels))

    def nodes(self) -> tuple[NodeSpec, ...]:
        """The nodes, with their slots and labels."""
        return parse_nodes(self.ollama_nodes, self.node_slots)

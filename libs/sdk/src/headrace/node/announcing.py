"""What a node's agent announces, and whether another agent's word goes before its own. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from headrace_contracts.events import NodeAnnounced

from headrace.errors import Misconfigured
from headrace.node.call_queue import QueueState
from headrace.node.hardware import Hardware, with_gpus_of_ollama
from headrace.node.ollama_look import OllamaSeen

_VALID_ROUNDS: Final = 6
"""An announcement holds for so many intervals: one that is late, or a short loss of the network, takes no node away."""
_LOOPBACK: Final = ("localhost", "127.", "::1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who announces what.

    Attributes:
        agent: Id of this process.
        started_at: Milliseconds since the epoch.
        interval_seconds: Between two announcements.
    """

    node: str
    url: str
    agent: str
    host: str
    started_at: int
    site: str = ""
    slots: int = 1
    labels: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    version: str = ""
    interval_seconds: float = 5.0


@dataclass(frozen=True, slots=True)
class HeardAnnouncement:
    """The newest announcement of this node in the topic, and how long ago it came here, in seconds."""

    said: NodeAnnounced
    seconds_ago: float


def announcement(
    identity: Identity,
    ollama: OllamaSeen,
    hardware: Hardware,
    queue: QueueState | None,
    *,
    stopping: str | None,
    now_ms: int,
) -> NodeAnnounced:
    """The record to write now.

    Args:
        queue: That of the proxy; None without one.
        stopping: Why the agent takes no new calls; None if it does.
    """
    machine = with_gpus_of_ollama(hardware, ollama.vram_bytes)
    return NodeAnnounced(
        node=identity.node,
        site=identity.site,
        url=identity.url,
        slots=identity.slots,
        labels=identity.labels,
        settings=identity.settings,
        drained=stopping is not None,
        healthy=not ollama.trouble,
        reason=stopping or ollama.trouble,
        agent=identity.agent,
        host=identity.host,
        agent_version=identity.version,
        ollama_version=ollama.version,
        started_at=identity.started_at,
        models=ollama.models,
        cpus=machine.cpus,
        memory_bytes=machine.memory_bytes,
        memory_free_bytes=machine.memory_free_bytes,
        gpus=machine.gpus,
        watts=machine.watts,
        running=None if queue is None else queue.running,
        waiting=None if queue is None else queue.waiting,
        tokens_per_second=None if queue is None else queue.tokens_per_second,
        valid_for_ms=round(identity.interval_seconds * _VALID_ROUNDS * 1000),
        announced_at=now_ms,
    )


def rival(identity: Identity, heard: HeardAnnouncement | None) -> str | None:
    """Why this agent must not announce its node: another one does, which started first. None if it may.

    Two agents whose announcements went on replacing each other would make every worker drop and take up the node time
    and again. One with the same address is no rival: that is this agent before it was restarted.
    """
    if heard is None or heard.said.agent == identity.agent or heard.said.url == identity.url:
        return None
    if heard.seconds_ago > heard.said.valid_for_ms / 1000:
        return None
    if (identity.started_at, identity.agent) < (heard.said.started_at, heard.said.agent):
        return None  # that one will hear of us, and be silent
    return (
        f"another agent, on {heard.said.host or 'an unnamed host'}, announces a node {identity.node} at "
        f"{heard.said.url}. This one stays silent until that one stops: start one of them with another --name and its "
        "own key"
    )


def advertised_url(
    *, url: str | None, ollama: str, proxy_host: str | None, proxy_port: int | None, tls: bool, host: str
) -> str:
    """The address to announce. Raises Misconfigured where nobody else could reach what follows from the settings.

    Args:
        url: What the operator says; it goes before everything else.
        proxy_host, proxy_port: Where the proxy listens; None without one.
        host: Name of this machine.
    """
    if url:
        parsed = urlsplit(url)
        if parsed.scheme not in ("http", "https") or not parsed.hostname or parsed.username is not None:
            raise Misconfigured(f"--url must read http://host:port or https://host:port, not {url[:80]!r}")
        return url.rstrip("/")
    if proxy_host is not None:
        if proxy_host.startswith(_LOOPBACK):
            raise Misconfigured(
                f"the proxy listens on {proxy_host}, which no other machine reaches: give --proxy-host 0.0.0.0 or --url"
            )
        reached = host if proxy_host in ("0.0.0.0", "::") else proxy_host
        return f"{'https' if tls else 'http'}://{reached}:{proxy_port}"
    if (urlsplit(ollama).hostname or "").startswith(_LOOPBACK):
        raise Misconfigured(
            f"Ollama is at {ollama}, which no other machine reaches: give --proxy-port, or --url if it is elsewhere"
        )
    return ollama

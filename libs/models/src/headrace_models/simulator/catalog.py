"""The models that the simulator offers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class SimulatedModel:
    """A model and its speed at `Speed.realistic`."""

    name: str
    size_bytes: int
    context_tokens: int
    tokens_per_second: float
    first_token_seconds: float
    takes_sampling: bool = True
    """Whether it accepts temperature and top_p."""
    capabilities: tuple[str, ...] = ()
    """What it can do beyond text, of a local one, in Ollama's words."""
    remote_host: str = ""
    """The host that runs it, of a model that an Ollama node lists and passes on; empty for one that the node runs."""
    remote_model: str = ""
    """Its name there."""


def _local(name: str, gigabytes: float, tokens_per_second: float, *capabilities: str) -> SimulatedModel:
    return SimulatedModel(
        name, int(gigabytes * 1e9), 8192, tokens_per_second, 0.05, capabilities=capabilities or ("tools", "vision")
    )


_LOCAL: Final = {
    model.name: model
    for model in (
        _local("gemma2:2b", 1.6, 25),
        _local("qwen2.5-coder:1.5b", 0.9, 25),
        _local("phi3:3.8b", 2.3, 20),
        _local("llama3:8b", 4.7, 15),
        _local("llama3.1:8b", 4.9, 15),
        _local("qwen2.5:7b", 4.7, 15),
        _local("qwen2.5-coder:7b", 4.7, 15),
        _local("codellama:7b", 3.8, 15),
        _local("mistral:7b", 4.1, 15),
        _local("gpt-oss:20b", 14, 20, "tools", "thinking"),
        _local("nomic-embed-text:v1.5", 0.3, 200, "embedding"),
    )
}

OLLAMA_CLOUD: Final = "https://ollama.com:443"
_CLOUD_SUFFIX: Final = re.compile(r"[:\-]cloud$", re.IGNORECASE)


def _remote(name: str, remote_model: str) -> SimulatedModel:
    # The size is that of the description, all that an Ollama node stores of such a model.
    return SimulatedModel(name, 384, 131_072, 60, 0.4, remote_host=OLLAMA_CLOUD, remote_model=remote_model)


REMOTE: Final = {
    model.name: model
    for model in (
        _remote("gpt-oss:120b-cloud", "gpt-oss:120b"),
        _remote("team-helper:latest", "kimi-k2:1t"),
    )
}
"""Models that nodes list as if they were theirs, and that Ollama's cloud runs: they must never get a local task. The
second is a copy (`ollama cp`), whose name does not show it."""

DEFAULT_NODES: Final[Mapping[str, tuple[str, ...]]] = {
    "workstation": ("gemma2:2b", "qwen2.5-coder:1.5b", "phi3:3.8b", "nomic-embed-text:v1.5", "gpt-oss:120b-cloud"),
    "remote-1": (
        "llama3:8b", "qwen2.5-coder:7b", "gemma2:2b", "phi3:3.8b", "qwen2.5-coder:1.5b", "team-helper:latest",
    ),
}  # fmt: skip
"""A developer's machine, and a remote worker with the bigger models. Each lists one model that it does not run."""

GROQ: Final = {
    model.name: model
    for model in (
        SimulatedModel("llama-3.1-8b-instant", 0, 131_072, 560, 0.15),
        SimulatedModel("llama-3.3-70b-versatile", 0, 131_072, 280, 0.2),
        SimulatedModel("openai/gpt-oss-20b", 0, 131_072, 1000, 0.15),
        SimulatedModel("openai/gpt-oss-120b", 0, 131_072, 500, 0.2),
    )
}

EMBEDDERS: Final = frozenset({"text-embedding-3-small", "text-embedding-3-large"})
"""Models of the OpenAI-compatible server that make vectors; Groq itself, whose list it gives, has none."""

ANTHROPIC: Final = {
    model.name: model
    for model in (
        SimulatedModel("claude-haiku-4-5", 0, 200_000, 120, 0.5),
        SimulatedModel("claude-sonnet-4-6", 0, 1_000_000, 70, 0.8),
        SimulatedModel("claude-opus-4-6", 0, 1_000_000, 50, 1.0),
        SimulatedModel("claude-haiku-5-5", 0, 1_000_000, 150, 0.4, takes_sampling=False),
        SimulatedModel("claude-sonnet-5-5", 0, 1_000_000, 90, 0.7, takes_sampling=False),
        SimulatedModel("claude-opus-5-5", 0, 1_000_000, 60, 1.0, takes_sampling=False),
    )
}


def node_model(name: str) -> SimulatedModel:
    """The model of this name on an Ollama node.

    One that is not in the catalogue counts as a local one of 4 GB at 15 tokens/s, or as one in Ollama's cloud if its
    name says so.
    """
    if _CLOUD_SUFFIX.search(name):
        return REMOTE.get(name) or _remote(name, _CLOUD_SUFFIX.sub("", name))
    return _LOCAL.get(name) or REMOTE.get(name) or _local(name, 4.0, 15)

"""The servers that run models on our own machines, one row each. Node lists, ledger and price book go by their names.

That a server is local is its operator's word: the node list says so of the machine, and the routing policy of the
server's kind (`providers: vllm: {place: local}`). What can be checked of that is checked here and by the clients.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from headrace_models.dialects import GENERIC, PRESETS, Dialect

OLLAMA: Final = "ollama"

OPENAI_COMPATIBLE_SERVERS: Final[Mapping[str, Dialect]] = {
    **{name: PRESETS[name] for name in ("vllm", "llama.cpp", "lmstudio", "mlx")},
    "openai-compatible": GENERIC,
}
"""Servers that speak the OpenAI-compatible API, by the provider's name in policy and ledger."""

SEARXNG: Final = "searxng"
"""A search engine of our own in the place of a model; see `headrace_models.searxng`."""
WEB: Final = "web"
"""The model of one that asks engines of the web."""
INSIDE: Final = "inside"
"""The model of one whose operator says that no query leaves our network."""

LOCAL_PROVIDERS: Final = frozenset({OLLAMA, *OPENAI_COMPATIBLE_SERVERS, SEARXNG})
"""Names of providers whose models run on our own machines."""


def keeps_queries_inside(provider: str, model: str) -> bool:
    """Whether a search at this model of a local provider reaches nobody but our own machines. What is not declared so
    counts as a search of the web."""
    return provider == SEARXNG and model in (INSIDE, f"{INSIDE}:latest")


_OF_CLOUDS: Final = frozenset(
    {"ollama.com", "api.anthropic.com", *(preset.host for preset in PRESETS.values() if preset.host)}
)
"""Addresses behind which a cloud is, whatever API it speaks: ollama.com answers as an Ollama server does."""


def is_a_clouds(host: str) -> bool:
    """Whether a host name belongs to a provider that is known to run models in its cloud."""
    return any(f".{host.lower().rstrip('.')}".endswith(f".{known}") for known in _OF_CLOUDS)

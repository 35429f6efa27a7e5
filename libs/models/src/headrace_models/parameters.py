"""Which parameters of an answer each provider's API takes; the others are left out of a call to it.

By the provider's name alone, as the clients choose their dialects: a server with a description of its own
(`HEADRACE_OPENAI_COMPATIBLE`) may take more than is known here.
"""

from __future__ import annotations

from functools import cache
from typing import Final

from headrace_models import anthropic_requests
from headrace_models.dialects import dialect_for
from headrace_models.local_servers import OLLAMA

_ALL: Final = (
    "temperature", "top_p", "top_k", "seed", "stop", "presence_penalty", "frequency_penalty", "logit_bias", "json",
    "reasoning_effort", "verbosity", "service_tier", "dimensions",
)  # fmt: skip
_OF_OLLAMA: Final = frozenset(_ALL) - {"logit_bias", "verbosity", "service_tier"}
_ANTHROPIC: Final = "anthropic"


@cache
def parameters_taken(provider: str, model: str) -> frozenset[str]:
    """The parameters that calls of a model pass on, by the names of Sampling and Options."""
    if provider == OLLAMA:
        return _OF_OLLAMA
    if provider == _ANTHROPIC:
        return anthropic_requests.parameters_taken(model)
    dialect = dialect_for(provider, "")
    taken = {"temperature", "stop", *(name for name in dialect.takes if name in _ALL)}
    taken |= {"top_p"} if dialect.top_p else set()
    taken |= {"seed"} if dialect.seed is not None else set()
    taken |= {"json"} if dialect.json else set()
    return frozenset(taken)

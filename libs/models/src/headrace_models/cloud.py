"""The cloud providers, one row each. Settings, chart, compose and `headrace up` are derived from this table.

A client is imported when it is first connected: the packages of some vendors take a second of processor time to import,
which neither the command line nor a worker without that provider's key should spend.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pydantic import SecretStr

from headrace_models.ports import Provider

Connect = Callable[[SecretStr, str, str | None], Provider]
"""Creates a client from the API key, the base URL, and the proxy's URL if there is one; opens no connection."""


@dataclass(frozen=True, slots=True)
class CloudProvider:
    """A provider with its own client.

    Attributes:
        name: As in the routing policy and the price book; settings are derived from it (`HEADRACE_<NAME>_URL`).
        title: Display name.
        url: Base URL of its API.
        key_variable: Environment variable with its API key. Without a key the provider is not offered.
        runs_models: Whether it answers chats; False for a search API.
        has_batches: Whether it has a batch API, and its client a method `batches`.
    """

    name: str
    title: str
    url: str
    key_variable: str
    connect: Connect
    runs_models: bool = True
    has_batches: bool = False


def _groq(key: SecretStr, url: str, proxy: str | None) -> Provider:
    from headrace_models.openai_compatible import OpenAICompatible

    return OpenAICompatible("groq", url, key, proxy=proxy)


def _anthropic(key: SecretStr, url: str, proxy: str | None) -> Provider:
    from headrace_models.anthropic import Anthropic

    return Anthropic(key, base_url=url, proxy=proxy)


def _tavily(key: SecretStr, url: str, proxy: str | None) -> Provider:
    from headrace_models.tavily import Tavily

    return Tavily(key, base_url=url, proxy=proxy)


CLOUD_PROVIDERS: Final = (
    CloudProvider("groq", "Groq", "https://api.groq.com/openai/v1", "GROQ_API_KEY", _groq, has_batches=True),
    CloudProvider(
        "anthropic", "Anthropic", "https://api.anthropic.com", "ANTHROPIC_API_KEY", _anthropic, has_batches=True
    ),
    CloudProvider("tavily", "Tavily", "https://api.tavily.com", "TAVILY_API_KEY", _tavily, runs_models=False),
)

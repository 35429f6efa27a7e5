"""Makes the clients of the providers that have a key."""

from __future__ import annotations

from collections.abc import Mapping

from headrace_models.anthropic import Anthropic
from headrace_models.openai_compatible import OpenAICompatible
from headrace_models.ports import Provider
from headrace_models.tavily import Tavily
from pydantic import SecretStr

from headrace_cloud_worker.decide.offers import parse_providers
from headrace_cloud_worker.settings import CloudWorkerSettings


def offered_providers(settings: CloudWorkerSettings, environment: Mapping[str, str]) -> list[Provider]:
    """One client for each provider with a key; providers without one are left out.

    `environment` holds the keys of the further providers.
    """
    providers: list[Provider] = []
    if settings.groq_api_key is not None:
        providers.append(OpenAICompatible("groq", settings.groq_url, settings.groq_api_key))
    if settings.anthropic_api_key is not None:
        providers.append(Anthropic(settings.anthropic_api_key, base_url=settings.anthropic_url))
    if settings.tavily_api_key is not None:
        providers.append(Tavily(settings.tavily_api_key, base_url=settings.tavily_url))
    for further in parse_providers(settings.openai_compatible):
        key = environment.get(further.key_variable)
        if key:
            providers.append(OpenAICompatible(further.name, further.url, SecretStr(key)))
    return providers

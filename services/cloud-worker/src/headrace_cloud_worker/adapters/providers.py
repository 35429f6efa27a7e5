"""Connects the providers for which there is a key."""

from __future__ import annotations

from collections.abc import Mapping

from headrace_models.cloud import CLOUD_PROVIDERS
from headrace_models.openai_compatible import OpenAICompatible
from headrace_models.ports import Provider
from pydantic import SecretStr

from headrace_cloud_worker.decide.offers import parse_providers
from headrace_cloud_worker.settings import CloudWorkerSettings


def offered_providers(settings: CloudWorkerSettings, environment: Mapping[str, str]) -> list[Provider]:
    """One client for each provider with a key; providers without one do not exist for this worker.

    `environment` holds the keys of the further OpenAI-compatible providers.
    """
    providers: list[Provider] = []
    proxy = settings.provider_proxy.get_secret_value() if settings.provider_proxy is not None else None
    for known in CLOUD_PROVIDERS:
        key = settings.key_of(known)
        if key is not None:
            providers.append(known.connect(key, settings.url_of(known), proxy))
    for further in parse_providers(settings.openai_compatible):
        secret = environment.get(further.key_variable, "")
        if secret or not further.key_variable:
            providers.append(
                OpenAICompatible(further.name, further.url, SecretStr(secret), dialect=further.dialect, proxy=proxy)
            )
    return providers

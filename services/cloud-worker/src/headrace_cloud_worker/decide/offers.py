"""Which providers exist, and under which names their models are known."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import urlsplit

from headrace_models.cloud import CLOUD_PROVIDERS
from headrace_models.ports import ModelInfo
from headrace_models.worker.pool import EndpointView

OWN: Final = frozenset({"ollama", *(provider.name for provider in CLOUD_PROVIDERS)})
"""Names of providers that have clients and settings of their own."""

_NAME: Final = re.compile(r"^[a-z0-9][a-z0-9._-]*$")
_VARIABLE: Final = re.compile(r"^[A-Z_][A-Z0-9_]*$")
_DATED: Final = re.compile(r"-20\d{6}$")


class ProvidersInvalid(ValueError):
    """The list of further providers is invalid; the message names the entry and the reason."""


@dataclass(frozen=True, slots=True)
class FurtherProvider:
    """A provider with an OpenAI-compatible API; `key_variable` names the environment variable with its key."""

    name: str
    url: str
    key_variable: str


def parse_providers(entries: Sequence[str]) -> tuple[FurtherProvider, ...]:
    """Parse a list of further providers, `name=url=VARIABLE`. Raises ProvidersInvalid."""
    found: dict[str, FurtherProvider] = {}
    for entry in entries:
        name, _, rest = entry.partition("=")
        # The address may itself contain an equals sign.
        url, _, variable = rest.rpartition("=")
        if not _NAME.match(name) or not _VARIABLE.match(variable):
            raise ProvidersInvalid(
                f"{entry!r} must read name=URL=VARIABLE, as in mistral=https://api.mistral.ai/v1=MISTRAL_API_KEY"
            )
        parsed = urlsplit(url)
        if parsed.scheme not in ("http", "https") or not parsed.hostname:
            raise ProvidersInvalid(f"the address {url!r} of {name} must start with http:// or https://")
        if name in found or name in OWN:
            raise ProvidersInvalid(f"the name {name} is taken")
        found[name] = FurtherProvider(name, url.rstrip("/"), variable)
    return tuple(found.values())


def with_undated_names(models: tuple[ModelInfo, ...]) -> tuple[ModelInfo, ...]:
    """The models, and each one listed as `<name>-<date>` also as `<name>`: providers accept both and list only one."""
    listed = {model.name for model in models}
    undated = {
        name: replace(model, name=name)
        for model in models
        if _DATED.search(model.name) and (name := _DATED.sub("", model.name)) not in listed
    }
    return (*models, *undated.values())


def choose_provider(providers: Sequence[EndpointView], _model: str) -> EndpointView | None:
    """The requested provider. Whether it has the model is for the provider to say: not all list all their models."""
    return next(iter(providers), None)

"""Which providers exist, and under which names their models are known."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import urlsplit

from headrace_models.cloud import CLOUD_PROVIDERS
from headrace_models.dialects import Dialect, DialectInvalid, dialect_for
from headrace_models.local_servers import LOCAL_PROVIDERS
from headrace_models.ports import ModelInfo
from headrace_models.worker.endpoint import EndpointView

OWN: Final = LOCAL_PROVIDERS | {provider.name for provider in CLOUD_PROVIDERS}
"""Names that are taken: of providers with settings of their own, and of servers on our own machines, which cost nothing
and may read everything."""

_ENTRY: Final = re.compile(
    r"(?P<name>[a-z0-9][a-z0-9._-]*)=(?P<url>[a-z]+://.*?)=(?P<variable>(?:[A-Z_][A-Z0-9_]*)?)"
    r"(?:=(?P<dialect>[a-z].*))?"
)
_DATED: Final = re.compile(r"-20\d{6}$")


class ProvidersInvalid(ValueError):
    """The list of further providers is invalid; the message names the entry and the reason."""


@dataclass(frozen=True, slots=True)
class FurtherProvider:
    """A provider with an OpenAI-compatible API.

    Attributes:
        key_variable: Environment variable with its key; empty for a server that asks for none.
        dialect: What it understands.
    """

    name: str
    url: str
    key_variable: str
    dialect: Dialect


def parse_providers(entries: Sequence[str]) -> tuple[FurtherProvider, ...]:
    """Parse a list of further providers, `name=URL=VARIABLE` or `name=URL=VARIABLE=dialect` (see `dialect_for`).

    Raises ProvidersInvalid.
    """
    found: dict[str, FurtherProvider] = {}
    for entry in entries:
        parts = _ENTRY.fullmatch(entry)
        if parts is None:
            raise ProvidersInvalid(
                f"{entry!r} must read name=URL=VARIABLE or name=URL=VARIABLE=dialect, as in "
                "mistral=https://api.mistral.ai/v1=MISTRAL_API_KEY or gpu=http://gpu:8000/v1==vllm"
            )
        name, url = parts["name"], parts["url"]
        parsed = urlsplit(url)
        if parsed.scheme not in ("http", "https") or not parsed.hostname:
            raise ProvidersInvalid(f"the address {url!r} of {name} must start with http:// or https://")
        if parsed.username or parsed.query or parsed.fragment:
            raise ProvidersInvalid(f"the address of {name} must contain no user, query or fragment")
        if name in found or name in OWN:
            raise ProvidersInvalid(f"the name {name} is taken")
        try:
            dialect = dialect_for(name, parsed.hostname, parts["dialect"] or "")
        except DialectInvalid as error:
            raise ProvidersInvalid(f"the dialect of {name}: {error}") from None
        found[name] = FurtherProvider(name, url.rstrip("/"), parts["variable"], dialect)
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

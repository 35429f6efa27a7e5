"""Key and address of each cloud provider, as settings that follow from the table of providers."""

from __future__ import annotations

from typing import Any, cast

from headrace_models.cloud import CLOUD_PROVIDERS, CloudProvider
from headrace_runtime.settings import HttpUrlText, setting
from headrace_runtime.worker_settings import WorkerSettings
from pydantic import SecretStr, create_model


def _of_each_provider() -> dict[str, tuple[object, object]]:
    """A key and an address for each provider, as pydantic wants fields: name to type and declaration."""
    fields: dict[str, tuple[object, object]] = {}
    for provider in CLOUD_PROVIDERS:
        offers = provider.title if provider.runs_models else "web search"
        fields[_key_field(provider)] = (
            SecretStr | None,
            setting(
                None,
                unit="secret",
                reason=f"Key of {provider.title}; without it {offers} is not offered.",
                variable=provider.key_variable,
            ),
        )
        fields[_url_field(provider)] = (
            HttpUrlText,
            setting(provider.url, unit="URL", reason=f"{provider.title}'s API, or a proxy or simulator of it."),
        )
        if provider.has_batches:
            fields[_batches_field(provider)] = (
                bool,
                setting(
                    False,
                    unit="on/off",
                    reason=f"Whether batch work with enough time goes to {provider.title} in batches, which cost less.",
                ),
            )
    return fields


def _key_field(provider: CloudProvider) -> str:
    return f"{provider.name}_api_key"


def _url_field(provider: CloudProvider) -> str:
    return f"{provider.name}_url"


def _batches_field(provider: CloudProvider) -> str:
    return f"{provider.name}_batches"


_Fields: Any = create_model("_Fields", __base__=WorkerSettings, **cast(Any, _of_each_provider()))


class ProviderSettings(_Fields):  # type: ignore[misc] # its fields are not known before the table is read
    """`<NAME>_API_KEY` and `HEADRACE_<NAME>_URL` of each provider; `HEADRACE_<NAME>_BATCHES` where there are any."""

    def key_of(self, provider: CloudProvider) -> SecretStr | None:
        """The provider's API key; None if there is none."""
        return cast("SecretStr | None", getattr(self, _key_field(provider)))

    def url_of(self, provider: CloudProvider) -> str:
        """Base URL of the provider's API."""
        return cast(str, getattr(self, _url_field(provider)))

    def uses_batches_of(self, provider: CloudProvider) -> bool:
        """Whether new batches may go to the provider."""
        return provider.has_batches and cast(bool, getattr(self, _batches_field(provider)))

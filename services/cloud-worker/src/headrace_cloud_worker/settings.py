"""Settings of the cloud worker."""

from __future__ import annotations

from typing import Annotated, ClassVar

from headrace_runtime.settings import CommaList, setting
from pydantic import AfterValidator, SecretStr

from headrace_cloud_worker.decide.offers import parse_providers
from headrace_cloud_worker.provider_settings import ProviderSettings


def _usable(entries: tuple[str, ...]) -> tuple[str, ...]:
    parse_providers(entries)
    return entries


class CloudWorkerSettings(ProviderSettings):
    """Everything the cloud worker can be told. A provider without a key is not offered."""

    service_name: ClassVar[str] = "cloud-worker"

    openai_compatible: Annotated[CommaList, AfterValidator(_usable)] = setting(
        (),
        unit="name=URL=VARIABLE[=dialect], ...",
        reason="Further OpenAI-compatible providers; VARIABLE names the variable that holds the key, empty if there is "
        "none. The dialect is a preset with changes, as in vllm;seed=off; by default it follows from name and address.",
    )
    provider_proxy: SecretStr | None = setting(
        None,
        unit="URL",
        reason="Proxy for all calls to cloud providers; HTTP_PROXY and the like are not read.",
    )
    provider_slots: int = setting(
        32,
        unit="calls",
        reason="Concurrent calls from this process to a provider; keep it within the rate limit.",
        ge=1,
    )
    look_seconds: float = setting(
        90.0,
        unit="s",
        reason="Time between two reads of a provider's model list; failed calls show an outage sooner.",
        gt=0,
    )
    call_seconds: float = setting(
        1800.0,
        unit="s",
        reason="Longest time for one answer of a model. attempts.timeout of the policy ends it earlier, by lane.",
        gt=0,
    )
    first_token_seconds: float = setting(
        60.0,
        unit="s",
        reason="Longest time until a model's first token, its hidden thinking included; then the router asks another.",
        gt=0,
    )
    between_tokens_seconds: float = setting(
        30.0,
        unit="s",
        reason="Longest time from one token to the next; a provider's keep-alives are silence.",
        gt=0,
    )
    max_in_flight: int = setting(
        256,
        unit="attempts",
        reason="Attempts in flight at once, including those that wait for a free slot. Beyond that, each provider has "
        "room for twice its slots and eight.",
        ge=2,
    )

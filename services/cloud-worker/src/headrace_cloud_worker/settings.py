"""Settings of the cloud worker."""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

from headrace_runtime.settings import CommaList, setting
from pydantic import AfterValidator, SecretStr, model_validator

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
    openai_compatible_batches: CommaList = setting(
        (),
        unit="name, ...",
        reason="Those of OPENAI_COMPATIBLE to which batch work with enough time goes by OpenAI's Batch API.",
    )
    batch_gather_seconds: float = setting(
        30.0,
        unit="s",
        reason="Longest time that an attempt waits for others to go into a provider's batch with it.",
        gt=0,
        le=3600,
    )
    batch_attempts: int = setting(
        1000,
        unit="attempts",
        reason="A provider's batch with so many is submitted at once. It cannot have more than 3/4 of MAX_IN_FLIGHT.",
        ge=1,
        le=5000,
    )
    batch_mebibytes: float = setting(
        16.0,
        unit="MiB",
        reason="A provider's batch with so many of calls is submitted at once. Two of a provider are in memory at a "
        "time, while they are submitted and read. Anthropic takes 256, OpenAI and Groq 200.",
        gt=0,
        le=200,
    )
    batch_least_seconds: float = setting(
        3600.0,
        unit="s",
        reason="Attempts with less time before their deadline are ordinary calls; most batches take less than an hour.",
        gt=0,
    )
    batch_reserve_seconds: float = setting(
        600.0,
        unit="s",
        reason="Time before the first deadline of a batch at which it is given up, to make the rest as ordinary calls.",
        gt=0,
    )
    batch_look_seconds: float = setting(
        30.0,
        unit="s",
        reason="Time to the first look at a provider's batch; later ones come up to ten times more seldom.",
        ge=0.1,
    )
    batches_open: int = setting(
        100,
        unit="batches",
        reason="Open batches of one provider, of all workers together; beyond that batch work is ordinary calls.",
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

    @model_validator(mode="after")
    def _batches_can_end(self) -> Self:
        least = self.batch_gather_seconds + 2 * self.batch_reserve_seconds
        if self.batch_least_seconds < least:
            raise ValueError(
                f"HEADRACE_BATCH_LEAST_SECONDS is {self.batch_least_seconds:g}, and must be at least {least:g}: "
                "HEADRACE_BATCH_GATHER_SECONDS, in which it is gathered, and twice HEADRACE_BATCH_RESERVE_SECONDS, "
                "at which before its first deadline it is given up"
            )
        names = {provider.name for provider in parse_providers(self.openai_compatible)}
        unknown = sorted(set(self.openai_compatible_batches) - names)
        if unknown:
            raise ValueError(
                f"HEADRACE_OPENAI_COMPATIBLE_BATCHES names {', '.join(unknown)}: not in HEADRACE_OPENAI_COMPATIBLE"
            )
        return self

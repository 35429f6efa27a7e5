"""Settings of the cloud worker."""

from __future__ import annotations

from typing import Annotated, ClassVar

from headrace_runtime.settings import CommaList, setting
from pydantic import AfterValidator

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
        unit="name=URL=VARIABLE, ...",
        reason="Further OpenAI-compatible providers; VARIABLE names the variable that holds the key.",
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
    call_seconds: float = setting(180.0, unit="s", reason="Longest time for one answer of a model.", gt=0)
    max_in_flight: int = setting(
        256, unit="attempts", reason="Attempts in flight at once, including those that wait for a free slot.", ge=2
    )

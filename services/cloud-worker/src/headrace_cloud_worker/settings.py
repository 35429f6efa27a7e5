"""Settings of the cloud worker."""

from __future__ import annotations

from typing import Annotated, ClassVar

from headrace_runtime.settings import CommaList, HttpUrlText, setting
from headrace_runtime.worker_settings import WorkerSettings
from pydantic import AfterValidator, SecretStr

from headrace_cloud_worker.decide.offers import parse_providers


def _usable(entries: tuple[str, ...]) -> tuple[str, ...]:
    parse_providers(entries)
    return entries


class CloudWorkerSettings(WorkerSettings):
    """All settings of the cloud worker. A provider without a key is not offered."""

    service_name: ClassVar[str] = "cloud-worker"

    groq_api_key: SecretStr | None = setting(
        None, unit="secret", reason="Key of Groq; without it Groq is not offered.", variable="GROQ_API_KEY"
    )
    groq_url: HttpUrlText = setting(
        "https://api.groq.com/openai/v1", unit="URL", reason="Groq's API, or a proxy or simulator of it."
    )
    anthropic_api_key: SecretStr | None = setting(
        None,
        unit="secret",
        reason="Key of Anthropic; without it Anthropic is not offered.",
        variable="ANTHROPIC_API_KEY",
    )
    anthropic_url: HttpUrlText = setting(
        "https://api.anthropic.com", unit="URL", reason="Anthropic's API, or a proxy or simulator of it."
    )
    tavily_api_key: SecretStr | None = setting(
        None, unit="secret", reason="Key of Tavily; without it web search is not offered.", variable="TAVILY_API_KEY"
    )
    tavily_url: HttpUrlText = setting(
        "https://api.tavily.com", unit="URL", reason="Tavily's API, or a proxy or simulator of it."
    )
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

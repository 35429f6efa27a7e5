"""The cloud worker's providers, names of models, and what it must not send."""

from __future__ import annotations

from dataclasses import replace

import pytest
from headrace_cloud_worker.adapters.providers import offered_providers
from headrace_cloud_worker.decide.offers import (
    ProvidersInvalid,
    choose_provider,
    parse_providers,
    with_undated_names,
)
from headrace_cloud_worker.decide.privacy import forbid
from headrace_cloud_worker.settings import CloudWorkerSettings
from headrace_contracts.events import Privacy
from headrace_models.dialects import PRESETS
from headrace_models.ports import ModelInfo
from headrace_testing.workers import ScriptedProvider, attempt, healthy


def test_sensitive_content_is_forbidden_and_nothing_else() -> None:
    objections = {level: forbid(attempt(privacy=level)) for level in Privacy}
    assert {level for level, objection in objections.items() if objection is not None} == {Privacy.SENSITIVE}
    refused = objections[Privacy.SENSITIVE]
    assert refused is not None
    assert refused.code == "privacy_violation"


def test_further_providers_are_listed_with_their_key_and_dialect() -> None:
    mistral, gateway, gpu, own, named = parse_providers(
        (
            "mistral=https://api.mistral.ai/v1/=MISTRAL_API_KEY",
            "eu=https://eu.api.mistral.ai/v1=EU_KEY",
            "gpu=http://gpu:8000/v1==vllm;seed=off",
            "own=http://h/v1=KEY=limit=max_completion_tokens;usage=off",
            "openai=https://proxy.example/v1=OPENAI_API_KEY",
        )
    )
    assert (mistral.url, mistral.key_variable) == ("https://api.mistral.ai/v1", "MISTRAL_API_KEY")
    assert mistral.dialect == gateway.dialect == PRESETS["mistral"]
    assert (gpu.key_variable, gpu.dialect) == ("", replace(PRESETS["vllm"], seed=None))
    assert own.dialect == replace(PRESETS["generic"], limit="max_completion_tokens", usage=False)
    assert named.dialect == PRESETS["openai"]


@pytest.mark.parametrize(
    "entry",
    [
        "mistral", "mistral=https://a", "Mistral=https://a=KEY", "m=ftp://a=KEY", "m=https://a=key", "groq=http://a=K",
        "m=http://h/p?a=b=KEY", "m=http://u:p@h/p=KEY", "m=http://h=K=unheard-of", "m=http://h=K=vllm;seed=maybe",
        "m=http://h=K=vllm;colour=on", "m=http://h=K=stops=many",
    ],
)  # fmt: skip
def test_a_list_of_providers_that_makes_no_sense_is_refused(entry: str) -> None:
    with pytest.raises(ProvidersInvalid):
        parse_providers((entry,))


def test_two_providers_of_one_name_are_refused() -> None:
    with pytest.raises(ProvidersInvalid, match="taken"):
        parse_providers(("a=http://x=K", "a=http://y=L"))


async def test_a_provider_without_a_key_is_not_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("GROQ_API_KEY", "ANTHROPIC_API_KEY", "TAVILY_API_KEY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HEADRACE_OPENAI_COMPATIBLE", "a=http://x=A_KEY,b=http://y=B_KEY,c=http://z=")
    assert [provider.node for provider in offered_providers(CloudWorkerSettings.load(), {})] == ["c"]
    monkeypatch.setenv("ANTHROPIC_API_KEY", "k")
    monkeypatch.setenv("TAVILY_API_KEY", "k")
    providers = offered_providers(CloudWorkerSettings.load(), {"B_KEY": "k", "A_KEY": ""})
    assert [provider.node for provider in providers] == ["anthropic", "tavily", "b", "c"]
    for provider in providers:
        await provider.close()


def test_dated_models_are_known_without_their_date_too() -> None:
    listed = (ModelInfo("claude-a-20250929"), ModelInfo("claude-b"), ModelInfo("claude-b-20250101"), ModelInfo("m-20b"))
    names = [model.name for model in with_undated_names(listed)]
    assert names == ["claude-a-20250929", "claude-b", "claude-b-20250101", "m-20b", "claude-a"]


def test_a_provider_is_asked_for_models_that_it_does_not_list() -> None:
    view = healthy(ScriptedProvider(provider="groq", node="groq", models=())).view()
    assert choose_provider([view], "brand-new") is view
    assert choose_provider([], "brand-new") is None

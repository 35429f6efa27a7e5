"""What the workers make of their settings."""

from __future__ import annotations

from typing import Any

import pytest
from headrace_cloud_worker.adapters.batches import batch_setup
from headrace_cloud_worker.adapters.providers import offered_providers
from headrace_cloud_worker.settings import CloudWorkerSettings
from headrace_local_worker.settings import LocalWorkerSettings
from headrace_models.conversation import ChatMessage
from headrace_models.ollama_requests import body_of, embed_body_of
from headrace_models.ports import ChatRequest, EmbedRequest
from headrace_models.worker.batches.observing import BatchObserver
from headrace_streams.kafka import KafkaLog
from pydantic import SecretStr, ValidationError

WORKERS = [LocalWorkerSettings, CloudWorkerSettings]


@pytest.mark.parametrize("settings", WORKERS)
def test_a_worker_that_comes_or_goes_moves_no_more_than_it_must(
    settings: type[LocalWorkerSettings | CloudWorkerSettings],
) -> None:
    assert settings().kafka_config()["partition.assignment.strategy"] == "cooperative-sticky"


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("settings", WORKERS)
async def test_a_worker_may_be_a_static_member(
    settings: type[LocalWorkerSettings | CloudWorkerSettings], static: bool
) -> None:
    config = settings(static_member=static, instance_id="pod-1", bootstrap_servers="127.0.0.1:1").kafka_config()
    assert config.get("group.instance.id") == ("pod-1" if static else None)
    await KafkaLog(config).consumer("g", instance_id="pod-1" if static else None).close()


@pytest.mark.parametrize(
    ("keep_alive", "told"),
    [("30m", "30m"), ("1h30m", "1h30m"), ("90", 90), ("-1", -1), ("-1s", "-1s"), ("0", 0), ("node", None)],
)
def test_a_node_is_told_how_long_to_keep_a_model_as_it_reads_it(keep_alive: str, told: str | int | None) -> None:
    kept = LocalWorkerSettings(keep_alive=keep_alive).node_keep_alive()

    assert kept == told
    request = ChatRequest(model="m", messages=(ChatMessage("user", "Hello."),), timeout_seconds=9.0)
    for body in (
        body_of(request, None, keep_alive=kept),
        embed_body_of(EmbedRequest("m", ("a",), 9.0), None, keep_alive=kept),
    ):
        assert body.get("keep_alive") == told
        assert ("keep_alive" in body) == (told is not None)


@pytest.mark.parametrize("wrong", ["soon", "5 m", "m", "1.5", "--1"])
def test_a_duration_that_no_node_reads_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="keep_alive"):
        LocalWorkerSettings(keep_alive=wrong)


def test_batches_are_switched_on_by_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_GROQ_BATCHES", "true")
    monkeypatch.setenv(
        "HEADRACE_OPENAI_COMPATIBLE", "openai=https://api.openai.com/v1=OPENAI_API_KEY,lab=http://lab/v1="
    )
    monkeypatch.setenv("HEADRACE_OPENAI_COMPATIBLE_BATCHES", "openai")
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    settings = CloudWorkerSettings(
        groq_api_key=SecretStr("k"), anthropic_api_key=SecretStr("k"), tavily_api_key=SecretStr("k")
    )
    providers = offered_providers(settings, {"OPENAI_API_KEY": "key"})
    setup = batch_setup(settings, providers, BatchObserver())
    assert setup.switched_on == {"groq", "openai"}
    # Batches that were submitted before one was switched off are brought to their end.
    assert set(setup.clients) == {"groq", "anthropic", "openai", "lab"}


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"openai_compatible_batches": ("nobody",)}, "names nobody"),
        ({"batch_least_seconds": 1200.0}, "must be at least 1230"),
        ({"batch_gather_seconds": 0}, "greater than 0"),
        ({"batch_attempts": 0}, "greater than or equal to 1"),
        ({"batch_mebibytes": 201}, "less than or equal to 200"),
        ({"batch_look_seconds": 0}, "greater than or equal to 0.1"),
        ({"groq_batches": "perhaps"}, "boolean"),
    ],
)
def test_settings_of_batches_that_cannot_be_are_refused(wrong: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        CloudWorkerSettings(**wrong)

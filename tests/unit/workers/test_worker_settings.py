"""What the workers make of their settings."""

from __future__ import annotations

import pytest
from headrace_cloud_worker.settings import CloudWorkerSettings
from headrace_local_worker.settings import LocalWorkerSettings
from headrace_models.conversation import ChatMessage
from headrace_models.ollama_requests import body_of, embed_body_of
from headrace_models.ports import ChatRequest, EmbedRequest
from headrace_streams.kafka import KafkaLog

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

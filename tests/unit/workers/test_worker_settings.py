"""What the workers make of their settings."""

from __future__ import annotations

import pytest
from headrace_cloud_worker.settings import CloudWorkerSettings
from headrace_local_worker.settings import LocalWorkerSettings
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

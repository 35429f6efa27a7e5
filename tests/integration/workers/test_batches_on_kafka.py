"""The cloud worker with batches as its wiring builds it, on real Kafka and registry, with simulated providers."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from headrace_cloud_worker.settings import CloudWorkerSettings
from headrace_cloud_worker.wiring import build
from headrace_contracts import events, topics
from headrace_contracts.codec import Codec
from headrace_contracts.content import plain
from headrace_contracts.errors import Origin
from headrace_contracts.events import Lane, Outcome, Privacy
from headrace_contracts.registry import SchemaRegistry
from headrace_models.simulator.batch_jobs import BatchFault
from headrace_models.simulator.pace import Speed
from headrace_models.simulator.server import Simulator, SimulatorConfig
from headrace_streams.kafka import KafkaLog
from headrace_streams.publishing import Publication, Publisher
from headrace_testing.provisioned import provision_patiently
from headrace_testing.services_on_kafka import living
from headrace_testing.workers import attempt, now_ms
from pydantic import SecretStr

pytestmark = pytest.mark.stack

MODELS = {"groq": "llama-3.1-8b-instant", "anthropic": "claude-sonnet-4-6"}
QUICK: dict[str, Any] = {
    "batch_gather_seconds": 0.5, "batch_look_seconds": 0.2, "batch_least_seconds": 10.0, "batch_reserve_seconds": 4.0,
}  # fmt: skip


class Bed:
    """Topics, a simulator, and what stands in the topics."""

    def __init__(self, kafka: str, registry_url: str, prefix: str, simulator: Simulator, codec: Codec) -> None:
        self.kafka = kafka
        self.simulator = simulator
        self.common: dict[str, Any] = {
            "bootstrap_servers": kafka, "registry_url": registry_url, "topic_prefix": prefix,
            "groq_url": simulator.groq_url, "anthropic_url": simulator.anthropic_url,
        }  # fmt: skip
        self._prefix = prefix
        self._codec = codec
        self.log = KafkaLog({"bootstrap.servers": kafka})
        self._producer = self.log.producer()
        self._publisher = Publisher(self._producer, codec, "headrace/test")

    async def submit(self, provider: str, tasks: list[str], **changes: Any) -> None:
        for task in tasks:
            values: dict[str, Any] = {
                "provider": provider, "model": MODELS[provider], "lane": Lane.BATCH, "home_partition": 4,
                "deadline_at": now_ms() + 3_600_000,
                "messages": (events.Message(role="user", content=plain(f"about {task}")),),
            } | changes  # fmt: skip
            request = attempt(task, **values)
            await self._publisher.send(
                Publication(
                    spec=topics.WORK_CLOUD_BATCH, event=request, event_id=request.attempt_id, key=task.encode(),
                    tenant=request.tenant, time_ms=request.requested_at, subject=task, ordered=False,
                )
            )  # fmt: skip

    async def read(self, spec: topics.TopicSpec, enough: Callable[[list[Any]], bool]) -> list[Any]:
        """The events of a topic, once there are enough; None for a tombstone."""
        reader = self.log.reader()
        partitions = await reader.partitions_of(self._prefix + spec.name)
        await reader.assign(dict.fromkeys(partitions, 0))
        found: list[Any] = []
        async with asyncio.timeout(60):
            while not enough(found):
                for record in await reader.poll(100, 0.2):
                    origin = Origin(record.topic, record.partition, record.offset)
                    found.append(
                        None if record.value is None else self._codec.decode(spec.record, record.value, origin)
                    )
        await reader.close()
        return found

    async def ends(self, count: int) -> dict[str, events.AttemptFinished]:
        found = await self.read(
            topics.ATTEMPTS_FINISHED_CLOUD, lambda ends: len({end.task_id for end in ends}) >= count
        )
        return {end.task_id: end for end in found}

    async def close(self) -> None:
        await self._producer.close()


@pytest.fixture
async def bed(kafka: str, registry_url: str, topic_prefix: str) -> AsyncIterator[Bed]:
    async with SchemaRegistry(registry_url) as registry, Simulator(SimulatorConfig(speed=Speed(None))) as simulator:
        codec = Codec(registry, topic_prefix)
        made = Bed(kafka, registry_url, topic_prefix, simulator, codec)
        await provision_patiently(made.log.admin(), codec, tuple(topics.TOPICS.values()))
        yield made
        await made.close()


@pytest.mark.timeout(120)
async def test_batch_work_goes_out_in_batches_and_other_work_as_before(bed: Bed) -> None:
    settings = CloudWorkerSettings(
        **bed.common, **QUICK, instance_id="c-1", groq_api_key=SecretStr("key"), anthropic_api_key=SecretStr("key"),
        groq_batches=True, anthropic_batches=True,
    )  # fmt: skip
    bed.simulator.batches.plan("anthropic", BatchFault.EXPIRED)
    await bed.submit("groq", ["g-1", "g-2", "g-3"])
    await bed.submit("anthropic", ["a-1", "a-2"])
    # Too little time for a batch.
    await bed.submit("groq", ["soon"], deadline_at=now_ms() + 9_000)
    await bed.submit("groq", ["secret"], privacy=Privacy.SENSITIVE)
    async with living(build(settings)):
        ends = await bed.ends(7)
        rows = await bed.read(topics.USAGE_RECORDED, lambda rows: len(rows) >= 6)
        await bed.read(topics.PROVIDER_BATCHES, lambda found: found.count(None) >= 2)
    assert {task: end.outcome for task, end in ends.items() if task != "secret"} == dict.fromkeys(
        ("g-1", "g-2", "g-3", "a-1", "a-2", "soon"), Outcome.ANSWERED
    )
    assert ends["secret"].failure is not None
    assert ends["secret"].failure.code == "privacy_violation"
    # One of Anthropic's two expired, and was called by itself.
    assert sorted(row.task_id for row in rows if row.batch and row.provider == "groq") == ["g-1", "g-2", "g-3"]
    assert sum(row.batch for row in rows if row.provider == "anthropic") == 1
    assert all(row.simulated and row.usage.input_tokens > 0 for row in rows)
    assert not next(row for row in rows if row.task_id == "soon").batch
    assert bed.simulator.files.files == ()
    assert bed.simulator.evidence.search(["about secret"]) == []


WORKER = """
import sys
from headrace_runtime.main import main
from headrace_cloud_worker.settings import CloudWorkerSettings
from headrace_cloud_worker.wiring import build
sys.exit(main(CloudWorkerSettings, build))
"""


@asynccontextmanager
async def worker_process(bed: Bed, name: str, log: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    environment = {
        **os.environ,
        **{f"HEADRACE_{key.upper()}": str(value) for key, value in {**bed.common, **QUICK}.items()},
        "HEADRACE_INSTANCE_ID": name, "HEADRACE_OPS_PORT": "0", "GROQ_API_KEY": "key", "HEADRACE_GROQ_BATCHES": "true",
    }  # fmt: skip
    with log.open("w") as out:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", WORKER, env=environment, stdout=out, stderr=out
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
        await process.wait()


async def until(true: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end, what
        await asyncio.sleep(0.02)


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("when", ["gathered", "submitting", "submitted"])
async def test_another_worker_goes_on_after_kill_9(bed: Bed, tmp_path: Path, when: str) -> None:
    if when == "submitting":
        # The answer with the batch's id never comes: the worker looks for it, and is killed.
        bed.simulator.batches.plan("groq", BatchFault.UNHEARD)
    else:
        bed.simulator.batches.plan("groq", BatchFault.STUCK)
    tasks = [f"t-{number}" for number in range(5)]
    await bed.submit("groq", tasks, deadline_at=now_ms() + 60_000 if when == "submitted" else now_ms() + 3_600_000)
    jobs = bed.simulator.batches
    async with worker_process(bed, "first", tmp_path / "first.log") as first:
        if when == "gathered":
            await bed.read(topics.PROVIDER_BATCHES, lambda found: len(found) >= 1)
        else:
            await until(lambda: len(jobs.newest("groq")) == 1, (tmp_path / "first.log").read_text()[-2000:])
        first.send_signal(signal.SIGKILL)
        await first.wait()
    for job in jobs.newest("groq"):
        if when != "submitted":
            job.ends_at = 0.0
    async with worker_process(bed, "second", tmp_path / "second.log"):
        if when == "gathered":
            await until(lambda: len(jobs.newest("groq")) == 1, "it is submitted")
            jobs.newest("groq")[0].ends_at = 0.0
        ends = await bed.ends(5)
        rows = await bed.read(topics.USAGE_RECORDED, lambda rows: len({row.task_id for row in rows}) >= 5)
        await bed.read(topics.PROVIDER_BATCHES, lambda found: None in found)
    assert {end.outcome for end in ends.values()} == {Outcome.ANSWERED}
    assert len(jobs.newest("groq")) == 1
    assert len({row.event_id for row in rows}) == 5
    # A batch that is not done in time is cancelled: half of it is there, and the rest is called.
    assert sum(row.batch for row in rows) == (2 if when == "submitted" else 5)

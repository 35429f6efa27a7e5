"""A cloud worker that is killed in the middle of its calls, on real Kafka: what the provider served is known."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from headrace_contracts import events, topics
from headrace_contracts.codec import Codec
from headrace_contracts.errors import Origin
from headrace_contracts.events import Outcome
from headrace_contracts.registry import SchemaRegistry
from headrace_models.simulator.pace import Speed
from headrace_models.simulator.server import Simulator, SimulatorConfig
from headrace_streams.kafka import KafkaLog
from headrace_streams.publishing import Publication, Publisher
from headrace_testing.engine import eventually
from headrace_testing.provisioned import provision_patiently
from headrace_testing.workers import attempt

pytestmark = [pytest.mark.stack, pytest.mark.long]

COUNT, WORST, MODEL = 6, 123_456, "llama-3.3-70b-versatile"


class Reading:
    """All events of a topic, as far as they have been read."""

    def __init__(self, log: KafkaLog, codec: Codec, spec: topics.TopicSpec) -> None:
        self._log, self._codec, self._spec = log, codec, spec
        self.found: list[Any] = []

    async def all(self) -> Sequence[Any]:
        name = self._codec.topic_prefix + self._spec.name
        reader = self._log.reader()
        try:
            partitions = await reader.partitions_of(name)
            ends = {part: end for part, (_, end) in (await reader.bounds(partitions)).items()}
            await reader.assign(dict.fromkeys(partitions, 0))
            self.found.clear()
            while any(reader.positions()[part] < end for part, end in ends.items()):
                for record in await reader.poll(1_000, 1.0):
                    origin = Origin(record.topic, record.partition, record.offset)
                    self.found.append(await self._codec.read(self._spec.record, record.value, origin))
        finally:
            await reader.close()
        return self.found


@pytest.mark.timeout(180)
async def test_every_call_of_a_killed_worker_is_marked(
    kafka: str, registry_url: str, topic_prefix: str, tmp_path: Path
) -> None:
    log = KafkaLog({"bootstrap.servers": kafka})
    async with (
        SchemaRegistry(registry_url) as registry,
        Simulator(SimulatorConfig(speed=Speed(0.2))) as simulator,
    ):
        codec = Codec(registry, topic_prefix)
        await provision_patiently(log.admin(), codec, tuple(topics.TOPICS.values()))
        environment = os.environ | {
            "HEADRACE_BOOTSTRAP_SERVERS": kafka, "HEADRACE_REGISTRY_URL": registry_url,
            "HEADRACE_TOPIC_PREFIX": topic_prefix, "HEADRACE_OPS_HOST": "127.0.0.1", "HEADRACE_OPS_PORT": "0",
            "GROQ_API_KEY": "simulated", "HEADRACE_GROQ_URL": simulator.groq_url,
        }  # fmt: skip
        with (tmp_path / "workers.log").open("wb") as output:

            async def worker(name: str) -> asyncio.subprocess.Process:
                return await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "headrace_cloud_worker", env=environment | {"HEADRACE_INSTANCE_ID": name},
                    stdout=output, stderr=output,
                )  # fmt: skip

            first = await worker("cloud-1")
            producer = log.producer()
            publisher = Publisher(producer, codec, "headrace/test")
            for number in range(COUNT):
                request = attempt(
                    f"task-{number}", provider="groq", model=MODEL, home_partition=number % 6,
                    worst_case_nanodollars=WORST, tenant=f"tenant-{number % 2}",
                )  # fmt: skip
                await publisher.send(
                    Publication(
                        spec=topics.WORK_CLOUD_INTERACTIVE, event=request, event_id=request.attempt_id,
                        key=f"p:{number}".encode(), tenant=request.tenant, time_ms=request.requested_at,
                    )
                )  # fmt: skip
            served = simulator.evidence
            second = None
            try:
                await eventually(lambda: len(served.of("groq")) == COUNT, "all are called for")
                first.kill()
                await first.wait()
                assert await Reading(log, codec, topics.ATTEMPTS_FINISHED_CLOUD).all() == []
                second = await worker("cloud-2")
                reports = Reading(log, codec, topics.ATTEMPTS_FINISHED_CLOUD)
                async with asyncio.timeout(120):
                    while len(await reports.all()) < COUNT:  # noqa: ASYNC110 - looks at what has no event
                        await asyncio.sleep(0.5)
                second.terminate()
                assert await asyncio.wait_for(second.wait(), 60) == 0
            finally:
                for process in (first, second):
                    if process is not None and process.returncode is None:
                        process.kill()
                        await process.wait()
        await producer.close()
        started = await Reading(log, codec, topics.ATTEMPTS_STARTED).all()
        usage = await Reading(log, codec, topics.USAGE_RECORDED).all()
    lost = [one for one in usage if one.outcome is Outcome.LOST]
    known = [one for one in usage if one.outcome is not Outcome.LOST]
    by_worker = {one.execution_id: one.worker for one in started}
    assert len(served.of("groq")) == len(started) == 2 * COUNT, "each attempt was called for by both workers, once"
    assert {by_worker[one.execution_id] for one in lost} == {"cloud-1"}
    assert {by_worker[one.execution_id] for one in known} == {"cloud-2"}
    assert len(lost) == len(known) == len({one.event_id for one in lost}) == COUNT
    assert all(one.possibly_billed_nanodollars == WORST and one.usage == events.Usage() for one in lost)
    assert all(one.usage.output_tokens > 0 for one in known)
    for report in reports.found:
        assert [by_worker[one.execution_id] for one in report.lost] == ["cloud-1"]
        assert (report.worker, [one.worker for one in report.lost]) == ("cloud-2", ["cloud-1"])

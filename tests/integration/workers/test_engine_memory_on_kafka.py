"""Records of 52 KiB in a process with the memory of a small container: it goes on. Without limits it would die."""

from __future__ import annotations

import asyncio
import os
import sys

import pytest
from headrace_streams.kafka import KafkaLog
from headrace_streams.records import NewTopic, ProducerRecord

pytestmark = pytest.mark.stack

MIB = 1024 * 1024
COUNT, SIZE = 5_000, 52 * 1024
LIMIT = 320 * MIB


@pytest.fixture
async def topic(kafka: str, topic_prefix: str) -> str:
    name = f"{topic_prefix}work"
    log = KafkaLog({"bootstrap.servers": kafka})
    await log.admin().create_topics([NewTopic(name, 6, 1)])
    producer = log.producer()
    for begin in range(0, COUNT, 250):
        numbers = range(begin, begin + 250)
        await asyncio.gather(*(producer.send(ProducerRecord(name, bytes(SIZE), b"%d" % number)) for number in numbers))
    await producer.close()
    return name


async def consume(kafka: str, topic: str, *options: str) -> tuple[int | None, str]:
    """The exit code and output of a process that handles all records."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "headrace_testing.limited_consumer", kafka, topic, str(COUNT), str(LIMIT), *options,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(60):
            output, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        return None, "not done in time"
    return process.returncode, output.decode()


async def test_a_small_process_handles_260_mib_of_records(kafka: str, topic: str) -> None:
    code, output = await consume(kafka, topic)
    assert code == 0, output
    done, peak = map(int, output.split())
    assert done == COUNT
    assert peak < LIMIT

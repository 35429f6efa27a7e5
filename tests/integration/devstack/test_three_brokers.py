"""Three real brokers: one dies under load, another takes over, nothing is lost, and the folder keeps its number."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from headrace_contracts.limits import DEFAULT_REQUEST_BYTES, record_bytes
from headrace_devstack.artifacts import ArtifactCache
from headrace_devstack.layout import open_data_folder
from headrace_devstack.parts.java import QUICK
from headrace_devstack.parts.kafka import kafka_parts
from headrace_devstack.ports import PortPlan, choose_base
from headrace_devstack.settings import load_settings
from headrace_devstack.status import DownloadBar
from headrace_devstack.supervisor import Supervisor
from headrace_streams.errors import AppendUncertain
from headrace_streams.kafka import KafkaLog
from headrace_streams.records import NewTopic, ProducerRecord, Record, RecordMetadata, TopicPartition
from headrace_testing.up import launch_up, open_folder
from rich.console import Console

TOPIC = "numbers"
PARTITIONS = 3
PAUSE_SECONDS = 0.005


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder("brokers") as path:
        yield path


@dataclass(frozen=True)
class Cluster:
    """Brokers under their supervisor, and what they say of their topic."""

    bootstrap_servers: str
    supervisor: Supervisor
    admin: AdminClient

    def pid(self, node: int) -> int | None:
        return next(part.pid for part in self.supervisor.status() if part.name == f"kafka-{node}")

    def partitions(self) -> dict[int, Any]:
        return dict(self.admin.list_topics(TOPIC, timeout=5).topics[TOPIC].partitions)

    def leader(self, partition: int) -> int:
        return int(self.partitions()[partition].leader)

    def in_sync(self) -> set[int]:
        return {len(partition.isrs) for partition in self.partitions().values()}


@asynccontextmanager
async def running_brokers(data: Path) -> AsyncIterator[Cluster]:
    """As `headrace up` runs them, on other ports each time."""
    jars = ArtifactCache(load_settings().cache).fetch(DownloadBar(Console(stderr=True))).kafka_jars
    with open_data_folder(data) as folder:
        ports = PortPlan(choose_base(), 3)
        supervisor = Supervisor(kafka_parts(folder, ports, jars, options=QUICK), lambda _: None)
        try:
            await supervisor.start()
            servers = ports.bootstrap_servers
            yield Cluster(servers, supervisor, AdminClient({"bootstrap.servers": servers}))
        finally:
            await supervisor.stop()


async def until(condition: Callable[[], bool], seconds: float = 90.0) -> float:
    """The seconds that it took. A cluster that does not answer just now is asked again."""

    def holds() -> bool:
        try:
            return condition()
        except KafkaException:
            return False

    began = time.monotonic()
    while not await asyncio.to_thread(holds):
        assert time.monotonic() < began + seconds, "did not come about in time"
        await asyncio.sleep(0.1)
    return time.monotonic() - began


async def produce(log: KafkaLog, appended: set[int], end: asyncio.Event) -> int:
    """Send numbers to all partitions until told to end; how many were sent."""
    producer = log.producer()
    waiting: dict[int, asyncio.Future[RecordMetadata]] = {}

    def settle(numbers: list[int]) -> None:
        for one in numbers:
            # The broker that died may have taken the record, and its answer with it: the log has the record, which is
            # what the test reads, and nobody knows its offset.
            with suppress(AppendUncertain):
                waiting.pop(one).result()
            appended.add(one)

    number = 0
    while not end.is_set():
        waiting[number] = producer.send(ProducerRecord(TOPIC, b"%d" % number, partition=number % PARTITIONS))
        number += 1
        settle([one for one, future in waiting.items() if future.done()])
        await asyncio.sleep(PAUSE_SECONDS)
    await producer.close()
    settle([*waiting])
    return number


async def consume(log: KafkaLog, into: list[Record]) -> None:
    reader = log.reader()
    await reader.assign({TopicPartition(TOPIC, partition): 0 for partition in range(PARTITIONS)})
    try:
        while True:
            into += await reader.poll(1_000, 0.5)
    finally:
        await reader.close()


async def test_one_of_three_dies_under_load_and_nothing_is_lost_or_doubled(folder: Path) -> None:
    async with running_brokers(folder / "data") as cluster:
        log = KafkaLog({"bootstrap.servers": cluster.bootstrap_servers})
        config = (("max.message.bytes", str(record_bytes(DEFAULT_REQUEST_BYTES))),)
        await log.admin().create_topics([NewTopic(TOPIC, PARTITIONS, 3, config)])
        await until(lambda: cluster.in_sync() == {3})
        appended: set[int] = set()
        read: list[Record] = []
        end = asyncio.Event()
        producing = asyncio.create_task(produce(log, appended, end))
        consuming = asyncio.create_task(consume(log, read))
        try:
            await until(lambda: len(read) > 100)
            victim = cluster.leader(0)
            before = cluster.pid(victim)
            assert before
            os.kill(before, signal.SIGKILL)
            died_at = len(appended)

            await until(lambda: cluster.leader(0) not in (victim, -1))
            # New records in all partitions, those that the dead broker had led included, are acknowledged and read.
            await until(lambda: len(appended) > died_at + 100)
            await until(lambda: cluster.in_sync() == {3})
            assert cluster.pid(victim) not in (None, before)
            end.set()
            sent = await producing
            await until(lambda: len(read) >= sent)
        finally:
            for task in (producing, consuming):
                task.cancel()
            with suppress(asyncio.CancelledError):
                await consuming
        assert len(appended) == sent
        numbers = [int(record.value or b"") for record in read]
        assert sorted(numbers) == list(range(sent))
        for partition in range(PARTITIONS):
            of_partition = [int(record.value or b"") for record in read if record.partition == partition]
            assert of_partition == sorted(of_partition), "order is kept over the change of the leader"

    other = launch_up(folder, "--backing-only", "--brokers", "1")
    assert other.wait(60) == 1
    assert "was started with 3 Kafka brokers, and 1 cannot run on it" in (folder / "up.log").read_text()

    async with running_brokers(folder / "data") as cluster:
        bounds = (
            await KafkaLog({"bootstrap.servers": cluster.bootstrap_servers})
            .admin()
            .bounds([TopicPartition(TOPIC, partition) for partition in range(PARTITIONS)])
        )
        assert sum(following for _, following in bounds.values()) == sent

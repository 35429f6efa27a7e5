"""One embedded Kafka for the whole run, and topics filled in advance."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

from headrace_devstack.artifacts import ArtifactCache
from headrace_devstack.errors import ReadThePartLog
from headrace_devstack.layout import open_data_folder
from headrace_devstack.parts.kafka import kafka_parts
from headrace_devstack.parts.part import NotHealthyYet
from headrace_devstack.ports import PortPlan, choose_base
from headrace_devstack.processes import end, launch
from headrace_devstack.settings import load_settings
from headrace_devstack.status import DownloadBar
from headrace_streams.kafka import KafkaLog
from headrace_streams.records import NewTopic, ProducerRecord
from rich.console import Console

_WINDOW = 20_000
"""Records queued at once: librdkafka refuses more than 100,000."""


@asynccontextmanager
async def running_kafka(folder: Path) -> AsyncIterator[str]:
    """Kafka on free ports with its data below `folder`, from healthy to ended; yields its bootstrap servers.

    Raises GoOnline and the like when it is not in the cache and cannot be downloaded, ReadThePartLog when it does not
    come up.
    """
    settings = load_settings()
    bundles = ArtifactCache(settings.cache, settings.maven_repository).fetch(DownloadBar(Console(stderr=True)))
    with open_data_folder(folder) as data:
        ports = PortPlan(choose_base())
        (part,) = kafka_parts(data, ports, bundles.kafka_jars)
        await part.prepare()
        process = await launch(part.command)
        try:
            deadline = time.monotonic() + part.start_seconds
            while True:
                try:
                    await part.check()
                    break
                except (NotHealthyYet, OSError) as error:
                    if process.returncode is not None or time.monotonic() > deadline:
                        raise ReadThePartLog(
                            f"Kafka did not come up: {error}.\n{part.command.log.read_text(errors='replace')[-2000:]}",
                            "read the lines above.",
                        ) from error
                await asyncio.sleep(0.1)
            yield ports.bootstrap_servers
        finally:
            await end(process, part.command)


async def create(bootstrap: str, *topics: NewTopic) -> None:
    """Create topics."""
    await KafkaLog({"bootstrap.servers": bootstrap}).admin().create_topics(topics)


async def fill(bootstrap: str, records: Iterable[ProducerRecord]) -> None:
    """Append these records, in order."""
    # The defaults send every record at once; this is only preparation, and large batches are what consumers of a
    # backlog find.
    producer = KafkaLog({"bootstrap.servers": bootstrap, "linger.ms": 20}).producer()
    waiting: list[asyncio.Future[object]] = []
    for record in records:
        waiting.append(producer.send(record))  # type: ignore[arg-type]
        if len(waiting) == _WINDOW:
            await asyncio.gather(*waiting)
            waiting.clear()
    await asyncio.gather(*waiting)
    await producer.close()

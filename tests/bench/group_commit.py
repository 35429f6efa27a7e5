"""What group commits would save: ways to append decisions to a partitioned journal, alternating on one broker.

Decisions become due at a fixed rate, each in one of six partitions at random. Their times count from when they were
due, and the processor time of the writer (this process) and of the broker is divided by the decisions. The ways:

record     a record for each decision, sent at once: what Headrace does
linger-N   the same, and librdkafka waits N ms for others to the same partition
one        the same, with one request at a time to the broker, so that what comes meanwhile shares the next one
window-N   the decisions of a partition are kept back while its last record is not acknowledged, but at most N ms, and
           then sent together, a record each
group-N    the same, and what is sent together is one record

A decision has the size of a journal entry, and encoding it is left out: it costs the same in each way.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import random
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path

import psutil
from broker_start import computed
from headrace_devstack.artifacts import ArtifactCache
from headrace_devstack.layout import open_data_folder
from headrace_devstack.parts.kafka import kafka_parts
from headrace_devstack.ports import PortPlan, choose_base
from headrace_devstack.settings import load_settings
from headrace_devstack.status import DownloadBar
from headrace_devstack.supervisor import Supervisor
from headrace_streams.kafka import KafkaLog
from headrace_streams.kafka.producer import KafkaProducer
from headrace_streams.records import NewTopic, ProducerRecord, RecordMetadata
from rich.console import Console

TOPIC = "bench"
PARTITIONS = 6
ENTRY = b"x" * 900
HEADERS = tuple(
    (f"ce_{name}", b"the value of a header") for name in ("specversion", "id", "type", "source", "time", "tenant")
)
_TURN_SECONDS = 0.001

Told = Callable[[RecordMetadata], None]


@dataclass(frozen=True, slots=True)
class Append:
    """Figures of one way at one rate.

    Attributes:
        p50, p99: Milliseconds from when a decision was due until it was acknowledged.
        writer, broker: Microseconds of processor time for a decision.
        records: Records for a decision.
    """

    p50: float
    p99: float
    writer: float
    broker: float
    records: float


class Each:
    """A record for each decision, sent at once."""

    def __init__(self, bootstrap: str, **properties: str | int) -> None:
        self._producer = KafkaProducer({"bootstrap.servers": bootstrap, **properties}, logging.getLogger("bench"))

    def append(self, partition: int, told: Told) -> None:
        self._send(partition, ENTRY, told)

    def _send(self, partition: int, value: bytes, told: Told) -> None:
        record = ProducerRecord(TOPIC, value, b"the id of a task", partition, HEADERS)
        self._producer.send(record).add_done_callback(lambda done: told(done.result()))

    async def flush(self) -> None:
        """Wait until everything is acknowledged."""
        await self._producer.flush()
        # The callbacks of the last ones.
        await asyncio.sleep(0)

    async def close(self) -> None:
        await self._producer.close()


class Grouped(Each):
    """Decisions that come while the partition's last ones are not acknowledged go together."""

    def __init__(self, bootstrap: str, longest_seconds: float, *, one_record: bool) -> None:
        super().__init__(bootstrap)
        self._longest_seconds = longest_seconds
        self._one_record = one_record
        self._loop = asyncio.get_running_loop()
        self._kept: defaultdict[int, list[Told]] = defaultdict(list)
        self._closing: dict[int, asyncio.Handle] = {}
        self._in_flight: Counter[int] = Counter()

    def append(self, partition: int, told: Told) -> None:
        self._kept[partition].append(told)
        if partition in self._closing:
            return
        if self._in_flight[partition]:
            self._closing[partition] = self._loop.call_later(self._longest_seconds, self._close, partition)
        else:
            # With what else this turn of the event loop decides.
            self._closing[partition] = self._loop.call_soon(self._close, partition)

    async def flush(self) -> None:
        while self._closing or any(self._in_flight.values()):
            await asyncio.sleep(_TURN_SECONDS)
            await super().flush()

    def _close(self, partition: int) -> None:
        self._closing.pop(partition).cancel()
        kept = self._kept.pop(partition)
        groups = [kept] if self._one_record else [[each] for each in kept]
        self._in_flight[partition] += len(groups)
        for group in groups:
            self._send(partition, ENTRY * len(group), partial(self._acknowledged, group))

    def _acknowledged(self, group: list[Told], appended: RecordMetadata) -> None:
        self._in_flight[appended.partition] -= 1
        for told in group:
            told(appended)
        if not self._in_flight[appended.partition] and appended.partition in self._closing:
            self._close(appended.partition)


WAYS: dict[str, Callable[[str], Each]] = {
    "record": Each,
    "linger-2": lambda bootstrap: Each(bootstrap, **{"linger.ms": 2}),
    "linger-5": lambda bootstrap: Each(bootstrap, **{"linger.ms": 5}),
    "linger-10": lambda bootstrap: Each(bootstrap, **{"linger.ms": 10}),
    "one": lambda bootstrap: Each(bootstrap, **{"max.in.flight.requests.per.connection": 1}),
    "window-10": lambda bootstrap: Grouped(bootstrap, 0.010, one_record=False),
    "group-10": lambda bootstrap: Grouped(bootstrap, 0.010, one_record=True),
    "group-25": lambda bootstrap: Grouped(bootstrap, 0.025, one_record=True),
}


async def append(way: str, bootstrap: str, broker: psutil.Process, rate: float, seconds: float) -> Append:
    """Append decisions at a rate, for so long."""
    writer, me, choose = WAYS[way](bootstrap), psutil.Process(), random.Random(way)
    waited: list[float] = []
    places: set[tuple[int, int]] = set()

    def told(due: float) -> Told:
        def acknowledged(appended: RecordMetadata) -> None:
            waited.append(time.perf_counter() - due)
            places.add((appended.partition, appended.offset))

        return acknowledged

    # The first record finds out about the brokers.
    first = asyncio.Event()
    writer.append(0, lambda appended: first.set())
    await first.wait()
    before, start, sent = (computed(me), computed(broker)), time.perf_counter(), 0
    while (passed := time.perf_counter() - start) < seconds:
        while sent < int(passed * rate):
            writer.append(choose.randrange(PARTITIONS), told(start + sent / rate))
            sent += 1
        await asyncio.sleep(max(_TURN_SECONDS, 0.25 / rate))
    await writer.flush()
    after = computed(me), computed(broker)
    await writer.close()
    waited.sort()
    return Append(
        p50=waited[len(waited) // 2] * 1e3,
        p99=waited[int(len(waited) * 0.99)] * 1e3,
        writer=(after[0] - before[0]) / sent * 1e6,
        broker=(after[1] - before[1]) / sent * 1e6,
        records=len(places) / sent,
    )


async def measure(options: argparse.Namespace) -> dict[int, dict[str, list[Append]]]:
    """All rounds, by rate and way; the ways alternate in an order that is new in each round."""
    settings = load_settings()
    bundles = ArtifactCache(settings.cache, settings.maven_repository).fetch(DownloadBar(Console(stderr=True)))
    found: dict[int, dict[str, list[Append]]] = {rate: {way: [] for way in options.ways} for rate in options.rates}
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as data, open_data_folder(Path(data)) as folder:
        ports = PortPlan(choose_base())
        supervisor = Supervisor([*kafka_parts(folder, ports, bundles.kafka_jars)], lambda event: None)
        try:
            await supervisor.start()
            (broker,) = (one for one in psutil.Process().children(recursive=True) if "kafka.Kafka" in one.cmdline())
            bootstrap = ports.bootstrap_servers
            await KafkaLog({"bootstrap.servers": bootstrap}).admin().create_topics([NewTopic(TOPIC, PARTITIONS, 1)])
            await append("record", bootstrap, broker, 2000, options.warm_up)
            for number in range(options.rounds):
                for rate in options.rates:
                    for way in random.Random(number).sample(options.ways, len(options.ways)):
                        found[rate][way].append(await append(way, bootstrap, broker, rate, options.seconds))
        finally:
            await supervisor.stop()
    return found


def table(found: dict[int, dict[str, list[Append]]]) -> str:
    """Medians over the rounds, as Markdown."""
    lines = [
        "| decisions/s | way | p50, ms | p99, ms | writer, us/decision | broker, us/decision | records/decision |",
        "|---|---|---|---|---|---|---|",
    ]
    for rate, ways in found.items():
        for way, rounds in ways.items():
            p50, p99, writer, broker, records = (
                statistics.median(getattr(one, each.name) for one in rounds) for each in fields(Append)
            )
            lines.append(f"| {rate} | {way} | {p50:.1f} | {p99:.1f} | {writer:.0f} | {broker:.0f} | {records:.2f} |")
    return "\n".join(lines)


def main() -> int:
    """Print a table to standard output, and write the figures as JSON to bench-results/."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="(default 5)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each way at each rate (default 3)")
    parser.add_argument("--warm-up", type=float, default=20.0, help="seconds for the broker to get warm (default 20)")
    parser.add_argument("--rates", type=int, nargs="+", default=[100, 500, 1500, 4000], help="decisions a second")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="(default all)")
    parser.add_argument("--output", type=Path, default=Path("bench-results/group-commit.json"))
    options = parser.parse_args()
    found = asyncio.run(measure(options))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    rounds = {rate: {way: [asdict(one) for one in each] for way, each in ways.items()} for rate, ways in found.items()}
    options.output.write_text(json.dumps(rounds, indent=2) + "\n")
    sys.stdout.write(table(found) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

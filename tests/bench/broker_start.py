"""What Java's cache of loaded classes does to Kafka: brokers that start from it beside brokers that do not.

A broker of each kind starts, on a data folder that is there, in alternating rounds; its processor time until it serves
is that of its start. Then it appends records, three at a time, for as long as the warm-up and the measured window say:
a broker that was quick to start may be slow to get warm. Both are processor time of the broker, which says something
on a machine with other work on it as well.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from headrace_devstack.artifacts import ArtifactCache, Bundles
from headrace_devstack.java_training import kafka_archive, train
from headrace_devstack.layout import open_data_folder
from headrace_devstack.parts.kafka import kafka_parts
from headrace_devstack.ports import PortPlan, choose_base
from headrace_devstack.settings import load_settings
from headrace_devstack.status import DownloadBar
from headrace_devstack.supervisor import Supervisor
from headrace_streams.kafka import KafkaLog
from headrace_streams.records import NewTopic, ProducerRecord
from rich.console import Console

KINDS = ("plain", "cached")
PARTITIONS = 6
AT_ONCE = 3
BYTES = 400


@dataclass(frozen=True, slots=True)
class Life:
    """One broker: seconds, and microseconds of processor time for a record while it gets warm and after that."""

    ready: float
    processor_seconds: float
    warming: float
    warm: float


def computed(broker: psutil.Process) -> float:
    """Seconds of processor time."""
    times = broker.cpu_times()
    return float(times.user + times.system)


async def append(bootstrap: str, broker: psutil.Process, seconds: float) -> float:
    """Append records for so long; microseconds of the broker's processor time for each."""
    producer = KafkaLog({"bootstrap.servers": bootstrap}).producer()
    appended, began, until = 0, computed(broker), time.monotonic() + seconds
    while time.monotonic() < until:
        records = [ProducerRecord("bench", b"x" * BYTES, str(appended + one).encode()) for one in range(AT_ONCE)]
        await asyncio.gather(*map(producer.send, records))
        appended += AT_ONCE
    await producer.close()
    return (computed(broker) - began) / appended * 1e6


async def live(bundles: Bundles, data: Path, kind: str, warm_up: float, seconds: float) -> Life:
    """Start one, give it work, and end it."""
    archive = kafka_archive(bundles) if kind == "cached" else None
    with open_data_folder(data) as folder:
        ports = PortPlan(choose_base())
        supervisor = Supervisor([*kafka_parts(folder, ports, bundles.kafka_jars, archive=archive)], lambda event: None)
        began = time.monotonic()
        try:
            await supervisor.start()
            ready = time.monotonic() - began
            (broker,) = (one for one in psutil.Process().children(recursive=True) if "kafka.Kafka" in one.cmdline())
            start = computed(broker)
            await (
                KafkaLog({"bootstrap.servers": ports.bootstrap_servers})
                .admin()
                .create_topics([NewTopic("bench", PARTITIONS, 1)])
            )
            warming = await append(ports.bootstrap_servers, broker, warm_up)
            return Life(ready, start, warming, await append(ports.bootstrap_servers, broker, seconds))
        finally:
            await supervisor.stop()


async def measure(options: argparse.Namespace) -> dict[str, list[Life]]:
    """All rounds, by kind."""
    settings = load_settings()
    bundles = ArtifactCache(settings.cache, settings.maven_repository).fetch(DownloadBar(Console(stderr=True)))
    await train(bundles)
    lives: dict[str, list[Life]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder:
        for kind in KINDS:
            await live(bundles, Path(folder) / kind, kind, 1.0, 1.0)
        for number in range(options.rounds):
            for kind in KINDS[:: 1 if number % 2 else -1]:
                lives[kind].append(await live(bundles, Path(folder) / kind, kind, options.warm_up, options.seconds))
    return lives


def main() -> int:
    """Print a table to standard error and the figures as JSON to standard output and to bench-results/."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="brokers of each kind (default 3)")
    parser.add_argument("--warm-up", type=float, default=30.0, help="seconds in which a broker gets warm (default 30)")
    parser.add_argument("--seconds", type=float, default=15.0, help="seconds that count as warm (default 15)")
    parser.add_argument("--output", type=Path, default=Path("bench-results/broker-start.json"))
    options = parser.parse_args()
    lives = asyncio.run(measure(options))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    report = json.dumps({kind: [asdict(one) for one in rounds] for kind, rounds in lives.items()}, indent=2)
    options.output.write_text(report + "\n")
    sys.stderr.write(f"{'':8}{'ready':>9}{'computed':>11}{'warming up':>13}{'warm':>12}\n")
    for kind, rounds in lives.items():
        ready, start, warming, warm = (
            statistics.median(getattr(one, name) for one in rounds)
            for name in ("ready", "processor_seconds", "warming", "warm")
        )
        sys.stderr.write(f"{kind:8}{ready:>7.1f} s{start:>9.1f} s{warming:>10.0f} us{warm:>9.0f} us\n")
    sys.stdout.write(report + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

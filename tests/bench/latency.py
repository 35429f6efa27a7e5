"""Headrace's own latency per task: HTTP request to response, with a model that answers at once.

Runs the whole platform in a folder of its own with the simulator at no latency, and asks over `/v1/chat/completions`
with prompts that all differ, so that neither cache nor coalescing serves. Each round measures unloaded (one at a
time) and then an open loop: requests start on schedule whether or not earlier ones have ended, and a request's time
counts from its schedule, so that a stall is seen by all who would have waited. Figures are medians over the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import aiohttp

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
from headrace_streams.kafka import KafkaLog
from headrace_streams.records import NewTopic, ProducerRecord, TopicPartition
from headrace_testing.up import RunningStack, open_folder, running_up

WARM_UP_SECONDS = 40.0
"""Java compiles what is hot; until then Kafka takes several times as long."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Times of one measurement, in milliseconds: of the whole request, and without the call to the model (own)."""

    requests: int
    failed: int
    p50: float
    p90: float
    p99: float
    longest: float
    own_p50: float
    own_p99: float


def figures(times: Sequence[tuple[float, float]], failed: int) -> Figures:
    """Percentiles by nearest rank, of pairs of a request's whole time and its time at the model."""
    whole = sorted(total for total, _ in times)
    own = sorted(total - model for total, model in times)

    def rank(ordered: Sequence[float], share: float) -> float:
        return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 3)

    return Figures(
        requests=len(times) + failed,
        failed=failed,
        p50=rank(whole, 0.5),
        p90=rank(whole, 0.9),
        p99=rank(whole, 0.99),
        longest=round(whole[-1], 3),
        own_p50=rank(own, 0.5),
        own_p99=rank(own, 0.99),
    )


class Caller:
    """Sends chat completions over kept-alive connections; every prompt is new."""

    def __init__(self, session: aiohttp.ClientSession, url: str, key: str, privacy: str) -> None:
        self._session = session
        self._url = f"{url}/v1/chat/completions"
        self._headers = {"Authorization": f"Bearer {key}", "X-Headrace-Privacy": privacy}
        self._sent = 0
        self._run = f"{time.time_ns():x}"

    async def ask(self) -> float | None:
        """One request; how long the model call took, in milliseconds, or None when it was not answered."""
        self._sent += 1
        body = {
            "model": "auto",
            "messages": [{"role": "user", "content": f"Say yes. ({self._run}-{self._sent})"}],
            "max_tokens": 16,
        }
        async with self._session.post(self._url, json=body, headers=self._headers) as response:
            document = await response.json()
            return float(document["headrace"]["model_ms"]) if response.status == 200 else None


async def unloaded(caller: Caller, requests: int) -> Figures:
    """One request after another."""
    times: list[tuple[float, float]] = []
    failed = 0
    for _ in range(requests):
        began = time.perf_counter()
        model_ms = await caller.ask()
        if model_ms is None:
            failed += 1
        else:
            times.append(((time.perf_counter() - began) * 1000, model_ms))
    return figures(times, failed)


async def open_loop(caller: Caller, rate: float, seconds: float) -> Figures:
    """`rate` requests a second, evenly spaced, whether or not earlier ones have ended."""
    times: list[tuple[float, float]] = []
    failed = 0

    async def one(scheduled: float) -> None:
        nonlocal failed
        model_ms = await caller.ask()
        if model_ms is None:
            failed += 1
        else:
            times.append(((time.perf_counter() - scheduled) * 1000, model_ms))

    running: set[asyncio.Task[None]] = set()
    start = time.perf_counter()
    for number in range(int(rate * seconds)):
        scheduled = start + number / rate
        await asyncio.sleep(max(0.0, scheduled - time.perf_counter()))
        task = asyncio.create_task(one(scheduled))
        running.add(task)
        task.add_done_callback(running.discard)
    await asyncio.gather(*running)
    return figures(times, failed)


@dataclass(frozen=True, slots=True)
class Floor:
    """What Kafka itself takes for one record on this machine now, medians in milliseconds.

    A task's way has four deliveries (submission, attempt, outcome, reply) and two acknowledgements that must come
    before the router acts; nothing else on the way waits for Kafka.
    """

    delivered: float
    acknowledged: float

    @property
    def of_a_task(self) -> float:
        """Least time that a task's records take."""
        return round(4 * self.delivered + 2 * self.acknowledged, 3)


def _note(times: list[float], began: float, _: object) -> None:
    times.append(time.perf_counter() - began)


async def floor(stack: RunningStack, records: int = 300) -> Floor:
    """Append one record after another to a topic of its own, and read it back."""
    log = KafkaLog({"bootstrap.servers": stack.bootstrap_servers})
    topic = f"bench-{time.time_ns():x}"
    await log.admin().create_topics([NewTopic(topic, 1, 1)])
    producer, reader = log.producer(), log.reader()
    await reader.assign({TopicPartition(topic, 0): 0})
    delivered: list[float] = []
    acknowledged: list[float] = []
    try:
        for _ in range(records):
            began = time.perf_counter()
            appended = producer.send(ProducerRecord(topic, b"x" * 300, partition=0))
            appended.add_done_callback(partial(_note, acknowledged, began))
            while not await reader.poll(1, 1.0):
                pass
            delivered.append(time.perf_counter() - began)
            await appended
    finally:
        await reader.close()
        await producer.close()
    return Floor(round(statistics.median(delivered) * 1000, 3), round(statistics.median(acknowledged) * 1000, 3))


async def measure(stack: RunningStack, options: argparse.Namespace) -> tuple[dict[str, list[Figures]], list[Floor]]:
    """All rounds, by name of the measurement, and Kafka's floor in each."""
    floors: list[Floor] = []
    results: dict[str, list[Figures]] = {"unloaded": [], f"{options.rate:g} tasks/s": []}
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        caller = Caller(session, stack.intake_url, stack.api_key, options.privacy)
        await open_loop(caller, options.rate / 2, WARM_UP_SECONDS)
        for _ in range(options.rounds):
            floors.append(await floor(stack))
            results["unloaded"].append(await unloaded(caller, options.requests))
            results[f"{options.rate:g} tasks/s"].append(await open_loop(caller, options.rate, options.seconds))
    return results, floors


def median_of(rounds: Sequence[Figures]) -> Figures:
    """Each figure's median over the rounds."""
    return Figures(
        requests=sum(one.requests for one in rounds),
        failed=sum(one.failed for one in rounds),
        p50=statistics.median(one.p50 for one in rounds),
        p90=statistics.median(one.p90 for one in rounds),
        p99=statistics.median(one.p99 for one in rounds),
        longest=max(one.longest for one in rounds),
        own_p50=statistics.median(one.own_p50 for one in rounds),
        own_p99=statistics.median(one.own_p99 for one in rounds),
    )


def main() -> int:
    """Print a table to standard error and the figures as JSON to standard output and to bench-results/."""
    parser = argparse.ArgumentParser(
        prog="make bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each measurement (default 5)")
    parser.add_argument("--requests", type=int, default=300, help="requests of an unloaded round (default 300)")
    parser.add_argument("--rate", type=float, default=100.0, help="tasks a second of the open loop (default 100)")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of a round of the open loop (default 10)")
    parser.add_argument(
        "--privacy", default="sensitive", choices=["sensitive", "public"], help="sensitive: local nodes only (default)"
    )
    parser.add_argument("--output", type=Path, default=Path("bench-results/latency.json"), help="where the JSON goes")
    options = parser.parse_args()
    with (
        open_folder("bench") as folder,
        running_up(folder, "--port-base", "0", "--simulate", HEADRACE_SIMULATOR_SPEED="instant") as stack,
    ):
        results, floors = asyncio.run(measure(stack, options))
    medians = {name: median_of(rounds) for name, rounds in results.items()}
    report = {
        "what": "HTTP request to response of /v1/chat/completions through the whole platform, simulated model "
        "without latency, milliseconds, medians over the rounds",
        "machine": {"processors": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()},
        "kafka_floor": [asdict(one) | {"of_a_task": one.of_a_task} for one in floors],
        "medians": {name: asdict(one) for name, one in medians.items()},
        "rounds": {name: [asdict(one) for one in rounds] for name, rounds in results.items()},
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(report, indent=2) + "\n")
    heads = ("requests", "failed", "p50 ms", "p90 ms", "p99 ms", "max ms", "own p50", "own p99")
    sys.stderr.write(f"{'':14}" + "".join(f"{head:>10}" for head in heads) + "\n")
    for name, one in medians.items():
        times = (one.p50, one.p90, one.p99, one.longest, one.own_p50, one.own_p99)
        row = f"{one.requests:>10}{one.failed:>10}" + "".join(f"{value:>10.2f}" for value in times)
        sys.stderr.write(f"{name:14}{row}\n")
    least = statistics.median(one.of_a_task for one in floors)
    sys.stderr.write(
        f"Kafka alone takes {least:.2f} ms of it on this machine: 4 deliveries of "
        f"{statistics.median(one.delivered for one in floors):.2f} ms, 2 acknowledgements of "
        f"{statistics.median(one.acknowledged for one in floors):.2f} ms\n"
    )
    sys.stderr.write(
        f"own: without the call to the model, which is simulated and answers at once. Also in {options.output}\n"
    )
    sys.stdout.write(json.dumps(report["medians"]) + "\n")
    return 1 if any(one.failed for one in medians.values()) else 0


if __name__ == "__main__":
    sys.exit(main())

"""How long a router takes to take over partitions whose journal is long: the real `recover` on a real Kafka.

Writes journals through the real codec, with entries as the router makes them: an open task with its prompt (1 to 2 KB),
a task that ended with its answer and its trail. Then a process of its own recovers them, as often as there are rounds,
and says how long it took, how much memory, and how long the event loop was busy at a stretch meanwhile.

compacted     one entry for each task, as compaction leaves it; live tasks evenly among the finished ones
uncompacted   every entry of the same tasks: dispatched, then finished
small         many partitions of a usual size at once, and the pause when another router joins and leaves again
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
from headrace_contracts.codec import Codec
from headrace_contracts.events import Position
from headrace_contracts.memory_registry import MemoryRegistry
from headrace_contracts.topics import TOPICS, with_partitions
from headrace_models.prices import load_price_book
from headrace_router.adapters.policy_file import load_policy
from headrace_router.adapters.routing_view import RoutingView
from headrace_router.in_flight_limiter import InFlightLimiter
from headrace_router.input_logs import InputLogs
from headrace_router.limits import RouterLimits
from headrace_router.live_bytes import LiveBytes
from headrace_router.metrics import RouterMetrics
from headrace_router.partition import PartitionRouter, RouterContext
from headrace_router.recovery import recover
from headrace_runtime.logging import configure
from headrace_runtime.metrics import Metrics
from headrace_streams.kafka import KafkaLog
from headrace_streams.ports import Log
from headrace_streams.provisioning import provision
from headrace_streams.publishing import Publisher
from headrace_streams.topic_limits import TopicLimits
from headrace_streams.watching import LogWatch
from headrace_testing.journaled_tasks import now_ms, write_journal
from headrace_testing.router_twin import router_service
from headrace_testing.up import open_folder, running_up
from prometheus_client import CollectorRegistry

POSITIONS = tuple(
    Position(topic=topic, partition=0, next_offset=1_234_567)
    for topic in ("tasks.submitted", "tasks.cancelled", "attempts.finished", "attempts.finished.cloud")
)
"""What entries say of how far the inputs are consumed."""


class Pulse:
    """How long the event loop was busy at a stretch."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._task = asyncio.create_task(self._beat())

    async def _beat(self) -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0.001)
            self.longest = max(self.longest, time.perf_counter() - began - 0.001)

    def stop(self) -> float:
        self._task.cancel()
        return self.longest


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def router_context(log: Log, publisher: Publisher) -> RouterContext:
    return RouterContext(
        view=RoutingView(load_policy(None), load_price_book(), now_ms),
        publisher=publisher,
        others=publisher,
        topic_limits=TopicLimits(log.admin(), ()),
        metrics=RouterMetrics(Metrics("router", CollectorRegistry())),
        limiter=InFlightLimiter(2000),
        publish_within=60.0,
        monotonic=time.monotonic,
        live_bytes=LiveBytes(2**40),
    )


async def take_over(log: Log, codec: Codec, partitions: int) -> dict[str, float]:
    """Recover all partitions, four at a time as the service does; what it took."""
    producer = log.producer()
    around = router_context(log, Publisher(producer, codec, "bench"))
    four = asyncio.Semaphore(4)
    watch = LogWatch(log.admin(), "router", repeats_are_harmless=False)

    def broken(error: BaseException) -> None:
        raise error

    async def one(partition: int) -> PartitionRouter:
        async with four:
            return await recover(
                partition=partition, owner="router-after", log=log, codec=codec, router_context=around,
                limits=RouterLimits(), input_logs=InputLogs(watch, codec.topic_prefix), broken=broken,
            )  # fmt: skip

    memory, cpu, pulse, began = resident_mb(), time.process_time(), Pulse(), time.perf_counter()
    routers = await asyncio.gather(*(one(number) for number in range(partitions)))
    took = time.perf_counter() - began
    used = time.process_time() - cpu
    longest = pulse.stop()
    live = sum(len(router.tasks) for router in routers)
    grown = resident_mb() - memory
    for router in routers:
        router.abandon("measured")
    await producer.close()
    return {
        "seconds": round(took, 3), "cpu_seconds": round(used, 3), "live": live, "memory_mb": round(grown, 1),
        "longest_stall_ms": round(longest * 1000, 1),
    }  # fmt: skip


async def rebalance(log: Log, codec: Codec, partitions: int) -> dict[str, float]:
    """How long a router that has all partitions routes none of them while another one joins, and leaves."""
    world = RoutingView(load_policy(None), load_price_book(), now_ms)
    services = [
        router_service(
            name, log, codec, world,
            metrics=RouterMetrics(Metrics("router", CollectorRegistry())), monotonic=time.monotonic,
            publish_within=60.0, in_flight=2000, static=False, limits=RouterLimits(),
        )
        for name in ("r1", "r2")
    ]  # fmt: skip
    first, second = services

    async def until(holds: Any) -> float:
        while not holds():  # noqa: ASYNC110 - measured from outside
            await asyncio.sleep(0.001)
        return time.perf_counter()

    began = time.perf_counter()
    running = asyncio.create_task(first.run())
    begin = await until(lambda: len(first.partitions) == partitions) - began
    joining = asyncio.create_task(second.run())
    gone = await until(lambda: len(first.partitions) == 0)
    joined = await until(lambda: len(first.partitions) == partitions // 2) - gone
    everywhere = await until(lambda: len(second.partitions) == partitions - partitions // 2) - gone
    leaving = asyncio.create_task(second.drain())
    gone = await until(lambda: len(first.partitions) == 0)
    back = await until(lambda: len(first.partitions) == partitions) - gone
    await leaving
    await first.drain()
    await asyncio.gather(running, joining)
    return {
        "start_seconds": round(begin, 3), "kept_pause_seconds": round(joined, 3),
        "moved_pause_seconds": round(everywhere, 3), "return_pause_seconds": round(back, 3),
    }  # fmt: skip


async def measure(options: argparse.Namespace) -> dict[str, float]:
    log, codec = await connect(options.servers, options.prefix, options.partitions, create=False)
    act = rebalance if options.measure == "rebalance" else take_over
    return await act(log, codec, options.partitions)


async def connect(servers: str, prefix: str, partitions: int, *, create: bool) -> tuple[Log, Codec]:
    log: Log = KafkaLog({"bootstrap.servers": servers, "linger.ms": 20} if create else {"bootstrap.servers": servers})
    codec = Codec(MemoryRegistry(), prefix)
    # The same order everywhere gives the same schema ids.
    specs = with_partitions(TOPICS, {"tasks": partitions})
    await provision(log.admin(), codec, list(specs.values()), replication=1, create=create)
    return log, codec


def child(servers: str, prefix: str, partitions: int, what: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", what, "--servers", servers, "--prefix", prefix]
    done = subprocess.run(
        [*command, "--partitions", str(partitions)], check=True, stdout=subprocess.PIPE, text=True, timeout=1800
    )
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def main() -> int:
    """Print a table to standard error and the figures as JSON to standard output and to bench-results/."""
    parser = argparse.ArgumentParser(
        prog="make bench-recovery", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--live", type=int, default=100_000, help="live tasks of the long journal (default 100,000)")
    parser.add_argument("--finished", type=int, default=1_000_000, help="finished ones (default 1,000,000)")
    parser.add_argument("--rounds", type=int, default=3, help="recoveries of each journal (default 3)")
    parser.add_argument("--small", type=int, default=12, help="number of small partitions (default 12)")
    parser.add_argument("--only", choices=["compacted", "uncompacted", "small"], help="only this one")
    parser.add_argument("--output", type=Path, default=Path("bench-results/recovery.json"), help="where the JSON goes")
    parser.add_argument("--measure", choices=["recover", "rebalance"], help=argparse.SUPPRESS)
    for name in ("--servers", "--prefix"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    parser.add_argument("--partitions", type=int, default=1, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        configure(service="bench", instance="bench", level="error", stream=sys.stderr)
        sys.stdout.write(json.dumps(asyncio.run(measure(options))) + "\n")
        return 0
    journals = {
        "compacted": (1, options.live, options.finished, False),
        "uncompacted": (1, options.live, options.finished, True),
        "small": (options.small, 2_000, 10_000, False),
    }
    results: dict[str, dict[str, Any]] = {}
    with open_folder("bench") as folder, running_up(folder, "--port-base", "0", "--backing-only") as stack:
        for name, (partitions, live, finished, whole) in journals.items():
            if options.only not in (None, name):
                continue
            written = asyncio.run(fill(stack.bootstrap_servers, f"{name}.", partitions, live, finished, whole))
            rounds = [child(stack.bootstrap_servers, f"{name}.", partitions, "recover") for _ in range(options.rounds)]
            results[name] = summary(written, live * partitions, finished * partitions, rounds)
            if name == "small":
                results[name]["rebalance"] = child(stack.bootstrap_servers, f"{name}.", partitions, "rebalance")
    report = {
        "what": "take-over of router partitions by their journals on a real Kafka, medians over the rounds",
        "machine": {"processors": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()},
        "results": results,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(report, indent=2) + "\n")
    show(results)
    sys.stdout.write(json.dumps(results) + "\n")
    return 0


async def fill(servers: str, prefix: str, partitions: int, live: int, finished: int, whole: bool) -> tuple[int, float]:
    """Entries written, and their mean size."""
    log, codec = await connect(servers, prefix, partitions, create=True)
    written = [
        await write_journal(log, codec, number, live, finished, whole=whole, positions=POSITIONS)
        for number in range(partitions)
    ]
    return sum(count for count, _ in written), statistics.mean(size for _, size in written)


def summary(written: tuple[int, float], live: int, finished: int, rounds: Sequence[dict[str, float]]) -> dict[str, Any]:
    assert all(one["live"] == live for one in rounds), f"{live} live tasks were written, not {rounds}"
    middle = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
    return {
        "live": live, "finished": finished, "entries": written[0], "mean_bytes": round(written[1]),
        "entries_per_second": round(written[0] / middle["seconds"]), **middle, "rounds": rounds,
    }  # fmt: skip


def show(results: dict[str, dict[str, Any]]) -> None:
    heads = ("live", "finished", "entries", "mean_bytes", "seconds", "cpu_seconds", "entries_per_second", "memory_mb")
    sys.stderr.write(f"{'':12}" + "".join(f"{head:>19}" for head in (*heads, "longest_stall_ms")) + "\n")
    for name, found in results.items():
        cells = "".join(f"{found[head]:>19}" for head in (*heads, "longest_stall_ms"))
        sys.stderr.write(f"{name:12}{cells}\n")
        if pauses := found.get("rebalance"):
            sys.stderr.write("".join(f"{'':12}{key} {value}\n" for key, value in pauses.items()))


if __name__ == "__main__":
    sys.exit(main())

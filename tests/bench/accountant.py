"""Processor time of a whole cost accountant for each usage event, on a real Kafka, registry and Postgres.

The accountant is a process of its own, as `headrace up` starts it: the ledger, the live windows, its HTTP API. Usage
is recorded at a steady rate. What the process takes while nothing is recorded is measured first and subtracted. Several
trees of sources can be compared in alternating rounds: each has an installation (topics, schemas, database) of its own
on the same Kafka and Postgres. After each round the live days of the tenants must show exactly what was recorded.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import urllib.request
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
from headrace_contracts.events import SpendWindows
from headrace_contracts.topics import SPEND_WINDOWS, USAGE_RECORDED
from headrace_streams.tables import Table
from headrace_testing.databases import fresh_database
from headrace_testing.services_on_kafka import PEPPER, Topics, free_port, topics_on_kafka
from headrace_testing.up import RunningStack, clean_environment, open_folder, running_up
from ledger import event

START_SECONDS = 120.0
SETTLE_SECONDS = 5.0
BEHIND_SECONDS = 60.0
"""How far live windows may be behind on a busy machine."""
OWN = "own"


@dataclass(frozen=True, slots=True)
class Round:
    """One accountant's life. Processor time in microseconds: of an event, and of an idle second."""

    of_an_event: float
    of_an_idle_second: float
    events: int


@dataclass(frozen=True, slots=True)
class Load:
    """What is recorded: events a second, for so many seconds, of so many tenants."""

    rate: int
    seconds: float
    tenants: int


@asynccontextmanager
async def accountant(stack: RunningStack, prefix: str, database: str, source: str) -> AsyncIterator[psutil.Process]:
    """A process that runs this tree of sources, once it is ready and its live windows run."""
    ops = free_port()
    environment = clean_environment(
        HEADRACE_BOOTSTRAP_SERVERS=stack.bootstrap_servers,
        HEADRACE_REGISTRY_URL=stack.registry_url,
        HEADRACE_TOPIC_PREFIX=prefix,
        HEADRACE_DATABASE_URL=database,
        HEADRACE_KEY_PEPPER=PEPPER,
        HEADRACE_API_PORT="0",
        HEADRACE_OPS_PORT=str(ops),
        HEADRACE_INSTANCE_ID="bench",
        **({} if source == OWN else {"PYTHONPATH": source}),
    )
    process = subprocess.Popen(  # noqa: ASYNC220 - once, before anything is measured
        [sys.executable, "-m", "headrace_cost_accountant"],
        env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        give_up_at = time.monotonic() + START_SECONDS
        while "running" not in await asyncio.to_thread(_live_windows, ops):
            if process.poll() is not None or time.monotonic() > give_up_at:
                raise SystemExit(f"the accountant of {source} did not start")
            await asyncio.sleep(0.2)
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, 60)


def _live_windows(port: int) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return str(json.load(answer)["notes"].get("live windows"))
    except OSError:
        return ""


async def one_round(topics: Topics, process: psutil.Process, load: Load, idle_seconds: float) -> Round:
    """Measure idle, then under load. Raises SystemExit if the live windows are not exact afterwards."""
    live: Table[SpendWindows] = Table(topics.log, topics.codec, SPEND_WINDOWS)
    await live.start()
    try:
        await record(topics, Load(load.rate, 5.0, load.tenants), 0)
        await asyncio.sleep(SETTLE_SECONDS)
        before = _processor_seconds(process)
        await asyncio.sleep(idle_seconds)
        idle = (_processor_seconds(process) - before) / idle_seconds
        began, before, already = time.monotonic(), _processor_seconds(process), executions(live)
        sent = await record(topics, load, round(load.rate * 5))
        await asyncio.sleep(SETTLE_SECONDS)
        give_up_at = time.monotonic() + BEHIND_SECONDS
        while executions(live) - already < sent.total() and time.monotonic() < give_up_at:  # noqa: ASYNC110 - others write
            await asyncio.sleep(0.5)
        used = _processor_seconds(process) - before - idle * (time.monotonic() - began)
        if (counted := executions(live) - already) != sent.total():
            raise SystemExit(f"the live windows show {counted} executions, not {sent.total()}")
        return Round(used / sent.total() * 1e6, idle * 1e6, sent.total())
    finally:
        await live.close()


def executions(live: Table[SpendWindows]) -> int:
    """Of the newest day of all tenants."""
    return sum(told.windows[-1].executions for told in live.items().values())


async def record(topics: Topics, load: Load, first: int) -> Counter[str]:
    """Record usage; how many events of each tenant."""
    loop = asyncio.get_running_loop()
    began, sent, count, run = loop.time(), 0, Counter[str](), uuid.uuid4().hex[:8]
    while sent < load.rate * load.seconds:
        due = min(int((loop.time() - began) * load.rate) + 1, int(load.rate * load.seconds))
        batch = []
        for number in range(sent, due):
            tenant = f"tenant-{(first + number) * 7919 % load.tenants}"
            used = event(first + number, time.time_ns() // 1_000_000, tenant=tenant, run=run)
            batch.append((tenant, used.event_id, used))
            count[tenant] += 1
        for tenant, event_id, used in batch:
            await topics.publish(USAGE_RECORDED, tenant, [(tenant, event_id, used)])
        sent = due
        await asyncio.sleep(1 / load.rate)
    return count


def _processor_seconds(process: psutil.Process) -> float:
    used = process.cpu_times()
    return used.user + used.system


async def measure(sources: Sequence[str], loads: Sequence[Load], rounds: int, idle: float) -> dict[str, list[Round]]:
    """Alternating rounds of the sources, for each load."""
    results: dict[str, list[Round]] = {}
    with open_folder("bench-accountant") as folder, running_up(folder, "--port-base", "0", "--backing-only") as stack:
        for _ in range(rounds):
            for load in loads:
                for source in sources:
                    prefix = f"b{uuid.uuid4().hex[:8]}."
                    with fresh_database(stack.database_url) as database:
                        async with (
                            topics_on_kafka(stack.bootstrap_servers, stack.registry_url, prefix) as topics,
                            accountant(stack, prefix, database, source) as process,
                        ):
                            one = await one_round(topics, process, load, idle)
                    name = f"{source}, {load.rate}/s of {load.tenants} tenants"
                    results.setdefault(name, []).append(one)
                    sys.stderr.write(f"{name}: {one.of_an_event:.0f} us an event, {one.of_an_idle_second:.0f} idle\n")
    return results


def main() -> int:
    """Print a table to standard error and the figures as JSON to standard output and to bench-results/."""
    parser = argparse.ArgumentParser(
        prog="make bench-accountant", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each source and load (default 3)")
    parser.add_argument("--rates", default="100", help="events a second (default 100)")
    parser.add_argument("--tenants", default="1,200", help="numbers of tenants (default 1,200)")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long usage is recorded (default 20)")
    parser.add_argument("--idle", type=float, default=10.0, help="how long the idle process is measured (default 10)")
    parser.add_argument(
        "--source", action="append", default=[],
        help="a folder with another tree of sources of headrace_cost_accountant to compare with; can be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--output", type=Path, default=Path("bench-results/accountant.json"), help="where the JSON goes"
    )
    options = parser.parse_args()
    loads = [
        Load(int(rate), options.seconds, int(tenants))
        for rate in options.rates.split(",")
        for tenants in options.tenants.split(",")
    ]
    results = asyncio.run(measure([OWN, *options.source], loads, options.rounds, options.idle))
    medians = {
        name: {
            "microseconds_of_an_event": statistics.median(one.of_an_event for one in rounds),
            "microseconds_of_an_idle_second": statistics.median(one.of_an_idle_second for one in rounds),
        }
        for name, rounds in results.items()
    }
    report = {
        "what": "processor time of a cost accountant's process; medians over the rounds",
        "machine": {"processors": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()},
        "medians": medians,
        "rounds": {name: [asdict(one) for one in rounds] for name, rounds in results.items()},
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(report, indent=2) + "\n")
    for name, of in medians.items():
        sys.stderr.write(
            f"{name:<50}{of['microseconds_of_an_event']:>8.0f} us an event"
            f"{of['microseconds_of_an_idle_second']:>10.0f} us an idle second\n"
        )
    sys.stdout.write(json.dumps(medians) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

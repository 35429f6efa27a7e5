"""How many usage events the ledger books a second: the accountant's own code on a real Postgres of its own.

Each round decodes events as they come from Kafka, prices them, and books them in batches, each one transaction that
also moves the position. Kafka is not in it: a consumer reads many times as fast. Processor time is told apart for the
accountant and for Postgres, since they scale apart: rows a second of one core of each.
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
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
from headrace_contracts.codec import Codec
from headrace_contracts.errors import Origin
from headrace_contracts.events import Outcome, Usage, UsageRecorded
from headrace_contracts.memory_registry import MemoryRegistry
from headrace_contracts.topics import USAGE_RECORDED
from headrace_cost_accountant.adapters.ledger_store import LedgerStore
from headrace_cost_accountant.metrics import LedgerMetrics
from headrace_cost_accountant.migrations import MIGRATIONS
from headrace_models.prices import load_price_book
from headrace_runtime.metrics import Metrics
from headrace_streams.records import Record, TopicPartition
from headrace_testing.databases import prepared
from headrace_testing.dead_letters import NoDeadLetters
from headrace_testing.own_postgres import OwnPostgres, own_postgres
from headrace_testing.stored_positions import moving

TENANTS = 200
MODELS = (("anthropic", "claude-sonnet-4-6"), ("groq", "llama-3.1-8b-instant"), ("ollama", "phi3:3.8b"))


@dataclass(frozen=True, slots=True)
class Figures:
    """Rows a second: by the clock, of a core of the accountant, of a core of Postgres."""

    by_the_clock: float
    of_an_accountant_core: float
    of_a_postgres_core: float


def event(number: int, now_ms: int, *, tenant: str | None = None, run: str = "019a7f3e") -> UsageRecorded:
    """As a worker records it; tenants (unless given) and models mixed, all of today. Ids are unique in a run."""
    provider, model = MODELS[number % len(MODELS)]
    task = f"{run}-0000-7000-8000-{number:012x}"
    return UsageRecorded(
        event_id=f"{task}/1/x{number}",
        tenant=tenant or f"tenant-{number * 7919 % TENANTS}",
        user="somebody",
        task_id=task,
        attempt_id=f"{task}/1",
        execution_id=f"x{number}",
        role="developer",
        provider=provider,
        model=model,
        outcome=Outcome.ANSWERED,
        usage=Usage(input_tokens=1_000 + number % 500, output_tokens=300),
        recorded_at=now_ms,
    )


async def measure(rows: int, batches: Sequence[int], rounds: int) -> dict[int, list[Figures]]:
    """Rounds that alternate among the sizes of batches, on one Postgres."""
    codec = Codec(MemoryRegistry(), "headrace.")
    await codec.prepare([USAGE_RECORDED], register=True)
    results: dict[int, list[Figures]] = {size: [] for size in batches}
    async with own_postgres() as server, prepared(server.url, MIGRATIONS) as database:
        store = LedgerStore(database, load_price_book(), NoDeadLetters(), LedgerMetrics(Metrics("bench")))
        part, first = TopicPartition("headrace." + USAGE_RECORDED.name, 0), 0
        for _ in range(rounds):
            for size in batches:
                values = [codec.encode(USAGE_RECORDED, event(first + each, _now_ms())) for each in range(rows)]
                results[size].append(await book(store, codec, server, part, first, values, size))
                first += rows
    return results


async def book(
    store: LedgerStore, codec: Codec, server: OwnPostgres, part: TopicPartition, first: int,
    values: Sequence[bytes], size: int,
) -> Figures:  # fmt: skip
    """Book these values from offset `first` on, in batches of `size`."""
    clock, own, postgres = time.perf_counter(), time.process_time(), _processor_seconds(server.pid)
    for start in range(0, len(values), size):
        batch = []
        for place, value in enumerate(values[start : start + size], start=first + start):
            record = Record(part.topic, part.partition, place, 0, b"tenant", value)
            origin = Origin(part.topic, part.partition, place)
            batch.append((record, codec.decode(UsageRecorded, value, origin)))
        begin = first + start
        await store.apply(batch, {part: moving(begin or None, begin + len(batch))})
    return Figures(
        len(values) / (time.perf_counter() - clock),
        len(values) / (time.process_time() - own),
        len(values) / (_processor_seconds(server.pid) - postgres),
    )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _processor_seconds(pid: int) -> float:
    server = psutil.Process(pid)
    used = [each.cpu_times() for each in (server, *server.children(recursive=True))]
    return sum(each.user + each.system for each in used)


def median_of(rounds: Sequence[Figures]) -> Figures:
    """Each figure's median."""
    return Figures(
        statistics.median(one.by_the_clock for one in rounds),
        statistics.median(one.of_an_accountant_core for one in rounds),
        statistics.median(one.of_a_postgres_core for one in rounds),
    )


def main() -> int:
    """Print a table to standard error and the figures as JSON to standard output and to bench-results/."""
    parser = argparse.ArgumentParser(
        prog="make bench-ledger", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each size of batch (default 5)")
    parser.add_argument("--rows", type=int, default=20_000, help="events of a round (default 20,000)")
    parser.add_argument("--batches", default="50,500,2000", help="sizes of batches (default 50,500,2000)")
    parser.add_argument("--output", type=Path, default=Path("bench-results/ledger.json"), help="where the JSON goes")
    options = parser.parse_args()
    sizes = [int(size) for size in options.batches.split(",")]
    results = asyncio.run(measure(options.rows, sizes, options.rounds))
    medians = {size: median_of(rounds) for size, rounds in results.items()}
    report = {
        "what": "usage events booked a second, decoded and priced, in a real Postgres; medians over the rounds",
        "machine": {"processors": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()},
        "rows_of_a_round": options.rows,
        "medians": {str(size): asdict(one) for size, one in medians.items()},
        "rounds": {str(size): [asdict(one) for one in rounds] for size, rounds in results.items()},
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(report, indent=2) + "\n")
    sys.stderr.write(f"{'batch':>8}{'rows/s':>12}{'accountant core':>18}{'Postgres core':>16}\n")
    for size, one in medians.items():
        sys.stderr.write(
            f"{size:>8}{one.by_the_clock:>12,.0f}{one.of_an_accountant_core:>18,.0f}{one.of_a_postgres_core:>16,.0f}\n"
        )
    sys.stderr.write(f"rows a second by the clock, and of one core of each. Also in {options.output}\n")
    sys.stdout.write(json.dumps(report["medians"]) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

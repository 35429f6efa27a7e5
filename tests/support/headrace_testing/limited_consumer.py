"""Consumes a topic with the parallel engine in a process that may take only so much memory.

    python -m headrace_testing.limited_consumer 127.0.0.1:9092 work 3000 314572800

Prints how many records it has handled, and its largest resident memory in bytes. `--no-budget` leaves out what the
services derive from their memory limit.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
from pathlib import Path

from headrace_runtime.memory import MemoryBudget
from headrace_streams.kafka import KafkaLog
from headrace_streams.parallel import EngineOptions, ParallelConsumer, TopicLane
from headrace_streams.records import Record

from headrace_testing.dead_letters import NoDeadLetters

_UNLIMITED = 1 << 40


async def consume(bootstrap_servers: str, topic: str, count: int, budget: MemoryBudget | None) -> int:
    """Handle so many records, slowly; returns their number."""
    properties: dict[str, str | int] = {"bootstrap.servers": bootstrap_servers}
    if budget is not None:
        properties["queued.max.messages.kbytes"] = budget.kafka_queue // 1024
    done = 0
    all_done = asyncio.Event()

    async def handle(record: Record) -> None:
        nonlocal done
        await asyncio.sleep(0.02)
        done += 1
        if done == count:
            all_done.set()

    engine = ParallelConsumer(
        KafkaLog(properties),
        f"{topic}-limited",
        [TopicLane(topic)],
        handle,
        dead_letters=NoDeadLetters(),
        options=EngineOptions(
            max_in_flight=8, max_held_bytes=_UNLIMITED if budget is None else budget.held_records, drain_seconds=5.0
        ),
    )
    running = asyncio.create_task(engine.run())
    waiting = asyncio.create_task(all_done.wait())
    await asyncio.wait([running, waiting], return_when=asyncio.FIRST_COMPLETED)
    await engine.stop()
    await running
    return done


def peak_bytes() -> int:
    """The most resident memory of this program. `ru_maxrss` begins with that of the process that started it."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("bootstrap_servers")
    parser.add_argument("topic")
    parser.add_argument("count", type=int)
    parser.add_argument("limit_bytes", type=int)
    parser.add_argument("--no-budget", action="store_true")
    chosen = parser.parse_args()
    # Of private memory that can be written, in pages that were asked for: what a container counts is less.
    resource.setrlimit(resource.RLIMIT_DATA, (chosen.limit_bytes, chosen.limit_bytes))
    budget = None if chosen.no_budget else MemoryBudget(chosen.limit_bytes)
    done = asyncio.run(consume(chosen.bootstrap_servers, chosen.topic, chosen.count, budget))
    print(done, peak_bytes())


if __name__ == "__main__":
    main()

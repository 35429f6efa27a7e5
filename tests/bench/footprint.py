"""What a running platform takes: a process for each service beside one for all, in alternating rounds.

A data folder of each kind is started and stopped once before, so that the rounds measure what a user meets every day:
no download, no new topics, and Java's cache of loaded classes written. Then each round starts either kind once, looks
at it when it has said that it is ready, and again after some tasks. Figures are medians over the rounds.

Start: seconds from the command to "Ready", which includes the interpreter's own start. Processor time: of all processes
until then; unlike the seconds, it says something on a machine with other work on it. At rest: processor time for a
minute in which nobody asks for anything, of the services, which are all processes in which there are clients of Kafka,
and of everything. Memory: the resident size of all processes, in which what several of them share counts several times,
and the proportional size, in which it counts once (Linux only). Threads and clients of Kafka, librdkafka's, are those
of the services (Linux only).
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
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import aiohttp
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
from headrace_testing.kafka_clients import clients_of, thread_names
from headrace_testing.up import RunningStack, launch_up, open_folder, running_up, stop_up, wait_until_up
from latency import Caller, unloaded

KINDS = ("each", "one")
LOOK_SECONDS = 0.02
SETTLE_SECONDS = 12.0
"""After which a start has no aftermath: partitions are taken over, and clients have looked at their topics once."""
MEGABYTE = 1e6


@dataclass(frozen=True, slots=True)
class Footprint:
    """One start. Memory in MB; `after` is that after the tasks, `milliseconds` the median of their latencies. The times
    at rest are processor seconds for a minute."""

    seconds: float
    processor_seconds: float
    clients: float
    threads: float
    services_at_rest: float
    all_at_rest: float
    resident: float
    proportional: float
    resident_after: float
    proportional_after: float
    milliseconds: float


def family(pid: int) -> list[psutil.Process]:
    """The process and all below it."""
    first = psutil.Process(pid)
    return [first, *first.children(recursive=True)]


def processor_seconds(pid: int) -> float:
    """Of these, and of those that have ended and were waited for."""
    total = 0.0
    for member in family(pid):
        times = member.cpu_times()
        total += times.user + times.system + times.children_user + times.children_system
    return total


def services_of(stack: RunningStack) -> list[int]:
    """Process ids of the parts in which there are clients of Kafka."""
    return [pid for pid in dict.fromkeys(stack.pids.values()) if clients_of(pid)]


def at_rest(pid: int, services: list[int], seconds: float) -> tuple[float, float]:
    """Processor seconds for a minute in which nothing is asked for: of the services, and of everything."""

    def used() -> tuple[float, float]:
        return sum(sum(psutil.Process(one).cpu_times()[:2]) for one in services), processor_seconds(pid)

    began, before = time.monotonic(), used()
    time.sleep(seconds)
    minutes, after = (time.monotonic() - began) / 60, used()
    return (after[0] - before[0]) / minutes, (after[1] - before[1]) / minutes


def memory(pid: int) -> tuple[float, float]:
    """Resident and proportional size, in MB."""
    sizes = [member.memory_full_info() for member in family(pid)]
    return sum(one.rss for one in sizes) / MEGABYTE, sum(getattr(one, "pss", one.rss) for one in sizes) / MEGABYTE


def parts(stack: RunningStack) -> Mapping[str, float]:
    """Resident size of each part, in MB."""
    return {name: round(memory(pid)[0]) for name, pid in stack.pids.items()}


async def latency(stack: RunningStack, requests: int) -> float:
    """Median of tasks one at a time, in milliseconds, with a simulated model without latency."""
    async with aiohttp.ClientSession() as session:
        caller = Caller(session, stack.intake_url, stack.api_key, "sensitive")
        return (await unloaded(caller, requests)).p50


def measure(folder: Path, kind: str, requests: int, rest_seconds: float) -> Footprint:
    """Start it on the folder, look, leave it alone, look, give it work, look again, stop it."""
    (folder / "up.log").unlink(missing_ok=True)
    began = time.monotonic()
    process = launch_up(folder, "--simulate", "--processes", kind, HEADRACE_SIMULATOR_SPEED="instant")
    try:
        log = folder / "up.log"
        while "Ready after" not in log.read_text(errors="replace"):
            if process.poll() is not None:
                raise SystemExit(f"it ended:\n{log.read_text(errors='replace')}")
            time.sleep(LOOK_SECONDS)
        seconds, computed = time.monotonic() - began, processor_seconds(process.pid)
        stack = wait_until_up(folder, process)
        before = memory(process.pid)
        time.sleep(SETTLE_SECONDS)
        services = services_of(stack)
        clients = {name: clients_of(pid) for name, pid in stack.pids.items() if pid in services}
        threads = sum(len(thread_names(pid)) for pid in services)
        resting = at_rest(process.pid, services, rest_seconds)
        milliseconds = asyncio.run(latency(stack, requests))
        after = memory(process.pid)
        sys.stderr.write(f"{kind}: ready after {seconds:.1f} s, {before[0]:.0f} MB: {dict(parts(stack))}\n")
        sys.stderr.write(f"{kind}: clients of Kafka: {clients}\n")
        total = sum(clients.values())
        return Footprint(seconds, computed, total, threads, *resting, *before, *after, milliseconds)
    finally:
        stop_up(process)


def main() -> int:
    """Print a table to standard error and the figures as JSON to standard output and to bench-results/."""
    parser = argparse.ArgumentParser(
        prog="make bench-footprint", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="starts of each kind (default 5)")
    parser.add_argument("--requests", type=int, default=200, help="tasks of each round, one at a time (default 200)")
    parser.add_argument("--rest", type=float, default=60.0, help="seconds at rest in each round (default 60)")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="what to compare (default both)")
    parser.add_argument("--output", type=Path, default=Path("bench-results/footprint.json"), help="where the JSON goes")
    options = parser.parse_args()
    rounds: dict[str, list[Footprint]] = {kind: [] for kind in options.kinds}
    with ExitStack() as closing:
        folders = {kind: closing.enter_context(open_folder(f"footprint-{kind}")) for kind in options.kinds}
        for kind, folder in folders.items():
            with running_up(folder, "--simulate", "--processes", kind, "--port-base", "0"):
                sys.stderr.write(f"{kind}: data folder made\n")
        for number in range(options.rounds):
            # Each kind comes first in turn.
            for kind in options.kinds if number % 2 == 0 else reversed(options.kinds):
                rounds[kind].append(measure(folders[kind], kind, options.requests, options.rest))
    names = [field.name for field in fields(Footprint)]
    medians = {
        kind: {name: round(statistics.median(getattr(one, name) for one in of_kind), 1) for name in names}
        for kind, of_kind in rounds.items()
    }
    report = {
        "what": "start, processor time, clients of Kafka and memory of the whole platform with simulated models",
        "machine": {
            "processors": os.cpu_count(),
            "load": os.getloadavg()[0],
            "python": platform.python_version(),
            "system": platform.platform(),
        },
        "medians": medians,
        "rounds": {kind: [asdict(one) for one in of_kind] for kind, of_kind in rounds.items()},
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(report, indent=2) + "\n")
    heads = (
        "ready s", "CPU s", "clients", "threads", "rest CPU", "all rest", "RSS MB", "PSS MB", "RSS after", "PSS after",
        "task ms",
    )  # fmt: skip
    sys.stderr.write(f"{'':6}" + "".join(f"{head:>11}" for head in heads) + "\n")
    for kind, of_kind in medians.items():
        sys.stderr.write(f"{kind:6}" + "".join(f"{of_kind[name]:>11.1f}" for name in names) + "\n")
    sys.stderr.write(f"after: {options.requests} tasks. Also in {options.output}\n")
    sys.stdout.write(json.dumps(medians) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

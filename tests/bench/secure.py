"""What logins and permissions cost: a secure stack beside an open one, in alternating rounds.

Each round starts one of either in a folder of its own, waits until Java has compiled what is hot, and measures as
`make bench` does: one request at a time, then an open loop. Figures are medians over the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import re
import statistics
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import aiohttp

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
from headrace_testing.up import RunningStack, open_folder, running_up
from latency import Caller, Figures, median_of, open_loop, unloaded

KINDS = {"open": (), "secure": ("--secure",)}
_READY = re.compile(r"Ready after ([\d.]+) s, ([\d.]+) GB")


@dataclass(frozen=True, slots=True)
class Round:
    """One stack: the seconds until it was ready, its memory then in GB, and its latencies."""

    start_seconds: float
    gigabytes: float
    unloaded: Figures
    loaded: Figures


async def measure(stack: RunningStack, options: argparse.Namespace) -> Round:
    """Of a stack that has just started."""
    # Said right after it has published its addresses.
    while (ready := _READY.search(stack.output)) is None:  # noqa: ASYNC110 - another process
        await asyncio.sleep(0.1)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        caller = Caller(session, stack.intake_url, stack.api_key, "sensitive")
        await open_loop(caller, options.rate / 2, options.warm_up)
        one_by_one = await unloaded(caller, options.requests)
        return Round(
            float(ready[1]), float(ready[2]), one_by_one, await open_loop(caller, options.rate, options.seconds)
        )


def main() -> int:
    """Print a table to standard error and the figures as JSON to standard output and to bench-results/."""
    parser = argparse.ArgumentParser(
        prog="make bench-secure", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="stacks of each kind (default 3)")
    parser.add_argument("--requests", type=int, default=300, help="requests one at a time (default 300)")
    parser.add_argument("--rate", type=float, default=50.0, help="tasks a second of the open loop (default 50)")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of the open loop (default 10)")
    parser.add_argument("--warm-up", type=float, default=30.0, help="seconds of load before (default 30)")
    parser.add_argument("--output", type=Path, default=Path("bench-results/secure.json"), help="where the JSON goes")
    options = parser.parse_args()
    rounds: dict[str, list[Round]] = {kind: [] for kind in KINDS}
    for number in range(options.rounds):
        # Each kind comes first in turn.
        for kind in sorted(KINDS, reverse=number % 2 == 1):
            arguments = ("--port-base", "0", "--simulate", *KINDS[kind])
            with (
                open_folder("bench") as folder,
                running_up(folder, *arguments, HEADRACE_SIMULATOR_SPEED="instant") as stack,
            ):
                done = asyncio.run(measure(stack, options))
            rounds[kind].append(done)
            sys.stderr.write(f"{kind}: ready after {done.start_seconds} s, p50 {done.unloaded.p50} ms\n")
    report = {
        "what": "start of the whole platform, and HTTP request to response of /v1/chat/completions with a simulated "
        "model without latency, milliseconds, medians over alternating rounds",
        "machine": {"processors": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()},
        "rounds": {kind: [asdict(one) for one in of_kind] for kind, of_kind in rounds.items()},
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(report, indent=2) + "\n")
    heads = ("start s", "GB", "p50 ms", "p99 ms", "p50 loaded", "p99 loaded", "failed")
    sys.stderr.write(f"{'':8}" + "".join(f"{head:>12}" for head in heads) + "\n")
    failed = 0
    for kind, of_kind in rounds.items():
        alone, loaded = median_of([one.unloaded for one in of_kind]), median_of([one.loaded for one in of_kind])
        failed += alone.failed + loaded.failed
        start = statistics.median(one.start_seconds for one in of_kind)
        memory = statistics.median(one.gigabytes for one in of_kind)
        values = (start, memory, alone.p50, alone.p99, loaded.p50, loaded.p99)
        row = "".join(f"{value:>12.2f}" for value in values) + f"{alone.failed + loaded.failed:>12}"
        sys.stderr.write(f"{kind:8}{row}\n")
    sys.stderr.write(f"loaded: {options.rate:g} tasks/s, open loop. Also in {options.output}\n")
    sys.stdout.write(json.dumps(report["rounds"]) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

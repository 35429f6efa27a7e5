"""How fast a cached answer comes over HTTP: from a partition's memory, and from the stored answers in Postgres.

Runs the whole platform as `make bench` does, and asks `/v1/chat/completions` one request after another, in rounds that
alternate: the same question again and again; the same in sessions of their own, of which five in six come to a
partition that does not hold the answer and looks it up; and new questions, each to a model that answers at once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import aiohttp

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
sys.path.insert(0, str(Path(__file__).resolve().parent))
from headrace_testing.up import RunningStack, open_folder, running_up
from latency import WARM_UP_SECONDS, Caller, Figures, figures, floor, median_of, open_loop

_WAYS = ("memory", "stored", "model")


async def ask(http: aiohttp.ClientSession, stack: RunningStack, text: str, **fields: Any) -> tuple[float, str]:
    """One request: milliseconds, and where its answer came from."""
    body = {
        "model": "auto",
        "temperature": 0,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": 16,
        **fields,
    }
    headers = {"Authorization": f"Bearer {stack.api_key}"}
    began = time.perf_counter()
    async with http.post(f"{stack.intake_url}/v1/chat/completions", json=body, headers=headers) as response:
        document = await response.json()
        took = (time.perf_counter() - began) * 1000
    if response.status != 200:
        raise RuntimeError(f"{response.status}: {document}")
    return took, document["headrace"]["served_from"]


async def measure(
    stack: RunningStack, rounds: int, requests: int
) -> tuple[dict[str, list[Figures]], Counter[str], list[float]]:
    found: dict[str, list[Figures]] = defaultdict(list)
    floors = []
    elsewhere: Counter[str] = Counter()
    run, sent = f"{time.time_ns():x}", 0
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await open_loop(Caller(session, stack.intake_url, stack.api_key, "public"), 50, WARM_UP_SECONDS)
        question = f"How deep is the lake? ({run})"
        await ask(session, stack, question)
        await asyncio.sleep(2)
        for _ in range(rounds):
            floors.append((await floor(stack)).of_a_task)
            for way in _WAYS:
                times, other = [], 0
                for _ in range(requests):
                    sent += 1
                    if way == "memory":
                        took, came_from = await ask(session, stack, question)
                    elif way == "stored":
                        took, came_from = await ask(session, stack, question, session=f"{run}-{sent}")
                    else:
                        took, came_from = await ask(session, stack, f"And {sent}? ({run})")
                    times.append((took, 0.0))
                    other += came_from != ("attempt" if way == "model" else "cache")
                found[way].append(figures(times, 0))
                elsewhere[way] += other
    return found, elsewhere, floors


def main(argv: Sequence[str] | None = None) -> int:
    """Prints a table; exit status 1 if an answer came from elsewhere than it should."""
    parser = argparse.ArgumentParser(prog="make bench-cached ARGS=...", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=200, help="requests of each kind and round (200)")
    parser.add_argument("--output", type=Path, default=Path("bench-results/cached.json"))
    chosen = parser.parse_args(argv)
    with (
        open_folder("bench") as folder,
        running_up(folder, "--port-base", "0", "--simulate", HEADRACE_SIMULATOR_SPEED="instant") as stack,
    ):
        found, elsewhere, floors = asyncio.run(measure(stack, chosen.rounds, chosen.requests))
    medians = {way: median_of(of_way) for way, of_way in found.items()}
    document = {
        "load": os.getloadavg(), "kafka_floor_of_a_task": floors,
        "medians": {way: asdict(one) for way, one in medians.items()},
    }  # fmt: skip
    chosen.output.parent.mkdir(parents=True, exist_ok=True)
    chosen.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print("| answer from | requests | from elsewhere | p50 ms | p90 ms | p99 ms |\n|---|---|---|---|---|---|")
    for way, one in medians.items():
        print(f"| {way} | {one.requests} | {elsewhere[way]} | {one.p50:.2f} | {one.p90:.2f} | {one.p99:.2f} |")
    return 1 if elsewhere.total() else 0


if __name__ == "__main__":
    sys.exit(main())

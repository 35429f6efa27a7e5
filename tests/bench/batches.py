"""What a batch costs: how fast its file is taken, checked, submitted and run, and what memory intake takes for it.

Runs the whole platform in a folder of its own with a simulator that answers at once. A first batch warms it up.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import asyncpg
import psutil
from openai import AsyncOpenAI

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
from headrace_testing.up import RunningStack, open_folder, running_up

ENDPOINT: Any = "/v1/chat/completions"
LOOK_SECONDS = 0.1


def requests(lines: int, size: int) -> bytes:
    """A file of lines of about this many bytes, whose prompts all differ."""
    mark = uuid.uuid4().hex
    return b"".join(
        json.dumps({
            "custom_id": f"line-{number}", "method": "POST", "url": ENDPOINT,
            "body": {
                "model": "auto", "privacy": "sensitive", "max_tokens": 8,
                "messages": [{"role": "user", "content": f"{mark} {number} {'x' * max(0, size - 250)}"}],
            },
        }).encode() + b"\n"
        for number in range(lines)
    )  # fmt: skip


async def measure(stack: RunningStack, lines: int, size: int) -> dict[str, float]:
    """Run one batch."""
    intake = psutil.Process(stack.pid("intake"))
    connection = await asyncpg.connect(stack.database_url, ssl=False)
    before = most = intake.memory_info().rss
    busy = intake.cpu_times()
    content = requests(lines, size)
    times: dict[str, float] = {}
    async with AsyncOpenAI(base_url=f"{stack.intake_url}/v1", api_key=stack.api_key, timeout=600) as client:
        began = time.perf_counter()
        file = await client.files.create(file=("requests.jsonl", content), purpose="batch")
        times["upload"] = time.perf_counter() - began
        began = time.perf_counter()
        batch = await client.batches.create(input_file_id=file.id, endpoint=ENDPOINT, completion_window="24h")
        while batch.status not in ("completed", "failed"):
            await asyncio.sleep(LOOK_SECONDS)
            batch = await client.batches.retrieve(batch.id)
            now, most = time.perf_counter() - began, max(most, intake.memory_info().rss)
            if batch.status != "validating":
                times.setdefault("check", now)
            if (
                "submit" not in times
                and not await connection.fetchval(
                    "SELECT EXISTS (SELECT FROM intake.batch_lines WHERE state IN ('waiting', 'submitting'))"
                )
                and "check" in times
            ):
                times["submit"] = now - times["check"]
            if batch.status == "finalizing":
                times.setdefault("run", now)
        whole = time.perf_counter() - began
    await connection.close()
    assert batch.status == "completed", batch.errors
    assert batch.request_counts is not None
    assert batch.request_counts.completed == lines
    after = intake.cpu_times()
    return {
        "lines": lines,
        "megabytes": round(len(content) / 1e6, 1),
        "upload MB/s": round(len(content) / 1e6 / times["upload"], 1),
        "checked lines/s": round(lines / times["check"]),
        "submitted lines/s": round(lines / times["submit"]),
        "finished lines/s": round(lines / whole),
        "intake CPU ms/line": round((after.user + after.system - busy.user - busy.system) / lines * 1000, 2),
        "intake MB more": round((most - before) / 1e6),
    }


async def main_of(stack: RunningStack, options: argparse.Namespace) -> list[dict[str, float]]:
    """The figures, after a batch that warms everything up."""
    await measure(stack, 500, 400)
    return [await measure(stack, options.lines, size) for size in options.sizes]


def main() -> int:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(
        prog="tests/bench/batches.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lines", type=int, default=5_000, help="lines of a batch (5000)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[400, 10_000], help="bytes of a line (400 10000)")
    parser.add_argument("--live", type=int, default=5_000, help="HEADRACE_BATCH_LIVE_TASKS_PER_TENANT (5000)")
    options = parser.parse_args()
    variables = {
        "HEADRACE_SIMULATOR_SPEED": "instant", "HEADRACE_BATCH_LIVE_TASKS_PER_TENANT": str(options.live),
    }  # fmt: skip
    with open_folder("bench") as folder, running_up(folder, "--port-base", "0", "--simulate", **variables) as stack:
        print(json.dumps(asyncio.run(main_of(stack, options)), indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

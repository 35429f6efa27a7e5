"""Headrace and LiteLLM's proxy behind the same upstream, which answers at once: answers a second, latency, processor
time and memory, under callers that ask again as soon as they are answered.

Each round measures every system under every load, one after another in an order that turns, while the others are idle.
Ratios are taken within a round, and reported as the median over the rounds, smallest to largest in brackets.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
from pathlib import Path

from headrace_bench.children import ContestantFailed

from headrace_gateway_bench.arguments import parse
from headrace_gateway_bench.figures import busy_elsewhere, rows, unanswered
from headrace_gateway_bench.machine import machine, told
from headrace_gateway_bench.measuring import measure
from headrace_gateway_bench.systems import LITELLM
from headrace_gateway_bench.tables import document, markdown


def main() -> int:
    """Progress on standard error, Markdown tables on standard output, JSON in bench-results/."""
    plan, output = parse(None, __doc__ or "")
    # As Ctrl-C, so that all that was started is ended.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    before = os.getloadavg()[0]
    try:
        with tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder:
            results = asyncio.run(measure(plan, Path(folder)))
    except ContestantFailed as error:
        sys.stderr.write(f"x {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    if not results.windows:
        sys.stderr.write("x No system can run here.\n")
        return 1
    silent = unanswered(results.windows)
    found, elsewhere = rows(results.windows, LITELLM), busy_elsewhere(results.windows)
    options = {"rounds": plan.rounds, "seconds": plan.seconds, "warm_up_seconds": plan.warm_up_seconds}
    report = {"machine": machine(before, elsewhere), **options, **document(found, results.windows, results.systems)}
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(report, indent=2) + "\n")
    sys.stdout.write(markdown(found, silent, results.systems, LITELLM) + "\n\n")
    sys.stdout.write(told(plan.rounds, plan.seconds, before, elsewhere) + "\n")
    return 1 if silent or any(row.errors for row in found) else 0


if __name__ == "__main__":
    sys.exit(main())

"""The whole platform when more is asked of it than its models can do: answers in time, latency, refusals, memory; and
LiteLLM's proxy before the same models, in turn with it.

The models are simulated, on one node whose capacity is measured first, without the platform. Ten tenants of equal
weight ask at random moments, whether or not earlier requests have ended. Nine ask for 5 % of that capacity each, always
at the same moments; one is greedy and asks for the rest: 0.5, 1, 1.5, 3 and 10 times the capacity all together, after a
step without it. Every request has a deadline. A step's window opens after as long a time as a deadline, and what ends
in it counts: answers in time (goodput) for all, for the greedy one and for the others, the time to the response of all
that was not refused, refusals by status. A refusal that says when to come back is put to the test, at most one of each
tenant at a time.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import asdict

from headrace_bench.ratios import spread
from headrace_gateway_bench.machine import machine

from headrace_overload_bench.arguments import parse
from headrace_overload_bench.measuring import measure
from headrace_overload_bench.running import carried_out, write
from headrace_overload_bench.tables import document, markdown, plots


def main() -> int:
    """Progress on standard error, Markdown on standard output, JSON in bench-results/, plots below docs/."""
    plan, output, folder = parse(None, __doc__ or "")
    before = os.getloadavg()[0]
    found = carried_out(lambda own: measure(plan, own))
    if isinstance(found, int):
        return found
    elsewhere = spread(found.elsewhere)
    report = {"machine": machine(before, elsewhere), "plan": asdict(plan), **document(found)}
    write(output, report, folder, {f"overload-{name}": text for name, text in plots(found).items()})
    sys.stdout.write(markdown(found) + "\n\n")
    sys.stdout.write(
        f"({time.strftime('%Y-%m-%d')}, {os.cpu_count()} processors, windows of {plan.seconds:g} s, deadlines of "
        f"{plan.deadline_seconds:g} s; load average before: {before:.1f}; other work kept {elsewhere.median:.2f} "
        f"({elsewhere.low:.2f}–{elsewhere.high:.2f}) processors busy)\n"
    )
    # A goal is told, not failed for: on a busy machine it says little.
    return 0


if __name__ == "__main__":
    sys.exit(main())

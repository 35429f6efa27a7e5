"""What a task costs when the platform scales out, and when its state grows: processor time by service, tasks a second.

partitions   1, 2 and 4 routers and cloud workers over 6, 12 and 24 partitions
agents       100, 1,000 and 10,000 agents with the skill feed open, whose sessions submit tasks in turn
tenants      1 and 1,000 tenants that submit in turn
history      none and 1,000,000 tasks that have ended: the routers' journal, intake's view, the ledger

Each round measures all sizes of a dimension, in an order that turns, while the others are idle. Ratios are taken
within a round against the first size, and reported as the median over the rounds. The verdict is about processor time
for a task: flat up to 1.15 times that of the first size; growing if every round is above it; uncertain if only the
median is.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from headrace_bench.children import ContestantFailed
from headrace_gateway_bench.figures import busy_elsewhere
from headrace_gateway_bench.machine import machine, told

from headrace_scale_bench.arguments import parse
from headrace_scale_bench.measuring import PlatformSilent, measure
from headrace_scale_bench.tables import document, markdown
from headrace_scale_bench.verdicts import dimension


def main() -> int:
    """Progress on standard error, Markdown tables on standard output, JSON in bench-results/."""
    plan, output = parse(None, __doc__ or "")
    # As Ctrl-C, so that all that was started is ended.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Each agent is a file here and in the skill broadcaster, which inherits the limit.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    before = os.getloadavg()[0]
    try:
        with tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder:
            results = asyncio.run(measure(plan, Path(folder)))
    except (ContestantFailed, PlatformSilent) as error:
        sys.stderr.write(f"x {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    found = {name: dimension(name, each.windows, each.idle) for name, each in results.items()}
    whole = [one for one in found.values() if one is not None]
    windows = [window for each in results.values() for window in each.windows]
    elsewhere = busy_elsewhere(windows)
    report = {"machine": machine(before, elsewhere), "plan": asdict(plan), "dimensions": document(whole)}
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(report, indent=2) + "\n")
    sys.stdout.write(markdown(whole) + "\n\n")
    sys.stdout.write(told(plan.rounds, plan.seconds, before, elsewhere, f"{plan.callers} tasks in flight, ") + "\n")
    # A verdict is told, not failed for: on a busy machine it says little.
    return 1 if len(whole) < len(found) or any(window.errors for window in windows) else 0


if __name__ == "__main__":
    sys.exit(main())

"""Half of what the models can do, for long: does the memory of any process grow?

All tenants ask at the same rate, at random moments. Memory of each process is read every few seconds. The verdict is
about the readings after the first minutes: a line is laid through them by the method of Theil and Sen (the median of
the slopes between any two), which single readings cannot turn. A process grows when it rises by more than 16 MiB an
hour, and by more than 5 % of its own memory an hour; one whose settings bound it (Java's heap, Postgres's buffers) may
fill what they allow.
"""

from __future__ import annotations

import sys
from dataclasses import asdict

from headrace_overload_bench.arguments import parse_soak
from headrace_overload_bench.running import carried_out, write
from headrace_overload_bench.soaking import SoakResults, soak
from headrace_overload_bench.tables import growth_table, memory_plot


def main() -> int:
    """Progress on standard error, a Markdown table on standard output, JSON in bench-results/, a plot below docs/."""
    plan, output, plots = parse_soak(None, __doc__ or "")
    found = carried_out(lambda folder: soak(plan, folder))
    if isinstance(found, int):
        return found
    growing = sorted(part for part, one in found.growth.items() if one.grows)
    write(output, {"plan": asdict(plan), **_document(found)}, plots, {"soak-memory": memory_plot(found.memory)})
    sys.stdout.write(growth_table(found.growth) + "\n\n")
    verdict = f"grows: {', '.join(growing)}" if growing else "no growth"
    sys.stdout.write(
        f"**{verdict}** ({plan.minutes:g} minutes at {plan.times:g} × what the models can do, the first "
        f"{plan.after_minutes:g} not counted; {found.asked:,} requests, {sum(found.missed.values()):,} not answered in "
        f"time {dict(found.missed)}; {found.restarts} restarts)\n"
    )
    return 1 if growing or found.restarts or not found.growth else 0


def _document(found: SoakResults) -> dict[str, object]:
    memory = {part: [[round(at, 1), size] for at, size in line] for part, line in found.memory.items()}
    growth = {part: {**asdict(one), "grows": one.grows} for part, one in found.growth.items()}
    return {
        "asked": found.asked, "missed": dict(found.missed), "restarts": found.restarts, "growth": growth,
        "memory": memory,
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())

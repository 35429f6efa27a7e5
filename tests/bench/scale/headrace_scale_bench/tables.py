"""What was found as Markdown, and as JSON. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from headrace_bench.report import times

from headrace_scale_bench.verdicts import FLAT, Dimension, Size


def markdown(dimensions: Sequence[Dimension]) -> str:
    """For each dimension its verdict, a table of its sizes, and one of the processor time of each service."""
    return "\n\n".join(section for one in dimensions for section in (_verdict(one), _sizes(one), _services(one)))


def document(dimensions: Sequence[Dimension]) -> list[dict[str, Any]]:
    """Everything, for the JSON."""
    return [
        {
            "dimension": one.name,
            "verdict": one.verdict.value,
            "sizes": [{**asdict(size), "verdict": size.verdict.value if size.verdict else None} for size in one.sizes],
        }
        for one in dimensions
    ]


def _verdict(found: Dimension) -> str:
    worst = max((size.cpu_ratio.median for size in found.sizes if size.cpu_ratio), default=1.0)
    services = [f"{size.name}: {part} {times(ratio)}" for size in found.sizes for part, ratio in size.grown.items()]
    above = f" Services above it: {'; '.join(services)}." if services else ""
    return (
        f"**{found.name}: {found.verdict.value}** (at most {worst:.2f} times the processor time for a task, "
        f"up to {FLAT:.2f} counts as flat).{above}"
    )


def _sizes(found: Dimension) -> str:
    lines = _head(
        found.name, "tasks/s", "p50 ms", "p99 ms", "failed", "CPU ms/task", "above idle", "processors busy when idle",
        "tasks/s × first", "CPU × first", "verdict",
    )  # fmt: skip
    lines += [_line(_cells(size)) for size in found.sizes]
    return "\n".join(lines)


def _cells(size: Size) -> list[str]:
    row = size.row
    first = size.cpu_ratio is None or row.rate_ratio is None
    return [
        size.name, f"{row.rate.median:,.1f}", f"{row.p50:,.1f}", f"{row.p99:,.1f}", str(sum(row.errors.values())),
        f"{row.cpu_ms.median:.2f}", f"{size.busy_ms:.2f}", f"{size.idle_cores:.2f}",
        "–" if first or row.rate_ratio is None else times(row.rate_ratio),
        "–" if size.cpu_ratio is None else times(size.cpu_ratio),
        "–" if size.verdict is None else size.verdict.value,
    ]  # fmt: skip


def _services(found: Dimension) -> str:
    parts = dict.fromkeys(part for size in found.sizes for part in size.row.cpu_ms_by_part)
    by_part = {part: [size.row.cpu_ms_by_part.get(part, 0.0) for size in found.sizes] for part in parts}
    lines = _head("CPU ms/task", *(size.name for size in found.sizes))
    for part, figures in sorted(by_part.items(), key=lambda item: -max(item[1])):
        lines.append(_line([part, *(f"{figure:.2f}" for figure in figures)]))
    return "\n".join(lines)


def _head(*cells: str) -> list[str]:
    return [_line(cells), _line(["---"] * len(cells))]


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"

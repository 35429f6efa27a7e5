"""What days came to, as Markdown and as plots. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from headrace_overload_bench.plots import line_chart

from headrace_testing.fleet_day.figures import DayFigures
from headrace_testing.fleet_day.plan import HOUR

_HEAD: Final = (
    "seed", "machines", "tasks", "in time", "lost", "not answered in time", "rolling restarts",
    "tasks during them (not in time)", "asked in the busiest hour", "used then", "useful then", "calls cut",
    "interactive p50 / p99",
)  # fmt: skip


def table(days: Sequence[DayFigures]) -> str:
    """A line for each day."""
    return "".join(f"| {' | '.join(line)} |\n" for line in (_HEAD, ["---"] * len(_HEAD), *map(_line, days)))


def plots(day: DayFigures) -> Mapping[str, str]:
    """SVG by name."""
    hours = [one.since / HOUR for one in day.hours]

    def line(values: Iterable[float]) -> list[tuple[float, float]]:
        return [(hour, 100 * value) for hour, value in zip(hours, values, strict=True)]

    marks = {float(hour): f"{hour}:00" for hour in range(0, 24, 4)} if len(hours) == 24 else None
    use = {
        "asked for": line(one.offered for one in day.hours),
        "in use": line(one.used for one in day.hours),
        "of use": line(one.useful for one in day.hours),
        "machines here": line(one.up for one in day.hours),
        "in time": line(one.in_time for one in day.hours),
    }
    return {"use": line_chart("A day of a fleet of unequal machines", "hour", "%", use, marks=marks)}


def _line(day: DayFigures) -> Sequence[str]:
    late = ", ".join(f"{how}: {number}" for how, number in sorted(day.failed.items())) or "none"
    return (
        str(day.seed), str(day.machines), f"{day.tasks:,}", f"{day.in_time:.2%}", str(day.lost), late,
        str(day.restarts), f"{day.restarting:,} ({day.restarting_failed})", f"{day.busiest.offered:.0%}",
        f"{day.busiest.used:.0%}", f"{day.busiest.useful:.0%}", f"{day.calls_cut:,} of {day.calls:,}",
        f"{day.wait_p50:.1f} s / {day.wait_p99:.0f} s",
    )  # fmt: skip

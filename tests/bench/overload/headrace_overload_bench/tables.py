"""What was found as Markdown, as JSON and as plots. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from headrace_overload_bench.figures import StepFigures, goals
from headrace_overload_bench.measuring import OverloadResults, SystemResults
from headrace_overload_bench.platform import PLATFORM
from headrace_overload_bench.plots import line_chart
from headrace_overload_bench.slopes import MEBIBYTE, Growth

_NONE: Final = "–"


def markdown(results: OverloadResults) -> str:
    """Tables of the steps, of refusals, of memory for each system; and what became of the goals."""
    parts = [f"The models alone give {results.capacity:.2f} answers/s."]
    for name, found in results.systems.items():
        if found.missing is not None:
            parts.append(f"**{name}** was left out: {found.missing}")
            continue
        parts.append(f"**{name}**: {found.settings}.")
        parts += [_speed(found.steps, results.capacity), _refusals(found.steps), _memory(found.steps)]
        if name == PLATFORM:
            parts.append(_goals(found.steps))
    return "\n\n".join(parts)


def document(results: OverloadResults) -> dict[str, Any]:
    """Everything but single requests."""
    return {
        "capacity": results.capacity,
        "systems": {
            name: {
                "settings": found.settings,
                "missing": found.missing,
                "steps": [asdict(step) for step in found.steps],
                "goals": [{**asdict(goal), "met": goal.met} for goal in goals(found.steps)],
                "memory": {part: [[round(at, 1), size] for at, size in line] for part, line in found.memory.items()},
            }
            for name, found in results.systems.items()
        },
    }


def plots(results: OverloadResults) -> dict[str, str]:
    """SVG by name. Steps stand at equal distances, since one of them is far from the others."""
    measured = {name: found for name, found in results.systems.items() if found.steps}
    first = next(iter(measured.values()), SystemResults())
    marks = {float(number): step.step.name for number, step in enumerate(first.steps)}
    marks[0.0] = "no greedy one"

    def line(figures: Iterable[float | None]) -> list[tuple[float, float]]:
        return [(float(number), figure) for number, figure in enumerate(figures) if figure is not None]

    goodput: dict[str, list[tuple[float, float]]] = {}
    latency: dict[str, list[tuple[float, float]]] = {}
    for name, found in measured.items():
        goodput[f"{name}: all"] = line(step.everyone.goodput for step in found.steps)
        goodput[f"{name}: greedy one"] = line(step.greedy.goodput for step in found.steps)
        goodput[f"{name}: others"] = line(step.modest.goodput for step in found.steps)
        latency[f"{name}: others, p50"] = line(step.modest.p50 for step in found.steps)
        latency[f"{name}: others, p99"] = line(step.modest.p99 for step in found.steps)
        latency[f"{name}: greedy one, p50"] = line(step.greedy.p50 for step in found.steps)
    goodput["the others ask"] = line(step.modest.asked for step in first.steps)
    goodput["the models can"] = line(results.capacity for _ in first.steps)
    across = "asked for, as a multiple of what the models can do"
    drawn = {
        "goodput": line_chart("Answers in time", across, "answers a second", goodput, marks=marks),
        "latency": line_chart("Time to the response, of what was not refused", across, "ms", latency, marks=marks),
    }
    for name, found in measured.items():
        middles = {(begin + end) / 2: step for step, (begin, end) in found.spans.items()}
        drawn[f"memory-{name}"] = memory_plot(found.memory, middles)
    return drawn


def memory_plot(memory: Mapping[str, Sequence[tuple[float, float]]], steps: Mapping[float, str] | None = None) -> str:
    """Memory over time; over minutes, or over steps where it is given which was when."""
    scale = 60.0 if steps is None else 1.0
    marks = (
        None if steps is None else {at: name.replace("without the greedy one", "none") for at, name in steps.items()}
    )
    ordered = sorted(memory.items(), key=lambda item: -max(size for _, size in item[1]))
    series = {part: [(at / scale, size / MEBIBYTE) for at, size in line] for part, line in ordered}
    across = "minutes" if steps is None else "step"
    return line_chart("Memory of each process", across, "MiB", series, marks=marks, dots=False)


def growth_table(found: Mapping[str, Growth]) -> str:
    """What became of the memory of each part, largest first."""
    lines = _head("part", "MiB at first", "MiB at last", "MiB an hour", "bound", "its settings allow", "verdict")
    for part, one in sorted(found.items(), key=lambda item: -item[1].last):
        sizes = (f"{size / MEBIBYTE:,.1f}" for size in (one.first, one.last, one.hourly, one.bound))
        allowed = _NONE if one.ceiling is None else f"{one.ceiling / MEBIBYTE:,.0f}"
        below = one.hourly > one.bound and not one.grows
        verdict = "**grows**" if one.grows else "fills what it is allowed" if below else "no growth"
        lines.append(_line([part, *sizes, allowed, verdict]))
    return "\n".join(lines)


def _speed(steps: Sequence[StepFigures], capacity: float) -> str:
    lines = _head(
        "asked for", "requests/s", "in time/s", "of the models'", "greedy: in time/s", "p50 ms", "p99 ms",
        "others: in time", "least–most", "p50 ms", "p99 ms", "at best", "processors busy",
    )  # fmt: skip
    for one in steps:
        cells = [
            one.step.name, f"{one.everyone.asked:.1f}", f"{one.everyone.goodput:.1f}",
            f"{one.everyone.goodput / capacity:.0%}",
            f"{one.greedy.goodput:.1f}", _ms(one.greedy.p50), _ms(one.greedy.p99),
            f"{one.modest.share:.0%}", f"{one.least:.0%}–{one.most:.0%}",
            _ms(one.modest.p50), _ms(one.modest.p99), _ms(one.best), f"{one.cores:.2f}",
        ]  # fmt: skip
        lines.append(_line(cells))
    return "\n".join(lines)


def _refusals(steps: Sequence[StepFigures]) -> str:
    statuses = sorted({status for step in steps for status in step.statuses})
    names = {0: "no response", 200: "200, late"}
    lines = _head(
        "not in time", *(names.get(status, str(status)) for status in statuses),
        "said when to come back", "came back then", "taken on", "restarts",
    )  # fmt: skip
    for one in steps:
        counts = (str(one.statuses.get(status, 0)) for status in statuses)
        lines.append(_line([one.step.name, *counts, *map(str, (one.told, one.tried, one.kept, one.restarts))]))
    return "\n".join(lines)


def _memory(steps: Sequence[StepFigures]) -> str:
    parts = dict.fromkeys(part for step in steps for part in step.memory)
    lines = _head("most MiB", *(step.step.name for step in steps))
    for part in sorted(parts, key=lambda part: -max(step.memory.get(part, 0) for step in steps)):
        lines.append(_line([part, *(f"{step.memory.get(part, 0) / MEBIBYTE:,.0f}" for step in steps)]))
    return "\n".join(lines)


def _goals(steps: Sequence[StepFigures]) -> str:
    return "\n".join(f"- {goal.line()}" for goal in goals(steps))


def _ms(figure: float | None) -> str:
    return _NONE if figure is None else f"{figure:,.0f}"


def _head(*cells: str) -> list[str]:
    return [_line(cells), _line(["---"] * len(cells))]


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"

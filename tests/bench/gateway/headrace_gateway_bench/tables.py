"""What was measured as Markdown tables, and as JSON. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from headrace_bench.report import times

from headrace_gateway_bench.figures import MODES, MeasuredWindow, Row, Setup
from headrace_gateway_bench.measuring import Measured

_MEBIBYTE = 1024 * 1024
_NONE = "–"
_SHORT = "†"


def markdown(rows: Sequence[Row], unanswered: Sequence[Setup], systems: Mapping[str, Measured], peer: str) -> str:
    """All tables, one below another, after what cannot be told from them."""
    # Rows come in the order of a round, which turns.
    rows = sorted(rows, key=lambda row: (row.setup.callers, list(systems).index(row.setup.system)))
    sections = [_speed([row for row in rows if row.setup.mode == mode], mode, peer) for mode in MODES]
    sections += [_cpu(rows, name) for name, found in systems.items() if found.missing is None]
    sections.append(_memory(systems))
    sections.append(_settings(systems))
    if unanswered:
        left_out = "; ".join(f"{one.system}, {one.mode}, {one.callers} callers" for one in unanswered)
        sections.insert(0, f"Left out, since in a whole window nothing was answered: {left_out}.")
    if any(row.too_short for row in rows):
        sections.insert(0, f"{_SHORT} Fewer than two answers for each caller in a window: too short to tell.")
    return "\n\n".join(section for section in sections if section)


def document(rows: Sequence[Row], windows: Sequence[MeasuredWindow], systems: Mapping[str, Measured]) -> dict[str, Any]:
    """Everything but the times of single requests."""
    return {
        "rows": [asdict(row) for row in rows],
        "systems": {name: asdict(found) for name, found in systems.items()},
        "windows": [
            {
                "round": window.round,
                **asdict(window.setup),
                "seconds": window.seconds,
                "answered": window.answered,
                "errors": dict(window.errors),
                "cpu_seconds": dict(window.cpu_seconds),
                "upstream_cpu_seconds": window.upstream_cpu_seconds,
                "load_cpu_seconds": window.load_cpu_seconds,
                "others_cpu_seconds": window.others_cpu_seconds,
                "elsewhere_cpu_seconds": window.elsewhere_cpu_seconds,
            }
            for window in windows
        ],
    }


def _speed(rows: Sequence[Row], mode: str, peer: str) -> str:
    if not rows:
        return ""
    head = ["callers", "system", "answers/s", "p50 ms", "p99 ms", "failed", "CPU ms/answer", "processors busy"]
    head += [f"answers/s × {peer}'s", f"CPU × {peer}'s"]
    if mode == "streamed":
        head.insert(4, "first byte p50 ms")
    lines = [f"{mode.capitalize()} chat completions:", "", *_head(head)]
    for row in rows:
        cells = [
            str(row.setup.callers), row.setup.system, f"{row.rate.median:,.1f}{_SHORT if row.too_short else ''}",
            f"{row.p50:,.1f}", f"{row.p99:,.1f}",
            str(sum(row.errors.values())), f"{row.cpu_ms.median:.2f}", f"{row.cores:.2f}",
            _ratio(row, row.rate_ratio, peer), _ratio(row, row.cpu_ratio, peer),
        ]  # fmt: skip
        if mode == "streamed":
            cells.insert(4, f"{row.first_p50:,.1f}")
        lines.append(_line(cells))
    return "\n".join(lines)


def _ratio(row: Row, ratio: Any, peer: str) -> str:
    return _NONE if ratio is None or row.setup.system == peer else times(ratio)


def _cpu(rows: Sequence[Row], system: str) -> str:
    own = sorted((row for row in rows if row.setup.system == system), key=lambda row: row.setup)
    if not own:
        return ""
    parts = sorted(
        dict.fromkeys(part for row in own for part in row.cpu_ms_by_part),
        key=lambda part: -max(row.cpu_ms_by_part.get(part, 0.0) for row in own),
    )
    head = [f"{system}: CPU ms/answer", *(f"{row.setup.mode}, {row.setup.callers}" for row in own)]
    lines = _head(head)
    for part in parts:
        lines.append(_line([part, *(f"{row.cpu_ms_by_part.get(part, 0.0):.2f}" for row in own)]))
    lines.append(_line(["**all**", *(f"**{row.cpu_ms.median:.2f}**" for row in own)]))
    lines.append(_line(["beside it: the callers", *(f"{row.load_cpu_ms:.2f}" for row in own)]))
    lines.append(_line(["beside it: the upstream", *(f"{row.upstream_cpu_ms:.2f}" for row in own)]))
    return "\n".join(lines)


def _memory(systems: Mapping[str, Measured]) -> str:
    lines = _head(["system", "part", "RSS MB", "PSS MB", "processors busy when idle"])
    for name, found in systems.items():
        if found.missing is not None:
            lines.append(_line([name, "left out", _NONE, _NONE, _NONE]))
            continue
        for part, memory in sorted(found.memory.items(), key=lambda item: -item[1].pss):
            idle = f"{found.idle_cpu.get(part, 0.0):.3f}"
            lines.append(_line([name, part, *_megabytes(memory.rss, memory.pss), idle]))
        rss, pss = (sum(getattr(one, kind) for one in found.memory.values()) for kind in ("rss", "pss"))
        all_cells = [name, "**all**", *_megabytes(rss, pss), f"{found.idle_cores:.3f}"]
        lines.append(_line(all_cells))
    return "\n".join(lines)


def _megabytes(*figures: int) -> list[str]:
    return [f"{figure / _MEBIBYTE:,.0f}" for figure in figures]


def _settings(systems: Mapping[str, Measured]) -> str:
    return "\n".join(
        f"- {name}: {found.settings}; ready after {found.start_seconds:.0f} s."
        if found.missing is None
        else f"- {name}: left out. {found.missing}"
        for name, found in systems.items()
    )


def _head(cells: Sequence[str]) -> list[str]:
    return [_line(cells), _line(["---"] * len(cells))]


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"

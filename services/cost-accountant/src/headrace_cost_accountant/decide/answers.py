"""Reports and live windows for callers, as JSON documents and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

from headrace_contracts.events import SpendWindows, Window

from headrace_cost_accountant.decide.questions import CostQuery
from headrace_cost_accountant.decide.windows import Spend, current_windows

_NANODOLLARS: Final = Decimal(1_000_000_000)
_FORMULA_STARTS: Final = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True, slots=True)
class Sums(Spend):
    """The totals of a group of executions, with what only the ledger knows; can be added."""

    internal_value_nanodollars: int = 0
    unpriced_executions: int = 0
    possibly_billed_executions: int = 0
    possibly_billed_nanodollars: int = 0


@dataclass(frozen=True, slots=True)
class ReportGroup:
    """One row of a report: its values of the grouping fields, and whether the answers were simulated."""

    key: Mapping[str, str]
    simulated: bool
    sums: Sums


def dollars(nanodollars: int) -> str:
    """Nano-dollars as exact dollars."""
    return f"{Decimal(nanodollars) / _NANODOLLARS:.9f}"


def time_text(time_ms: int) -> str:
    """Milliseconds since the epoch as RFC 3339 in UTC."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def report_document(question: CostQuery, groups: Sequence[ReportGroup]) -> dict[str, Any]:
    """A report. Simulated usage is included in `total`, at the price of the real models, and also listed separately."""
    return {
        "tenant": question.tenant,
        "since": None if question.since is None else time_text(question.since),
        "until": None if question.until is None else time_text(question.until),
        "group_by": list(question.group_by),
        "total": _sums_document(_total(groups)),
        "simulated": _sums_document(_total([group for group in groups if group.simulated])),
        "groups": [
            {"key": dict(group.key), "simulated": group.simulated, **_sums_document(group.sums)} for group in groups
        ]
        if question.group_by
        else [],
    }


def report_csv(question: CostQuery, groups: Sequence[ReportGroup]) -> str:
    """The groups of a report as CSV (RFC 4180), without the total."""
    text = io.StringIO()
    writer = csv.writer(text)
    numbers = list(_sums_document(Sums()))
    writer.writerow([*question.group_by, "simulated", *numbers])
    for group in groups:
        names = [_harmless(group.key[name]) for name in question.group_by]
        writer.writerow([*names, str(group.simulated).lower(), *_sums_document(group.sums).values()])
    return text.getvalue()


def live_document(tenant: str, event: SpendWindows | None, now_ms: int) -> dict[str, Any]:
    """A tenant's current windows."""
    return {
        "tenant": tenant,
        "updated_at": None if event is None else time_text(event.updated_at),
        "windows": [_window_document(window) for window in current_windows(event, now_ms)],
    }


def _window_document(window: Window) -> dict[str, Any]:
    return {
        "seconds": window.seconds,
        "start": time_text(window.start),
        "executions": window.executions,
        "input_tokens": window.usage.input_tokens,
        "output_tokens": window.usage.output_tokens,
        "cached_input_tokens": window.usage.cached_input_tokens,
        "cache_write_5m_tokens": window.usage.cache_write_5m_tokens,
        "cache_write_1h_tokens": window.usage.cache_write_1h_tokens,
        "searches": window.usage.searches,
        "cost_nanodollars": window.cost_nanodollars,
        "cost_usd": dollars(window.cost_nanodollars),
    }


def _total(groups: Sequence[ReportGroup]) -> Sums:
    return sum((group.sums for group in groups), start=Sums())


def _sums_document(sums: Sums) -> dict[str, Any]:
    return {
        "executions": sums.executions,
        "input_tokens": sums.input_tokens,
        "output_tokens": sums.output_tokens,
        "cached_input_tokens": sums.cached_input_tokens,
        "searches": sums.searches,
        "cost_nanodollars": sums.cost_nanodollars,
        "cost_usd": dollars(sums.cost_nanodollars),
        "internal_value_nanodollars": sums.internal_value_nanodollars,
        "unpriced_executions": sums.unpriced_executions,
        # The last ones, since some readers of the CSV count columns.
        "cache_write_5m_tokens": sums.cache_write_5m_tokens,
        "cache_write_1h_tokens": sums.cache_write_1h_tokens,
        # Beside the cost, and in no sum of it: nobody knows whether it was billed.
        "possibly_billed_executions": sums.possibly_billed_executions,
        "possibly_billed_nanodollars": sums.possibly_billed_nanodollars,
        "possibly_billed_usd": dollars(sums.possibly_billed_nanodollars),
    }


def _harmless(text: str) -> str:
    # Users choose these names; a spreadsheet would evaluate one that begins like a formula.
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text

"""Service level objectives, and alerts on how fast their error budgets burn.

Each objective gets a recording rule for every window and two alerts, each of which compares two windows: the long one
keeps short disturbances from paging anyone, the short one ends the alert soon after the problem.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

PERIOD_DAYS: Final = 30


@dataclass(frozen=True, slots=True)
class Objective:
    """The share of events that must be good over `PERIOD_DAYS`.

    Attributes:
        name: Part of the alerts' names, in CamelCase; `record` is the same for recording rules.
        target: Share of good events, 0 to 1.
        bad, total: Rates of bad and of all events by namespace; `{window}` stands for the time window.
        meaning: What counts as a good event, in words.
    """

    name: str
    record: str
    target: float
    bad: str
    total: str
    meaning: str


def _late(histogram: str, seconds: float) -> tuple[str, str]:
    total = f"sum by (namespace) (rate({histogram}_count[{{window}}]))"
    return f'{total} - sum by (namespace) (rate({histogram}_bucket{{{{le="{seconds}"}}}}[{{window}}]))', total


def _share(counter: str, bad: str) -> tuple[str, str]:
    return (
        f"sum by (namespace) (rate({counter}{{{{{bad}}}}}[{{window}}]))",
        f"sum by (namespace) (rate({counter}[{{window}}]))",
    )


OBJECTIVES: Final = (
    Objective(
        "Api", "api_errors", 0.999, *_share("headrace_http_request_seconds_count", 'status=~"5.."'),
        "a request to an HTTP API is not answered with 5xx",
    ),
    Objective(
        "Acceptance", "slow_acceptance", 0.99, *_late("headrace_intake_accept_seconds", 0.125),
        "a task is acknowledged by Kafka within 125 ms",
    ),
    Objective(
        "Routing", "slow_routing", 0.99, *_late("headrace_router_decision_seconds", 0.25),
        "the records that follow from an event are appended within 250 ms",
    ),
    Objective(
        "Tasks", "failed_tasks", 0.99, *_share("headrace_router_tasks_finished_total", 'status=~"failed|expired"'),
        "a task neither fails nor expires",
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Burn:
    """An alert if the budget burns `factor` times as fast as allowed, over both windows."""

    factor: float
    long: str
    short: str
    severity: str


_BURNS: Final = (
    # 2 % of the budget in an hour, 5 % in six hours: page the operator.
    _Burn(14.4, "1h", "5m", "critical"),
    _Burn(6, "6h", "30m", "critical"),
    # 10 % in three days: to be handled in working hours.
    _Burn(1, "3d", "6h", "warning"),
)
_WINDOWS: Final = ("5m", "30m", "1h", "6h", "3d")


def rules() -> dict[str, Any]:
    """The rule file for Prometheus."""
    return {"groups": [_group(objective) for objective in OBJECTIVES]}


def _group(objective: Objective) -> dict[str, Any]:
    records = [
        {
            "record": _record(objective, window),
            "expr": f"({objective.bad.format(window=window)}) / {objective.total.format(window=window)}",
        }
        for window in _WINDOWS
    ]
    return {
        "name": f"headrace.objectives.{objective.name.lower()}",
        "rules": [*records, _alert(objective, "critical", "Fast"), _alert(objective, "warning", "Slowly")],
    }


def _alert(objective: Objective, severity: str, how: str) -> dict[str, Any]:
    allowed = round(1 - objective.target, 6)
    name = f"Headrace{objective.name}BudgetBurns{how}"
    conditions = [
        f"({_record(objective, burn.long)} > {burn.factor:g} * {allowed:g} "
        f"and {_record(objective, burn.short)} > {burn.factor:g} * {allowed:g})"
        for burn in _BURNS
        if burn.severity == severity
    ]
    return {
        "alert": name,
        "expr": "\nor\n".join(conditions),
        "for": "2m" if severity == "critical" else "1h",
        "labels": {"severity": severity, "objective": objective.name.lower()},
        "annotations": {
            "summary": f"{{{{ $value | humanizePercentage }}}} of events miss the objective: in {objective.target:.1%} "
            f"of cases {objective.meaning}.",
            "runbook_url": f"docs/operations.md#{name.lower()}",
        },
    }


def _record(objective: Objective, window: str) -> str:
    return f"headrace:{objective.record}:ratio_rate{window}"

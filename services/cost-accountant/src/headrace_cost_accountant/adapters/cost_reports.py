"""Reads reports from the ledger."""

from __future__ import annotations

from dataclasses import fields
from datetime import UTC, datetime
from typing import Final

from headrace_runtime.database import Database

from headrace_cost_accountant.adapters.ledger_store import COUNTED
from headrace_cost_accountant.decide.answers import ReportGroup, Sums, time_text
from headrace_cost_accountant.decide.questions import DAY_MS, CostQuery

_HOUR_MS: Final = 3_600_000
_OF_ENTRIES: Final = {
    "day": f"recorded_at - recorded_at % {DAY_MS}",
    "hour": f"recorded_at - recorded_at % {_HOUR_MS}",
    "user": "user_name",
}
_OF_BALANCES: Final = {"day": "extract(epoch FROM day)::bigint * 1000"}
_SUMS: Final = tuple(field.name for field in fields(Sums))
_SUMS_OF_ENTRIES: Final = ", ".join(COUNTED.get(name, f"sum({name})") for name in _SUMS)
_SUMS_OF_BALANCES: Final = ", ".join(f"sum({name})" for name in _SUMS)


class CostReports:
    """Answers cost questions from Postgres."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def groups(self, question: CostQuery) -> list[ReportGroup]:
        """The groups of a report, simulated ones separately, in the order of their keys. Raises TransientError."""
        statement, values = _statement(question)
        async with self._database.connection() as connection:
            rows = await connection.fetch(statement, *values)
        width = len(question.group_by)
        return [
            ReportGroup(
                key={name: _shown(name, row[place]) for place, name in enumerate(question.group_by)},
                simulated=row[width],
                sums=Sums(*(int(number or 0) for number in list(row.values())[width + 1 :])),
            )
            for row in rows
        ]


def _statement(question: CostQuery) -> tuple[str, list[object]]:
    of_balances = question.balances_suffice
    expressions = _OF_BALANCES if of_balances else _OF_ENTRIES
    columns = [expressions.get(name, name) for name in question.group_by]
    conditions: list[str] = []
    values: list[object] = []
    if question.tenant is not None:
        values.append(question.tenant)
        conditions.append(f"tenant = ${len(values)}")
    for bound, operator in ((question.since, ">="), (question.until, "<")):
        if bound is not None:
            values.append(datetime.fromtimestamp(bound / 1000, UTC).date() if of_balances else bound)
            conditions.append(f"{'day' if of_balances else 'recorded_at'} {operator} ${len(values)}")
    places = ", ".join(str(place) for place in range(1, len(columns) + 2))
    selected = ", ".join([*columns, "simulated", _SUMS_OF_BALANCES if of_balances else _SUMS_OF_ENTRIES])
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    table = "ledger.balances" if of_balances else "ledger.entries"
    return f"SELECT {selected} FROM {table} {where} GROUP BY {places} ORDER BY {places}", values


def _shown(name: str, value: object) -> str:
    if value is None:
        return ""
    if name == "day":
        return time_text(int(str(value)))[:10]
    if isinstance(value, bool):
        return str(value).lower()
    return time_text(int(str(value))) if name == "hour" else str(value)

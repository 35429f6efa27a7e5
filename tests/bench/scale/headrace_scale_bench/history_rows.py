"""Rows of tasks that have ended, in intake's view and in the ledger: copies of a real one with other ids and times."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Final

import asyncpg

STEP_MS: Final = 2_000
"""Between two tasks: a million of them fill 23 days, within the retention of all tables."""

_TIME: Final = f"($2::bigint - n * {STEP_MS})"
_TASK: Final = (
    f"regexp_replace(lpad(to_hex({_TIME}), 12, '0'), '(.{{8}})', '\\1-') || '-7000-8000-' || lpad(to_hex(n), 12, '0')"
)
"""A UUIDv7 of that time."""

COPIES: Final[Mapping[str, Mapping[str, str]]] = {
    "intake.tasks": {"task_id": _TASK, "submitted_at": _TIME, "completed_at": f"{_TIME} + 500"},
    "ledger.entries": {
        "event_id": f"{_TASK} || '/1/0'",
        "task_id": _TASK,
        "attempt_id": f"{_TASK} || '/1'",
        "execution_id": f"{_TASK} || '/1/0'",
        "recorded_at": _TIME,
    },
}
"""By table: the columns in which a copy differs, as an expression of its number `n`, from 1 on."""
_REAL: Final = {"intake.tasks": "WHERE completed_at IS NOT NULL", "ledger.entries": ""}
"""Which of the rows there are may be copied."""


class NothingToCopy(Exception):
    """No task has ended in this database: let one end first."""


def copying(table: str, columns: Sequence[str], changed: Mapping[str, str]) -> str:
    """The statement that copies a row; $1 is the number of copies, $2 the time now in milliseconds."""
    values = ", ".join(changed.get(column, f"one.{column}") for column in columns)
    return (
        f"INSERT INTO {table} ({', '.join(columns)}) SELECT {values} "
        f"FROM (SELECT * FROM {table} {_REAL[table]} LIMIT 1) AS one, generate_series(1, $1::bigint) AS n"
    )


async def add_rows(database_url: str, count: int) -> None:
    """Add so many tasks to every table of `COPIES`, and leave it as autovacuum would. Raises NothingToCopy."""
    connection = await asyncpg.connect(database_url, ssl=False)
    # One time for all tables: ids are made of it, and a task has the same everywhere.
    now_ms = time.time_ns() // 1_000_000
    try:
        for table, changed in COPIES.items():
            schema, _, name = table.partition(".")
            columns = await connection.fetch(
                "SELECT column_name FROM information_schema.columns WHERE table_schema = $1 AND table_name = $2",
                schema,
                name,
            )
            statement = copying(table, [row["column_name"] for row in columns], changed)
            if await connection.execute(statement, count, now_ms, timeout=None) == "INSERT 0 0":
                raise NothingToCopy(table)
            await connection.execute(f"VACUUM ANALYZE {table}")
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()

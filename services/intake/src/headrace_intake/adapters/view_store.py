"""Writes the task view: rows and the positions they stand for, in one transaction."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from headrace_runtime.database import Connection, Database
from headrace_runtime.positions import Positions
from headrace_streams.dead_letters import DeadLetterSink
from headrace_streams.errors import AppendUncertain, Overloaded, TransientError
from headrace_streams.records import Record, TopicPartition

from headrace_intake.decide.rows import COMPLETED_COLUMNS, SUBMITTED_COLUMNS, NotAViewRow, Row, rows_of
from headrace_intake.migrations import MIGRATIONS

_ONLY_SUBMITTED: Final = ("requested_model", "reply_partition", "deadline_at")
"""What a completion does not say, so that a submission adds it whenever it comes."""
_ONCE: Final = ("task_id", "tenant", "route_key", "home_partition", "submitted_at")
"""What the first event of a task has said for good."""


def _insert(columns: Sequence[tuple[str, str]], on_conflict: str) -> str:
    names = ", ".join(name for name, _ in columns)
    # jsonb travels as text, since asyncpg would otherwise want a codec on every connection.
    arrays = ", ".join(
        f"${number}::{'text' if kind == 'jsonb' else kind}[]" for number, (_, kind) in enumerate(columns, start=1)
    )
    values = ", ".join(f"{name}::jsonb" if kind == "jsonb" else name for name, kind in columns)
    return (
        f"INSERT INTO intake.tasks AS t ({names}) SELECT {values} FROM unnest({arrays}) AS new ({names}) "
        f"ON CONFLICT (task_id) DO UPDATE {on_conflict}"
    )


_SUBMITTED: Final = _insert(
    SUBMITTED_COLUMNS,
    f"SET ({', '.join(_ONLY_SUBMITTED)}) = ({', '.join('excluded.' + name for name in _ONLY_SUBMITTED)}) "
    "WHERE t.tenant = excluded.tenant "
    f"AND ({', '.join('t.' + name for name in _ONLY_SUBMITTED)}) "
    f"IS DISTINCT FROM ({', '.join('excluded.' + name for name in _ONLY_SUBMITTED)})",
)
_COMPLETED_ONLY: Final = [name for name, _ in COMPLETED_COLUMNS if name not in _ONCE]
_COMPLETED: Final = _insert(
    COMPLETED_COLUMNS,
    f"SET ({', '.join(_COMPLETED_ONLY)}) = ({', '.join('excluded.' + name for name in _COMPLETED_ONLY)}) "
    "WHERE t.tenant = excluded.tenant AND t.completed_at IS NULL",
)


class ViewStore:
    """What a `Projection` needs of a database.

    Args:
        dead_letters: Keep a record that can have no row.
    """

    def __init__(self, database: Database, dead_letters: DeadLetterSink) -> None:
        self._database = database
        self._dead_letters = dead_letters
        self._positions = Positions(MIGRATIONS.schema)
        self._kept: set[tuple[TopicPartition, int]] = set()

    async def positions(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        """Where to go on; partitions that were never read are left out. Raises TransientError."""
        async with self._database.connection() as connection:
            return await self._positions.find(connection, partitions)

    async def apply(
        self,
        batch: Sequence[tuple[Record, Any]],
        moves: Mapping[TopicPartition, tuple[int | None, int]],
    ) -> None:
        """Write the rows of a batch and move the positions, or neither.

        What can have no row is put aside first. Raises PartitionsLost when another process has moved one of the
        positions, TransientError when Postgres or Kafka is away, BatchRefused when Postgres will never take a row.
        """
        rows, unusable = rows_of(batch)
        for record, reason in unusable:
            await self._put_aside(record, reason)
        async with self._database.transaction() as connection:
            await self._positions.move(connection, moves)
            await _write(connection, _SUBMITTED, rows.submitted)
            await _write(connection, _COMPLETED, rows.completed)
        self._kept.clear()

    async def _put_aside(self, record: Record, reason: NotAViewRow) -> None:
        place = (record.topic_partition, record.offset)
        # A batch that is tried again because Postgres was away has had its unusable records kept already.
        if place in self._kept:
            return
        try:
            await self._dead_letters.keep(record, reason)
        except (AppendUncertain, Overloaded) as error:
            raise TransientError(str(error)) from error
        self._kept.add(place)


async def _write(connection: Connection, statement: str, rows: Mapping[str, Row]) -> None:
    if rows:
        # In the order of ids, so that two processes never wait for each other's rows.
        await connection.execute(statement, *zip(*(rows[task_id] for task_id in sorted(rows)), strict=True))

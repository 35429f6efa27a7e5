"""Writes the task view: rows and consumed offsets in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from headrace_runtime.database import Connection, Database
from headrace_runtime.logging import get_logger
from headrace_runtime.positions import Positions
from headrace_runtime.producers import KeyNotHereYet, ProducerRefused, ProducerVerification
from headrace_streams.applied import Moves
from headrace_streams.dead_letters import DeadLetterSink
from headrace_streams.errors import AppendUncertain, Overloaded, TransientError
from headrace_streams.log_identity import StoredPosition
from headrace_streams.records import Record, TopicPartition

from headrace_intake.decide.rows import (
    COMPLETED_COLUMNS,
    CONVERSATION_COLUMNS,
    FORGOTTEN_COLUMNS,
    SUBMITTED_COLUMNS,
    TURN_COLUMNS,
    NotAViewRow,
    Row,
    Rows,
    rows_of,
)
from headrace_intake.migrations import MIGRATIONS

_ONLY_SUBMITTED: Final = ("requested_model", "reply_partition", "deadline_at")
"""Columns that a completion does not carry, so a submission fills them even when it arrives later."""
_ONCE: Final = ("task_id", "tenant", "route_key", "home_partition", "submitted_at")
"""Columns set by the first event of a task and never changed."""


def _insert(columns: Sequence[tuple[str, str]], on_conflict: str, table: str = "tasks", key: str = "task_id") -> str:
    names = ", ".join(name for name, _ in columns)
    # jsonb travels as text, since asyncpg would otherwise want a codec on every connection.
    arrays = ", ".join(
        f"${number}::{'text' if kind == 'jsonb' else kind}[]" for number, (_, kind) in enumerate(columns, start=1)
    )
    values = ", ".join(f"{name}::jsonb" if kind == "jsonb" else name for name, kind in columns)
    return (
        f"INSERT INTO intake.{table} AS t ({names}) SELECT {values} FROM unnest({arrays}) AS new ({names}) "
        f"ON CONFLICT ({key}) DO {on_conflict}"
    )


_SUBMITTED: Final = _insert(
    SUBMITTED_COLUMNS,
    f"UPDATE SET ({', '.join(_ONLY_SUBMITTED)}) = ({', '.join('excluded.' + name for name in _ONLY_SUBMITTED)}) "
    "WHERE t.tenant = excluded.tenant "
    f"AND ({', '.join('t.' + name for name in _ONLY_SUBMITTED)}) "
    f"IS DISTINCT FROM ({', '.join('excluded.' + name for name in _ONLY_SUBMITTED)})",
)
_COMPLETED_ONLY: Final = [name for name, _ in COMPLETED_COLUMNS if name not in _ONCE]
_COMPLETED: Final = _insert(
    COMPLETED_COLUMNS,
    f"UPDATE SET ({', '.join(_COMPLETED_ONLY)}) = ({', '.join('excluded.' + name for name in _COMPLETED_ONLY)}) "
    "WHERE t.tenant = excluded.tenant AND t.completed_at IS NULL",
)
_TURNS: Final = _insert(TURN_COLUMNS, "NOTHING", "turns")
_CONVERSATIONS: Final = _insert(
    CONVERSATION_COLUMNS,
    "UPDATE SET (labels, changed_at, deleted) = (excluded.labels, excluded.changed_at, excluded.deleted) "
    "WHERE NOT t.deleted",
    "conversations",
    "tenant, conversation",
)
_FORGOTTEN: Final = _insert(FORGOTTEN_COLUMNS, "NOTHING", "forgotten", "task_id, tenant")
_TO_FORGET: Final = "SELECT EXISTS (SELECT FROM intake.forgotten WHERE task_id = ANY($1::text[]))"
_FORGET_TURNS: Final = (
    "DELETE FROM intake.turns t USING intake.forgotten f "
    "WHERE t.task_id = ANY($1::text[]) AND f.task_id = t.task_id AND f.tenant = t.tenant"
)
_FORGET_ANSWERS: Final = (
    "UPDATE intake.tasks t SET answer = NULL, answer_cipher = NULL, choices = NULL FROM intake.forgotten f "
    "WHERE t.task_id = ANY($1::text[]) AND f.task_id = t.task_id AND f.tenant = t.tenant "
    "AND (t.answer IS NOT NULL OR t.choices IS NOT NULL)"
)
"""Whichever comes first, the task's events or the request to forget them: both orders end the same."""

_DROP_ADDED: Final = (
    "DELETE FROM intake.turns t USING unnest($1::text[], $2::text[]) AS gone (tenant, conversation) "
    "WHERE (t.tenant, t.conversation) = (gone.tenant, gone.conversation) "
    "AND NOT EXISTS (SELECT FROM intake.tasks WHERE task_id = t.task_id)"
)
"""What was added to a conversation goes with it; responses have ids of their own, and are deleted by these."""

_REUSED: Final = (
    "SELECT new.task_id, t.home_partition, new.home_partition, t.tenant <> new.tenant "
    "FROM unnest($1::text[], $2::text[], $3::integer[]) AS new (task_id, tenant, home_partition) "
    "JOIN intake.tasks t USING (task_id) "
    "WHERE (t.tenant, t.home_partition) <> (new.tenant, new.home_partition) ORDER BY new.task_id"
)


@dataclass(frozen=True, slots=True)
class TaskIdReused:
    """Two tasks with one id. Each home partition ends its own, so that the id has two terminal states.

    Attributes:
        partition: The home partition of the task that the history shows.
        other_partition: That of the other task.
        other_tenant: Whether the other task is another tenant's.
    """

    task_id: str
    partition: int
    other_partition: int
    other_tenant: bool


_log = get_logger("headrace.intake.view_store")


class ViewStore:
    """The database side of a `Projection`.

    Args:
        dead_letters: Receives records that can have no row.
        on_reuse: Told of ids that two tasks have; of an event that is read again, once more.
        producers: Decides whose submissions have rows; None takes all.
    """

    def __init__(
        self,
        database: Database,
        dead_letters: DeadLetterSink,
        on_reuse: Callable[[TaskIdReused], None] | None = None,
        producers: ProducerVerification | None = None,
    ) -> None:
        self._database = database
        self._dead_letters = dead_letters
        self._on_reuse = on_reuse or (lambda _: None)
        self._producers = producers
        self._positions = Positions(MIGRATIONS.schema)
        self._kept: set[tuple[TopicPartition, int]] = set()

    async def positions(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, StoredPosition]:
        """Offsets to resume from, without partitions that were never read. Raises TransientError."""
        async with self._database.connection() as connection:
            return await self._positions.find(connection, partitions)

    async def apply(self, batch: Sequence[tuple[Record, Any]], moves: Moves) -> None:
        """Write the rows of a batch and move the offsets, or neither.

        Records that can have no row are dead-lettered first. Submissions whose producer may not write them have none
        either, and are only counted: the router writes their dead letters.

        Raises PartitionsLost when another process has moved one of the offsets, TransientError when Postgres or Kafka
        is away, BatchRefused when Postgres never accepts a row.
        """
        batch, refused = await self._believed(batch)
        rows, unusable = rows_of(batch)
        for record, reason in unusable:
            await self._put_aside(record, reason)
        async with self._database.transaction() as connection:
            await self._positions.move(connection, moves)
            await _write(connection, _SUBMITTED, rows.submitted)
            await _write(connection, _COMPLETED, rows.completed)
            await _write(connection, _TURNS, rows.turns)
            await _write(connection, _CONVERSATIONS, rows.conversations)
            await _write(connection, _FORGOTTEN, rows.forgotten)
            await _forget(connection, rows)
            # After the writes, so that two events of the same batch are compared as well.
            reused = await connection.fetch(_REUSED, *zip(*rows.homes, strict=True)) if rows.homes else ()
        self._kept.clear()
        for record, error in refused:
            if self._producers is not None:
                self._producers.count(record, error)
        for found in reused:
            reuse = TaskIdReused(*found)
            _log.warning("two tasks have one id, and each ends by itself", **asdict(reuse))
            self._on_reuse(reuse)

    async def _believed(
        self, batch: Sequence[tuple[Record, Any]]
    ) -> tuple[Sequence[tuple[Record, Any]], Sequence[tuple[Record, ProducerRefused]]]:
        """The records of producers that may write them, and the others. Waits for keys created a moment ago, for all of
        the batch at once."""
        if self._producers is None:
            return batch, ()
        refused: dict[int, tuple[Record, ProducerRefused]] = {}
        early: list[int] = []
        for place, (record, event) in enumerate(batch):
            try:
                self._producers.check(record, event.tenant)
            except ProducerRefused as error:
                refused[place] = (record, error)
            except KeyNotHereYet:
                early.append(place)
        for place in early:
            record, event = batch[place]
            try:
                await self._producers.verify(record, event.tenant)
            except ProducerRefused as error:
                refused[place] = (record, error)
        if not refused:
            return batch, ()
        return [each for place, each in enumerate(batch) if place not in refused], list(refused.values())

    async def _put_aside(self, record: Record, reason: NotAViewRow) -> None:
        place = (record.topic_partition, record.offset)
        # On a retry because Postgres was away, the unusable records are dead-lettered already.
        if place in self._kept:
            return
        try:
            await self._dead_letters.keep(record, reason)
        except (AppendUncertain, Overloaded) as error:
            raise TransientError(str(error)) from error
        self._kept.add(place)


async def _write(connection: Connection, statement: str, rows: Mapping[Any, Row]) -> None:
    if rows:
        # Ordered by id, so that two processes cannot deadlock on each other's rows.
        await connection.execute(statement, *zip(*(rows[key] for key in sorted(rows)), strict=True))


async def _forget(connection: Connection, rows: Rows) -> None:
    touched = sorted({*rows.submitted, *rows.completed, *rows.turns, *(task_id for _, task_id in rows.forgotten)})
    if touched and await connection.fetchval(_TO_FORGET, touched):
        await connection.execute(_FORGET_TURNS, touched)
        await connection.execute(_FORGET_ANSWERS, touched)
    gone = [key for key, row in sorted(rows.conversations.items()) if row[-1]]
    if gone:
        await connection.execute(_DROP_ADDED, *zip(*gone, strict=True))

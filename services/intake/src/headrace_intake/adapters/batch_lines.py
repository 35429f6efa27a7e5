"""The lines of batches in Postgres. Everything happens under the lease of their batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from headrace_intake.adapters.batch_store import BatchStore, lock_batches
from headrace_intake.adapters.history import ANSWER_COLUMNS, view_of
from headrace_intake.decide.batches.life import LineState, task_id_of
from headrace_intake.decide.batches.lines import CheckedLine
from headrace_intake.decide.batches.records import StoredBatch
from headrace_intake.decide.batches.results import EndedLine

_LIVE: Final = "state IN ('submitting', 'submitted')"
_PAGE_BYTES: Final = 4_194_304
"""Most bytes of requests, or of answers, that one page has in memory."""
_ANY_SIZE: Final = 2**31 - 1
_MOST_RESULTS: Final = 500

_SETTLE: Final = """
    WITH ended AS (
        SELECT l.line, CASE
            WHEN t.status IN ('succeeded', 'refused') THEN 'answered'
            WHEN t.status = 'cancelled' AND l.cancel_asked THEN 'cancelled'
            WHEN t.status = 'expired' AND t.completed_at >= $3 THEN 'expired'
            WHEN t.failure_code = 'too_many_live_tasks' AND NOT $4 THEN 'waiting'
            ELSE 'failed' END AS state
        FROM intake.batch_lines l JOIN intake.tasks t ON t.task_id = l.task_id AND t.tenant = $2
        WHERE l.batch_id = $1 AND l.state IN ('submitting', 'submitted') AND t.completed_at IS NOT NULL
    ), changed AS (
        UPDATE intake.batch_lines l SET state = ended.state,
            round = l.round + (ended.state = 'waiting')::integer,
            task_id = CASE WHEN ended.state = 'waiting' THEN NULL ELSE l.task_id END
        FROM ended WHERE l.batch_id = $1 AND l.line = ended.line RETURNING ended.state
    )
    SELECT state, count(*)::integer AS lines FROM changed GROUP BY state
"""

_ROOM: Final = """
    SELECT count(*)::integer, coalesce(sum(l.size), 0)::bigint
    FROM intake.batches b JOIN intake.batch_lines l USING (batch_id)
    WHERE b.tenant = $1 AND b.status IN ('in_progress', 'cancelling') AND l.state IN ('submitting', 'submitted')
"""

_NEXT: Final = """
    SELECT line, start, size, round FROM (
        SELECT line, start, size, round, sum(size) OVER (ORDER BY line) AS bytes,
            row_number() OVER (ORDER BY line) AS place
        FROM (SELECT line, start, size, round FROM intake.batch_lines
              WHERE batch_id = $1 AND state = 'waiting' ORDER BY line LIMIT $2) waiting
    ) page WHERE bytes <= $3 OR place = 1 AND size <= $4 ORDER BY line
"""

_CLAIM: Final = """
    UPDATE intake.batch_lines l SET state = 'submitting', submitted_at = $4, task_id = new.task_id
    FROM unnest($2::integer[], $3::text[]) AS new (line, task_id) WHERE l.batch_id = $1 AND l.line = new.line
"""

_CANCELLABLE: Final = f"""
    SELECT l.line, l.task_id, t.route_key, t.home_partition
    FROM intake.batch_lines l JOIN intake.tasks t ON t.task_id = l.task_id AND t.tenant = $2
    WHERE l.batch_id = $1 AND l.{_LIVE} AND NOT l.cancel_asked AND t.completed_at IS NULL ORDER BY l.line LIMIT $3
"""

_RESULTS: Final = f"""
    WITH page AS (
        SELECT l.line, row_number() OVER (ORDER BY l.line) AS place,
            sum(coalesce(octet_length(t.answer), 0) + coalesce(octet_length(t.choices), 0))
                OVER (ORDER BY l.line) AS bytes
        FROM (SELECT line, task_id FROM intake.batch_lines
              WHERE batch_id = $1 AND line > $3 ORDER BY line LIMIT {_MOST_RESULTS}) l
        LEFT JOIN intake.tasks t ON t.task_id = l.task_id AND t.tenant = $2
    )
    SELECT l.line, l.custom_id, l.state, l.round, l.refusal, l.start, l.size, t.task_id IS NOT NULL AS known,
        {ANSWER_COLUMNS}
    FROM page JOIN intake.batch_lines l ON l.batch_id = $1 AND l.line = page.line
    LEFT JOIN intake.tasks t ON t.task_id = l.task_id AND t.tenant = $2
    WHERE page.bytes <= {_PAGE_BYTES} OR page.place = 1 ORDER BY l.line
"""


@dataclass(frozen=True, slots=True)
class LineToSubmit:
    """A line with the id and the time of its task.

    Attributes:
        repeated: Whether it may be in Kafka already.
    """

    number: int
    start: int
    size: int
    task_id: str
    submitted_at: int
    repeated: bool


@dataclass(frozen=True, slots=True)
class LineToCancel:
    """A task that is to be cancelled, and where its records are."""

    number: int
    task_id: str
    route_key: bytes | None
    home_partition: int


@dataclass(frozen=True, slots=True)
class SettledLines:
    """How many lines have ended, and how many wait again, since the tenant had too many live tasks."""

    ended: int
    turned_away: int


class BatchLines:
    """Lines of a claimed batch. All methods raise DatabaseAway and LeaseLost.

    Args:
        most_live, most_live_bytes: How many lines of a tenant's batches may be tasks that have not ended, and how many
            bytes of them.
    """

    def __init__(self, batches: BatchStore, *, most_live: int, most_live_bytes: int) -> None:
        self._batches = batches
        self._most_live = most_live
        self._most_live_bytes = most_live_bytes

    async def clear(self, batch: StoredBatch) -> None:
        """Remove what a check that was broken off has left."""
        async with self._batches.leased(batch) as connection:
            await connection.execute("DELETE FROM intake.batch_lines WHERE batch_id = $1", batch.batch_id)

    async def add(self, batch: StoredBatch, lines: Sequence[CheckedLine]) -> None:
        """Store checked lines."""
        async with self._batches.leased(batch) as connection:
            await connection.execute(
                "INSERT INTO intake.batch_lines (batch_id, line, custom_id, start, size) "
                "SELECT $1, * FROM unnest($2::integer[], $3::text[], $4::bigint[], $5::integer[])",
                batch.batch_id, [line.number for line in lines], [line.custom_id for line in lines],
                [line.start for line in lines], [line.size for line in lines],
            )  # fmt: skip

    async def settle(self, batch: StoredBatch, *, last: bool) -> SettledLines:
        """Note which tasks have ended, as the view of the topics shows them.

        Lines whose task was turned away, since the tenant had too many live ones, wait again; unless it is the `last`
        time, since no line is submitted any more.
        """
        async with self._batches.leased(batch) as connection:
            rows = await connection.fetch(_SETTLE, batch.batch_id, batch.tenant, batch.expires_at, last)
            ended: Mapping[str, int] = {row["state"]: row["lines"] for row in rows}
            if ended:
                await connection.execute(
                    "UPDATE intake.batches SET completed = completed + $2, failed = failed + $3 WHERE batch_id = $1",
                    batch.batch_id, ended.get(LineState.ANSWERED, 0), ended.get(LineState.FAILED, 0),
                )  # fmt: skip
        turned_away = ended.get(LineState.WAITING, 0)
        return SettledLines(sum(ended.values()) - turned_away, turned_away)

    async def left(self, batch: StoredBatch) -> tuple[int, int]:
        """How many lines wait, and how many are tasks that have not ended."""
        async with self._batches.leased(batch) as connection:
            row = await connection.fetchrow(
                "SELECT (SELECT count(*) FROM intake.batch_lines WHERE batch_id = $1 AND state = 'waiting')::integer, "
                f"(SELECT count(*) FROM intake.batch_lines WHERE batch_id = $1 AND {_LIVE})::integer",
                batch.batch_id,
            )
        assert row is not None
        return row[0], row[1]

    async def unacknowledged(self, batch: StoredBatch) -> Sequence[LineToSubmit]:
        """Lines that somebody began to submit, and of which it is not known whether they are in Kafka."""
        async with self._batches.leased(batch) as connection:
            rows = await connection.fetch(
                "SELECT line, start, size, task_id, submitted_at FROM intake.batch_lines "
                "WHERE batch_id = $1 AND state = 'submitting' ORDER BY line",
                batch.batch_id,
            )
        return [
            LineToSubmit(row["line"], row["start"], row["size"], row["task_id"], row["submitted_at"], repeated=True)
            for row in rows
        ]

    async def claim(self, batch: StoredBatch, most: int, now_ms: int) -> Sequence[LineToSubmit]:
        """The next lines, as many as the tenant has room for, with ids and times that stay theirs."""
        async with self._batches.leased(batch) as connection:
            await lock_batches(connection, batch.tenant)
            row = await connection.fetchrow(_ROOM, batch.tenant)
            assert row is not None
            live, live_bytes = row
            room, room_bytes = min(most, self._most_live - live), max(0, self._most_live_bytes - live_bytes)
            if room <= 0:
                return []
            # A line larger than all room goes alone, when nothing else of the tenant's is live.
            largest = room_bytes if live else _ANY_SIZE
            page_bytes = min(_PAGE_BYTES, room_bytes)
            rows = await connection.fetch(_NEXT, batch.batch_id, room, page_bytes, largest)
            lines = [
                LineToSubmit(
                    row["line"], row["start"], row["size"],
                    task_id_of(batch.batch_id, row["line"], row["round"], batch.created_at), now_ms, repeated=False,
                )
                for row in rows
            ]  # fmt: skip
            await connection.execute(
                _CLAIM, batch.batch_id, [line.number for line in lines], [line.task_id for line in lines], now_ms
            )
        return lines

    async def submitted(self, batch: StoredBatch, acknowledged: Sequence[int], refused: Mapping[int, str]) -> None:
        """Note which lines Kafka has, and which could not become tasks."""
        async with self._batches.leased(batch) as connection:
            await connection.execute(
                "UPDATE intake.batch_lines SET state = 'submitted' "
                "WHERE batch_id = $1 AND line = ANY($2::integer[]) AND state = 'submitting'",
                batch.batch_id, acknowledged,
            )  # fmt: skip
            if not refused:
                return
            status = await connection.execute(
                "UPDATE intake.batch_lines l SET state = 'failed', refusal = new.refusal "
                "FROM unnest($2::integer[], $3::text[]) AS new (line, refusal) "
                "WHERE l.batch_id = $1 AND l.line = new.line AND l.state = 'submitting'",
                batch.batch_id, list(refused), list(refused.values()),
            )  # fmt: skip
            await connection.execute(
                "UPDATE intake.batches SET failed = failed + $2 WHERE batch_id = $1",
                batch.batch_id, int(status.split()[-1]),
            )  # fmt: skip

    async def give_up(self, batch: StoredBatch, state: LineState, *, live_too: bool) -> None:
        """End the lines that wait, or all that have not ended, without an answer."""
        states = ["waiting", "submitting", "submitted"] if live_too else ["waiting"]
        async with self._batches.leased(batch) as connection:
            await connection.execute(
                "UPDATE intake.batch_lines SET state = $2 WHERE batch_id = $1 AND state = ANY($3::text[])",
                batch.batch_id, state, states,
            )  # fmt: skip

    async def to_cancel(self, batch: StoredBatch, most: int) -> Sequence[LineToCancel]:
        """Tasks that have not ended, as far as the view knows where they are, and that nobody has asked to cancel."""
        async with self._batches.leased(batch) as connection:
            rows = await connection.fetch(_CANCELLABLE, batch.batch_id, batch.tenant, most)
        return [LineToCancel(*row) for row in rows]

    async def cancel_asked(self, batch: StoredBatch, lines: Sequence[int]) -> None:
        """Note that Kafka has the requests to cancel."""
        async with self._batches.leased(batch) as connection:
            await connection.execute(
                "UPDATE intake.batch_lines SET cancel_asked = true WHERE batch_id = $1 AND line = ANY($2::integer[])",
                batch.batch_id, lines,
            )  # fmt: skip

    async def has(self, batch: StoredBatch, state: LineState) -> bool:
        """Whether a line is in this state."""
        async with self._batches.leased(batch) as connection:
            found = await connection.fetchval(
                "SELECT EXISTS (SELECT FROM intake.batch_lines WHERE batch_id = $1 AND state = $2)",
                batch.batch_id, state,
            )  # fmt: skip
        return bool(found)

    async def results(self, batch: StoredBatch, after: int) -> Sequence[EndedLine]:
        """The next lines behind a line number, in the order of the file, with the ends of their tasks."""
        async with self._batches.leased(batch) as connection:
            rows = await connection.fetch(_RESULTS, batch.batch_id, batch.tenant, after)
        return [_ended_line(batch, dict(row)) for row in rows]


def _ended_line(batch: StoredBatch, row: dict[str, Any]) -> EndedLine:
    return EndedLine(
        number=row["line"],
        custom_id=row["custom_id"],
        state=LineState(row["state"]),
        request_id=task_id_of(batch.batch_id, row["line"], row["round"], batch.created_at),
        refusal=row["refusal"],
        view=view_of(row) if row["known"] else None,
        start=row["start"],
        size=row["size"],
    )

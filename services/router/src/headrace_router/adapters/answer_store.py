"""Stored answers in Postgres: rows by tenant and digest, within bounds of rows and bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from headrace_contracts.events import HistoryChanged, HistoryChangeKind
from headrace_runtime.database import Connection, Database
from headrace_runtime.positions import Positions
from headrace_streams.applied import Moves
from headrace_streams.log_identity import StoredPosition
from headrace_streams.records import Record, TopicPartition

from headrace_router.migrations import MIGRATIONS

BESIDE_VALUE_BYTES: Final = 300
"""What a row takes beside its value: the tuple, its keys and four index entries."""
_FORGOTTEN_MS: Final = 90 * 86_400_000
"""How long it is known that a task was forgotten: as long as a policy can keep an answer."""
_ROOM: Final = 0.05
"""Share of a bound that is cleared at once when it is reached, so that not every answer has to clear some."""
_ROWS_AT_ONCE: Final = 5_000

_FIND: Final = """
    SELECT a.tenant, a.digest, a.value
    FROM unnest($1::text[], $2::bytea[]) AS asked (tenant, digest)
    JOIN answers.answers a ON a.tenant = asked.tenant AND a.digest = asked.digest
"""
# Whoever changes rows of a tenant locks the tenant first, several of them in order: two routers that store the same and
# clear room would otherwise wait for each other's rows.
_LOCK: Final = """
    SELECT pg_advisory_xact_lock(hashtextextended('headrace answers ' || tenant, 0))
    FROM (SELECT DISTINCT tenant FROM unnest($1::text[]) AS t (tenant) ORDER BY tenant) ordered
"""
_OLDER: Final = """
    SELECT a.tenant, a.digest
    FROM unnest($1::text[], $2::bytea[], $3::bigint[]) AS new (tenant, digest, answered_at)
    JOIN answers.answers a ON a.tenant = new.tenant AND a.digest = new.digest AND a.answered_at < new.answered_at
"""
_DROP: Final = """
    DELETE FROM answers.answers a USING unnest($1::text[], $2::bytea[]) AS old (tenant, digest)
    WHERE a.tenant = old.tenant AND a.digest = old.digest RETURNING a.tenant, a.bytes
"""
# A task that was forgotten before its answer came is not stored: both orders end the same.
_INSERT: Final = """
    INSERT INTO answers.answers (tenant, digest, task_id, answered_at, bytes, value)
    SELECT tenant, digest, task_id, answered_at, bytes, value
    FROM unnest($1::text[], $2::bytea[], $3::text[], $4::bigint[], $5::bigint[], $6::bytea[])
        AS new (tenant, digest, task_id, answered_at, bytes, value)
    WHERE NOT EXISTS (
        SELECT FROM answers.forgotten f WHERE f.tenant = new.tenant AND f.task_id = new.task_id
    )
    ORDER BY tenant, digest
    ON CONFLICT (tenant, digest) DO NOTHING
    RETURNING tenant, bytes
"""
_COUNT: Final = """
    INSERT INTO answers.totals AS t (tenant, rows, bytes)
    SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS new (tenant, rows, bytes) ORDER BY tenant
    ON CONFLICT (tenant) DO UPDATE SET rows = t.rows + excluded.rows, bytes = t.bytes + excluded.bytes
    RETURNING tenant, rows, bytes
"""
_OLDEST_OF: Final = f"""
    SELECT digest FROM (
        SELECT digest, row_number() OVER w AS n, sum(bytes) OVER w - bytes AS before FROM (
            SELECT digest, bytes, answered_at FROM answers.answers
            WHERE tenant = $1 ORDER BY answered_at LIMIT {_ROWS_AT_ONCE}
        ) oldest WINDOW w AS (ORDER BY answered_at, digest)
    ) counted WHERE n <= $2 OR before < $3
"""
_OLDER_THAN: Final = f"""
    SELECT tenant, digest FROM answers.answers WHERE answered_at < $1 ORDER BY answered_at LIMIT {_ROWS_AT_ONCE}
"""
_OF_TASKS: Final = """
    SELECT a.tenant, a.digest FROM unnest($1::text[], $2::text[]) AS gone (tenant, task_id)
    JOIN answers.answers a ON a.task_id = gone.task_id AND a.tenant = gone.tenant
"""
_FORGET: Final = """
    INSERT INTO answers.forgotten (tenant, task_id, forgotten_at)
    SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[]) ON CONFLICT DO NOTHING
"""
_DROP_FORGOTTEN: Final = "DELETE FROM answers.forgotten WHERE forgotten_at < $1"
_ALL_ROWS: Final = "SELECT coalesce(sum(rows), 0)::bigint FROM answers.totals"
_ALL_BYTES: Final = "SELECT coalesce(sum(bytes), 0)::bigint FROM answers.totals"
_LARGEST: Final = "SELECT tenant, rows, bytes FROM answers.totals WHERE bytes > 0 ORDER BY bytes DESC, tenant LIMIT 1"


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much may be stored.

    Attributes:
        tenant_rows: Answers of one tenant.
        tenant_bytes: Bytes of one tenant's.
        all_bytes: Bytes of all; the tenant with the most loses its oldest first.
    """

    tenant_rows: int
    tenant_bytes: int
    all_bytes: int


@dataclass(frozen=True, slots=True)
class AnswerRow:
    """One answer to be stored.

    Attributes:
        digest: In hexadecimal, as the router has it.
        answered_at: Milliseconds since the epoch.
        value: An encoded TaskCompleted.
    """

    tenant: str
    digest: str
    task_id: str
    answered_at: int
    value: bytes

    @property
    def bytes(self) -> int:
        return len(self.value) + BESIDE_VALUE_BYTES


class AnswerStore:
    """The rows. All methods raise DatabaseAway; `keep` BatchRefused as well.

    It is the database side of a `Projection` of `history.changed`, too: what is erased there is erased here.
    """

    def __init__(self, database: Database, bounds: Bounds) -> None:
        self._database = database
        self._bounds = bounds
        self._positions = Positions(MIGRATIONS.schema)

    async def find(self, keys: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], bytes]:
        """The values of those pairs of tenant and digest that there are."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(
                _FIND, [tenant for tenant, _ in keys], [bytes.fromhex(digest) for _, digest in keys]
            )
        return {(row["tenant"], row["digest"].hex()): row["value"] for row in rows}

    async def keep(self, answers: Collection[AnswerRow]) -> int:
        """Store answers, each in place of an older one; returns how many were new. Then hold the tenants' bounds."""
        newest = {(row.tenant, row.digest): row for row in sorted(answers, key=lambda row: row.answered_at)}
        rows = [newest[key] for key in sorted(newest)]
        tenants, digests = [row.tenant for row in rows], [bytes.fromhex(row.digest) for row in rows]
        async with self._database.transaction() as connection:
            changed: Counter[str] = Counter()
            grown: Counter[str] = Counter()
            await connection.execute(_LOCK, tenants)
            older = await connection.fetch(_OLDER, tenants, digests, [row.answered_at for row in rows])
            await _drop(connection, older, changed, grown)
            inserted = await connection.fetch(
                _INSERT,
                tenants,
                digests,
                [row.task_id for row in rows],
                [row.answered_at for row in rows],
                [row.bytes for row in rows],
                [row.value for row in rows],
            )
            for row in inserted:
                changed[row["tenant"]] += 1
                grown[row["tenant"]] += row["bytes"]
            for total in await _count(connection, changed, grown):
                await self._hold(connection, total)
        return len(inserted)

    async def sweep(self, now: int, kept_ms: int) -> int:
        """Delete what is older than `kept_ms`, and the oldest of the largest tenants while all together are too many;
        returns how many. In small transactions."""
        deleted = 0
        while True:
            async with self._database.transaction() as connection:
                old = await connection.fetch(_OLDER_THAN, now - kept_ms)
                deleted += await _delete(connection, old)
            if len(old) < _ROWS_AT_ONCE:
                break
        async with self._database.connection() as connection:
            await connection.execute(_DROP_FORGOTTEN, now - _FORGOTTEN_MS)
        while True:
            async with self._database.transaction() as connection:
                over = int(await connection.fetchval(_ALL_BYTES)) - self._bounds.all_bytes
                largest = await connection.fetchrow(_LARGEST)
                if over <= 0 or largest is None:
                    return deleted
                # Not all of it from one tenant, and at least what makes it matter.
                share = min(over, max(round(largest["bytes"] * _ROOM), BESIDE_VALUE_BYTES))
                gone = await connection.fetch(_OLDEST_OF, largest["tenant"], 0, share)
                if not gone:
                    return deleted
                deleted += await _delete(connection, [(largest["tenant"], row["digest"]) for row in gone])

    async def totals(self) -> tuple[int, int]:
        """Rows and bytes of all tenants."""
        async with self._database.connection() as connection:
            rows = await connection.fetchval(_ALL_ROWS)
            return int(rows), int(await connection.fetchval(_ALL_BYTES))

    async def positions(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, StoredPosition]:
        """See `ProjectionStore`."""
        async with self._database.connection() as connection:
            return await self._positions.find(connection, partitions)

    async def apply(self, batch: Sequence[tuple[Record, Any]], moves: Moves) -> None:
        """Delete the answers of tasks whose content must be forgotten, and move the offsets."""
        gone: dict[tuple[str, str], int] = {}
        for _, event in batch:
            assert isinstance(event, HistoryChanged)  # the projection reads no other topic
            if event.kind is HistoryChangeKind.TURN_FORGOTTEN and event.task_id is not None:
                gone[_text(event.tenant), _text(event.task_id)] = event.changed_at
        async with self._database.transaction() as connection:
            await self._positions.move(connection, moves)
            if gone:
                keys = sorted(gone)
                tenants, tasks = [tenant for tenant, _ in keys], [task for _, task in keys]
                # First, so that none of them is being stored.
                await connection.execute(_LOCK, tenants)
                await connection.execute(_FORGET, tenants, tasks, [gone[key] for key in keys])
                await _delete(connection, await connection.fetch(_OF_TASKS, tenants, tasks))

    async def _hold(self, connection: Connection, total: Mapping[str, Any]) -> None:
        bounds, rows, size = self._bounds, int(total["rows"]), int(total["bytes"])
        while rows > bounds.tenant_rows or size > bounds.tenant_bytes:
            too_many = max(0, rows - round(bounds.tenant_rows * (1 - _ROOM)))
            too_large = max(0, size - round(bounds.tenant_bytes * (1 - _ROOM)))
            gone = await connection.fetch(_OLDEST_OF, total["tenant"], too_many, too_large)
            if not gone:
                return
            changed: Counter[str] = Counter()
            grown: Counter[str] = Counter()
            await _drop(connection, [(total["tenant"], row["digest"]) for row in gone], changed, grown)
            if not changed:
                return
            (after,) = await _count(connection, changed, grown)
            rows, size = int(after["rows"]), int(after["bytes"])


async def _delete(connection: Connection, keys: Sequence[Any]) -> int:
    await connection.execute(_LOCK, [key[0] for key in keys])
    changed: Counter[str] = Counter()
    grown: Counter[str] = Counter()
    await _drop(connection, keys, changed, grown)
    await _count(connection, changed, grown)
    return -changed.total()


async def _drop(connection: Connection, keys: Sequence[Any], changed: Counter[str], grown: Counter[str]) -> None:
    """Delete rows by their keys, and count them as lost."""
    if not keys:
        return
    for row in await connection.fetch(_DROP, [key[0] for key in keys], [key[1] for key in keys]):
        changed[row["tenant"]] -= 1
        grown[row["tenant"]] -= row["bytes"]


async def _count(connection: Connection, changed: Counter[str], grown: Counter[str]) -> Sequence[Any]:
    if not changed:
        return ()
    tenants = sorted(changed)
    found: Sequence[Any] = await connection.fetch(
        _COUNT, tenants, [changed[tenant] for tenant in tenants], [grown[tenant] for tenant in tenants]
    )
    return found


def _text(value: str) -> str:
    # Postgres rejects null characters, and a row with one cannot be there.
    return value.replace("\0", "\ufffd")

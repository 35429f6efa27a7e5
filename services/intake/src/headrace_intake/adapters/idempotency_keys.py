"""Idempotency keys in Postgres: one row per tenant and key; the first insert wins."""

from __future__ import annotations

from headrace_runtime.database import Database

from headrace_intake.decide.idempotency import Taken

_TAKE = """
    INSERT INTO intake.idempotency_keys (tenant, key, task_id, digest, reply_partition, created_at)
    VALUES ($1, $2, $3, $4, $5, $6)
    ON CONFLICT (tenant, key) DO NOTHING
    RETURNING true
"""
_FIND = """
    SELECT task_id, digest, created_at, reply_partition, accepted
    FROM intake.idempotency_keys WHERE tenant = $1 AND key = $2
"""
_ACCEPTED = "UPDATE intake.idempotency_keys SET accepted = true WHERE tenant = $1 AND key = $2 AND task_id = $3"


class IdempotencyKeys:
    """All methods raise DatabaseAway."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def take(self, tenant: str, key: str, mine: Taken) -> Taken | None:
        """Take the key. Returns None if it was free, otherwise the earlier entry."""
        async with self._database.connection() as connection:
            while True:
                taken = await connection.fetchval(
                    _TAKE, tenant, key, mine.task_id, mine.digest, mine.reply_partition, mine.created_at
                )
                if taken:
                    return None
                row = await connection.fetchrow(_FIND, tenant, key)
                if row is not None:
                    return Taken(**row)
                # It expired and was deleted between the two statements, so now it is free.

    async def find(self, tenant: str, key: str) -> Taken | None:
        """The entry of a key; None if it is free."""
        async with self._database.connection() as connection:
            row = await connection.fetchrow(_FIND, tenant, key)
        return None if row is None else Taken(**row)

    async def mark_accepted(self, tenant: str, key: str, task_id: str) -> None:
        """Record that Kafka has the task, so that a repetition need not submit it again."""
        async with self._database.connection() as connection:
            await connection.execute(_ACCEPTED, tenant, key, task_id)

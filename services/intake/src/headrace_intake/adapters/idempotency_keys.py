"""Idempotency keys in Postgres: one row for each key of a tenant, taken by whoever inserts it first."""

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
        """Take the key; None when it was free, else what it was taken as before."""
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
                # It ran out and was deleted between the two statements, so now it is free.

    async def mark_accepted(self, tenant: str, key: str, task_id: str) -> None:
        """Note that Kafka has the task, so that a repetition need not submit it again."""
        async with self._database.connection() as connection:
            await connection.execute(_ACCEPTED, tenant, key, task_id)

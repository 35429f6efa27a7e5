"""Batches in Postgres: as callers create, see and cancel them, and the lease under which a process works on one."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import fields
from typing import Any, Final

import asyncpg
from headrace_runtime.database import Connection, Database
from headrace_runtime.rate_limit import used_up

from headrace_intake.decide.batches.endpoints import ENDPOINTS
from headrace_intake.decide.batches.life import LIVE, BatchStatus, cancelled
from headrace_intake.decide.batches.records import INPUT, StoredBatch
from headrace_intake.decide.batches.requests import PageRequest, unknown_after
from headrace_intake.decide.refusals import Refusal

_NAMES: Final = [field.name for field in fields(StoredBatch)]
_COLUMNS: Final = ", ".join(_NAMES)
_LIVE: Final = "status IN ('validating', 'in_progress', 'finalizing', 'cancelling')"
assert sorted(LIVE) == ["cancelling", "finalizing", "in_progress", "validating"]
_LOCK: Final = 0x6261_7463
"""First number of the advisory locks under which a tenant's batches are counted ("batc")."""
_RETRY_SECONDS: Final = 60


class LeaseLost(Exception):
    """Another process works on the batch, or its status has changed: do nothing more for it."""


class BatchStore:
    """Batches of one tenant at a time, and the work on those of all. All methods raise DatabaseAway.

    Args:
        most_live: How many batches of a tenant may not have ended.
        lease_seconds: How long a process that says nothing keeps a batch.
    """

    def __init__(self, database: Database, *, most_live: int, lease_seconds: float) -> None:
        self._database = database
        self._most_live = most_live
        self._lease = f"interval '{lease_seconds:f} seconds'"

    async def create(self, batch: StoredBatch, now_ms: int) -> tuple[StoredBatch | None, bool]:
        """Store a new batch; (None, False) if its input file does not exist.

        Returns (the earlier one, True) if its idempotency key was used before. Raises Refusal if it was used for
        something else, and if the tenant has too many batches.
        """
        async with self._database.transaction() as connection:
            await lock_batches(connection, batch.tenant)
            earlier = batch.idempotency_key and await connection.fetchrow(
                f"SELECT {_COLUMNS} FROM intake.batches WHERE tenant = $1 AND idempotency_key = $2",
                batch.tenant, batch.idempotency_key,
            )  # fmt: skip
            if earlier:
                found = batch_of(earlier)
                if found.digest != batch.digest:
                    why = "This Idempotency-Key was used before with other content: use a new key for a new request."
                    raise Refusal(409, "idempotency-conflict", why, "Idempotency-Key")
                return found, True
            # Locked, so that it cannot be deleted before the batch is there.
            purpose = await connection.fetchval(
                "SELECT purpose FROM intake.files "
                "WHERE file_id = $1 AND tenant = $2 AND complete AND expires_at > $3 FOR SHARE",
                batch.input_file_id, batch.tenant, now_ms,
            )  # fmt: skip
            if purpose is None:
                return None, False
            if purpose != INPUT:
                why = f"The purpose of the input file of a batch is {INPUT!r}."
                raise Refusal(400, "invalid-request", why, "input_file_id")
            live = await connection.fetchval(
                f"SELECT count(*) FROM intake.batches WHERE tenant = $1 AND {_LIVE}", batch.tenant
            )
            if live >= self._most_live:
                why = f"The tenant has {live} batches that have not ended: wait for some of them."
                raise Refusal(
                    429,
                    "too-many-batches",
                    why,
                    headers=used_up("batches", self._most_live, "concurrent-requests", _RETRY_SECONDS),
                )
            values = [getattr(batch, name) for name in _NAMES]
            values[_NAMES.index("headers")] = json.dumps(dict(batch.headers))
            places = ", ".join(f"${number}" for number in range(1, len(values) + 1))
            await connection.execute(f"INSERT INTO intake.batches ({_COLUMNS}) VALUES ({places})", *values)
            return batch, False

    async def get(self, tenant: str, batch_id: str) -> StoredBatch | None:
        """A batch as it is now."""
        async with self._database.connection() as connection:
            row = await connection.fetchrow(
                f"SELECT {_COLUMNS} FROM intake.batches WHERE batch_id = $1 AND tenant = $2", batch_id, tenant
            )
        return None if row is None else batch_of(row)

    async def page(self, tenant: str, wanted: PageRequest) -> tuple[Sequence[StoredBatch], bool]:
        """A page, newest first, and whether another one follows. Raises Refusal for an `after` that there is not."""
        condition, arguments = "tenant = $1", [tenant]
        async with self._database.connection() as connection:
            if wanted.after is not None:
                created_at = await connection.fetchval(
                    "SELECT created_at FROM intake.batches WHERE batch_id = $1 AND tenant = $2", wanted.after, tenant
                )
                if created_at is None:
                    raise unknown_after()
                condition += " AND (created_at, batch_id) < ($2, $3)"
                arguments += [created_at, wanted.after]
            rows = await connection.fetch(
                f"SELECT {_COLUMNS} FROM intake.batches WHERE {condition} "
                f"ORDER BY created_at DESC, batch_id DESC LIMIT {wanted.limit + 1}",
                *arguments,
            )
        return [batch_of(row) for row in rows[: wanted.limit]], len(rows) > wanted.limit

    async def cancel(self, tenant: str, batch_id: str, now_ms: int) -> StoredBatch | None:
        """Note that a batch is to be cancelled. Raises Refusal 409 if it cannot be any more."""
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(
                "SELECT status FROM intake.batches WHERE batch_id = $1 AND tenant = $2 FOR UPDATE", batch_id, tenant
            )
            if row is None:
                return None
            status = cancelled(BatchStatus(row["status"]))
            row = await connection.fetchrow(
                "UPDATE intake.batches SET status = $2, cancelling_at = coalesce(cancelling_at, $3) "
                f"WHERE batch_id = $1 RETURNING {_COLUMNS}",
                batch_id, status, now_ms,
            )  # fmt: skip
            assert row is not None
            return batch_of(row)

    async def claim(self) -> StoredBatch | None:
        """The batch whose turn it is, for this process alone until the lease is over; None if there is none.

        One of an endpoint that only a newer release has is left to that.
        """
        async with self._database.connection() as connection:
            row = await connection.fetchrow(
                f"UPDATE intake.batches SET fence = fence + 1, due_at = clock_timestamp() + {self._lease} "
                f"WHERE batch_id = (SELECT batch_id FROM intake.batches WHERE {_LIVE} AND due_at <= clock_timestamp() "
                "AND endpoint = ANY($1::text[]) ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED) "
                f"RETURNING {_COLUMNS}",
                list(ENDPOINTS),
            )
        return None if row is None else batch_of(row)

    @asynccontextmanager
    async def leased(self, batch: StoredBatch) -> AsyncIterator[Connection]:
        """A transaction for work on a claimed batch, which renews its lease.

        Raises LeaseLost if it is another process's by now, or has another status.
        """
        async with self._database.transaction() as connection:
            renewed = await connection.fetchval(
                f"UPDATE intake.batches SET due_at = clock_timestamp() + {self._lease} "
                "WHERE batch_id = $1 AND fence = $2 AND status = $3 RETURNING true",
                batch.batch_id, batch.fence, batch.status,
            )  # fmt: skip
            if not renewed:
                raise LeaseLost(batch.batch_id)
            yield connection

    async def release(self, batch: StoredBatch, pause_seconds: float) -> None:
        """Give a claimed batch back; its turn comes again after the pause."""
        async with self._database.connection() as connection:
            await connection.execute(
                "UPDATE intake.batches SET due_at = clock_timestamp() + $3 * interval '1 second' "
                "WHERE batch_id = $1 AND fence = $2",
                batch.batch_id, batch.fence, pause_seconds,
            )  # fmt: skip


async def lock_batches(connection: Connection, tenant: str) -> None:
    """Until the end of the transaction nobody else counts what the tenant's batches have."""
    await connection.execute("SELECT pg_advisory_xact_lock($1, hashtext($2))", _LOCK, tenant)


async def set_batch(connection: Connection, batch: StoredBatch, **values: Any) -> None:
    """Change columns of a batch that the transaction holds."""
    names = ", ".join(f"{name} = ${number}" for number, name in enumerate(values, start=2))
    await connection.execute(f"UPDATE intake.batches SET {names} WHERE batch_id = $1", batch.batch_id, *values.values())


def batch_of(row: asyncpg.Record) -> StoredBatch:
    """The batch of a row."""
    values = dict(row)
    values["headers"] = json.loads(values["headers"])
    values["status"] = BatchStatus(values["status"])
    values["ending"] = None if values["ending"] is None else BatchStatus(values["ending"])
    return StoredBatch(**values)

"""Deletes rows of the view, idempotency keys, files and batches that are past their retention."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from headrace_runtime.database import Database, DatabaseAway
from headrace_runtime.logging import get_logger

_ROWS_AT_ONCE: Final = 5_000
_LOCK: Final = 0x6865_6164_7265_7465
"""Number of the advisory lock that lets one intake at a time sweep ("headrete")."""

_STATEMENTS: Final = {
    "tasks": f"""
        DELETE FROM intake.tasks WHERE task_id IN
        (SELECT task_id FROM intake.tasks t WHERE submitted_at < $1
         AND NOT EXISTS (SELECT FROM intake.batch_lines l WHERE l.task_id = t.task_id) LIMIT {_ROWS_AT_ONCE})
    """,
    "turns": f"""
        DELETE FROM intake.turns WHERE task_id IN
        (SELECT task_id FROM intake.turns WHERE submitted_at < $1 LIMIT {_ROWS_AT_ONCE})
    """,
    "conversations": f"""
        DELETE FROM intake.conversations WHERE (tenant, conversation) IN
        (SELECT c.tenant, c.conversation FROM intake.conversations c WHERE c.changed_at < $1 AND NOT EXISTS
            (SELECT FROM intake.turns t WHERE t.tenant = c.tenant AND t.conversation = c.conversation)
            LIMIT {_ROWS_AT_ONCE})
    """,
    "forgotten": f"""
        DELETE FROM intake.forgotten WHERE (tenant, task_id) IN
        (SELECT tenant, task_id FROM intake.forgotten WHERE forgotten_at < $1 LIMIT {_ROWS_AT_ONCE})
    """,
    "idempotency_keys": f"""
        DELETE FROM intake.idempotency_keys WHERE (tenant, key) IN
        (SELECT tenant, key FROM intake.idempotency_keys WHERE created_at < $1 LIMIT {_ROWS_AT_ONCE})
    """,
    # One at a time: each may have hundreds of chunks.
    "files": """
        DELETE FROM intake.files WHERE file_id =
        (SELECT file_id FROM intake.files f WHERE expires_at < $1
         AND NOT EXISTS (SELECT FROM intake.batches b WHERE b.input_file_id = f.file_id
                         AND b.status IN ('validating', 'in_progress', 'finalizing', 'cancelling')) LIMIT 1)
    """,
    "uploads": """
        DELETE FROM intake.files WHERE file_id =
        (SELECT file_id FROM intake.files WHERE NOT complete AND created_at < $1 LIMIT 1)
    """,
    "batches": f"""
        DELETE FROM intake.batches WHERE batch_id IN
        (SELECT batch_id FROM intake.batches WHERE created_at < $1
         AND status NOT IN ('validating', 'in_progress', 'finalizing', 'cancelling') LIMIT {_ROWS_AT_ONCE})
    """,
}
_ABANDONED_MS: Final = 7_200_000
"""An upload, or a file of results, that was begun so long ago was broken off."""
_ONE_BY_ONE: Final = ("files", "uploads")

_log = get_logger("headrace.intake.retention")


class Retention:
    """Sweeps periodically.

    Args:
        task_ms, key_ms: Retention of tasks (and of batches that have ended) and of keys, in milliseconds. Files say
            themselves when they expire.
        period_seconds: Time between two sweeps.
    """

    def __init__(
        self, database: Database, clock: Callable[[], int], *, task_ms: int, key_ms: int, period_seconds: float = 3600.0
    ) -> None:
        self._database = database
        self._clock = clock
        self._kept_ms = {
            "tasks": task_ms, "turns": task_ms, "conversations": task_ms, "forgotten": 2 * task_ms,
            "idempotency_keys": key_ms, "files": 0, "uploads": _ABANDONED_MS, "batches": task_ms,
        }  # fmt: skip
        self._period_seconds = period_seconds

    async def run(self) -> None:
        """As a part of the service."""
        await self._database.prepared()
        while True:
            try:
                deleted = await self.sweep()
                if any(deleted.values()):
                    _log.info("deleted rows past their retention", **deleted)
            except DatabaseAway as error:
                _log.warning("retention sweep failed, the next one will catch up", reason=str(error))
            await asyncio.sleep(self._period_seconds)

    async def sweep(self) -> dict[str, int]:
        """Delete what has expired, in small transactions. Returns the number of rows per table. Raises DatabaseAway."""
        deleted = dict.fromkeys(self._kept_ms, 0)
        for table, kept_ms in self._kept_ms.items():
            before = self._clock() - kept_ms
            while True:
                count = await self._delete(_STATEMENTS[table], before)
                deleted[table] += count
                if count < (1 if table in _ONE_BY_ONE else _ROWS_AT_ONCE):
                    break
        return deleted

    async def _delete(self, statement: str, before: int) -> int:
        async with self._database.connection() as connection, connection.transaction():
            if not await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", _LOCK):
                return 0
            # The status reads "DELETE <count>".
            return int((await connection.execute(statement, before)).split()[-1])

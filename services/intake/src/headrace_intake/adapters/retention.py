"""Deletes rows of the view and idempotency keys that are past their retention."""

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
        (SELECT task_id FROM intake.tasks WHERE submitted_at < $1 LIMIT {_ROWS_AT_ONCE})
    """,
    "idempotency_keys": f"""
        DELETE FROM intake.idempotency_keys WHERE (tenant, key) IN
        (SELECT tenant, key FROM intake.idempotency_keys WHERE created_at < $1 LIMIT {_ROWS_AT_ONCE})
    """,
}

_log = get_logger("headrace.intake.retention")


class Retention:
    """Sweeps periodically.

    Args:
        task_ms, key_ms: Retention of tasks and keys, in milliseconds.
        period_seconds: Time between two sweeps.
    """

    def __init__(
        self, database: Database, clock: Callable[[], int], *, task_ms: int, key_ms: int, period_seconds: float = 3600.0
    ) -> None:
        self._database = database
        self._clock = clock
        self._kept_ms = {"tasks": task_ms, "idempotency_keys": key_ms}
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
                if count < _ROWS_AT_ONCE:
                    break
        return deleted

    async def _delete(self, statement: str, before: int) -> int:
        async with self._database.connection() as connection, connection.transaction():
            if not await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", _LOCK):
                return 0
            # The status reads "DELETE <count>".
            return int((await connection.execute(statement, before)).split()[-1])

"""Connections to Postgres, once its schema is in place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import asyncpg
from headrace_runtime.health import Health
from headrace_runtime.redaction import redact_text
from headrace_runtime.waiting import wait_until
from headrace_streams.errors import TryAgain

from headrace_cost_accountant.migrations import runner

Connection = asyncpg.pool.PoolConnectionProxy

_AWAY: Final = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    # What a connection that breaks in the middle of an operation can look like.
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.OperatorInterventionError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.TransactionRollbackError,
    asyncpg.ReadOnlySQLTransactionError,
)
"""What asyncpg raises when the same statements may well succeed later, or on another server."""
_CHECK: Final = "postgres"
_CLOSE_SECONDS: Final = 2.0


class Database:
    """A pool of connections.

    Args:
        health: Told when Postgres goes away and when it is back.
    """

    def __init__(self, dsn: str, health: Health, *, pool_size: int, timeout_seconds: float) -> None:
        self._dsn = dsn
        self._health = health
        self._pool_size = pool_size
        self._timeout = timeout_seconds
        self._pool: asyncpg.Pool | None = None

    async def start(self) -> None:
        """Returns when Postgres answers and its schema is the newest; waits for it as long as it takes."""
        self._pool = await wait_until("Postgres", self._prepare, not_yet=_AWAY, health=self._health)

    async def close(self) -> None:
        """Let go of all connections."""
        if self._pool is not None:
            pool, self._pool = self._pool, None
            try:
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await pool.close()
            except TimeoutError:
                pool.terminate()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection for some statements.

        Raises TryAgain when Postgres cannot be used, also for what fails inside the block for that reason. A commit
        that was under way may have succeeded.
        """
        assert self._pool is not None  # start() made it
        try:
            async with self._pool.acquire(timeout=self._timeout) as connection:
                yield connection
        except _AWAY as error:
            reason = redact_text(str(error)) or type(error).__name__
            self._health.set(_CHECK, f"cannot be used: {reason}")
            raise TryAgain(f"Postgres cannot be used: {reason}") from error
        else:
            self._health.set(_CHECK, None)

    async def _prepare(self) -> asyncpg.Pool:
        await runner.upgrade(self._dsn)
        return await asyncpg.create_pool(
            self._dsn,
            min_size=0,
            max_size=self._pool_size,
            timeout=self._timeout,
            command_timeout=self._timeout,
            server_settings={"application_name": "headrace-cost-accountant"},
        )

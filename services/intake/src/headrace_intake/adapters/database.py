"""The connection to Postgres: there when Postgres is, and missed without harm when it is not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import asyncpg
from headrace_runtime.logging import get_logger
from headrace_runtime.redaction import redact_text

_FIRST_DELAY_SECONDS: Final = 0.2
_LONGEST_DELAY_SECONDS: Final = 5.0

_AWAY: Final = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    # A connection that was cut off in the middle of a statement says so in this way, too.
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.OperatorInterventionError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.TransactionRollbackError,
    asyncpg.ReadOnlySQLTransactionError,
)
"""What asyncpg raises when the same statement may well succeed later, or on another server."""

_log = get_logger("headrace.intake.database")

Connection = asyncpg.pool.PoolConnectionProxy
Migrate = Callable[[], Awaitable[str]]


class DatabaseAway(Exception):
    """Try again later: Postgres cannot be reached, or its schema is not in place yet."""


class Database:
    """A pool that comes into being when Postgres answers and its schema is in place.

    Args:
        migrate: Brings the schema to the newest revision and returns that.
        on_change: Told whether Postgres is there, whenever that changes.
    """

    def __init__(
        self,
        dsn: str,
        *,
        pool_size: int,
        timeout_seconds: float,
        migrate: Migrate,
        on_change: Callable[[bool], None] = lambda there: None,
    ) -> None:
        self._dsn = dsn
        self._pool_size = pool_size
        self._timeout = timeout_seconds
        self._migrate = migrate
        self._on_change = on_change
        self._pool: asyncpg.Pool | None = None
        self._there: bool | None = None
        self._prepared = asyncio.Event()

    async def prepare(self) -> None:
        """Migrate and open the pool; returns when that is done, however long Postgres stays away."""
        delay = _FIRST_DELAY_SECONDS
        while True:
            try:
                revision = await self._migrate()
                self._pool = await asyncpg.create_pool(
                    self._dsn,
                    min_size=0,
                    max_size=self._pool_size,
                    timeout=self._timeout,
                    command_timeout=self._timeout,
                    server_settings={"application_name": "headrace-intake"},
                )
                break
            except _AWAY as error:
                self._missed(error)
                await asyncio.sleep(delay)
                delay = min(delay * 2, _LONGEST_DELAY_SECONDS)
        self._found()
        _log.info("Postgres is there", revision=revision)
        self._prepared.set()

    async def run(self) -> None:
        """As a part of the service: prepare, then stay."""
        await self.prepare()
        await asyncio.Event().wait()

    async def prepared(self) -> None:
        """Returns when the schema is in place."""
        await self._prepared.wait()

    async def close(self) -> None:
        """Let go of all connections."""
        if self._pool is not None:
            pool, self._pool = self._pool, None
            try:
                async with asyncio.timeout(2.0):
                    await pool.close()
            except TimeoutError:
                pool.terminate()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection for some statements. Raises DatabaseAway, also for what fails inside for want of Postgres."""
        if self._pool is None:
            raise DatabaseAway("Postgres has not answered yet, or its schema is not in place")
        try:
            async with self._pool.acquire(timeout=self._timeout) as connection:
                yield connection
        except _AWAY as error:
            self._missed(error)
            raise DatabaseAway(_reason(error)) from error
        else:
            self._found()

    def _missed(self, error: BaseException) -> None:
        if self._there is not False:
            _log.warning("Postgres cannot be used; what needs it waits or is refused", reason=_reason(error))
        self._there = False
        self._on_change(False)

    def _found(self) -> None:
        if not self._there:
            self._there = True
            self._on_change(True)


def _reason(error: BaseException) -> str:
    return redact_text(str(error)) or type(error).__name__

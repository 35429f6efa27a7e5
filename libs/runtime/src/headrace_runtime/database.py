"""The connection to Postgres: services can wait for it, and survive its outages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import asyncpg
from headrace_streams.errors import BatchRefused, TransientError

from headrace_runtime.health import Health
from headrace_runtime.logging import get_logger
from headrace_runtime.metrics import Metrics
from headrace_runtime.redaction import redact_text
from headrace_runtime.schema_revisions import Revision

_FIRST_DELAY_SECONDS: Final = 0.2
_LONGEST_DELAY_SECONDS: Final = 5.0
_CLOSE_SECONDS: Final = 2.0
_CHECK: Final = "postgres"

_log = get_logger("headrace.runtime.database")

Connection = asyncpg.pool.PoolConnectionProxy
Migrate = Callable[[], Awaitable[Revision]]


class OutageKind(StrEnum):
    """Reasons why Postgres cannot be used that must pass, or be fixed there, before the same statements succeed."""

    UNREACHABLE = "unreachable"
    """No answer, a broken connection, or a server that is starting or stopping."""
    REFUSED = "refused"
    """It rejects our login: password, user, database."""
    CONNECTIONS = "connections"
    """All connections are in use, either those of this process or those of the server."""
    TIMEOUT = "timeout"
    """A statement or a lock took too long."""
    CONFLICT = "conflict"
    """Conflict with another transaction: deadlock, serialization."""
    READ_ONLY = "read_only"
    """A standby, or a server set to read only."""
    STORAGE = "storage"
    """Disk full, or failing."""
    SCHEMA_MOVED = "schema_moved"
    """A migration has changed a table used by a prepared statement."""


_KINDS: Final[tuple[tuple[OutageKind, tuple[type[BaseException], ...]], ...]] = (
    (OutageKind.READ_ONLY, (asyncpg.ReadOnlySQLTransactionError, asyncpg.TargetServerAttributeNotMatched)),
    (OutageKind.STORAGE, (asyncpg.DiskFullError, asyncpg.PostgresSystemError)),
    (OutageKind.CONNECTIONS, (asyncpg.TooManyConnectionsError,)),
    (OutageKind.SCHEMA_MOVED, (asyncpg.InvalidCachedStatementError, asyncpg.OutdatedSchemaCacheError)),
    (OutageKind.CONFLICT, (asyncpg.TransactionRollbackError,)),
    (
        OutageKind.TIMEOUT,
        (
            TimeoutError, asyncpg.QueryCanceledError, asyncpg.LockNotAvailableError, asyncpg.TransactionTimeoutError,
            asyncpg.IdleInTransactionSessionTimeoutError,
        ),
    ),
    (OutageKind.REFUSED, (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError)),
    (
        OutageKind.UNREACHABLE,
        (
            OSError, asyncpg.PostgresConnectionError, asyncpg.OperatorInterventionError,
            asyncpg.InsufficientResourcesError,
            # How a connection that breaks in the middle of an operation can show.
            asyncpg.InterfaceError, asyncpg.InternalClientError,
        ),
    ),
)  # fmt: skip
"""asyncpg's errors after which the same statements may succeed later or on another server; the first match counts."""


_UNFIT: Final = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError)


@dataclass(frozen=True, slots=True)
class Outage:
    """Why Postgres cannot be used."""

    kind: OutageKind
    reason: str

    def __str__(self) -> str:
        return f"cannot be used ({self.kind.value.replace('_', ' ')}): {self.reason}"


def outage_of(error: BaseException) -> Outage | None:
    """Classify an error; None if it is due to the statement or its values."""
    # asyncpg reports wrong settings as InterfaceErrors as well, but waiting does not fix them.
    if isinstance(error, asyncpg.InterfaceError) and isinstance(error, ValueError):
        return None
    for kind, types in _KINDS:
        if isinstance(error, types):
            return Outage(kind, redact_text(str(error)) or type(error).__name__)
    return None


class DatabaseAway(TransientError):
    """Try again later: Postgres cannot be used, or its schema is not in place yet.

    A commit in flight may have succeeded, so a caller that repeats a transaction must be able to detect that.
    """


class DatabaseMetrics:
    """The state of Postgres, in metrics and in readiness."""

    def __init__(self, metrics: Metrics, health: Health, *, needed: bool) -> None:
        """`needed`: whether the service can do nothing without it; else readiness names an outage as degraded."""
        self._up = metrics.gauge("database_up", "1 while Postgres can be used, else 0.")
        self._outages = metrics.counter("database_outages", "Operations that failed because of an outage.", ["kind"])
        self._health = health
        self._needed = needed

    def changed(self, outage: Outage | None) -> None:
        """Called by a `Database`."""
        self._up.set(outage is None)
        if outage is not None:
            self._outages.labels(outage.kind.value).inc()
        if self._needed:
            self._health.set(_CHECK, None if outage is None else str(outage))
        else:
            self._health.note(_CHECK, "there" if outage is None else str(outage))
            self._health.degrade(_CHECK, None if outage is None else str(outage))


class Database:
    """A connection pool that is opened once Postgres answers and its schema is in place.

    Args:
        application: Name that the server shows for our connections.
        timeout_seconds: Longest wait for a connection, and for one statement.
        migrate: Migrates the schema to the newest revision.
        on_change: Called at the beginning of every outage with its reason, and at its end with None.
    """

    def __init__(
        self,
        dsn: str,
        *,
        application: str,
        pool_size: int,
        timeout_seconds: float,
        migrate: Migrate,
        on_change: Callable[[Outage | None], None] = lambda outage: None,
    ) -> None:
        self._dsn = dsn
        self._application = application
        self._pool_size = pool_size
        self._timeout = timeout_seconds
        self._migrate = migrate
        self._on_change = on_change
        self._pool: asyncpg.Pool | None = None
        self._there: bool | None = None
        self._prepared = asyncio.Event()

    async def prepare(self) -> None:
        """Migrate and open the pool; returns when that is done, however long Postgres is unavailable.

        Raises errors of the migration other than outages, and ValueError for an invalid address.
        """
        delay = _FIRST_DELAY_SECONDS
        while True:
            try:
                revision = await self._migrate()
                self._pool = await self._open()
                break
            except Exception as error:
                outage = outage_of(error)
                if outage is None:
                    raise
                self._missed(outage)
            await asyncio.sleep(delay)
            delay = min(delay * 2, _LONGEST_DELAY_SECONDS)
        self._found()
        if revision.newer:
            _log.warning(
                "the database schema is newer than this release; using it unchanged", schema=revision.schema,
                revision=revision.name,
            )  # fmt: skip
        _log.info("connected to Postgres", schema=revision.schema, revision=revision.name)
        self._prepared.set()

    async def run(self) -> None:
        """For a part of a service that can run without Postgres for a while: prepare, then wait until cancelled."""
        await self.prepare()
        await asyncio.Event().wait()

    async def prepared(self) -> None:
        """Returns when the schema is in place."""
        await self._prepared.wait()

    async def close(self) -> None:
        """Close all connections."""
        if self._pool is not None:
            pool, self._pool = self._pool, None
            try:
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await pool.close()
            except TimeoutError:
                pool.terminate()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection for some statements. Raises DatabaseAway, also when Postgres fails within the block."""
        pool = self._pool
        if pool is None:
            raise DatabaseAway("Postgres has not answered yet, or its schema is not in place")
        try:
            async with self._acquired(pool) as connection:
                yield connection
        except DatabaseAway:
            raise
        except Exception as error:
            outage = outage_of(error)
            if outage is None:
                raise
            if outage.kind is OutageKind.READ_ONLY:
                # After a failover these connections lead to what is now a standby; new ones reach the new primary.
                await pool.expire_connections()
            self._missed(outage)
            raise DatabaseAway(f"Postgres {outage}") from error
        else:
            self._found()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A connection within a transaction, committed at the end of the block.

        Raises DatabaseAway as `connection`, and BatchRefused if Postgres will never accept a value or row in it.
        """
        try:
            async with self.connection() as connection, connection.transaction():
                yield connection
        except _UNFIT as error:
            # Not Postgres's message, which quotes values.
            where = next((f" in {part}" for part in (error.constraint_name, error.column_name) if part), "")
            raise BatchRefused(f"Postgres rejects a value{where}: {type(error).__name__}") from error

    @asynccontextmanager
    async def _acquired(self, pool: asyncpg.Pool) -> AsyncIterator[Connection]:
        try:
            connection = await pool.acquire(timeout=self._timeout)
        except TimeoutError as error:
            if pool.get_size() < self._pool_size or pool.get_idle_size():
                raise
            outage = Outage(OutageKind.CONNECTIONS, f"all {self._pool_size} connections of this process are in use")
            self._missed(outage)
            raise DatabaseAway(f"Postgres {outage}") from error
        try:
            yield connection
        finally:
            await pool.release(connection, timeout=self._timeout)

    async def _open(self) -> asyncpg.Pool:
        return await asyncpg.create_pool(
            self._dsn,
            min_size=0,
            max_size=self._pool_size,
            timeout=self._timeout,
            command_timeout=self._timeout,
            server_settings={"application_name": self._application},
        )

    def _missed(self, outage: Outage) -> None:
        if self._there is not False:
            _log.warning(
                "Postgres cannot be used; dependent work is waiting", kind=outage.kind.value, reason=outage.reason
            )
        self._there = False
        self._on_change(outage)

    def _found(self) -> None:
        if not self._there:
            if self._there is False:
                _log.info("Postgres can be used again")
            self._there = True
            self._on_change(None)

"""Runs Alembic on one schema. Imported only when a schema has to change: it takes longer to load than some services."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from weakref import WeakKeyDictionary

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from headrace_runtime.schema_revisions import VERSION_TABLE, Revision

CONNECT_SECONDS: Final = 10.0

Step = Callable[[Connection, Config], None]
_one_at_a_time: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()
"""Alembic's `context` is a global of the process, and two services may share one."""


@dataclass(frozen=True, slots=True)
class AlembicRun:
    """What `headrace_runtime.migrations.Migrations` describes, with the same errors.

    Attributes:
        folder: Holds `env.py` and `versions`.
        lock: Number of the advisory lock.
        lock_ms: Longest wait for a lock.
    """

    schema: str
    folder: Path
    lock: int
    lock_ms: int

    async def upgrade(self, dsn: str, revision: str) -> Revision:
        """Migrate the schema to `revision`, creating it if it is missing; a newer one is not changed."""

        def step(connection: Connection, config: Config) -> None:
            if self._knows(self._revision(connection)):
                command.upgrade(config, revision)

        return await self._run(dsn, step)

    async def downgrade(self, dsn: str, revision: str) -> Revision:
        """Downgrade the schema to `revision`."""
        return await self._run(dsn, lambda _, config: command.downgrade(config, revision))

    async def current(self, dsn: str) -> Revision:
        """The schema's revision."""
        return await self._run(dsn, lambda _, config: None)

    def _config(self) -> Config:
        config = Config()
        config.set_main_option("script_location", str(self.folder).replace("%", "%%"))
        config.set_main_option("path_separator", "os")
        config.attributes["schema"] = self.schema
        return config

    async def _run(self, dsn: str, step: Step) -> Revision:
        async def connect() -> asyncpg.Connection:
            return await asyncpg.connect(dsn, timeout=CONNECT_SECONDS)

        # SQLAlchemy is here for Alembic alone; the address goes to asyncpg, which supports all that libpq does.
        engine = create_async_engine("postgresql+asyncpg://", async_creator=connect, poolclass=NullPool)
        alone = _one_at_a_time.setdefault(asyncio.get_running_loop(), asyncio.Lock())
        try:
            async with alone, engine.begin() as connection:
                name = await connection.run_sync(self._locked, step)
        except DBAPIError as error:
            raise _as_asyncpg_says(error) from error
        finally:
            await engine.dispose()
        return Revision(self.schema, name, newer=not self._knows(name))

    def _locked(self, connection: Connection, step: Step) -> str:
        # A session queueing for a table's lock blocks all that come after it: better to time out and retry.
        connection.execute(text(f"SET LOCAL lock_timeout = {self.lock_ms}"))
        # Held until the end of the transaction, however it ends.
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": self.lock})
        # Checked first: CREATE SCHEMA needs its privilege even if IF NOT EXISTS finds nothing to do.
        if connection.execute(text("SELECT to_regnamespace(:schema)"), {"schema": self.schema}).scalar() is None:
            connection.execute(text(f"CREATE SCHEMA {self.schema}"))
        config = self._config()
        config.attributes["connection"] = connection
        step(connection, config)
        return self._revision(connection)

    def _revision(self, connection: Connection) -> str:
        options = {"version_table": VERSION_TABLE, "version_table_schema": self.schema}
        return MigrationContext.configure(connection, opts=options).get_current_revision() or ""

    def _knows(self, revision: str) -> bool:
        scripts = ScriptDirectory.from_config(self._config()).walk_revisions()
        return not revision or revision in {script.revision for script in scripts}


def _as_asyncpg_says(error: DBAPIError) -> BaseException:
    """The driver's error inside SQLAlchemy's."""
    cause: BaseException | None = error.orig
    while cause is not None and not isinstance(cause, asyncpg.PostgresError | asyncpg.InterfaceError | OSError):
        cause = cause.__cause__
    return cause or error

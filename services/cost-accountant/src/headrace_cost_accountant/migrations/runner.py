"""Brings the schema `ledger` to a revision: in one transaction, one process at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

SCHEMA: Final = "ledger"
VERSION_TABLE: Final = "alembic_version"

_LOCK: Final = 0x6865_6164_6C65_6467
"""Number of the advisory lock that keeps two processes from migrating this schema at once ("headledg")."""
_TIMEOUT_SECONDS: Final = 60.0


async def upgrade(dsn: str, revision: str = "head") -> str:
    """Bring the schema to `revision`, creating it where it is missing; the revision it is at then.

    Waits for another process that does the same. Raises OSError and asyncpg's errors when Postgres cannot be used,
    alembic.util.CommandError for a revision that this package does not have.
    """
    return await _change(dsn, lambda config: command.upgrade(config, revision))


async def downgrade(dsn: str, revision: str) -> str:
    """Take the schema back to `revision` ("base": to nothing); what later revisions kept is lost.

    Returns the revision it is at then, "" for none. Raises as `upgrade`.
    """
    return await _change(dsn, lambda config: command.downgrade(config, revision))


async def current(dsn: str) -> str:
    """The revision that the schema is at, "" for none. Raises OSError and asyncpg's errors."""
    return await _change(dsn, lambda config: None)


async def _change(dsn: str, change: Callable[[Config], None]) -> str:
    def apply(connection: Connection) -> str:
        # Held until the end of the transaction, however it ends.
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
        config.set_main_option("path_separator", "os")
        config.attributes["connection"] = connection
        change(config)
        versions = {"version_table": VERSION_TABLE, "version_table_schema": SCHEMA}
        return MigrationContext.configure(connection, opts=versions).get_current_revision() or ""

    async def connect() -> asyncpg.Connection:
        return await asyncpg.connect(dsn, timeout=_TIMEOUT_SECONDS)

    # SQLAlchemy is here for Alembic alone; the address goes to asyncpg, which reads all that libpq does.
    engine = create_async_engine("postgresql+asyncpg://", async_creator=connect, poolclass=NullPool)
    try:
        async with engine.begin() as connection:
            return await connection.run_sync(apply)
    finally:
        await engine.dispose()

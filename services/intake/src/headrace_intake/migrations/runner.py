"""Brings the schema `intake` to a revision: in one transaction, one process at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

_Step = Callable[[Connection, Config], None]

SCHEMA: Final = "intake"
VERSION_TABLE: Final = "alembic_version"

_LOCK: Final = 0x6865_6164_696E_7461
"""Number of the advisory lock that keeps two processes from migrating this schema at once ("headinta")."""


def config() -> Config:
    """Alembic's view of this package."""
    settings = Config()
    settings.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    settings.set_main_option("path_separator", "os")
    return settings


def head() -> str:
    """The newest revision that this package ships."""
    revision = ScriptDirectory.from_config(config()).get_current_head()
    if revision is None:
        raise RuntimeError("the package holds no migrations: it was built without them")
    return revision


async def upgrade(dsn: str, *, revision: str = "head", timeout_seconds: float = 60.0) -> str:
    """Bring the schema to `revision`, creating it where it is missing; the revision it is at then.

    A schema that a newer release has brought further is left as it is, since releases only add to what older ones
    use: the revision returned is then one that this package does not know. Waits for another process that does the
    same. Raises OSError and asyncpg's errors when Postgres cannot be used.
    """

    def step(connection: Connection, settings: Config) -> None:
        if _is_known(_revision(connection), settings):
            command.upgrade(settings, revision)

    return await _run(dsn, timeout_seconds, step)


async def downgrade(dsn: str, *, revision: str = "base", timeout_seconds: float = 60.0) -> str:
    """Take the schema back to `revision`; what later revisions kept is lost. Returns the revision, "" for none."""
    return await _run(dsn, timeout_seconds, lambda _, settings: command.downgrade(settings, revision))


async def current(dsn: str, *, timeout_seconds: float = 60.0) -> str:
    """The revision that the schema is at, "" for none."""
    return await _run(dsn, timeout_seconds, lambda _, settings: None)


async def _run(dsn: str, timeout_seconds: float, do: _Step) -> str:
    async def connect() -> asyncpg.Connection:
        return await asyncpg.connect(dsn, timeout=timeout_seconds)

    engine = create_async_engine("postgresql+asyncpg://", async_creator=connect, poolclass=NullPool)
    try:
        async with engine.begin() as connection:
            return await connection.run_sync(_locked, do)
    finally:
        await engine.dispose()


def _locked(connection: Connection, do: _Step) -> str:
    # Released by the end of the transaction, however it ends.
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    # Asked first: CREATE SCHEMA needs its privilege even where IF NOT EXISTS finds nothing to do.
    if connection.execute(text("SELECT to_regnamespace(:schema)"), {"schema": SCHEMA}).scalar() is None:
        connection.execute(text(f"CREATE SCHEMA {SCHEMA}"))
    settings = config()
    settings.attributes["connection"] = connection
    do(connection, settings)
    return _revision(connection)


def _revision(connection: Connection) -> str:
    options = {"version_table": VERSION_TABLE, "version_table_schema": SCHEMA}
    return MigrationContext.configure(connection, opts=options).get_current_revision() or ""


def _is_known(revision: str, settings: Config) -> bool:
    known = {script.revision for script in ScriptDirectory.from_config(settings).walk_revisions()}
    return not revision or revision in known

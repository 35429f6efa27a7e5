"""Migrates a service's schema in Postgres to a revision: in one transaction, one process at a time.

Releases only add to what older ones use (expand), and remove what no release in use needs any more (contract). So a
schema that a newer release has migrated further is left alone: during a rolling update, and after a rollback, the older
release runs on it.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Final
from weakref import WeakKeyDictionary

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from headrace_runtime.redaction import redact_text
from headrace_runtime.settings import DatabaseSettings, SettingsInvalid

VERSION_TABLE: Final = "alembic_version"
_CONNECT_SECONDS: Final = 10.0

_Step = Callable[[Connection, Config], None]
_one_at_a_time: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()
"""Alembic's `context` is a global of the process, and two services may share one."""


@dataclass(frozen=True, slots=True)
class Revision:
    """The revision of a schema.

    Attributes:
        schema: Its name.
        name: The revision, "" for none.
        newer: Whether this release does not know the revision, because a newer one has migrated the schema.
    """

    schema: str
    name: str
    newer: bool = False

    def __str__(self) -> str:
        said = f"schema {self.schema} is at {self.name or 'no revision'}"
        return f"{said}, of a newer release than this one" if self.newer else said


class Migrations:
    """The revisions of one schema, as Alembic scripts in the folder of a package.

    All methods raise OSError and asyncpg's errors when Postgres cannot be used, LockNotAvailableError among them when
    another process migrates, or uses a table that is to be changed, for longer than `lock_seconds`; and
    alembic.util.CommandError for a revision that the package does not have.

    Attributes:
        lock: Number of the advisory lock that prevents two processes from migrating this schema at once.

    Args:
        package: Package with the module `env` and the folder `versions`.
        lock_seconds: Longest wait for a lock.
    """

    def __init__(self, package: str, schema: str, *, lock_seconds: float = 10.0) -> None:
        self.schema = schema
        self._lock_ms = int(lock_seconds * 1000)
        self._folder = Path(str(import_module(package).__file__)).parent
        self.lock = int.from_bytes(hashlib.sha256(f"headrace {schema}".encode()).digest()[:8], "big", signed=True)

    @property
    def head(self) -> str:
        """The newest revision in the package."""
        revision = ScriptDirectory.from_config(self._config()).get_current_head()
        if revision is None:
            raise RuntimeError(f"{self._folder} holds no migrations: the package was built without them")
        return revision

    async def upgrade(self, dsn: str, revision: str = "head") -> Revision:
        """Migrate the schema to `revision`, creating it if it is missing; a newer one is not changed."""

        def step(connection: Connection, config: Config) -> None:
            if self._knows(self._revision(connection)):
                command.upgrade(config, revision)

        return await self._run(dsn, step)

    async def downgrade(self, dsn: str, revision: str) -> Revision:
        """Downgrade the schema to `revision` ("base": remove everything); data of later revisions is lost."""
        return await self._run(dsn, lambda _, config: command.downgrade(config, revision))

    async def current(self, dsn: str) -> Revision:
        """The schema's revision."""
        return await self._run(dsn, lambda _, config: None)

    def _config(self) -> Config:
        config = Config()
        config.set_main_option("script_location", str(self._folder).replace("%", "%%"))
        config.set_main_option("path_separator", "os")
        config.attributes["schema"] = self.schema
        return config

    async def _run(self, dsn: str, step: _Step) -> Revision:
        async def connect() -> asyncpg.Connection:
            return await asyncpg.connect(dsn, timeout=_CONNECT_SECONDS)

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

    def _locked(self, connection: Connection, step: _Step) -> str:
        # A session queueing for a table's lock blocks all that come after it: better to time out and retry.
        connection.execute(text(f"SET LOCAL lock_timeout = {self._lock_ms}"))
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


def run_revisions() -> None:
    """Called by the `env` module of a package when Alembic loads it."""
    from alembic import context  # usable only while Alembic runs

    attributes = context.config.attributes
    context.configure(
        connection=attributes["connection"],
        version_table=VERSION_TABLE,
        version_table_schema=attributes["schema"],
    )
    with context.begin_transaction():
        context.run_migrations()


def main(migrations: Migrations, program: str, argv: Sequence[str] | None = None) -> int:
    """`<program> upgrade [REVISION] | downgrade REVISION | current`, on HEADRACE_DATABASE_URL.

    Exit code 0: done; 1: Postgres cannot be used; 2: bad settings or arguments.
    """
    description = f"Migrate the schema {migrations.schema} on HEADRACE_DATABASE_URL."
    parser = argparse.ArgumentParser(prog=program, description=description)
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("upgrade", help="migrate the schema to a revision, by default the newest")
    up.add_argument("revision", nargs="?", default="head")
    down = commands.add_parser("downgrade", help="revert to a revision; data of later revisions is lost")
    down.add_argument("revision", help="a revision, or base for an empty schema")
    commands.add_parser("current", help="print the current revision")
    chosen = parser.parse_args(argv)
    try:
        dsn = DatabaseSettings.load().database_url.get_secret_value()
        match chosen.command:
            case "upgrade":
                revision = asyncio.run(migrations.upgrade(dsn, chosen.revision))
            case "downgrade":
                revision = asyncio.run(migrations.downgrade(dsn, chosen.revision))
            case _:
                revision = asyncio.run(migrations.current(dsn))
    except (SettingsInvalid, CommandError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        sys.stderr.write(f"Postgres cannot be used: {redact_text(str(error)) or type(error).__name__}\n")
        return 1
    sys.stdout.write(f"{revision}\n")
    return 0

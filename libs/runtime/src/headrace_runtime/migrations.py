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
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Final

import asyncpg

from headrace_runtime.redaction import redact_text
from headrace_runtime.schema_revisions import VERSION_TABLE, Revision, newest_revision, stored_revision
from headrace_runtime.settings import DatabaseSettings, SettingsInvalid

if TYPE_CHECKING:
    from headrace_runtime.alembic_run import AlembicRun

_CONNECT_SECONDS: Final = 10.0


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
        return newest_revision(self._folder / "versions")

    async def upgrade(self, dsn: str, revision: str = "head") -> Revision:
        """Migrate the schema to `revision`, creating it if it is missing; a newer one is not changed."""
        if revision == "head" and await stored_revision(dsn, self.schema, _CONNECT_SECONDS) == self.head:
            return Revision(self.schema, self.head)
        return await self._alembic().upgrade(dsn, revision)

    async def downgrade(self, dsn: str, revision: str) -> Revision:
        """Downgrade the schema to `revision` ("base": remove everything); data of later revisions is lost."""
        return await self._alembic().downgrade(dsn, revision)

    async def current(self, dsn: str) -> Revision:
        """The schema's revision."""
        return await self._alembic().current(dsn)

    def _alembic(self) -> AlembicRun:
        # Imported here: most starts find the schema as it should be.
        from headrace_runtime.alembic_run import AlembicRun

        return AlembicRun(self.schema, self._folder, self.lock, self._lock_ms)


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
    from alembic.util import CommandError

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

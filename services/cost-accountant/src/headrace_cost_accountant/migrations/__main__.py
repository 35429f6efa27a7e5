"""`python -m headrace_cost_accountant.migrations upgrade | downgrade REVISION | current`, on HEADRACE_DATABASE_URL."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence

import asyncpg
from alembic.util import CommandError
from headrace_runtime.redaction import redact_text
from headrace_runtime.settings import DatabaseSettings, SettingsInvalid

from headrace_cost_accountant.migrations import runner


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0: done; 1: Postgres cannot be used; 2: bad settings or arguments."""
    parser = argparse.ArgumentParser(prog="python -m headrace_cost_accountant.migrations", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("upgrade", help="bring the schema to a revision, the newest unless said otherwise")
    up.add_argument("revision", nargs="?", default="head")
    down = commands.add_parser("downgrade", help="take it back; what later revisions kept is lost")
    down.add_argument("revision", help="a revision, or base for an empty schema")
    commands.add_parser("current", help="print the revision it is at")
    chosen = parser.parse_args(argv)
    try:
        dsn = DatabaseSettings.load().database_url.get_secret_value()
        match chosen.command:
            case "upgrade":
                revision = asyncio.run(runner.upgrade(dsn, chosen.revision))
            case "downgrade":
                revision = asyncio.run(runner.downgrade(dsn, chosen.revision))
            case _:
                revision = asyncio.run(runner.current(dsn))
    except (SettingsInvalid, CommandError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        sys.stderr.write(f"Postgres cannot be used: {redact_text(str(error)) or type(error).__name__}\n")
        return 1
    sys.stdout.write(f"schema {runner.SCHEMA} is at {revision or 'no revision'}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

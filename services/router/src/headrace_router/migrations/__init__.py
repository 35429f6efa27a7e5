"""The schema `answers` in Postgres, as Alembic revisions; they ship with the package.

`python -m headrace_router.migrations upgrade` applies them; a router with a database does the same when it starts.
"""

from typing import Final

from headrace_runtime.migrations import Migrations

MIGRATIONS: Final = Migrations("headrace_router.migrations", "answers")

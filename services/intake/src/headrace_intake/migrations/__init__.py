"""The schema `intake` in Postgres, as Alembic revisions; they ship with the package.

`python -m headrace_intake.migrations upgrade` applies them; the service does the same when it starts.
"""

from typing import Final

from headrace_runtime.migrations import Migrations

MIGRATIONS: Final = Migrations("headrace_intake.migrations", "intake")

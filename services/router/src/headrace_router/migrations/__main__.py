"""`python -m headrace_router.migrations upgrade | downgrade REVISION | current`, on HEADRACE_DATABASE_URL."""

from __future__ import annotations

import sys

from headrace_runtime.migrations import main

from headrace_router.migrations import MIGRATIONS

if __name__ == "__main__":
    sys.exit(main(MIGRATIONS, "python -m headrace_router.migrations"))

"""Loaded by Alembic to run the revisions beside it."""

from headrace_runtime.migrations import run_revisions

run_revisions()

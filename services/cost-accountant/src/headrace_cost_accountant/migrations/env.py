"""Runs revisions on the connection that `headrace_cost_accountant.migrations.runner` hands over; loaded by Alembic."""

from __future__ import annotations

from alembic import context

from headrace_cost_accountant.migrations.runner import SCHEMA, VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    version_table=VERSION_TABLE,
    version_table_schema=SCHEMA,
)
with context.begin_transaction():
    context.run_migrations()

"""The schema `ledger` in Postgres, as Alembic revisions; they ship with the package.

`python -m headrace_cost_accountant.migrations upgrade` applies them; the service does the same when it starts.
"""

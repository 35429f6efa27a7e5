"""The history that `make bench-scale` makes, as the services and their database see it."""

from __future__ import annotations

from itertools import pairwise

import asyncpg
import pytest
from headrace_contracts.ids import new_id
from headrace_cost_accountant.migrations import MIGRATIONS as LEDGER
from headrace_intake.migrations import MIGRATIONS as VIEW
from headrace_scale_bench.history_rows import STEP_MS, NothingToCopy, add_rows
from headrace_testing.databases import prepared

_TASK = """
    INSERT INTO intake.tasks
    (task_id, tenant, home_partition, user_name, kind, labels, submitted_at, completed_at, status)
    VALUES ('one', 'acme', 3, '', 'chat', '{}', 1, 2, 'answered')
"""
_ENTRY = """
    INSERT INTO ledger.entries
    (event_id, tenant, user_name, task_id, attempt_id, execution_id, kind, provider, model, simulated, outcome,
     input_tokens, output_tokens, cached_input_tokens, searches, model_ms, cost_nanodollars,
     internal_value_nanodollars, price_basis, price_version, recorded_at)
    VALUES ('one', 'acme', '', 'one', 'one/1', 'one/1/0', 'chat', 'groq', 'm', false, 'answered',
     1, 2, 0, 0, 5, 7, 0, 'model', 'v', 1)
"""


async def test_rows_are_copies_of_a_real_one_with_ids_and_times_of_their_own(postgres_dsn: str) -> None:
    async with prepared(postgres_dsn, VIEW), prepared(postgres_dsn, LEDGER):
        connection = await asyncpg.connect(postgres_dsn, ssl=False)
        try:
            with pytest.raises(NothingToCopy, match=r"intake\.tasks"):
                await add_rows(postgres_dsn, 5)
            await connection.execute(_TASK)
            await connection.execute(_ENTRY)

            await add_rows(postgres_dsn, 5)

            tasks = await connection.fetch("SELECT * FROM intake.tasks WHERE task_id <> 'one' ORDER BY submitted_at")
            entries = await connection.fetch("SELECT * FROM ledger.entries WHERE task_id <> 'one' ORDER BY task_id")
        finally:
            await connection.close()

    assert [row["task_id"] for row in entries] == [row["task_id"] for row in tasks]
    assert len({row["task_id"] for row in tasks}) == 5
    assert {(row["tenant"], row["home_partition"], row["status"]) for row in tasks} == {("acme", 3, "answered")}
    assert {row["completed_at"] - row["submitted_at"] for row in tasks} == {500}
    for row, later in pairwise(tasks):
        assert later["submitted_at"] - row["submitted_at"] == STEP_MS
    for row in tasks:
        # As a UUIDv7: the time comes first.
        assert len(row["task_id"]) == len(new_id())
        assert int(row["task_id"].replace("-", "")[:12], 16) == row["submitted_at"]
    assert {row["cost_nanodollars"] for row in entries} == {7}

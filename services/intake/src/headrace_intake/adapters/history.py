"""Reads the task view in Postgres."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from headrace_contracts.events import Content, Failure, TrailStep, Usage
from headrace_runtime.database import Database

from headrace_intake.decide import vectors
from headrace_intake.decide.choices import loaded
from headrace_intake.decide.pages import After, Filter
from headrace_intake.decide.rows import LONGEST_NAME
from headrace_intake.decide.several_models import loaded_cascade, loaded_ensemble
from headrace_intake.decide.views import TaskView

_SUMMARY: Final = (
    "task_id, tenant, route_key, home_partition, reply_partition, user_name, kind, role, requested_model, session, "
    "subject, labels, privacy, lane, submitted_at, deadline_at, status, completed_at, finish_reason, failure_code, "
    "failure_message, provider, model, node, simulated, served_from, source_task_id, input_tokens, output_tokens, "
    "cached_input_tokens, cache_write_5m_tokens, cache_write_1h_tokens, reasoning_tokens, "
    "image_tokens, audio_tokens, searches, cost_nanodollars, attempts, "
    "model_ms, policy_version, ensemble, cascade"
)
_ANSWER: Final = f"{_SUMMARY}, answer_cipher, answer, choices, embeddings"
_ONE: Final = f"SELECT {_ANSWER}, trail FROM intake.tasks WHERE task_id = $1 AND tenant = $2"
ANSWER_COLUMNS: Final = ", ".join(f"t.{name.strip()}" for name in _ANSWER.split(","))
"""What `view_of` needs of the tasks' table `t`, the answer too, but not how the decision was made."""
_EQUAL: Final = (
    ("status", "status"),
    ("role", "role"),
    ("kind", "kind"),
    ("session", "session"),
    ("user", "user_name"),
)


@dataclass(frozen=True, slots=True)
class StoredTask:
    """A row: the task and where its records are.

    Attributes:
        route_key: Key of all its records; None if it is one the view does not store.
        reply_partition: None if no caller waits for replies.
    """

    view: TaskView
    route_key: bytes | None
    home_partition: int
    reply_partition: int | None


class History:
    """Tasks by id and by filter, of one tenant at a time. All methods raise DatabaseAway."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, tenant: str, task_id: str) -> StoredTask | None:
        """One task, with answer and decision trail."""
        if "\0" in task_id:
            return None
        async with self._database.connection() as connection:
            row = await connection.fetchrow(_ONE, task_id, tenant)
        return None if row is None else stored_task(dict(row))

    async def page(self, tenant: str, wanted: Filter) -> tuple[Sequence[TaskView], After | None]:
        """The newest tasks that match the filter, without answers and trails, and the cursor of the next page."""
        statement, arguments = page_statement(tenant, wanted)
        async with self._database.connection() as connection:
            rows = await connection.fetch(statement, *arguments)
        views = [stored_task(dict(row)).view for row in rows[: wanted.limit]]
        more = len(rows) > wanted.limit
        return views, After(views[-1].submitted_at, views[-1].task_id) if more else None


def page_statement(tenant: str, wanted: Filter) -> tuple[str, list[Any]]:
    """The statement for a page plus one row, which shows whether there is a next page."""
    conditions = ["tenant = $1"]
    arguments: list[Any] = [tenant]

    def add(condition: str, *values: Any) -> None:
        numbers = range(len(arguments) + 1, len(arguments) + len(values) + 1)
        conditions.append(condition.format(*(f"${number}" for number in numbers)))
        arguments.extend(values)

    for name, column in _EQUAL:
        value = getattr(wanted, name)
        if value is not None:
            add(f"{column} = {{}}", value[:LONGEST_NAME])
    if wanted.since is not None:
        add("submitted_at >= {}", wanted.since)
    if wanted.until is not None:
        add("submitted_at < {}", wanted.until)
    if wanted.after is not None:
        add("(submitted_at, task_id) < ({}, {})", wanted.after.submitted_at, wanted.after.task_id)
    where = " AND ".join(conditions)
    return (
        f"SELECT {_SUMMARY} FROM intake.tasks WHERE {where} "
        f"ORDER BY submitted_at DESC, task_id DESC LIMIT {wanted.limit + 1}",
        arguments,
    )


def stored_task(row: dict[str, Any]) -> StoredTask:
    """A row of the table, with or without answer and trail."""
    return StoredTask(view_of(row), row["route_key"], row["home_partition"], row["reply_partition"])


def view_of(row: dict[str, Any]) -> TaskView:
    """The task of a row."""
    ended = row["completed_at"] is not None
    return TaskView(
        task_id=row["task_id"],
        tenant=row["tenant"],
        user=row["user_name"],
        kind=row["kind"],
        role=row["role"],
        requested_model=row["requested_model"],
        session=row["session"],
        subject=row["subject"],
        labels=json.loads(row["labels"]),
        privacy=row["privacy"],
        lane=row["lane"],
        submitted_at=row["submitted_at"],
        deadline_at=row["deadline_at"],
        status=row["status"],
        completed_at=row["completed_at"],
        answer=_answer(row),
        choices=loaded(row.get("choices")),
        embeddings=vectors.loaded(row.get("embeddings")),
        finish_reason=row["finish_reason"],
        failure=None
        if row["failure_code"] is None
        else Failure(code=row["failure_code"], message=row["failure_message"] or ""),
        provider=row["provider"],
        model=row["model"],
        node=row["node"],
        simulated=row["simulated"],
        served_from=row["served_from"],
        source_task_id=row["source_task_id"],
        usage=_usage(row) if ended else None,
        cost_nanodollars=row["cost_nanodollars"],
        attempts=row["attempts"],
        model_ms=row["model_ms"],
        trail=tuple(TrailStep(**step) for step in json.loads(row.get("trail") or "[]")),
        policy_version=row["policy_version"],
        ensemble=loaded_ensemble(row["ensemble"]),
        cascade=loaded_cascade(row["cascade"]),
    )


def _answer(row: dict[str, Any]) -> Content | None:
    data = row.get("answer")
    return None if data is None else Content(cipher=row["answer_cipher"], data=data)


def _usage(row: dict[str, Any]) -> Usage:
    return Usage(
        input_tokens=row["input_tokens"],
        output_tokens=row["output_tokens"],
        cached_input_tokens=row["cached_input_tokens"],
        cache_write_5m_tokens=row["cache_write_5m_tokens"],
        cache_write_1h_tokens=row["cache_write_1h_tokens"],
        reasoning_tokens=row["reasoning_tokens"],
        image_tokens=row["image_tokens"],
        audio_tokens=row["audio_tokens"],
        searches=row["searches"],
    )

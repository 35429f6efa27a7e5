"""Rows of the task view, from the events of one batch.

Any client may produce a task, so no field of an event is trusted to fit a column: a value that Postgres cannot hold
or index would stop the view for all tenants. Times are milliseconds since the epoch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from headrace_contracts.events import TaskCompleted, TaskSubmitted
from headrace_streams.records import Record

LONGEST_NAME: Final = 200
"""Longest name in the view, in characters; an index entry of three such names fits a page."""
_LONGEST_TEXT: Final = 4_000
_LATEST_MS: Final = 253_402_300_799_999
_LARGEST_KEY: Final = 1_024

SUBMITTED_COLUMNS: Final = (
    ("task_id", "text"), ("tenant", "text"), ("route_key", "bytea"), ("home_partition", "integer"),
    ("reply_partition", "integer"), ("user_name", "text"), ("kind", "text"), ("role", "text"),
    ("requested_model", "text"), ("session", "text"), ("subject", "text"), ("labels", "jsonb"), ("privacy", "text"),
    ("lane", "text"), ("submitted_at", "bigint"), ("deadline_at", "bigint"),
)  # fmt: skip
"""Columns that a submission fills, with their types."""

COMPLETED_COLUMNS: Final = (
    ("task_id", "text"), ("tenant", "text"), ("route_key", "bytea"), ("home_partition", "integer"),
    ("user_name", "text"), ("kind", "text"), ("role", "text"), ("session", "text"), ("subject", "text"),
    ("labels", "jsonb"), ("privacy", "text"), ("lane", "text"), ("submitted_at", "bigint"), ("status", "text"),
    ("completed_at", "bigint"), ("answer_cipher", "text"), ("answer", "bytea"), ("finish_reason", "text"),
    ("failure_code", "text"), ("failure_message", "text"), ("provider", "text"), ("model", "text"), ("node", "text"),
    ("simulated", "boolean"), ("served_from", "text"), ("source_task_id", "text"), ("input_tokens", "bigint"),
    ("output_tokens", "bigint"), ("cached_input_tokens", "bigint"),
    ("cache_write_5m_tokens", "bigint"), ("cache_write_1h_tokens", "bigint"), ("searches", "bigint"),
    ("cost_nanodollars", "bigint"), ("attempts", "integer"), ("model_ms", "double precision"), ("trail", "jsonb"),
    ("policy_version", "text"),
)  # fmt: skip
"""Columns that a completion fills, with their types."""

Row = tuple[Any, ...]


class NotAViewRow(Exception):
    """The event can have no row: its id or tenant cannot come from intake or the router."""


@dataclass(slots=True)
class Rows:
    """Rows of one batch: at most one of each kind per task, the first one seen.

    Attributes:
        homes: Task id, tenant and home partition of every event, also of those that have no row because of another one
            with the same id.
    """

    submitted: dict[str, Row] = field(default_factory=dict)
    completed: dict[str, Row] = field(default_factory=dict)
    homes: set[tuple[str, str, int]] = field(default_factory=set)


def rows_of(batch: Iterable[tuple[Record, Any]]) -> tuple[Rows, Sequence[tuple[Record, NotAViewRow]]]:
    """Rows for a batch of submissions and completions, and the records that can have none, with the reason."""
    rows = Rows()
    unusable: list[tuple[Record, NotAViewRow]] = []
    for record, event in batch:
        try:
            if isinstance(event, TaskSubmitted):
                rows.submitted.setdefault(event.task_id, submitted_row(record, event))
                rows.homes.add((event.task_id, event.tenant, record.partition))
            elif isinstance(event, TaskCompleted):
                rows.completed.setdefault(event.task_id, completed_row(record, event))
                rows.homes.add((event.task_id, event.tenant, event.home_partition))
            else:
                raise NotAViewRow(f"{type(event).__name__} is no event of the task view")
        except NotAViewRow as error:
            unusable.append((record, error))
    return rows, unusable


def submitted_row(record: Record, task: TaskSubmitted) -> Row:
    """Values for SUBMITTED_COLUMNS. Raises NotAViewRow."""
    return (
        _id(task.task_id, "task id"),
        _id(task.tenant, "tenant"),
        _key(record.key),
        record.partition,
        task.reply_partition,
        _name(task.user),
        _name(task.kind),
        _name_or_none(task.role),
        _name_or_none(task.model),
        _name_or_none(task.session),
        _name_or_none(task.subject),
        _json({_text(name): _text(value) for name, value in task.labels.items()}),
        task.privacy,
        task.lane,
        _time(task.submitted_at),
        None if task.deadline_at is None else _time(task.deadline_at),
    )


def completed_row(record: Record, end: TaskCompleted) -> Row:
    """Values for COMPLETED_COLUMNS. Raises NotAViewRow."""
    trail = [
        {
            "at": _time(step.at),
            "step": _text(step.step),
            "provider": _text_or_none(step.provider),
            "model": _text_or_none(step.model),
            "reason": _text(step.reason),
        }
        for step in end.trail
    ]
    return (
        _id(end.task_id, "task id"),
        _id(end.tenant, "tenant"),
        _key(record.key),
        end.home_partition,
        _name(end.user),
        _name(end.kind),
        _name_or_none(end.role),
        _name_or_none(end.session),
        _name_or_none(end.subject),
        _json({_text(name): _text(value) for name, value in end.labels.items()}),
        end.privacy,
        end.lane,
        _time(end.submitted_at),
        end.status,
        _time(end.completed_at),
        None if end.answer is None else _name(end.answer.cipher),
        None if end.answer is None else end.answer.data,
        _name_or_none(end.finish_reason),
        None if end.failure is None else _name(end.failure.code),
        None if end.failure is None else _text(end.failure.message),
        _name_or_none(end.provider),
        _name_or_none(end.model),
        _name_or_none(end.node),
        end.simulated,
        end.served_from,
        _name_or_none(end.source_task_id),
        end.usage.input_tokens,
        end.usage.output_tokens,
        end.usage.cached_input_tokens,
        end.usage.cache_write_5m_tokens,
        end.usage.cache_write_1h_tokens,
        end.usage.searches,
        end.cost_nanodollars,
        end.attempts,
        end.model_ms if math.isfinite(end.model_ms) else 0.0,
        _json(trail),
        _name(end.policy_version),
    )


def _id(text: str, what: str) -> str:
    if not 0 < len(text) <= LONGEST_NAME or "\0" in text:
        raise NotAViewRow(f"the {what} must have 1 to {LONGEST_NAME} characters, none of them null")
    return text


def _key(key: bytes | None) -> bytes | None:
    return key if key is not None and len(key) <= _LARGEST_KEY else None


def _text(text: str, limit: int = _LONGEST_TEXT) -> str:
    return text[:limit].replace("\0", "\ufffd")


def _text_or_none(text: str | None) -> str | None:
    return None if text is None else _text(text)


def _name(text: str) -> str:
    return _text(text, LONGEST_NAME)


def _name_or_none(text: str | None) -> str | None:
    return None if text is None else _name(text)


def _time(ms: int) -> int:
    return min(max(ms, 0), _LATEST_MS)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))

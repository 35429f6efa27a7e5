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

from headrace_contracts.events import HistoryChanged, HistoryChangeKind, TaskCompleted, TaskSubmitted, Turn
from headrace_streams.records import Record

from headrace_intake.decide import several_models, vectors
from headrace_intake.decide.choices import stored
from headrace_intake.decide.responses.turns import KeptTurn, added_id, stored_turn, turn_of_task

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
    ("completed_at", "bigint"), ("answer_cipher", "text"), ("answer", "bytea"), ("choices", "text"),
    ("embeddings", "text"),
    ("finish_reason", "text"), ("failure_code", "text"), ("failure_message", "text"), ("provider", "text"),
    ("model", "text"), ("node", "text"),
    ("simulated", "boolean"), ("served_from", "text"), ("source_task_id", "text"), ("input_tokens", "bigint"),
    ("output_tokens", "bigint"), ("cached_input_tokens", "bigint"),
    ("cache_write_5m_tokens", "bigint"), ("cache_write_1h_tokens", "bigint"), ("reasoning_tokens", "bigint"),
    ("image_tokens", "bigint"), ("audio_tokens", "bigint"), ("searches", "bigint"),
    ("cost_nanodollars", "bigint"), ("attempts", "integer"), ("model_ms", "double precision"), ("trail", "jsonb"),
    ("policy_version", "text"), ("ensemble", "text"), ("cascade", "text"),
)  # fmt: skip
"""Columns that a completion fills, with their types."""

TURN_COLUMNS: Final = (
    ("task_id", "text"), ("tenant", "text"), ("conversation", "text"), ("previous_task_id", "text"),
    ("submitted_at", "bigint"), ("said", "text"),
)  # fmt: skip
CONVERSATION_COLUMNS: Final = (
    ("tenant", "text"), ("conversation", "text"), ("labels", "jsonb"), ("created_at", "bigint"),
    ("changed_at", "bigint"), ("deleted", "boolean"),
)  # fmt: skip
FORGOTTEN_COLUMNS: Final = (("tenant", "text"), ("task_id", "text"), ("forgotten_at", "bigint"))

Row = tuple[Any, ...]


class NotAViewRow(Exception):
    """The event can have no row: its id or tenant cannot come from intake or the router."""


@dataclass(slots=True)
class Rows:
    """Rows of one batch: at most one of each kind per task, the first one seen.

    Attributes:
        homes: Task id, tenant and home partition of every event, also of those that have no row because of another one
            with the same id.
        turns: What tasks said that the history keeps.
        conversations: By tenant and id, the last change of each.
        forgotten: By tenant and task id.
    """

    submitted: dict[str, Row] = field(default_factory=dict)
    completed: dict[str, Row] = field(default_factory=dict)
    homes: set[tuple[str, str, int]] = field(default_factory=set)
    turns: dict[str, Row] = field(default_factory=dict)
    conversations: dict[tuple[str, str], Row] = field(default_factory=dict)
    forgotten: dict[tuple[str, str], Row] = field(default_factory=dict)


def rows_of(batch: Iterable[tuple[Record, Any]]) -> tuple[Rows, Sequence[tuple[Record, NotAViewRow]]]:
    """Rows for a batch of submissions and completions, and the records that can have none, with the reason."""
    rows = Rows()
    unusable: list[tuple[Record, NotAViewRow]] = []
    for record, event in batch:
        try:
            if isinstance(event, TaskSubmitted):
                rows.submitted.setdefault(event.task_id, submitted_row(record, event))
                rows.homes.add((event.task_id, event.tenant, record.partition))
                if (kept := turn_of_task(event)) is not None:
                    rows.turns.setdefault(
                        event.task_id, turn_row(event.task_id, event.tenant, event.submitted_at, kept)
                    )
            elif isinstance(event, TaskCompleted):
                rows.completed.setdefault(event.task_id, completed_row(record, event))
                rows.homes.add((event.task_id, event.tenant, event.home_partition))
            elif isinstance(event, HistoryChanged):
                _take_change(rows, event)
            else:
                raise NotAViewRow(f"{type(event).__name__} is no event of the task view")
        except NotAViewRow as error:
            unusable.append((record, error))
    return rows, unusable


def _take_change(rows: Rows, change: HistoryChanged) -> None:
    tenant, at = _id(change.tenant, "tenant"), _time(change.changed_at)
    match change.kind:
        case HistoryChangeKind.CONVERSATION_SET | HistoryChangeKind.CONVERSATION_DELETED:
            name = _id(change.conversation or "", "conversation")
            labels = _json({_text(label): _text(value) for label, value in change.labels.items()})
            deleted = change.kind is HistoryChangeKind.CONVERSATION_DELETED
            earlier = rows.conversations.get((tenant, name))
            if earlier is not None and earlier[-1]:
                return  # nobody makes a deleted one again
            created = at if earlier is None else earlier[3]
            rows.conversations[tenant, name] = (tenant, name, labels, created, at, deleted)
        case HistoryChangeKind.MESSAGES_ADDED:
            turn = Turn(conversation=_id(change.conversation or "", "conversation"))
            change_id = _id(change.change_id, "change id")
            for place, message in enumerate(change.messages):
                turn_id = added_id(change_id, place)
                kept = KeptTurn(turn=turn, instructions=None, messages=(message,))
                rows.turns.setdefault(turn_id, turn_row(turn_id, tenant, at, kept))
        case HistoryChangeKind.TURN_FORGOTTEN:
            task_id = _id(change.task_id or "", "task id")
            rows.forgotten[tenant, task_id] = (tenant, task_id, at)
        case HistoryChangeKind.UNKNOWN:
            raise NotAViewRow("this release does not know this kind of change")


def turn_row(task_id: str, tenant: str, submitted_at: int, kept: KeptTurn) -> Row:
    """Values for TURN_COLUMNS. Raises NotAViewRow."""
    return (
        _id(task_id, "task id"),
        _id(tenant, "tenant"),
        _name_or_none(kept.turn.conversation),
        _name_or_none(kept.turn.previous_task_id),
        _time(submitted_at),
        stored_turn(kept),
    )


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
        stored(end.choices),
        vectors.stored(end.embeddings),
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
        end.usage.reasoning_tokens,
        end.usage.image_tokens,
        end.usage.audio_tokens,
        end.usage.searches,
        end.cost_nanodollars,
        end.attempts,
        end.model_ms if math.isfinite(end.model_ms) else 0.0,
        _json(trail),
        _name(end.policy_version),
        several_models.stored(end.ensemble),
        several_models.stored(end.cascade),
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

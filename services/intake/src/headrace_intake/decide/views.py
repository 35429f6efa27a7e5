"""A task as callers see it, from its submission, its end, or both."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final

from headrace_contracts.content import PLAIN
from headrace_contracts.events import (
    AnswerChoice,
    CascadeSummary,
    Content,
    EnsembleSummary,
    Failure,
    TaskCompleted,
    TaskSubmitted,
    TrailStep,
    Usage,
)
from headrace_contracts.limits import NANODOLLARS_IN_A_DOLLAR

from headrace_intake.decide import several_models
from headrace_intake.decide.vectors import in_numbers, sealed_with

ACCEPTED: Final = "accepted"
"""Status of a task that has not ended; the other statuses are those of `TaskStatus`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskView:
    """What is known of a task; None for what is not. Times are milliseconds since the epoch.

    Attributes:
        keeps_turn: Whether it was submitted just now, and the history will keep its turn.
    """

    task_id: str
    tenant: str
    user: str = ""
    kind: str = ""
    role: str | None = None
    requested_model: str | None = None
    session: str | None = None
    subject: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    privacy: str | None = None
    lane: str | None = None
    submitted_at: int
    deadline_at: int | None = None
    status: str = ACCEPTED
    completed_at: int | None = None
    answer: Content | None = None
    finish_reason: str | None = None
    choices: tuple[AnswerChoice, ...] = ()
    embeddings: tuple[Content, ...] = ()
    failure: Failure | None = None
    provider: str | None = None
    model: str | None = None
    node: str | None = None
    simulated: bool | None = None
    served_from: str | None = None
    source_task_id: str | None = None
    usage: Usage | None = None
    cost_nanodollars: int | None = None
    attempts: int | None = None
    model_ms: float | None = None
    trail: tuple[TrailStep, ...] = ()
    policy_version: str | None = None
    ensemble: EnsembleSummary | None = None
    cascade: CascadeSummary | None = None
    keeps_turn: bool = False

    @property
    def ended(self) -> bool:
        return self.status != ACCEPTED


def of_submission(task: TaskSubmitted) -> TaskView:
    """A task that has been accepted."""
    return TaskView(
        task_id=task.task_id,
        tenant=task.tenant,
        user=task.user,
        kind=task.kind,
        role=task.role,
        requested_model=task.model,
        session=task.session,
        subject=task.subject,
        labels=task.labels,
        privacy=task.privacy,
        lane=task.lane,
        submitted_at=task.submitted_at,
        deadline_at=task.deadline_at,
        keeps_turn=task.turn is not None and task.turn.store,
    )


def with_completion(view: TaskView | None, end: TaskCompleted) -> TaskView:
    """The same task at its end; what only the submission carries is taken from `view`."""
    base = view or TaskView(task_id=end.task_id, tenant=end.tenant, submitted_at=end.submitted_at)
    return replace(
        base,
        user=end.user,
        kind=end.kind,
        role=end.role,
        session=end.session,
        subject=end.subject,
        labels=end.labels,
        privacy=end.privacy,
        lane=end.lane,
        submitted_at=end.submitted_at,
        status=end.status,
        completed_at=end.completed_at,
        answer=end.answer,
        finish_reason=end.finish_reason,
        choices=end.choices,
        embeddings=end.embeddings,
        failure=end.failure,
        provider=end.provider,
        model=end.model,
        node=end.node,
        simulated=end.simulated,
        served_from=end.served_from,
        source_task_id=end.source_task_id,
        usage=end.usage,
        cost_nanodollars=end.cost_nanodollars,
        attempts=end.attempts,
        model_ms=end.model_ms,
        trail=end.trail,
        policy_version=end.policy_version,
        ensemble=end.ensemble,
        cascade=end.cascade,
    )


def rfc3339(ms: int | None) -> str | None:
    """A time in the API's format."""
    if ms is None:
        return None
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def dollars(nanodollars: int | None) -> str | None:
    """Nano-dollars as exact dollars."""
    if nanodollars is None:
        return None
    sign = "-" if nanodollars < 0 else ""
    whole, rest = divmod(abs(nanodollars), NANODOLLARS_IN_A_DOLLAR)
    return f"{sign}{whole}.{rest:09d}"


def links(task_id: str) -> dict[str, str]:
    """The URLs of the task and its events."""
    return {"self": f"/v1/tasks/{task_id}", "events": f"/v1/tasks/{task_id}/events"}


def document(view: TaskView) -> dict[str, Any]:
    """The task as GET /v1/tasks/{id} returns it."""
    sealed = view.answer is not None and view.answer.cipher != PLAIN
    key = view.answer.cipher if view.answer is not None and sealed else sealed_with(view.embeddings)
    return {
        **summary(view),
        "answer": None if view.answer is None or sealed else view.answer.data.decode("utf-8", "replace"),
        "answer_sealed_with": key,
        "trail": [
            {
                "at": rfc3339(step.at),
                "step": step.step,
                "provider": step.provider,
                "model": step.model,
                "reason": step.reason,
            }
            for step in view.trail
        ],
    }


def document_text(view: TaskView, choices: list[dict[str, Any]] | None) -> str:
    """The same as JSON, with all its answers, and with the vectors that the answer consists of, if they can be read."""
    text = json.dumps({**document(view), "choices": choices}, ensure_ascii=False, separators=(",", ":"))
    if not view.embeddings or sealed_with(view.embeddings) is not None:
        return text
    return f'{text[:-1]},"embeddings":[{",".join(map(in_numbers, view.embeddings))}]}}'


def summary(view: TaskView) -> dict[str, Any]:
    """The task as lists return it: without answer and trail."""
    return {
        "id": view.task_id,
        "status": view.status,
        "kind": view.kind,
        "role": view.role,
        "requested_model": view.requested_model,
        "user": view.user,
        "session": view.session,
        "subject": view.subject,
        "labels": dict(view.labels),
        "privacy": view.privacy,
        "priority": view.lane,
        "submitted_at": rfc3339(view.submitted_at),
        "deadline_at": rfc3339(view.deadline_at),
        "completed_at": rfc3339(view.completed_at),
        "finish_reason": view.finish_reason,
        "failure": None if view.failure is None else {"code": view.failure.code, "message": view.failure.message},
        "provider": view.provider,
        "model": view.model,
        "node": view.node,
        "simulated": view.simulated,
        "served_from": view.served_from,
        "source_task_id": view.source_task_id,
        "usage": None if view.usage is None else view.usage.to_avro(),
        "cost_nanodollars": view.cost_nanodollars,
        "cost_usd": dollars(view.cost_nanodollars),
        "attempts": view.attempts,
        "model_ms": view.model_ms,
        "policy_version": view.policy_version,
        "ensemble": several_models.shown(view.ensemble),
        "cascade": several_models.shown(view.cascade),
        "links": links(view.task_id),
    }

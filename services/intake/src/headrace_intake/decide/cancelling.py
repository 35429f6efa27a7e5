"""The cancellation request, and the audit record of a refused submission."""

from __future__ import annotations

from typing import Final

from headrace_contracts.events import AuditRecorded, Privacy, TaskCancelled

from headrace_intake.decide.drafts import Submitter, TaskDraft
from headrace_intake.decide.refusals import Refusal, bad_request

_LONGEST_REASON: Final = 200


def parse_reason(text: str | None) -> str:
    """The reason in the caller's words. Raises Refusal if it is too long for a record."""
    reason = text or ""
    if len(reason) > _LONGEST_REASON or not reason.isprintable():
        raise bad_request(f"reason must have at most {_LONGEST_REASON} printable characters.", "reason")
    return reason


def cancellation(
    *, task_id: str, tenant: str, key_id: str, home_partition: int | None, reason: str, now_ms: int
) -> TaskCancelled:
    """The event that asks the router to stop a task."""
    return TaskCancelled(
        task_id=task_id,
        tenant=tenant,
        home_partition=home_partition,
        requested_by=key_id,
        reason=reason,
        requested_at=now_ms,
    )


def cancellation_id(task_id: str) -> str:
    """Id of the event; the same for every request, so that repeating one is harmless."""
    return f"{task_id}/cancel"


def refused(draft: TaskDraft, origin: Submitter, refusal: Refusal) -> AuditRecorded:
    """The audit record of a task refused because of its privacy level."""
    provider, slash, model = (draft.model or "").partition("/")
    return AuditRecorded(
        event_id=f"{origin.task_id}/refused",
        tenant=origin.tenant,
        user=draft.options.user or "",
        key_id=origin.key_id,
        subject=draft.options.subject,
        task_id=origin.task_id,
        action="refuse",
        privacy=draft.options.privacy or Privacy.SENSITIVE,
        provider=provider if slash else None,
        model=model if slash else draft.model,
        allowed=False,
        reason=refusal.detail,
        recorded_at=origin.now_ms,
    )

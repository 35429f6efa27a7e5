"""Events of the domain audit.

Generated from schemas/ by `make generate`; edit the schemas instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from headrace_contracts.events.common import Privacy
from headrace_contracts.frozen import cheaply_made


@cheaply_made
@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRecorded:
    """Which class of data a tenant's task would send to which provider, and why that was allowed or not.

    Attributes:
        event_id: Id of the record.
        tenant: The tenant.
        user: User of the task.
        key_id: API key of the task.
        subject: Person whom the content is about.
        task_id: The task.
        attempt_id: The attempt, if there is one.
        action: dispatch, refuse, serve_cached; breach: content left to another host than the one asked.
        privacy: Class of the data.
        provider: Provider concerned.
        model: Model concerned.
        allowed: Whether it was allowed.
        reason: Why.
        policy_version: Version of the policy that decided.
        recorded_at: When it was decided. Milliseconds since the epoch, UTC.
    """

    FULL_NAME: ClassVar[str] = "headrace.audit.AuditRecorded"

    event_id: str
    tenant: str
    user: str = ''
    key_id: str | None = None
    subject: str | None = None
    task_id: str
    attempt_id: str | None = None
    action: str
    privacy: Privacy
    provider: str | None = None
    model: str | None = None
    allowed: bool
    reason: str = ''
    policy_version: str = ''
    recorded_at: int

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "event_id": self.event_id,
            "tenant": self.tenant,
            "user": self.user,
            "key_id": self.key_id,
            "subject": self.subject,
            "task_id": self.task_id,
            "attempt_id": self.attempt_id,
            "action": self.action,
            "privacy": self.privacy,
            "provider": self.provider,
            "model": self.model,
            "allowed": self.allowed,
            "reason": self.reason,
            "policy_version": self.policy_version,
            "recorded_at": self.recorded_at,
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> AuditRecorded:
        return cls(
            event_id=data["event_id"],
            tenant=data["tenant"],
            user=data["user"],
            key_id=data["key_id"],
            subject=data["subject"],
            task_id=data["task_id"],
            attempt_id=data["attempt_id"],
            action=data["action"],
            privacy=Privacy(data["privacy"]),
            provider=data["provider"],
            model=data["model"],
            allowed=data["allowed"],
            reason=data["reason"],
            policy_version=data["policy_version"],
            recorded_at=data["recorded_at"],
        )

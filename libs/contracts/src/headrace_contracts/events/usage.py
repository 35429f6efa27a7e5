"""Events of the domain usage.

Generated from schemas/ by `make generate`; edit the schemas instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from headrace_contracts.events.common import Usage
from headrace_contracts.events.tasks import Outcome
from headrace_contracts.frozen import cheaply_made


@cheaply_made
@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRecorded:
    """What one execution of an attempt consumed, whether it succeeded or not.

    Attributes:
        event_id: Attempt id, a slash, the execution id; of an execution that was lost, /lost follows.
        tenant: Tenant that pays.
        user: User of the task.
        task_id: The task.
        attempt_id: The attempt.
        execution_id: The execution.
        kind: Kind of the task.
        role: Role of the task.
        session: Session of the task.
        subject: Subject of the task.
        provider: Provider that was called.
        model: Model that was called.
        node: Node that answered.
        simulated: Whether a simulator answered; such usage costs what the real model would.
        outcome: How the execution ended. lost: its worker died, nobody knows what it consumed, and usage is
            empty.
        usage: What was consumed.
        possibly_billed_nanodollars: lost: what the provider may have billed at most, in nano-dollars; 0 if the
            price is not known. A later record of what the execution really consumed takes its place.
        model_ms: How long the model was busy, in milliseconds.
        recorded_at: When it ended. Milliseconds since the epoch, UTC.
        batch: Whether it came from a batch of the provider, which bills such calls at its batch price.
    """

    FULL_NAME: ClassVar[str] = "headrace.usage.UsageRecorded"

    event_id: str
    tenant: str
    user: str = ''
    task_id: str
    attempt_id: str
    execution_id: str
    kind: str = 'chat'
    role: str | None = None
    session: str | None = None
    subject: str | None = None
    provider: str
    model: str
    node: str | None = None
    simulated: bool = False
    outcome: Outcome
    usage: Usage
    possibly_billed_nanodollars: int = 0
    model_ms: float = 0.0
    recorded_at: int
    batch: bool = False

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "event_id": self.event_id,
            "tenant": self.tenant,
            "user": self.user,
            "task_id": self.task_id,
            "attempt_id": self.attempt_id,
            "execution_id": self.execution_id,
            "kind": self.kind,
            "role": self.role,
            "session": self.session,
            "subject": self.subject,
            "provider": self.provider,
            "model": self.model,
            "node": self.node,
            "simulated": self.simulated,
            "outcome": self.outcome,
            "usage": self.usage.to_avro(named),
            "possibly_billed_nanodollars": self.possibly_billed_nanodollars,
            "model_ms": self.model_ms,
            "recorded_at": self.recorded_at,
            "batch": self.batch,
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> UsageRecorded:
        return cls(
            event_id=data["event_id"],
            tenant=data["tenant"],
            user=data["user"],
            task_id=data["task_id"],
            attempt_id=data["attempt_id"],
            execution_id=data["execution_id"],
            kind=data["kind"],
            role=data["role"],
            session=data["session"],
            subject=data["subject"],
            provider=data["provider"],
            model=data["model"],
            node=data["node"],
            simulated=data["simulated"],
            outcome=Outcome(data["outcome"]),
            usage=Usage.from_avro(data["usage"]),
            possibly_billed_nanodollars=data["possibly_billed_nanodollars"],
            model_ms=data["model_ms"],
            recorded_at=data["recorded_at"],
            batch=data["batch"],
        )

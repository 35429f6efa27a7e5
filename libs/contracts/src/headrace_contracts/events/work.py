"""Events of the domain work.

Generated from schemas/ by `make generate`; edit the schemas instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar

from headrace_contracts.events.common import Content, Failure, Lane, Privacy, Usage
from headrace_contracts.events.tasks import AnswerChoice, Message, ModelOperation, ModelSettings, Options, Outcome, Sampling
from headrace_contracts.frozen import cheaply_made


@cheaply_made
@dataclass(frozen=True, slots=True, kw_only=True)
class LostExecution:
    """An execution that was announced, and of which nothing was heard again: its worker died, and the provider may have billed it.

    Attributes:
        execution_id: The execution.
        worker: Worker that ran it.
        started_at: When it was announced. Milliseconds since the epoch, UTC.
    """

    FULL_NAME: ClassVar[str] = "headrace.work.LostExecution"

    execution_id: str
    worker: str = ''
    started_at: int

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "execution_id": self.execution_id,
            "worker": self.worker,
            "started_at": self.started_at,
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> LostExecution:
        return cls(
            execution_id=data["execution_id"],
            worker=data["worker"],
            started_at=data["started_at"],
        )


@cheaply_made
@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptFinished:
    """How one attempt ended.

    Attributes:
        attempt_id: The attempt.
        task_id: The task.
        tenant: Tenant of the task.
        number: Number of the attempt.
        home_partition: Partition of the task.
        execution_id: The execution: an attempt that ran twice has two.
        worker: Worker that ran it.
        outcome: How it ended.
        content: What the model answered.
        finish_reason: Why the model stopped.
        choices: All answers, if there is more than one text: content holds the text of the first.
        embeddings: embed: a vector for each input, as 32 bit floating point numbers, little endian.
        failure: Why it failed.
        provider: Provider that was called.
        model: Model that answered.
        node: Node that answered.
        simulated: Whether a simulator answered.
        usage: What it consumed.
        lost: Earlier executions of the attempt that may have been billed, and whose cost nobody knows.
        queued_ms: From the decision to the start at the worker, in milliseconds.
        first_output_ms: From the start to the first piece of text, in milliseconds.
        model_ms: From the start to the end of the answer, in milliseconds.
        finished_at: When it ended. Milliseconds since the epoch, UTC.
        batch: Whether it was answered in a batch of the provider, which bills such calls at its batch price.
        fits_schema: Whether the answer fits the JSON Schema that it was to fit. Null: there was none, or it was
            not checked.
    """

    FULL_NAME: ClassVar[str] = "headrace.work.AttemptFinished"

    attempt_id: str
    task_id: str
    tenant: str
    number: int
    home_partition: int
    execution_id: str
    worker: str = ''
    outcome: Outcome
    content: Content | None = None
    finish_reason: str | None = None
    choices: tuple[AnswerChoice, ...] = ()
    embeddings: tuple[Content, ...] = ()
    failure: Failure | None = None
    provider: str
    model: str
    node: str | None = None
    simulated: bool = False
    usage: Usage = Usage()
    lost: tuple[LostExecution, ...] = ()
    queued_ms: float = 0.0
    first_output_ms: float | None = None
    model_ms: float = 0.0
    finished_at: int
    batch: bool = False
    fits_schema: bool | None = None

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "attempt_id": self.attempt_id,
            "task_id": self.task_id,
            "tenant": self.tenant,
            "number": self.number,
            "home_partition": self.home_partition,
            "execution_id": self.execution_id,
            "worker": self.worker,
            "outcome": self.outcome,
            "content": None if self.content is None else ("headrace.common.Content", self.content.to_avro(named)) if named else self.content.to_avro(named),
            "finish_reason": self.finish_reason,
            "choices": [item.to_avro(named) for item in self.choices],
            "embeddings": [item.to_avro(named) for item in self.embeddings],
            "failure": None if self.failure is None else ("headrace.common.Failure", self.failure.to_avro(named)) if named else self.failure.to_avro(named),
            "provider": self.provider,
            "model": self.model,
            "node": self.node,
            "simulated": self.simulated,
            "usage": self.usage.to_avro(named),
            "lost": [item.to_avro(named) for item in self.lost],
            "queued_ms": self.queued_ms,
            "first_output_ms": self.first_output_ms,
            "model_ms": self.model_ms,
            "finished_at": self.finished_at,
            "batch": self.batch,
            "fits_schema": self.fits_schema,
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> AttemptFinished:
        return cls(
            attempt_id=data["attempt_id"],
            task_id=data["task_id"],
            tenant=data["tenant"],
            number=data["number"],
            home_partition=data["home_partition"],
            execution_id=data["execution_id"],
            worker=data["worker"],
            outcome=Outcome(data["outcome"]),
            content=None if (value_content := data["content"]) is None else Content.from_avro(value_content),
            finish_reason=data["finish_reason"],
            choices=tuple([AnswerChoice.from_avro(item) for item in data["choices"]]),
            embeddings=tuple([Content.from_avro(item) for item in data["embeddings"]]),
            failure=None if (value_failure := data["failure"]) is None else Failure.from_avro(value_failure),
            provider=data["provider"],
            model=data["model"],
            node=data["node"],
            simulated=data["simulated"],
            usage=Usage.from_avro(data["usage"]),
            lost=tuple([LostExecution.from_avro(item) for item in data["lost"]]),
            queued_ms=data["queued_ms"],
            first_output_ms=data["first_output_ms"],
            model_ms=data["model_ms"],
            finished_at=data["finished_at"],
            batch=data["batch"],
            fits_schema=data["fits_schema"],
        )


@cheaply_made
@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRequested:
    """One attempt to run a task on one model.

    Attributes:
        attempt_id: Task id, a slash, the number of the attempt.
        task_id: The task.
        tenant: Tenant of the task.
        user: User of the task.
        number: 1 for the first attempt.
        home_partition: Partition of the task topics to answer on.
        provider: Provider to call: ollama, groq, anthropic, …
        site: Site whose workers it is for. Empty: those without a site.
        model: Model to call, as the provider names it.
        messages: The conversation, system prompt included.
        sampling: Parameters of the answer.
        operation: What the model is asked to do.
        options: What the task asks beyond messages and sampling.
        settings: How the node is to load and ask the model, by the routing policy. Null: as the node is set.
        privacy: How far the content may travel.
        lane: Lane of the attempt.
        kind: Kind of the task.
        role: Role of the task.
        session: Session of the task.
        subject: Subject of the task.
        deadline_at: When the answer becomes useless. Milliseconds since the epoch, UTC.
        stream: Whether to write pieces of the answer to tasks.replies.
        reply_partition: Partition of tasks.replies of the waiting intake.
        reply_token: Shows intake that a reply comes from this attempt: the worker copies it into each piece.
            Null: replies carry none.
        worst_case_nanodollars: Maximum possible cost of this attempt, in nano-dollars.
        budget_left_nanodollars: What was left of the task's budget before this attempt, in nano-dollars: all
            its executions together may cost so much. Null: the task has no budget.
        policy_version: Version of the policy that decided.
        requested_at: When it was decided. Milliseconds since the epoch, UTC.
    """

    FULL_NAME: ClassVar[str] = "headrace.work.AttemptRequested"

    attempt_id: str
    task_id: str
    tenant: str
    user: str = ''
    number: int
    home_partition: int
    provider: str
    site: str = ''
    model: str
    messages: tuple[Message, ...]
    sampling: Sampling
    operation: ModelOperation = ModelOperation.CHAT
    options: Options | None = None
    settings: ModelSettings | None = None
    privacy: Privacy
    lane: Lane
    kind: str = 'chat'
    role: str | None = None
    session: str | None = None
    subject: str | None = None
    deadline_at: int | None = None
    stream: bool = False
    reply_partition: int | None = None
    reply_token: bytes | None = None
    worst_case_nanodollars: int = 0
    budget_left_nanodollars: int | None = None
    policy_version: str = ''
    requested_at: int

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "attempt_id": self.attempt_id,
            "task_id": self.task_id,
            "tenant": self.tenant,
            "user": self.user,
            "number": self.number,
            "home_partition": self.home_partition,
            "provider": self.provider,
            "site": self.site,
            "model": self.model,
            "messages": [item.to_avro(named) for item in self.messages],
            "sampling": self.sampling.to_avro(named),
            "operation": self.operation,
            "options": None if self.options is None else ("headrace.tasks.Options", self.options.to_avro(named)) if named else self.options.to_avro(named),
            "settings": None if self.settings is None else ("headrace.tasks.ModelSettings", self.settings.to_avro(named)) if named else self.settings.to_avro(named),
            "privacy": self.privacy,
            "lane": self.lane,
            "kind": self.kind,
            "role": self.role,
            "session": self.session,
            "subject": self.subject,
            "deadline_at": self.deadline_at,
            "stream": self.stream,
            "reply_partition": self.reply_partition,
            "reply_token": self.reply_token,
            "worst_case_nanodollars": self.worst_case_nanodollars,
            "budget_left_nanodollars": self.budget_left_nanodollars,
            "policy_version": self.policy_version,
            "requested_at": self.requested_at,
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> AttemptRequested:
        return cls(
            attempt_id=data["attempt_id"],
            task_id=data["task_id"],
            tenant=data["tenant"],
            user=data["user"],
            number=data["number"],
            home_partition=data["home_partition"],
            provider=data["provider"],
            site=data["site"],
            model=data["model"],
            messages=tuple([Message.from_avro(item) for item in data["messages"]]),
            sampling=Sampling.from_avro(data["sampling"]),
            operation=ModelOperation(data["operation"]),
            options=None if (value_options := data["options"]) is None else Options.from_avro(value_options),
            settings=None if (value_settings := data["settings"]) is None else ModelSettings.from_avro(value_settings),
            privacy=Privacy(data["privacy"]),
            lane=Lane(data["lane"]),
            kind=data["kind"],
            role=data["role"],
            session=data["session"],
            subject=data["subject"],
            deadline_at=data["deadline_at"],
            stream=data["stream"],
            reply_partition=data["reply_partition"],
            reply_token=data["reply_token"],
            worst_case_nanodollars=data["worst_case_nanodollars"],
            budget_left_nanodollars=data["budget_left_nanodollars"],
            policy_version=data["policy_version"],
            requested_at=data["requested_at"],
        )


@cheaply_made
@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptStarted:
    """An execution of an attempt is about to call a provider that bills: written and acknowledged before the call, so that a call whose worker dies is known.

    Attributes:
        attempt_id: The attempt.
        task_id: The task.
        tenant: Tenant that pays.
        home_partition: Partition of the task.
        execution_id: The execution: an attempt that ran twice has two.
        worker: Worker that runs it.
        provider: Provider that will be called.
        model: Model that will be called.
        worst_case_nanodollars: Maximum possible cost of the call, in nano-dollars; 0 if its price is not known.
        started_at: When it was announced. Milliseconds since the epoch, UTC.
    """

    FULL_NAME: ClassVar[str] = "headrace.work.AttemptStarted"

    attempt_id: str
    task_id: str
    tenant: str
    home_partition: int
    execution_id: str
    worker: str = ''
    provider: str
    model: str
    worst_case_nanodollars: int = 0
    started_at: int

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "attempt_id": self.attempt_id,
            "task_id": self.task_id,
            "tenant": self.tenant,
            "home_partition": self.home_partition,
            "execution_id": self.execution_id,
            "worker": self.worker,
            "provider": self.provider,
            "model": self.model,
            "worst_case_nanodollars": self.worst_case_nanodollars,
            "started_at": self.started_at,
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> AttemptStarted:
        return cls(
            attempt_id=data["attempt_id"],
            task_id=data["task_id"],
            tenant=data["tenant"],
            home_partition=data["home_partition"],
            execution_id=data["execution_id"],
            worker=data["worker"],
            provider=data["provider"],
            model=data["model"],
            worst_case_nanodollars=data["worst_case_nanodollars"],
            started_at=data["started_at"],
        )


@cheaply_made
@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptsCancelled:
    """A task was cancelled, after the router has checked who asked for it, or one of its attempts was taken back: the workers that read this stop its attempts.

    Attributes:
        task_id: The task.
        tenant: Tenant of the task. Attempts of another tenant's task with the same id go on.
        number: Number of the only attempt to stop, which the router has taken back. 0: all attempts of the
            task.
        cancelled_at: When the router decided it. Milliseconds since the epoch, UTC.
    """

    FULL_NAME: ClassVar[str] = "headrace.work.AttemptsCancelled"

    task_id: str
    tenant: str
    number: int = 0
    cancelled_at: int

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "task_id": self.task_id,
            "tenant": self.tenant,
            "number": self.number,
            "cancelled_at": self.cancelled_at,
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> AttemptsCancelled:
        return cls(
            task_id=data["task_id"],
            tenant=data["tenant"],
            number=data["number"],
            cancelled_at=data["cancelled_at"],
        )


@cheaply_made
@dataclass(frozen=True, slots=True, kw_only=True)
class BatchMember:
    """One attempt of a provider's batch, by its record of work, which holds its content.

    Attributes:
        attempt_id: The attempt.
        tenant: Its tenant.
        partition: Partition of work.cloud.batch with its record.
        offset: Offset of that record.
    """

    FULL_NAME: ClassVar[str] = "headrace.work.BatchMember"

    attempt_id: str
    tenant: str
    partition: int
    offset: int

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "attempt_id": self.attempt_id,
            "tenant": self.tenant,
            "partition": self.partition,
            "offset": self.offset,
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> BatchMember:
        return cls(
            attempt_id=data["attempt_id"],
            tenant=data["tenant"],
            partition=data["partition"],
            offset=data["offset"],
        )


class BatchPhase(StrEnum):
    """How far a provider's batch has come."""

    UNKNOWN = "unknown"
    GATHERED = "gathered"
    SUBMITTING = "submitting"
    SUBMITTED = "submitted"
    CANCELLING = "cancelling"
    SETTLING = "settling"


@cheaply_made
@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderBatch:
    """A batch of attempts at a provider's batch API. It holds no content.

    Attributes:
        batch_id: Our id of the batch; also the record's key.
        provider: Provider that is asked.
        model: Model that is asked.
        phase: How far it has come. It is written before each step at the provider and after it.
        members: Its attempts; their order never changes.
        gathered_at: When its attempts were together. Milliseconds since the epoch, UTC.
        due_at: When it is given up, so that ordinary calls still fit before the first deadline of its attempts.
            Milliseconds since the epoch, UTC.
        changed_at: When this phase began, or was begun again. Milliseconds since the epoch, UTC.
        first_submitted_at: When it was first about to be submitted. Milliseconds since the epoch, UTC.
        calls: Calls that were, or are about to be, submitted; 0 before.
        provider_batch_id: The provider's id of the batch; null until it is known.
        worker: Worker that wrote this.
    """

    FULL_NAME: ClassVar[str] = "headrace.work.ProviderBatch"

    batch_id: str
    provider: str
    model: str
    phase: BatchPhase
    members: tuple[BatchMember, ...]
    gathered_at: int
    due_at: int
    changed_at: int
    first_submitted_at: int | None = None
    calls: int = 0
    provider_batch_id: str | None = None
    worker: str

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "batch_id": self.batch_id,
            "provider": self.provider,
            "model": self.model,
            "phase": self.phase,
            "members": [item.to_avro(named) for item in self.members],
            "gathered_at": self.gathered_at,
            "due_at": self.due_at,
            "changed_at": self.changed_at,
            "first_submitted_at": self.first_submitted_at,
            "calls": self.calls,
            "provider_batch_id": self.provider_batch_id,
            "worker": self.worker,
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> ProviderBatch:
        return cls(
            batch_id=data["batch_id"],
            provider=data["provider"],
            model=data["model"],
            phase=BatchPhase(data["phase"]),
            members=tuple([BatchMember.from_avro(item) for item in data["members"]]),
            gathered_at=data["gathered_at"],
            due_at=data["due_at"],
            changed_at=data["changed_at"],
            first_submitted_at=data["first_submitted_at"],
            calls=data["calls"],
            provider_batch_id=data["provider_batch_id"],
            worker=data["worker"],
        )

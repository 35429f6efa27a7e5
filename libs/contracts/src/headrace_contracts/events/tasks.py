"""Events of the domain tasks.

Generated from schemas/ by `make generate`; edit the schemas instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar

from headrace_contracts.events.common import Content, Failure, Lane, Mode, Position, Privacy, Usage
from headrace_contracts.events.fleet import Place


class Outcome(StrEnum):
    """How an attempt ended."""

    ANSWERED = "answered"
    REFUSED = "refused"
    FAILED_RETRYABLE = "failed_retryable"
    FAILED_PERMANENT = "failed_permanent"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptState:
    """The router's state of one attempt.

    Attributes:
        number: 1 for the first.
        provider: Provider it was sent to.
        model: Model asked for.
        place: Whether it was sent to a node of ours.
        dispatched_at: When it was decided. Milliseconds since the epoch, UTC.
        max_output_tokens: Longest answer asked for, in tokens.
        worst_case_nanodollars: Maximum possible cost, in nano-dollars.
        outcome: How it ended, null while it runs.
        failure: Why it failed.
        usage: What it consumed.
        cost_nanodollars: What it cost.
    """

    FULL_NAME: ClassVar[str] = "headrace.tasks.AttemptState"

    number: int
    provider: str
    model: str
    place: Place
    dispatched_at: int
    max_output_tokens: int | None = None
    worst_case_nanodollars: int = 0
    outcome: Outcome | None = None
    failure: Failure | None = None
    usage: Usage = Usage()
    cost_nanodollars: int = 0

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "number": self.number,
            "provider": self.provider,
            "model": self.model,
            "place": self.place,
            "dispatched_at": self.dispatched_at,
            "max_output_tokens": self.max_output_tokens,
            "worst_case_nanodollars": self.worst_case_nanodollars,
            "outcome": self.outcome,
            "failure": None if self.failure is None else ("headrace.common.Failure", self.failure.to_avro(named)) if named else self.failure.to_avro(named),
            "usage": self.usage.to_avro(named),
            "cost_nanodollars": self.cost_nanodollars,
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> AttemptState:
        return cls(
            number=data["number"],
            provider=data["provider"],
            model=data["model"],
            place=Place(data["place"]),
            dispatched_at=data["dispatched_at"],
            max_output_tokens=data["max_output_tokens"],
            worst_case_nanodollars=data["worst_case_nanodollars"],
            outcome=None if (value_outcome := data["outcome"]) is None else Outcome(value_outcome),
            failure=None if (value_failure := data["failure"]) is None else Failure.from_avro(value_failure),
            usage=Usage.from_avro(data["usage"]),
            cost_nanodollars=data["cost_nanodollars"],
        )


class CommandKind(StrEnum):
    """What the router does once a decision is durable."""

    DISPATCH = "dispatch"
    COMPLETE = "complete"
    REPLY = "reply"
    AUDIT = "audit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One record to be produced. Its content follows from the state in the same journal entry.

    Attributes:
        kind: What to produce.
        event_id: Id of the produced event: the same whenever the command is repeated.
        topic: Topic without the prefix.
        attempt: Attempt concerned, 0 if none.
    """

    FULL_NAME: ClassVar[str] = "headrace.tasks.Command"

    kind: CommandKind
    event_id: str
    topic: str
    attempt: int = 0

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "event_id": self.event_id,
            "topic": self.topic,
            "attempt": self.attempt,
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> Command:
        return cls(
            kind=CommandKind(data["kind"]),
            event_id=data["event_id"],
            topic=data["topic"],
            attempt=data["attempt"],
        )


class EntryKind(StrEnum):
    """What a journal entry is."""

    DECISION = "decision"
    EPOCH_START = "barrier"
    CHECKPOINT = "watermark"
    SKIP = "skip"


@dataclass(frozen=True, slots=True, kw_only=True)
class InputEvent:
    """The event that a decision was made on.

    Attributes:
        topic: Topic without the prefix.
        partition: Partition.
        offset: Offset.
        event_id: Its ce_id.
    """

    FULL_NAME: ClassVar[str] = "headrace.tasks.InputEvent"

    topic: str
    partition: int
    offset: int
    event_id: str

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "topic": self.topic,
            "partition": self.partition,
            "offset": self.offset,
            "event_id": self.event_id,
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> InputEvent:
        return cls(
            topic=data["topic"],
            partition=data["partition"],
            offset=data["offset"],
            event_id=data["event_id"],
        )


class TaskPhase(StrEnum):
    """Phase of a task between submission and its end."""

    WAITING = "waiting"
    RUNNING = "running"
    BACKING_OFF = "backing_off"
    FOLLOWING = "following"
    FINISHED = "finished"


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message of a conversation.

    Attributes:
        role: system, user, assistant or tool.
        content: What was said.
    """

    FULL_NAME: ClassVar[str] = "headrace.tasks.Message"

    role: str
    content: Content

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "role": self.role,
            "content": self.content.to_avro(named),
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> Message:
        return cls(
            role=data["role"],
            content=Content.from_avro(data["content"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Parameters that shape a model's answer. A null leaves the choice to the model.

    Attributes:
        max_output_tokens: Longest answer, in tokens.
        temperature: Randomness of the answer, 0 for the most likely one.
        top_p: Nucleus sampling mass.
        stop: Strings that end the answer.
        seed: Seed for models that can repeat an answer.
        json: Whether the answer must be one JSON value.
    """

    FULL_NAME: ClassVar[str] = "headrace.tasks.Sampling"

    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    json: bool = False

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "max_output_tokens": self.max_output_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "stop": list(self.stop),
            "seed": self.seed,
            "json": self.json,
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> Sampling:
        return cls(
            max_output_tokens=data["max_output_tokens"],
            temperature=data["temperature"],
            top_p=data["top_p"],
            stop=tuple(data["stop"]),
            seed=data["seed"],
            json=data["json"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSubmitted:
    """A task for a model: what to do, and within which limits.

    Attributes:
        task_id: UUIDv7 of the task.
        tenant: Tenant that pays, and owns the data.
        user: Person or agent on whose behalf the task is submitted, as the tenant names them.
        key_id: API key that submitted the task, null if it was produced directly to the topic.
        kind: The tenant's own name for this type of work, for reports.
        role: Role of the routing policy for the task, such as code_reviewer.
        model: Model to use, as provider/model or a bare model name. Null: the role chooses.
        messages: The conversation so far.
        sampling: Parameters of the answer.
        privacy: How far the content may travel. Null: the strictest of role and preferences.
        lane: Priority lane. Null: that of the role.
        mode: Where to run. Null: that of the preferences.
        preferred_provider: Provider to try first if the rules allow it.
        budget_nanodollars: Maximum total cost of all attempts of this task, in nano-dollars.
        deadline_at: When the answer becomes useless. Milliseconds since the epoch, UTC.
        session: Conversation whose tasks keep their order.
        subject: The person whom the content is about, for erasure and audit.
        labels: Free labels, carried to the completed task.
        stream: Whether a caller waits for pieces of the answer.
        allow_cached: Whether the earlier answer of an equal task may be used.
        reply_partition: Partition of tasks.replies that the waiting intake reads. Null: no caller waits.
        submitted_at: When the task was accepted. Milliseconds since the epoch, UTC.
    """

    FULL_NAME: ClassVar[str] = "headrace.tasks.TaskSubmitted"

    task_id: str
    tenant: str
    user: str = ''
    key_id: str | None = None
    kind: str = 'chat'
    role: str | None = None
    model: str | None = None
    messages: tuple[Message, ...]
    sampling: Sampling = Sampling()
    privacy: Privacy | None = None
    lane: Lane | None = None
    mode: Mode | None = None
    preferred_provider: str | None = None
    budget_nanodollars: int | None = None
    deadline_at: int | None = None
    session: str | None = None
    subject: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    stream: bool = False
    allow_cached: bool = True
    reply_partition: int | None = None
    submitted_at: int

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "task_id": self.task_id,
            "tenant": self.tenant,
            "user": self.user,
            "key_id": self.key_id,
            "kind": self.kind,
            "role": self.role,
            "model": self.model,
            "messages": [item.to_avro(named) for item in self.messages],
            "sampling": self.sampling.to_avro(named),
            "privacy": self.privacy,
            "lane": self.lane,
            "mode": self.mode,
            "preferred_provider": self.preferred_provider,
            "budget_nanodollars": self.budget_nanodollars,
            "deadline_at": self.deadline_at,
            "session": self.session,
            "subject": self.subject,
            "labels": dict(self.labels),
            "stream": self.stream,
            "allow_cached": self.allow_cached,
            "reply_partition": self.reply_partition,
            "submitted_at": self.submitted_at,
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> TaskSubmitted:
        return cls(
            task_id=data["task_id"],
            tenant=data["tenant"],
            user=data["user"],
            key_id=data["key_id"],
            kind=data["kind"],
            role=data["role"],
            model=data["model"],
            messages=tuple([Message.from_avro(item) for item in data["messages"]]),
            sampling=Sampling.from_avro(data["sampling"]),
            privacy=None if (value_privacy := data["privacy"]) is None else Privacy(value_privacy),
            lane=None if (value_lane := data["lane"]) is None else Lane(value_lane),
            mode=None if (value_mode := data["mode"]) is None else Mode(value_mode),
            preferred_provider=data["preferred_provider"],
            budget_nanodollars=data["budget_nanodollars"],
            deadline_at=data["deadline_at"],
            session=data["session"],
            subject=data["subject"],
            labels=data["labels"],
            stream=data["stream"],
            allow_cached=data["allow_cached"],
            reply_partition=data["reply_partition"],
            submitted_at=data["submitted_at"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrailStep:
    """One decision about a task.

    Attributes:
        at: When it was decided. Milliseconds since the epoch, UTC.
        step: What was decided: dispatched, rejected, retried, fell_back, breached, coalesced, cached, waited,
            finished.
        provider: Provider concerned.
        model: Model concerned.
        reason: Why.
    """

    FULL_NAME: ClassVar[str] = "headrace.tasks.TrailStep"

    at: int
    step: str
    provider: str | None = None
    model: str | None = None
    reason: str = ''

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "at": self.at,
            "step": self.step,
            "provider": self.provider,
            "model": self.model,
            "reason": self.reason,
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> TrailStep:
        return cls(
            at=data["at"],
            step=data["step"],
            provider=data["provider"],
            model=data["model"],
            reason=data["reason"],
        )


class TaskStatus(StrEnum):
    """How a task ended."""

    SUCCEEDED = "succeeded"
    REFUSED = "refused"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


class ServedFrom(StrEnum):
    """Where the answer came from."""

    ATTEMPT = "attempt"
    CACHE = "cache"
    COALESCED = "coalesced"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskCompleted:
    """The terminal state of a task. Each task has exactly one.

    Attributes:
        task_id: The task.
        tenant: Tenant of the task.
        user: User of the task.
        key_id: API key that submitted the task.
        kind: Kind of the task.
        role: Role of the task.
        session: Session of the task.
        subject: Subject of the task.
        labels: Labels of the task.
        privacy: Privacy level that was applied.
        lane: Lane that was used.
        status: How it ended.
        answer: The model's answer, if there is one.
        finish_reason: Why the model stopped: stop, length, refusal.
        failure: Why there is no answer, if there is none.
        provider: Provider that answered.
        model: Model that answered.
        node: Node that answered.
        simulated: Whether a simulator answered instead of a model.
        served_from: Where the answer came from.
        source_task_id: The equal task whose answer was used, for cache and coalesced.
        usage: What all attempts of this task consumed.
        cost_nanodollars: What all attempts of this task cost, in nano-dollars.
        attempts: How many attempts were made.
        model_ms: Duration of the answering attempt's model call, in milliseconds.
        trail: Decisions about the task, with their reasons.
        policy_version: Version of the routing policy that decided.
        home_partition: Partition that the task arrived on.
        submitted_at: When the task was accepted. Milliseconds since the epoch, UTC.
        completed_at: When the terminal state was decided. Milliseconds since the epoch, UTC.
    """

    FULL_NAME: ClassVar[str] = "headrace.tasks.TaskCompleted"

    task_id: str
    tenant: str
    user: str = ''
    key_id: str | None = None
    kind: str = 'chat'
    role: str | None = None
    session: str | None = None
    subject: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    privacy: Privacy = Privacy.SENSITIVE
    lane: Lane = Lane.BATCH
    status: TaskStatus
    answer: Content | None = None
    finish_reason: str | None = None
    failure: Failure | None = None
    provider: str | None = None
    model: str | None = None
    node: str | None = None
    simulated: bool = False
    served_from: ServedFrom = ServedFrom.NOTHING
    source_task_id: str | None = None
    usage: Usage = Usage()
    cost_nanodollars: int = 0
    attempts: int = 0
    model_ms: float = 0.0
    trail: tuple[TrailStep, ...] = ()
    policy_version: str = ''
    home_partition: int = 0
    submitted_at: int
    completed_at: int

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "task_id": self.task_id,
            "tenant": self.tenant,
            "user": self.user,
            "key_id": self.key_id,
            "kind": self.kind,
            "role": self.role,
            "session": self.session,
            "subject": self.subject,
            "labels": dict(self.labels),
            "privacy": self.privacy,
            "lane": self.lane,
            "status": self.status,
            "answer": None if self.answer is None else ("headrace.common.Content", self.answer.to_avro(named)) if named else self.answer.to_avro(named),
            "finish_reason": self.finish_reason,
            "failure": None if self.failure is None else ("headrace.common.Failure", self.failure.to_avro(named)) if named else self.failure.to_avro(named),
            "provider": self.provider,
            "model": self.model,
            "node": self.node,
            "simulated": self.simulated,
            "served_from": self.served_from,
            "source_task_id": self.source_task_id,
            "usage": self.usage.to_avro(named),
            "cost_nanodollars": self.cost_nanodollars,
            "attempts": self.attempts,
            "model_ms": self.model_ms,
            "trail": [item.to_avro(named) for item in self.trail],
            "policy_version": self.policy_version,
            "home_partition": self.home_partition,
            "submitted_at": self.submitted_at,
            "completed_at": self.completed_at,
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> TaskCompleted:
        return cls(
            task_id=data["task_id"],
            tenant=data["tenant"],
            user=data["user"],
            key_id=data["key_id"],
            kind=data["kind"],
            role=data["role"],
            session=data["session"],
            subject=data["subject"],
            labels=data["labels"],
            privacy=Privacy(data["privacy"]),
            lane=Lane(data["lane"]),
            status=TaskStatus(data["status"]),
            answer=None if (value_answer := data["answer"]) is None else Content.from_avro(value_answer),
            finish_reason=data["finish_reason"],
            failure=None if (value_failure := data["failure"]) is None else Failure.from_avro(value_failure),
            provider=data["provider"],
            model=data["model"],
            node=data["node"],
            simulated=data["simulated"],
            served_from=ServedFrom(data["served_from"]),
            source_task_id=data["source_task_id"],
            usage=Usage.from_avro(data["usage"]),
            cost_nanodollars=data["cost_nanodollars"],
            attempts=data["attempts"],
            model_ms=data["model_ms"],
            trail=tuple([TrailStep.from_avro(item) for item in data["trail"]]),
            policy_version=data["policy_version"],
            home_partition=data["home_partition"],
            submitted_at=data["submitted_at"],
            completed_at=data["completed_at"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskState:
    """The router's state of one task.

    Attributes:
        phase: Phase of the task.
        digest: Digest of all that makes two tasks equal, for coalescing and the cache.
        wake_at: When to re-evaluate the task, null if only an event can change it. Milliseconds since the
            epoch, UTC.
        task: The task itself, null once it is finished.
        route_key: Key the task arrived with, byte for byte.
        home_partition: Partition that the task arrived on.
        privacy: Privacy level that applies.
        lane: Lane that applies.
        deadline_at: When the task expires: its own deadline, or that of the policy. Milliseconds since the
            epoch, UTC.
        system_prompt: System prompt that the role puts before the conversation.
        reply_partition: Partition of tasks.replies of the waiting intake.
        traceparent: W3C trace context the task arrived with.
        attempts: Attempts so far.
        leader_task_id: The equal task in flight that this one follows.
        trail: Decisions so far.
        result: The terminal state, once finished.
    """

    FULL_NAME: ClassVar[str] = "headrace.tasks.TaskState"

    phase: TaskPhase
    digest: str = ''
    wake_at: int | None = None
    task: TaskSubmitted | None = None
    route_key: bytes
    home_partition: int
    privacy: Privacy = Privacy.SENSITIVE
    lane: Lane = Lane.BATCH
    deadline_at: int | None = None
    system_prompt: str | None = None
    reply_partition: int | None = None
    traceparent: str | None = None
    attempts: tuple[AttemptState, ...] = ()
    leader_task_id: str | None = None
    trail: tuple[TrailStep, ...] = ()
    result: TaskCompleted | None = None

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "phase": self.phase,
            "digest": self.digest,
            "wake_at": self.wake_at,
            "task": None if self.task is None else ("headrace.tasks.TaskSubmitted", self.task.to_avro(named)) if named else self.task.to_avro(named),
            "route_key": self.route_key,
            "home_partition": self.home_partition,
            "privacy": self.privacy,
            "lane": self.lane,
            "deadline_at": self.deadline_at,
            "system_prompt": self.system_prompt,
            "reply_partition": self.reply_partition,
            "traceparent": self.traceparent,
            "attempts": [item.to_avro(named) for item in self.attempts],
            "leader_task_id": self.leader_task_id,
            "trail": [item.to_avro(named) for item in self.trail],
            "result": None if self.result is None else ("headrace.tasks.TaskCompleted", self.result.to_avro(named)) if named else self.result.to_avro(named),
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> TaskState:
        return cls(
            phase=TaskPhase(data["phase"]),
            digest=data["digest"],
            wake_at=data["wake_at"],
            task=None if (value_task := data["task"]) is None else TaskSubmitted.from_avro(value_task),
            route_key=data["route_key"],
            home_partition=data["home_partition"],
            privacy=Privacy(data["privacy"]),
            lane=Lane(data["lane"]),
            deadline_at=data["deadline_at"],
            system_prompt=data["system_prompt"],
            reply_partition=data["reply_partition"],
            traceparent=data["traceparent"],
            attempts=tuple([AttemptState.from_avro(item) for item in data["attempts"]]),
            leader_task_id=data["leader_task_id"],
            trail=tuple([TrailStep.from_avro(item) for item in data["trail"]]),
            result=None if (value_result := data["result"]) is None else TaskCompleted.from_avro(value_result),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """A candidate that was not chosen.

    Attributes:
        provider: Its provider.
        model: Its model.
        code: Stable reason, such as privacy, no_capacity, over_budget.
        detail: The reason in words.
    """

    FULL_NAME: ClassVar[str] = "headrace.tasks.Rejection"

    provider: str
    model: str
    code: str
    detail: str = ''

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "provider": self.provider,
            "model": self.model,
            "code": self.code,
            "detail": self.detail,
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> Rejection:
        return cls(
            provider=data["provider"],
            model=data["model"],
            code=data["code"],
            detail=data["detail"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskCancelled:
    """A request to cancel a task.

    Attributes:
        task_id: The task to stop.
        tenant: Tenant of the task.
        home_partition: Partition that the task arrived on, if known.
        requested_by: User or key that requested it.
        reason: Why, for the record.
        requested_at: When it was requested. Milliseconds since the epoch, UTC.
    """

    FULL_NAME: ClassVar[str] = "headrace.tasks.TaskCancelled"

    task_id: str
    tenant: str
    home_partition: int | None = None
    requested_by: str = ''
    reason: str = ''
    requested_at: int

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "task_id": self.task_id,
            "tenant": self.tenant,
            "home_partition": self.home_partition,
            "requested_by": self.requested_by,
            "reason": self.reason,
            "requested_at": self.requested_at,
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> TaskCancelled:
        return cls(
            task_id=data["task_id"],
            tenant=data["tenant"],
            home_partition=data["home_partition"],
            requested_by=data["requested_by"],
            reason=data["reason"],
            requested_at=data["requested_at"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalEntry:
    """One atomic step of the router: the new state, its commands, and the consumed input offsets. Fields needed for recovery come first, so that it need not decode the rest.

    Attributes:
        kind: decision; barrier (epoch start): a new owner takes over; watermark (checkpoint): the commands of
            all entries up to here are published; skip: an operator has decided to go on without a record that
            cannot be read.
        task_id: The task; empty for an epoch start and a checkpoint.
        epoch: Epoch of the owner that wrote this: the offset of its epoch start; -1 in the epoch start itself.
        sequence: Number within its epoch, 0 for the epoch start. An entry counts only if its offset is epoch +
            sequence; every reader ignores it elsewhere, because a lost or foreign record came between.
        cause: The event that was decided on: submitted, cancelled, attempt_finished, leader_finished, wake_up,
            unrecordable; restated repeats a state, replaced takes the place of a record that does not count.
        state: The task's new state; null if the entry only records a cancellation request, or replaces a record
            that does not count.
        owner: Instance that wrote this; for a skip, the operator.
        input: The input event that was decided on; null if a timer moved the task.
        positions: Next offset of each input partition after this entry.
        commands: Records to be produced.
        rejected: Candidates that were not chosen, and why.
        policy_version: Version of the policy that decided.
        published_offset: The commands of all entries before this offset were published when this was written.
        completed_offset: No terminal state of an entry at or after the published offset (acted_offset) has an
            offset below this one in tasks.completed.
        decided_at: When it was decided. Milliseconds since the epoch, UTC.
        cancellation: A cancellation request for a task that has not arrived yet; it takes effect when the task
            arrives.
        skipped_offset: Only in a skip: offset of the record in this partition that readers pass over.
        note: Only in a skip: the operator's reason.
    """

    FULL_NAME: ClassVar[str] = "headrace.tasks.JournalEntry"

    kind: EntryKind
    task_id: str = ''
    epoch: int = -1
    sequence: int = 0
    cause: str = ''
    state: TaskState | None = None
    owner: str = ''
    input: InputEvent | None = None
    positions: tuple[Position, ...] = ()
    commands: tuple[Command, ...] = ()
    rejected: tuple[Rejection, ...] = ()
    policy_version: str = ''
    published_offset: int | None = None
    completed_offset: int | None = None
    decided_at: int
    cancellation: TaskCancelled | None = None
    skipped_offset: int | None = None
    note: str = ''

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "task_id": self.task_id,
            "generation": self.epoch,
            "sequence": self.sequence,
            "cause": self.cause,
            "state": None if self.state is None else ("headrace.tasks.TaskState", self.state.to_avro(named)) if named else self.state.to_avro(named),
            "owner": self.owner,
            "input": None if self.input is None else ("headrace.tasks.InputEvent", self.input.to_avro(named)) if named else self.input.to_avro(named),
            "positions": [item.to_avro(named) for item in self.positions],
            "commands": [item.to_avro(named) for item in self.commands],
            "rejected": [item.to_avro(named) for item in self.rejected],
            "policy_version": self.policy_version,
            "acted_offset": self.published_offset,
            "completed_offset": self.completed_offset,
            "decided_at": self.decided_at,
            "wish": None if self.cancellation is None else ("headrace.tasks.TaskCancelled", self.cancellation.to_avro(named)) if named else self.cancellation.to_avro(named),
            "skipped_offset": self.skipped_offset,
            "note": self.note,
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> JournalEntry:
        return cls(
            kind=EntryKind(data["kind"]),
            task_id=data["task_id"],
            epoch=data["generation"],
            sequence=data["sequence"],
            cause=data["cause"],
            state=None if (value_state := data["state"]) is None else TaskState.from_avro(value_state),
            owner=data["owner"],
            input=None if (value_input := data["input"]) is None else InputEvent.from_avro(value_input),
            positions=tuple([Position.from_avro(item) for item in data["positions"]]),
            commands=tuple([Command.from_avro(item) for item in data["commands"]]),
            rejected=tuple([Rejection.from_avro(item) for item in data["rejected"]]),
            policy_version=data["policy_version"],
            published_offset=data["acted_offset"],
            completed_offset=data["completed_offset"],
            decided_at=data["decided_at"],
            cancellation=None if (value_cancellation := data["wish"]) is None else TaskCancelled.from_avro(value_cancellation),
            skipped_offset=data["skipped_offset"],
            note=data["note"],
        )


class ReplyKind(StrEnum):
    """Kind of a reply."""

    DELTA = "delta"
    RESTARTED = "restarted"
    FINISHED = "finished"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskReply:
    """What a waiting caller sees: pieces of the answer, then the terminal state.

    Attributes:
        task_id: The task.
        tenant: Tenant of the task.
        kind: delta: a piece of text; restarted: discard the text so far, another attempt begins; finished: the
            terminal state.
        attempt: Attempt that the reply comes from.
        execution_id: Execution that the reply comes from: an attempt that ran twice has two. Empty for
            finished.
        sequence: Number of the piece within its execution, from 0.
        text: The piece of text, for delta.
        result: The terminal state, for finished.
        emitted_at: When it was written. Milliseconds since the epoch, UTC.
    """

    FULL_NAME: ClassVar[str] = "headrace.tasks.TaskReply"

    task_id: str
    tenant: str
    kind: ReplyKind
    attempt: int = 0
    execution_id: str = ''
    sequence: int = 0
    text: Content | None = None
    result: TaskCompleted | None = None
    emitted_at: int

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "task_id": self.task_id,
            "tenant": self.tenant,
            "kind": self.kind,
            "attempt": self.attempt,
            "execution_id": self.execution_id,
            "sequence": self.sequence,
            "text": None if self.text is None else ("headrace.common.Content", self.text.to_avro(named)) if named else self.text.to_avro(named),
            "result": None if self.result is None else ("headrace.tasks.TaskCompleted", self.result.to_avro(named)) if named else self.result.to_avro(named),
            "emitted_at": self.emitted_at,
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> TaskReply:
        return cls(
            task_id=data["task_id"],
            tenant=data["tenant"],
            kind=ReplyKind(data["kind"]),
            attempt=data["attempt"],
            execution_id=data["execution_id"],
            sequence=data["sequence"],
            text=None if (value_text := data["text"]) is None else Content.from_avro(value_text),
            result=None if (value_result := data["result"]) is None else TaskCompleted.from_avro(value_result),
            emitted_at=data["emitted_at"],
        )

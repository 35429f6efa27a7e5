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
from headrace_contracts.frozen import cheaply_made


class PartKind(StrEnum):
    """Kind of a part of a message or an answer."""

    UNKNOWN = "unknown"
    TEXT = "text"
    IMAGE = "image"
    AUDIO = "audio"
    FILE = "file"
    TOOL_CALL = "tool_call"
    TOOL_RESULT = "tool_result"
    REFUSAL = "refusal"
    REASONING = "reasoning"


@cheaply_made
@dataclass(frozen=True, slots=True, kw_only=True)
class MessagePart:
    """A part of a message or an answer.

    Attributes:
        kind: What it is.
        content: text, refusal, reasoning, tool_result: the text; image, audio, file: the bytes; tool_call: the
            arguments, as JSON. Null for reasoning: its provider has sealed all of it.
        url: Where an image, audio or file is instead of in content.
        media_type: Media type of an image, audio or file, such as image/png.
        filename: Name of a file.
        detail: How closely to look at an image: auto, low or high.
        call_id: tool_call: its id; tool_result, and what comes with one: the id of the call it answers.
        name: tool_call: name of the tool.
        is_error: tool_result: whether the tool failed.
        signature: reasoning: what its provider signed it with, or all of it if the provider sealed it. Only
            that provider gets it back.
        provider: reasoning: the provider that made it.
        cache_seconds: Mark: the provider may keep the prompt up to this part in its cache for so many seconds.
    """

    FULL_NAME: ClassVar[str] = "headrace.tasks.MessagePart"

    kind: PartKind
    content: Content | None = None
    url: Content | None = None
    media_type: str | None = None
    filename: Content | None = None
    detail: str | None = None
    call_id: str | None = None
    name: str | None = None
    is_error: bool = False
    signature: Content | None = None
    provider: str | None = None
    cache_seconds: int | None = None

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "content": None if self.content is None else ("headrace.common.Content", self.content.to_avro(named)) if named else self.content.to_avro(named),
            "url": None if self.url is None else ("headrace.common.Content", self.url.to_avro(named)) if named else self.url.to_avro(named),
            "media_type": self.media_type,
            "filename": None if self.filename is None else ("headrace.common.Content", self.filename.to_avro(named)) if named else self.filename.to_avro(named),
            "detail": self.detail,
            "call_id": self.call_id,
            "name": self.name,
            "is_error": self.is_error,
            "signature": None if self.signature is None else ("headrace.common.Content", self.signature.to_avro(named)) if named else self.signature.to_avro(named),
            "provider": self.provider,
            "cache_seconds": self.cache_seconds,
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> MessagePart:
        return cls(
            kind=PartKind(data["kind"]),
            content=None if (value_content := data["content"]) is None else Content.from_avro(value_content),
            url=None if (value_url := data["url"]) is None else Content.from_avro(value_url),
            media_type=data["media_type"],
            filename=None if (value_filename := data["filename"]) is None else Content.from_avro(value_filename),
            detail=data["detail"],
            call_id=data["call_id"],
            name=data["name"],
            is_error=data["is_error"],
            signature=None if (value_signature := data["signature"]) is None else Content.from_avro(value_signature),
            provider=data["provider"],
            cache_seconds=data["cache_seconds"],
        )


@cheaply_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Citation:
    """A source that an answer names.

    Attributes:
        url: Where it is.
        title: Its title.
        text: What is cited.
        start: First character of the answer's text that rests on it, from 0.
        end: Character after the last one.
    """

    FULL_NAME: ClassVar[str] = "headrace.tasks.Citation"

    url: Content | None = None
    title: Content | None = None
    text: Content | None = None
    start: int | None = None
    end: int | None = None

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "url": None if self.url is None else ("headrace.common.Content", self.url.to_avro(named)) if named else self.url.to_avro(named),
            "title": None if self.title is None else ("headrace.common.Content", self.title.to_avro(named)) if named else self.title.to_avro(named),
            "text": None if self.text is None else ("headrace.common.Content", self.text.to_avro(named)) if named else self.text.to_avro(named),
            "start": self.start,
            "end": self.end,
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> Citation:
        return cls(
            url=None if (value_url := data["url"]) is None else Content.from_avro(value_url),
            title=None if (value_title := data["title"]) is None else Content.from_avro(value_title),
            text=None if (value_text := data["text"]) is None else Content.from_avro(value_text),
            start=data["start"],
            end=data["end"],
        )


@cheaply_made
@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerChoice:
    """One answer.

    Attributes:
        index: Number of the answer, from 0.
        parts: What the model said, in order.
        finish_reason: stop, length, tool_calls, refusal or content_filter.
        logprobs: Log probabilities of its tokens, as JSON in OpenAI's format.
        citations: Sources.
        stop_sequence: Which of the stop texts ended it, where the provider tells.
    """

    FULL_NAME: ClassVar[str] = "headrace.tasks.AnswerChoice"

    index: int = 0
    parts: tuple[MessagePart, ...] = ()
    finish_reason: str | None = None
    logprobs: Content | None = None
    citations: tuple[Citation, ...] = ()
    stop_sequence: Content | None = None

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "index": self.index,
            "parts": [item.to_avro(named) for item in self.parts],
            "finish_reason": self.finish_reason,
            "logprobs": None if self.logprobs is None else ("headrace.common.Content", self.logprobs.to_avro(named)) if named else self.logprobs.to_avro(named),
            "citations": [item.to_avro(named) for item in self.citations],
            "stop_sequence": None if self.stop_sequence is None else ("headrace.common.Content", self.stop_sequence.to_avro(named)) if named else self.stop_sequence.to_avro(named),
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> AnswerChoice:
        return cls(
            index=data["index"],
            parts=tuple([MessagePart.from_avro(item) for item in data["parts"]]),
            finish_reason=data["finish_reason"],
            logprobs=None if (value_logprobs := data["logprobs"]) is None else Content.from_avro(value_logprobs),
            citations=tuple([Citation.from_avro(item) for item in data["citations"]]),
            stop_sequence=None if (value_stop_sequence := data["stop_sequence"]) is None else Content.from_avro(value_stop_sequence),
        )


@cheaply_made
@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerPiece:
    """A piece of an answer in a stream that is not text of the first choice.

    Attributes:
        choice: Number of the answer, from 0.
        kind: What it is a piece of.
        part: Number of the part of this kind within the answer, from 0.
        content: The next characters of its text, or of the arguments of a tool call.
        call_id: First piece of a tool call: its id.
        name: First piece of a tool call: name of the tool.
        provider: reasoning: the provider that made it.
        signature: reasoning: the next characters of what its provider signed it with.
        sealed: reasoning: whether the signature is all of it.
    """

    FULL_NAME: ClassVar[str] = "headrace.tasks.AnswerPiece"

    choice: int = 0
    kind: PartKind
    part: int = 0
    content: Content | None = None
    call_id: str | None = None
    name: str | None = None
    provider: str | None = None
    signature: Content | None = None
    sealed: bool = False

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "choice": self.choice,
            "kind": self.kind,
            "part": self.part,
            "content": None if self.content is None else ("headrace.common.Content", self.content.to_avro(named)) if named else self.content.to_avro(named),
            "call_id": self.call_id,
            "name": self.name,
            "provider": self.provider,
            "signature": None if self.signature is None else ("headrace.common.Content", self.signature.to_avro(named)) if named else self.signature.to_avro(named),
            "sealed": self.sealed,
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> AnswerPiece:
        return cls(
            choice=data["choice"],
            kind=PartKind(data["kind"]),
            part=data["part"],
            content=None if (value_content := data["content"]) is None else Content.from_avro(value_content),
            call_id=data["call_id"],
            name=data["name"],
            provider=data["provider"],
            signature=None if (value_signature := data["signature"]) is None else Content.from_avro(value_signature),
            sealed=data["sealed"],
        )


@cheaply_made
@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """How a node of ours is to load and ask a model, by the routing policy's role and model. What the caller asks goes before it. A null leaves it to the node.

    Attributes:
        num_ctx: Length of the context to load the model with, in tokens.
        keep_alive: How long it stays in memory after the call: a duration such as 30m, or seconds; negative: as
            long as the node runs.
        think: Whether it thinks first: off, on, low, medium or high.
        top_k: Sample from this many most likely tokens.
    """

    FULL_NAME: ClassVar[str] = "headrace.tasks.ModelSettings"

    num_ctx: int | None = None
    keep_alive: str | None = None
    think: str | None = None
    top_k: int | None = None

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "num_ctx": self.num_ctx,
            "keep_alive": self.keep_alive,
            "think": self.think,
            "top_k": self.top_k,
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> ModelSettings:
        return cls(
            num_ctx=data["num_ctx"],
            keep_alive=data["keep_alive"],
            think=data["think"],
            top_k=data["top_k"],
        )


class Outcome(StrEnum):
    """How an attempt ended. Only usage.recorded says lost, of one execution: its worker died in the middle of a call."""

    ANSWERED = "answered"
    REFUSED = "refused"
    FAILED_RETRYABLE = "failed_retryable"
    FAILED_PERMANENT = "failed_permanent"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    LOST = "lost"


@cheaply_made
@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptState:
    """The router's state of one attempt.

    Attributes:
        number: 1 for the first.
        provider: Provider it was sent to.
        model: Model asked for.
        place: Whether it was sent to a node of ours.
        site: Site whose workers it was sent to. Empty: those without a site.
        dispatched_at: When it was decided. Milliseconds since the epoch, UTC.
        max_output_tokens: Longest answer asked for, in tokens.
        worst_case_nanodollars: Maximum possible cost, in nano-dollars.
        settings: How the node is to load and ask the model, by the routing policy. Null: as the node is set.
        outcome: How it ended, null while it runs.
        failure: Why it failed.
        usage: What it consumed.
        cost_nanodollars: What it cost.
        possibly_billed_nanodollars: What executions of it that were lost may have cost at most beside that, in
            nano-dollars.
        asked: Whether a model may have been asked. If it is known that none was, the attempt is no try.
    """

    FULL_NAME: ClassVar[str] = "headrace.tasks.AttemptState"

    number: int
    provider: str
    model: str
    place: Place
    site: str = ''
    dispatched_at: int
    max_output_tokens: int | None = None
    worst_case_nanodollars: int = 0
    settings: ModelSettings | None = None
    outcome: Outcome | None = None
    failure: Failure | None = None
    usage: Usage = Usage()
    cost_nanodollars: int = 0
    possibly_billed_nanodollars: int = 0
    asked: bool = True

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "number": self.number,
            "provider": self.provider,
            "model": self.model,
            "place": self.place,
            "site": self.site,
            "dispatched_at": self.dispatched_at,
            "max_output_tokens": self.max_output_tokens,
            "worst_case_nanodollars": self.worst_case_nanodollars,
            "settings": None if self.settings is None else ("headrace.tasks.ModelSettings", self.settings.to_avro(named)) if named else self.settings.to_avro(named),
            "outcome": self.outcome,
            "failure": None if self.failure is None else ("headrace.common.Failure", self.failure.to_avro(named)) if named else self.failure.to_avro(named),
            "usage": self.usage.to_avro(named),
            "cost_nanodollars": self.cost_nanodollars,
            "possibly_billed_nanodollars": self.possibly_billed_nanodollars,
            "asked": self.asked,
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> AttemptState:
        return cls(
            number=data["number"],
            provider=data["provider"],
            model=data["model"],
            place=Place(data["place"]),
            site=data["site"],
            dispatched_at=data["dispatched_at"],
            max_output_tokens=data["max_output_tokens"],
            worst_case_nanodollars=data["worst_case_nanodollars"],
            settings=None if (value_settings := data["settings"]) is None else ModelSettings.from_avro(value_settings),
            outcome=None if (value_outcome := data["outcome"]) is None else Outcome(value_outcome),
            failure=None if (value_failure := data["failure"]) is None else Failure.from_avro(value_failure),
            usage=Usage.from_avro(data["usage"]),
            cost_nanodollars=data["cost_nanodollars"],
            possibly_billed_nanodollars=data["possibly_billed_nanodollars"],
            asked=data["asked"],
        )


@cheaply_made
@dataclass(frozen=True, slots=True, kw_only=True)
class MemberSummary:
    """One of the models that worked on a task together.

    Attributes:
        part: primary, validation, technical; rung; judge, self_rating, validator.
        provider: Provider that was asked last. Null: none was.
        model: Model that was asked last.
        node: Node that answered.
        outcome: How its last attempt ended. Null: it was still running, and was stopped.
        score: What it says of what it rates, from 0 to 1.
        cost_nanodollars: What its attempts have cost, as far as that is known.
        model_ms: Milliseconds that its answer took its model.
        chosen: Whether the task's answer is its.
    """

    FULL_NAME: ClassVar[str] = "headrace.tasks.MemberSummary"

    part: str
    provider: str | None = None
    model: str | None = None
    node: str | None = None
    outcome: Outcome | None = None
    score: float | None = None
    cost_nanodollars: int = 0
    model_ms: float = 0.0
    chosen: bool = False

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "part": self.part,
            "provider": self.provider,
            "model": self.model,
            "node": self.node,
            "outcome": self.outcome,
            "score": self.score,
            "cost_nanodollars": self.cost_nanodollars,
            "model_ms": self.model_ms,
            "chosen": self.chosen,
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> MemberSummary:
        return cls(
            part=data["part"],
            provider=data["provider"],
            model=data["model"],
            node=data["node"],
            outcome=None if (value_outcome := data["outcome"]) is None else Outcome(value_outcome),
            score=data["score"],
            cost_nanodollars=data["cost_nanodollars"],
            model_ms=data["model_ms"],
            chosen=data["chosen"],
        )


@cheaply_made
@dataclass(frozen=True, slots=True, kw_only=True)
class CascadeSummary:
    """How far up its ladder a task had to go.

    Attributes:
        members: Who was asked.
        rungs: Rungs of the ladder. 0: the task has no answer.
        rung: The rung whose answer it is, from 1. 0: there is no answer.
        sufficient: Whether the answer has passed all tests of confidence, or comes from the last rung, which
            has none.
        confidence: The lowest score that a test gave it, from 0 to 1. Null: none gave a score.
        reason: Why it is the answer of this rung.
        saved_nanodollars: What the same answer would have cost at the last rung, less what all attempts have
            cost. Negative: the cascade has cost more.
    """

    FULL_NAME: ClassVar[str] = "headrace.tasks.CascadeSummary"

    members: tuple[MemberSummary, ...] = ()
    rungs: int = 0
    rung: int = 0
    sufficient: bool = False
    confidence: float | None = None
    reason: str = ''
    saved_nanodollars: int = 0

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "members": [item.to_avro(named) for item in self.members],
            "rungs": self.rungs,
            "rung": self.rung,
            "sufficient": self.sufficient,
            "confidence": self.confidence,
            "reason": self.reason,
            "saved_nanodollars": self.saved_nanodollars,
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> CascadeSummary:
        return cls(
            members=tuple([MemberSummary.from_avro(item) for item in data["members"]]),
            rungs=data["rungs"],
            rung=data["rung"],
            sufficient=data["sufficient"],
            confidence=data["confidence"],
            reason=data["reason"],
            saved_nanodollars=data["saved_nanodollars"],
        )


class CommandKind(StrEnum):
    """What the router does once a decision is durable."""

    DISPATCH = "dispatch"
    COMPLETE = "complete"
    REPLY = "reply"
    AUDIT = "audit"
    CANCEL = "cancel"


@cheaply_made
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


@cheaply_made
@dataclass(frozen=True, slots=True, kw_only=True)
class EnsembleSummary:
    """How several models have answered a task together.

    Attributes:
        members: Who was asked.
        answered: Members that have answered.
        combined_by: What has chosen the answer: vote, judge or best_of; only, if there was one answer.
        coherence: How alike the answers are, from 0 to 1: the mean similarity of all pairs. Null: fewer than
            two answers.
        goal: The coherence that the policy wants. Null: the task has no answer.
    """

    FULL_NAME: ClassVar[str] = "headrace.tasks.EnsembleSummary"

    members: tuple[MemberSummary, ...] = ()
    answered: int = 0
    combined_by: str = ''
    coherence: float | None = None
    goal: float | None = None

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "members": [item.to_avro(named) for item in self.members],
            "answered": self.answered,
            "combined_by": self.combined_by,
            "coherence": self.coherence,
            "goal": self.goal,
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> EnsembleSummary:
        return cls(
            members=tuple([MemberSummary.from_avro(item) for item in data["members"]]),
            answered=data["answered"],
            combined_by=data["combined_by"],
            coherence=data["coherence"],
            goal=data["goal"],
        )


class EntryKind(StrEnum):
    """What a journal entry is."""

    DECISION = "decision"
    EPOCH_START = "barrier"
    CHECKPOINT = "watermark"
    SKIP = "skip"


class HistoryChangeKind(StrEnum):
    """conversation_set: it exists, with these labels; conversation_deleted: it does not any more; messages_added: more was said in it; turn_forgotten: the content of a task is erased. unknown: a kind of a later release."""

    UNKNOWN = "unknown"
    CONVERSATION_SET = "conversation_set"
    CONVERSATION_DELETED = "conversation_deleted"
    MESSAGES_ADDED = "messages_added"
    TURN_FORGOTTEN = "turn_forgotten"


@cheaply_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message of a conversation.

    Attributes:
        role: system, developer, user, assistant or tool.
        content: What was said. Empty if it has parts.
        parts: What was said, in order, if it is more than one text.
        name: Name of the participant.
        privacy: How far its content may travel, such as what a tool or a skill has given: the whole task
            travels no farther. Null: as the task.
    """

    FULL_NAME: ClassVar[str] = "headrace.tasks.Message"

    role: str
    content: Content
    parts: tuple[MessagePart, ...] = ()
    name: Content | None = None
    privacy: Privacy | None = None

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "role": self.role,
            "content": self.content.to_avro(named),
            "parts": [item.to_avro(named) for item in self.parts],
            "name": None if self.name is None else ("headrace.common.Content", self.name.to_avro(named)) if named else self.name.to_avro(named),
            "privacy": self.privacy,
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> Message:
        return cls(
            role=data["role"],
            content=Content.from_avro(data["content"]),
            parts=tuple([MessagePart.from_avro(item) for item in data["parts"]]),
            name=None if (value_name := data["name"]) is None else Content.from_avro(value_name),
            privacy=None if (value_privacy := data["privacy"]) is None else Privacy(value_privacy),
        )


@cheaply_made
@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryChanged:
    """A change of the history beside tasks and their ends: conversations, and what must be forgotten.

    Attributes:
        change_id: UUIDv7 of the change.
        tenant: Tenant whose history it is.
        kind: What changes.
        conversation: The conversation.
        task_id: turn_forgotten: the task whose content the history must not show any more.
        labels: conversation_set: its labels from now on.
        messages: messages_added: what is added to the conversation.
        requested_by: API key that asked for it.
        changed_at: When it was asked for. Milliseconds since the epoch, UTC.
    """

    FULL_NAME: ClassVar[str] = "headrace.tasks.HistoryChanged"

    change_id: str
    tenant: str
    kind: HistoryChangeKind
    conversation: str | None = None
    task_id: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    messages: tuple[Message, ...] = ()
    requested_by: str | None = None
    changed_at: int

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "change_id": self.change_id,
            "tenant": self.tenant,
            "kind": self.kind,
            "conversation": self.conversation,
            "task_id": self.task_id,
            "labels": dict(self.labels),
            "messages": [item.to_avro(named) for item in self.messages],
            "requested_by": self.requested_by,
            "changed_at": self.changed_at,
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> HistoryChanged:
        return cls(
            change_id=data["change_id"],
            tenant=data["tenant"],
            kind=HistoryChangeKind(data["kind"]),
            conversation=data["conversation"],
            task_id=data["task_id"],
            labels=data["labels"],
            messages=tuple([Message.from_avro(item) for item in data["messages"]]),
            requested_by=data["requested_by"],
            changed_at=data["changed_at"],
        )


@cheaply_made
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
    SEARCHING = "searching"
    CONSULTING = "consulting"


@cheaply_made
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


class ModelOperation(StrEnum):
    """What a task asks a model to do."""

    UNKNOWN = "unknown"
    CHAT = "chat"
    EMBED = "embed"
    RERANK = "rerank"
    TRANSCRIBE = "transcribe"
    SPEAK = "speak"
    DRAW = "draw"


@cheaply_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A tool that the model may call.

    Attributes:
        name: Its name.
        description: What it does.
        parameters: JSON Schema of its arguments, as JSON. Null: it takes none.
        strict: Whether arguments must fit the schema. Null: the provider's default.
        cache_seconds: Mark: the provider may keep the tools up to this one in its cache for so many seconds.
    """

    FULL_NAME: ClassVar[str] = "headrace.tasks.Tool"

    name: str
    description: Content | None = None
    parameters: Content | None = None
    strict: bool | None = None
    cache_seconds: int | None = None

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "name": self.name,
            "description": None if self.description is None else ("headrace.common.Content", self.description.to_avro(named)) if named else self.description.to_avro(named),
            "parameters": None if self.parameters is None else ("headrace.common.Content", self.parameters.to_avro(named)) if named else self.parameters.to_avro(named),
            "strict": self.strict,
            "cache_seconds": self.cache_seconds,
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> Tool:
        return cls(
            name=data["name"],
            description=None if (value_description := data["description"]) is None else Content.from_avro(value_description),
            parameters=None if (value_parameters := data["parameters"]) is None else Content.from_avro(value_parameters),
            strict=data["strict"],
            cache_seconds=data["cache_seconds"],
        )


class ToolChoiceMode(StrEnum):
    """Whether the model calls tools."""

    AUTO = "auto"
    NONE = "none"
    REQUIRED = "required"


@cheaply_made
@dataclass(frozen=True, slots=True, kw_only=True)
class ToolChoice:
    """Which tools the model may or must call.

    Attributes:
        mode: auto: it decides; none: it must not; required: it must call at least one.
        names: Only these tools. Empty: all.
    """

    FULL_NAME: ClassVar[str] = "headrace.tasks.ToolChoice"

    mode: ToolChoiceMode
    names: tuple[str, ...] = ()

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "mode": self.mode,
            "names": list(self.names),
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> ToolChoice:
        return cls(
            mode=ToolChoiceMode(data["mode"]),
            names=tuple(data["names"]),
        )


class ResponseFormatKind(StrEnum):
    """Form of an answer."""

    TEXT = "text"
    JSON = "json"
    JSON_SCHEMA = "json_schema"


@cheaply_made
@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseFormat:
    """The form that the answer must have.

    Attributes:
        kind: text: any; json: one JSON value; json_schema: one that fits the schema.
        name: Name of the schema.
        description: What the answer is for.
        schema: JSON Schema, as JSON.
        strict: Whether an answer that does not fit the schema is a failure.
    """

    FULL_NAME: ClassVar[str] = "headrace.tasks.ResponseFormat"

    kind: ResponseFormatKind
    name: str | None = None
    description: Content | None = None
    schema: Content | None = None
    strict: bool = False

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "name": self.name,
            "description": None if self.description is None else ("headrace.common.Content", self.description.to_avro(named)) if named else self.description.to_avro(named),
            "schema": None if self.schema is None else ("headrace.common.Content", self.schema.to_avro(named)) if named else self.schema.to_avro(named),
            "strict": self.strict,
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> ResponseFormat:
        return cls(
            kind=ResponseFormatKind(data["kind"]),
            name=data["name"],
            description=None if (value_description := data["description"]) is None else Content.from_avro(value_description),
            schema=None if (value_schema := data["schema"]) is None else Content.from_avro(value_schema),
            strict=data["strict"],
        )


@cheaply_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a task asks of a model beyond messages and sampling. A null leaves the choice to the model.

    Attributes:
        tools: Tools that the model may call.
        tool_choice: Which of them it may or must call.
        parallel_tool_calls: Whether it may call several at once.
        response_format: Form of the answer.
        choices: Number of answers.
        presence_penalty: Penalty for tokens that occurred, -2 to 2.
        frequency_penalty: Penalty for tokens by how often they occurred, -2 to 2.
        top_k: Sample from this many most likely tokens.
        top_logprobs: Give the log probability of each token, and of this many alternatives. Null: none.
        logit_bias: Bias by token id, -100 to 100.
        reasoning_effort: How much to think first: none, minimal, low, medium, high or more.
        reasoning_tokens: Most tokens to think with. 0: it must not think.
        verbosity: How long the answer is: low, medium or high.
        service_tier: The provider's service tier.
        inputs: embed: the texts.
        dimensions: embed: length of the vectors.
        extra: Further parameters of the named provider's API, each as JSON. No other provider gets them.
        queries: Searches of a role with research. Empty: the last user message is the query.
    """

    FULL_NAME: ClassVar[str] = "headrace.tasks.Options"

    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    choices: int = 1
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    top_k: int | None = None
    top_logprobs: int | None = None
    logit_bias: Mapping[str, float] = field(default_factory=dict)
    reasoning_effort: str | None = None
    reasoning_tokens: int | None = None
    verbosity: str | None = None
    service_tier: str | None = None
    inputs: tuple[Content, ...] = ()
    dimensions: int | None = None
    extra: Mapping[str, Content] = field(default_factory=dict)
    queries: tuple[Content, ...] = ()

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "tools": [item.to_avro(named) for item in self.tools],
            "tool_choice": None if self.tool_choice is None else ("headrace.tasks.ToolChoice", self.tool_choice.to_avro(named)) if named else self.tool_choice.to_avro(named),
            "parallel_tool_calls": self.parallel_tool_calls,
            "response_format": None if self.response_format is None else ("headrace.tasks.ResponseFormat", self.response_format.to_avro(named)) if named else self.response_format.to_avro(named),
            "choices": self.choices,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "top_k": self.top_k,
            "top_logprobs": self.top_logprobs,
            "logit_bias": dict(self.logit_bias),
            "reasoning_effort": self.reasoning_effort,
            "reasoning_tokens": self.reasoning_tokens,
            "verbosity": self.verbosity,
            "service_tier": self.service_tier,
            "inputs": [item.to_avro(named) for item in self.inputs],
            "dimensions": self.dimensions,
            "extra": {key: item.to_avro(named) for key, item in self.extra.items()},
            "queries": [item.to_avro(named) for item in self.queries],
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> Options:
        return cls(
            tools=tuple([Tool.from_avro(item) for item in data["tools"]]),
            tool_choice=None if (value_tool_choice := data["tool_choice"]) is None else ToolChoice.from_avro(value_tool_choice),
            parallel_tool_calls=data["parallel_tool_calls"],
            response_format=None if (value_response_format := data["response_format"]) is None else ResponseFormat.from_avro(value_response_format),
            choices=data["choices"],
            presence_penalty=data["presence_penalty"],
            frequency_penalty=data["frequency_penalty"],
            top_k=data["top_k"],
            top_logprobs=data["top_logprobs"],
            logit_bias=data["logit_bias"],
            reasoning_effort=data["reasoning_effort"],
            reasoning_tokens=data["reasoning_tokens"],
            verbosity=data["verbosity"],
            service_tier=data["service_tier"],
            inputs=tuple([Content.from_avro(item) for item in data["inputs"]]),
            dimensions=data["dimensions"],
            extra={key: Content.from_avro(item) for key, item in data["extra"].items()},
            queries=tuple([Content.from_avro(item) for item in data["queries"]]),
        )


@cheaply_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """The place of a task in a conversation that the history keeps, so that a later task can continue it.

    Attributes:
        previous_task_id: The task whose conversation this one continues. Null: it begins one.
        conversation: The conversation to which its messages and its answer are added.
        instructions: Whether the first message is for this task only, and no part of the conversation.
        earlier_messages: How many messages, after the instructions, were said in earlier turns. The history
            keeps only those after them.
        store: Whether the history keeps the turn, so that it can be looked up and continued.
        background: Whether the caller asks for the answer later.
        settings: What else the caller set, as JSON: it changes nothing about the answer, and is told with it.
    """

    FULL_NAME: ClassVar[str] = "headrace.tasks.Turn"

    previous_task_id: str | None = None
    conversation: str | None = None
    instructions: bool = False
    earlier_messages: int = 0
    store: bool = True
    background: bool = False
    settings: Content | None = None

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "previous_task_id": self.previous_task_id,
            "conversation": self.conversation,
            "instructions": self.instructions,
            "earlier_messages": self.earlier_messages,
            "store": self.store,
            "background": self.background,
            "settings": None if self.settings is None else ("headrace.common.Content", self.settings.to_avro(named)) if named else self.settings.to_avro(named),
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> Turn:
        return cls(
            previous_task_id=data["previous_task_id"],
            conversation=data["conversation"],
            instructions=data["instructions"],
            earlier_messages=data["earlier_messages"],
            store=data["store"],
            background=data["background"],
            settings=None if (value_settings := data["settings"]) is None else Content.from_avro(value_settings),
        )


@cheaply_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """What a task asks of the choice among the models that it may run on. It narrows the choice, and never widens it; a cascade or an ensemble it can have only where its role has one.

    Attributes:
        order: Providers, or models as provider/model, to try first, in this order.
        only: The only providers or models that may run it. Empty: all.
        ignore: Providers or models that must not run it.
        strategy: How the others are put in order: listed, local-first, cheapest, fastest, lowest-latency,
            highest-throughput, balanced, quality, throughput-at-least. Null: as role and policy say.
        max_input_price: Highest price of input, in nano-dollars per million tokens.
        max_output_price: Highest price of output, in nano-dollars per million tokens.
        min_throughput: Lowest speed of answers, in tokens per second. A model whose speed nobody has observed
            may run it.
        allow_fallbacks: Whether other models may run it than the first of the order.
        require_parameters: Whether only models may run it that are known to take all its parameters: otherwise
            a parameter that a provider does not know is left out.
        deny_data_collection: Whether only providers may run it that do not use what they are sent for
            themselves.
        zero_retention: Whether only providers may run it that keep nothing of what they are sent.
        cascade: Whether to ask the models of the role's cascade one after another, until an answer passes its
            tests. Null: as the policy says.
        ensemble: Whether to ask the members of the role's ensemble together. Null: as the policy says.
    """

    FULL_NAME: ClassVar[str] = "headrace.tasks.Routing"

    order: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    strategy: str | None = None
    max_input_price: int | None = None
    max_output_price: int | None = None
    min_throughput: float | None = None
    allow_fallbacks: bool = True
    require_parameters: bool = False
    deny_data_collection: bool = False
    zero_retention: bool = False
    cascade: bool | None = None
    ensemble: bool | None = None

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "order": list(self.order),
            "only": list(self.only),
            "ignore": list(self.ignore),
            "strategy": self.strategy,
            "max_input_price": self.max_input_price,
            "max_output_price": self.max_output_price,
            "min_throughput": self.min_throughput,
            "allow_fallbacks": self.allow_fallbacks,
            "require_parameters": self.require_parameters,
            "deny_data_collection": self.deny_data_collection,
            "zero_retention": self.zero_retention,
            "cascade": self.cascade,
            "ensemble": self.ensemble,
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> Routing:
        return cls(
            order=tuple(data["order"]),
            only=tuple(data["only"]),
            ignore=tuple(data["ignore"]),
            strategy=data["strategy"],
            max_input_price=data["max_input_price"],
            max_output_price=data["max_output_price"],
            min_throughput=data["min_throughput"],
            allow_fallbacks=data["allow_fallbacks"],
            require_parameters=data["require_parameters"],
            deny_data_collection=data["deny_data_collection"],
            zero_retention=data["zero_retention"],
            cascade=data["cascade"],
            ensemble=data["ensemble"],
        )


@cheaply_made
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
        operation: What the model is asked to do.
        options: What the task asks beyond messages and sampling.
        privacy: How far the content may travel. Null: as role and preferences demand. Less than they demand is
            refused.
        lane: Priority lane. Null: that of the role.
        mode: Where to run. Null: that of the preferences. Less than they demand is refused.
        preferred_provider: Provider to try first if the rules allow it.
        budget_nanodollars: Maximum total cost of all attempts of this task, in nano-dollars.
        deadline_at: When the answer becomes useless. Milliseconds since the epoch, UTC.
        session: Conversation whose tasks keep their order.
        subject: The person whom the content is about, for erasure and audit.
        turn: Its place in a conversation that the history keeps. Null: none.
        labels: Free labels, carried to the completed task.
        stream: Whether a caller waits for pieces of the answer.
        allow_cached: Whether the earlier answer of an equal task may be used.
        reply_partition: Partition of tasks.replies that the waiting intake reads. Null: no caller waits.
        submitted_at: When the task was accepted. Milliseconds since the epoch, UTC.
        routing: What it asks of the choice among models. Null: nothing.
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
    operation: ModelOperation = ModelOperation.CHAT
    options: Options | None = None
    privacy: Privacy | None = None
    lane: Lane | None = None
    mode: Mode | None = None
    preferred_provider: str | None = None
    budget_nanodollars: int | None = None
    deadline_at: int | None = None
    session: str | None = None
    subject: str | None = None
    turn: Turn | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    stream: bool = False
    allow_cached: bool = True
    reply_partition: int | None = None
    submitted_at: int
    routing: Routing | None = None

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
            "operation": self.operation,
            "options": None if self.options is None else ("headrace.tasks.Options", self.options.to_avro(named)) if named else self.options.to_avro(named),
            "privacy": self.privacy,
            "lane": self.lane,
            "mode": self.mode,
            "preferred_provider": self.preferred_provider,
            "budget_nanodollars": self.budget_nanodollars,
            "deadline_at": self.deadline_at,
            "session": self.session,
            "subject": self.subject,
            "turn": None if self.turn is None else ("headrace.tasks.Turn", self.turn.to_avro(named)) if named else self.turn.to_avro(named),
            "labels": dict(self.labels),
            "stream": self.stream,
            "allow_cached": self.allow_cached,
            "reply_partition": self.reply_partition,
            "submitted_at": self.submitted_at,
            "routing": None if self.routing is None else ("headrace.tasks.Routing", self.routing.to_avro(named)) if named else self.routing.to_avro(named),
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
            operation=ModelOperation(data["operation"]),
            options=None if (value_options := data["options"]) is None else Options.from_avro(value_options),
            privacy=None if (value_privacy := data["privacy"]) is None else Privacy(value_privacy),
            lane=None if (value_lane := data["lane"]) is None else Lane(value_lane),
            mode=None if (value_mode := data["mode"]) is None else Mode(value_mode),
            preferred_provider=data["preferred_provider"],
            budget_nanodollars=data["budget_nanodollars"],
            deadline_at=data["deadline_at"],
            session=data["session"],
            subject=data["subject"],
            turn=None if (value_turn := data["turn"]) is None else Turn.from_avro(value_turn),
            labels=data["labels"],
            stream=data["stream"],
            allow_cached=data["allow_cached"],
            reply_partition=data["reply_partition"],
            submitted_at=data["submitted_at"],
            routing=None if (value_routing := data["routing"]) is None else Routing.from_avro(value_routing),
        )


@cheaply_made
@dataclass(frozen=True, slots=True, kw_only=True)
class TrailStep:
    """One decision about a task.

    Attributes:
        at: When it was decided. Milliseconds since the epoch, UTC.
        step: What was decided: raised, dispatched, searched, researched, answered, rated, judged, escalated,
            accepted, combined, rejected, retried, fell_back, not_asked, breached, execution_lost, coalesced,
            cached, waited, finished.
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


@cheaply_made
@dataclass(frozen=True, slots=True, kw_only=True)
class ResearchSummary:
    """The searches of a task in numbers.

    Attributes:
        searches: Searches that were wanted.
        answered: Those that a source answered.
        sources: Sources that the model was given. 0: its answer rests on none.
    """

    FULL_NAME: ClassVar[str] = "headrace.tasks.ResearchSummary"

    searches: int = 0
    answered: int = 0
    sources: int = 0

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "searches": self.searches,
            "answered": self.answered,
            "sources": self.sources,
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> ResearchSummary:
        return cls(
            searches=data["searches"],
            answered=data["answered"],
            sources=data["sources"],
        )


@cheaply_made
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
        choices: All answers, if there is more than one text: answer holds the text of the first.
        embeddings: embed: a vector for each input, as 32 bit floating point numbers, little endian.
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
        research: What the answer rests on, if its role searches first. Null: it does not.
        ensemble: How several models have answered together. Null: one has.
        cascade: How far up its ladder the task had to go. Null: it had none.
        saved_nanodollars: cache, coalesced: what the answer cost when it was made, in nano-dollars.
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
    choices: tuple[AnswerChoice, ...] = ()
    embeddings: tuple[Content, ...] = ()
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
    research: ResearchSummary | None = None
    ensemble: EnsembleSummary | None = None
    cascade: CascadeSummary | None = None
    saved_nanodollars: int = 0

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
            "choices": [item.to_avro(named) for item in self.choices],
            "embeddings": [item.to_avro(named) for item in self.embeddings],
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
            "research": None if self.research is None else ("headrace.tasks.ResearchSummary", self.research.to_avro(named)) if named else self.research.to_avro(named),
            "ensemble": None if self.ensemble is None else ("headrace.tasks.EnsembleSummary", self.ensemble.to_avro(named)) if named else self.ensemble.to_avro(named),
            "cascade": None if self.cascade is None else ("headrace.tasks.CascadeSummary", self.cascade.to_avro(named)) if named else self.cascade.to_avro(named),
            "saved_nanodollars": self.saved_nanodollars,
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
            choices=tuple([AnswerChoice.from_avro(item) for item in data["choices"]]),
            embeddings=tuple([Content.from_avro(item) for item in data["embeddings"]]),
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
            research=None if (value_research := data["research"]) is None else ResearchSummary.from_avro(value_research),
            ensemble=None if (value_ensemble := data["ensemble"]) is None else EnsembleSummary.from_avro(value_ensemble),
            cascade=None if (value_cascade := data["cascade"]) is None else CascadeSummary.from_avro(value_cascade),
            saved_nanodollars=data["saved_nanodollars"],
        )


@cheaply_made
@dataclass(frozen=True, slots=True, kw_only=True)
class SearchState:
    """The router's state of one search of a task. Its attempts share the numbers of the task's.

    Attributes:
        query: What is searched for.
        attempts: Attempts so far.
        wake_at: When its attempt is given up, or the next one is made. Null: once it has ended. Milliseconds
            since the epoch, UTC.
        ended: Whether there is nothing more to come of it.
        found: Sources that its answer named, those included that another search had found.
    """

    FULL_NAME: ClassVar[str] = "headrace.tasks.SearchState"

    query: Content
    attempts: tuple[AttemptState, ...] = ()
    wake_at: int | None = None
    ended: bool = False
    found: int = 0

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "query": self.query.to_avro(named),
            "attempts": [item.to_avro(named) for item in self.attempts],
            "wake_at": self.wake_at,
            "ended": self.ended,
            "found": self.found,
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> SearchState:
        return cls(
            query=Content.from_avro(data["query"]),
            attempts=tuple([AttemptState.from_avro(item) for item in data["attempts"]]),
            wake_at=data["wake_at"],
            ended=data["ended"],
            found=data["found"],
        )


@cheaply_made
@dataclass(frozen=True, slots=True, kw_only=True)
class ResearchState:
    """The router's state of the searches of a task, and what they found.

    Attributes:
        searches: The searches.
        sources: What was found and is kept, each address once: source 1 is the first.
        until: When the task goes on without the searches that have not ended. Null before the first one.
            Milliseconds since the epoch, UTC.
        ended: Whether all that is to come has come.
        simulated: Whether a simulator found some of it.
    """

    FULL_NAME: ClassVar[str] = "headrace.tasks.ResearchState"

    searches: tuple[SearchState, ...] = ()
    sources: tuple[Citation, ...] = ()
    until: int | None = None
    ended: bool = False
    simulated: bool = False

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "searches": [item.to_avro(named) for item in self.searches],
            "sources": [item.to_avro(named) for item in self.sources],
            "until": self.until,
            "ended": self.ended,
            "simulated": self.simulated,
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> ResearchState:
        return cls(
            searches=tuple([SearchState.from_avro(item) for item in data["searches"]]),
            sources=tuple([Citation.from_avro(item) for item in data["sources"]]),
            until=data["until"],
            ended=data["ended"],
            simulated=data["simulated"],
        )


@cheaply_made
@dataclass(frozen=True, slots=True, kw_only=True)
class MemberAnswer:
    """What a member of an ensemble, or a rung of a cascade, has answered.

    Attributes:
        content: The text.
        finish_reason: Why it ended.
        choices: The whole answer, where it is more than a text.
        model: Model that the worker reports.
        node: Node that ran it.
        simulated: Whether a simulator made it.
        model_ms: Milliseconds that the model took.
        fits_schema: Whether it fits the JSON Schema of the task. Null: there is none, or it was not checked.
    """

    FULL_NAME: ClassVar[str] = "headrace.tasks.MemberAnswer"

    content: Content | None = None
    finish_reason: str | None = None
    choices: tuple[AnswerChoice, ...] = ()
    model: str = ''
    node: str | None = None
    simulated: bool = False
    model_ms: float = 0.0
    fits_schema: bool | None = None

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "content": None if self.content is None else ("headrace.common.Content", self.content.to_avro(named)) if named else self.content.to_avro(named),
            "finish_reason": self.finish_reason,
            "choices": [item.to_avro(named) for item in self.choices],
            "model": self.model,
            "node": self.node,
            "simulated": self.simulated,
            "model_ms": self.model_ms,
            "fits_schema": self.fits_schema,
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> MemberAnswer:
        return cls(
            content=None if (value_content := data["content"]) is None else Content.from_avro(value_content),
            finish_reason=data["finish_reason"],
            choices=tuple([AnswerChoice.from_avro(item) for item in data["choices"]]),
            model=data["model"],
            node=data["node"],
            simulated=data["simulated"],
            model_ms=data["model_ms"],
            fits_schema=data["fits_schema"],
        )


@cheaply_made
@dataclass(frozen=True, slots=True, kw_only=True)
class MemberState:
    """The router's state of one of the models that work on a task together: a member of an ensemble or its judge, a rung of a cascade or the rating of one. Its attempts share the numbers of the task's.

    Attributes:
        part: primary, validation, technical; rung; judge, self_rating, validator.
        place: Of a rung: its place on the ladder, from 0. Of a rating: the place of what it rates among the
            members. Of a member: its place in the policy.
        system_prompt: What it is told first, in place of the task's own. Null: that.
        logprobs: Whether it is asked for the probabilities of its tokens, for a test of its answer.
        attempts: Attempts so far.
        wake_at: When its attempt is given up, or the next one is made. Null: once it has ended. Milliseconds
            since the epoch, UTC.
        ended: Whether there is nothing more to come of it.
        answer: What it has answered.
        score: What a rating says of what it rates, from 0 to 1.
    """

    FULL_NAME: ClassVar[str] = "headrace.tasks.MemberState"

    part: str
    place: int = 0
    system_prompt: str | None = None
    logprobs: bool = False
    attempts: tuple[AttemptState, ...] = ()
    wake_at: int | None = None
    ended: bool = False
    answer: MemberAnswer | None = None
    score: float | None = None

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "part": self.part,
            "place": self.place,
            "system_prompt": self.system_prompt,
            "logprobs": self.logprobs,
            "attempts": [item.to_avro(named) for item in self.attempts],
            "wake_at": self.wake_at,
            "ended": self.ended,
            "answer": None if self.answer is None else ("headrace.tasks.MemberAnswer", self.answer.to_avro(named)) if named else self.answer.to_avro(named),
            "score": self.score,
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> MemberState:
        return cls(
            part=data["part"],
            place=data["place"],
            system_prompt=data["system_prompt"],
            logprobs=data["logprobs"],
            attempts=tuple([AttemptState.from_avro(item) for item in data["attempts"]]),
            wake_at=data["wake_at"],
            ended=data["ended"],
            answer=None if (value_answer := data["answer"]) is None else MemberAnswer.from_avro(value_answer),
            score=data["score"],
        )


@cheaply_made
@dataclass(frozen=True, slots=True, kw_only=True)
class PanelState:
    """The router's state of a task that several models work on.

    Attributes:
        kind: ensemble or cascade.
        members: Those that were asked, in order.
        until: When an ensemble goes on without the members that have not answered, or without its judge. Null
            before the first attempt. Milliseconds since the epoch, UTC.
    """

    FULL_NAME: ClassVar[str] = "headrace.tasks.PanelState"

    kind: str
    members: tuple[MemberState, ...] = ()
    until: int | None = None

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "members": [item.to_avro(named) for item in self.members],
            "until": self.until,
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> PanelState:
        return cls(
            kind=data["kind"],
            members=tuple([MemberState.from_avro(item) for item in data["members"]]),
            until=data["until"],
        )


@cheaply_made
@dataclass(frozen=True, slots=True, kw_only=True)
class TaskState:
    """The router's state of one task.

    Attributes:
        phase: Phase of the task.
        digest: Digest of all that makes two tasks equal, for coalescing and the cache.
        wake_at: When to re-evaluate the task, null if only an event can change it. Milliseconds since the
            epoch, UTC.
        work_topic: Topic of attempts in which the task has one out, or, while it is waiting, for its turn in
            which it waits; null if neither.
        turn: Its place in the order in which the tasks of the partition arrived; null where an older release
            has taken it.
        sensitive_session: The mark of its session, if that is sensitive since this task or an earlier one; it
            stays when the task has ended. Null: no session, or none that is known to be sensitive.
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
        research: Searches before the first attempt at the answer, and what they found. Null: none.
        panel: Several models that work on it, as an ensemble or a cascade. Null: one does.
    """

    FULL_NAME: ClassVar[str] = "headrace.tasks.TaskState"

    phase: TaskPhase
    digest: str = ''
    wake_at: int | None = None
    work_topic: str | None = None
    turn: int | None = None
    sensitive_session: bytes | None = None
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
    research: ResearchState | None = None
    panel: PanelState | None = None

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "phase": self.phase,
            "digest": self.digest,
            "wake_at": self.wake_at,
            "work_topic": self.work_topic,
            "turn": self.turn,
            "sensitive_session": self.sensitive_session,
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
            "research": None if self.research is None else ("headrace.tasks.ResearchState", self.research.to_avro(named)) if named else self.research.to_avro(named),
            "panel": None if self.panel is None else ("headrace.tasks.PanelState", self.panel.to_avro(named)) if named else self.panel.to_avro(named),
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> TaskState:
        return cls(
            phase=TaskPhase(data["phase"]),
            digest=data["digest"],
            wake_at=data["wake_at"],
            work_topic=data["work_topic"],
            turn=data["turn"],
            sensitive_session=data["sensitive_session"],
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
            research=None if (value_research := data["research"]) is None else ResearchState.from_avro(value_research),
            panel=None if (value_panel := data["panel"]) is None else PanelState.from_avro(value_panel),
        )


@cheaply_made
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


@cheaply_made
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


@cheaply_made
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
        policy_version: Version of the policy that decided; in an epoch start and a checkpoint that of the
            entries that follow, up to the next one: the installation's, with a plus and a digest of the
            tenants' if there are any.
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
    WAITING = "waiting"


@cheaply_made
@dataclass(frozen=True, slots=True, kw_only=True)
class SensitiveSession:
    """A session that has held sensitive content: its tasks stay on own nodes from then on.

    Attributes:
        mark: First 16 bytes of a SHA-256 over tenant and session; the record's key is the same in hexadecimal.
        marked_at: When a task last showed it. Milliseconds since the epoch, UTC.
    """

    FULL_NAME: ClassVar[str] = "headrace.tasks.SensitiveSession"

    mark: bytes
    marked_at: int

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "mark": self.mark,
            "marked_at": self.marked_at,
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> SensitiveSession:
        return cls(
            mark=data["mark"],
            marked_at=data["marked_at"],
        )


@cheaply_made
@dataclass(frozen=True, slots=True, kw_only=True)
class TaskReply:
    """What a waiting caller sees: pieces of the answer, then the terminal state.

    Attributes:
        task_id: The task.
        tenant: Tenant of the task.
        kind: delta: a piece of text; restarted: discard the text so far, another attempt begins; finished: the
            terminal state; waiting: no attempt can begin yet.
        attempt: Attempt that the reply comes from.
        execution_id: Execution that the reply comes from: an attempt that ran twice has two. Empty for
            finished.
        sequence: Number of the piece within its execution, from 0.
        text: The piece of text, for delta.
        pieces: Further pieces, for delta, after text.
        result: The terminal state, for finished.
        trail: Decisions about the task so far, for waiting; the last one says what it waits for.
        reply_token: Shows intake who wrote the reply: the attempt's reply_token in those of a worker, the
            router's own in its. Null: it is not shown.
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
    pieces: tuple[AnswerPiece, ...] = ()
    result: TaskCompleted | None = None
    trail: tuple[TrailStep, ...] = ()
    reply_token: bytes | None = None
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
            "pieces": [item.to_avro(named) for item in self.pieces],
            "result": None if self.result is None else ("headrace.tasks.TaskCompleted", self.result.to_avro(named)) if named else self.result.to_avro(named),
            "trail": [item.to_avro(named) for item in self.trail],
            "reply_token": self.reply_token,
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
            pieces=tuple([AnswerPiece.from_avro(item) for item in data["pieces"]]),
            result=None if (value_result := data["result"]) is None else TaskCompleted.from_avro(value_result),
            trail=tuple([TrailStep.from_avro(item) for item in data["trail"]]),
            reply_token=data["reply_token"],
            emitted_at=data["emitted_at"],
        )

"""The services' responses as frozen values. Status words stay text: a newer service may have more of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, TypeVar, overload

from headrace.messages import Message, ToolCall

T = TypeVar("T")

NANODOLLARS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why there is no answer: a stable code for programs, and words for people."""

    code: str
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Total consumption of all attempts of a task, in tokens, and the number of web searches.

    Attributes:
        input_tokens: All tokens read; the cached and the written ones are part of them.
        cached_input_tokens: Those that came from a provider's prompt cache.
        cache_write_5m_tokens, cache_write_1h_tokens: Those written to it, to be kept for 5 minutes or 1 hour.
        reasoning_tokens: Those of output_tokens that were hidden thinking.
        image_tokens, audio_tokens: Those that stand for images and sound.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    searches: int = 0
    cache_write_5m_tokens: int = 0
    cache_write_1h_tokens: int = 0
    reasoning_tokens: int = 0
    image_tokens: int = 0
    audio_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        """Both together."""
        return Usage(**{entry.name: getattr(self, entry.name) + getattr(other, entry.name) for entry in fields(Usage)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Citation:
    """A source that an answer names.

    Attributes:
        start, end: The characters of the answer's text that rest on it.
    """

    url: str = ""
    title: str = ""
    start: int | None = None
    end: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerChoice:
    """One answer of a task.

    Attributes:
        index: Its number, from 0.
        finish_reason: stop, length, tool_calls, refusal or content_filter.
        logprobs: Log probabilities of its tokens, in OpenAI's format; empty if they were not asked for.
    """

    index: int = 0
    message: Message
    finish_reason: str | None = None
    logprobs: tuple[Mapping[str, Any], ...] = ()
    citations: tuple[Citation, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TrailStep:
    """One step of a task, and its reason."""

    at: datetime
    step: str
    provider: str | None = None
    model: str | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TeamMember:
    """One of several models that worked on a task together.

    Attributes:
        part: primary, validation, technical; rung; judge, self_rating, validator.
        outcome: How its last attempt ended; None if it was still running, and was stopped.
        score: What it says of what it rates, from 0 to 1.
        model_ms: Milliseconds that its answer took.
        chosen: Whether the task's answer is its.
    """

    part: str
    provider: str | None = None
    model: str | None = None
    node: str | None = None
    outcome: str | None = None
    score: float | None = None
    cost_nanodollars: int = 0
    model_ms: float = 0.0
    chosen: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Ensemble:
    """How several models have answered a task together.

    Attributes:
        answered: Members that have answered.
        combined_by: What has chosen the answer: vote, judge, best_of, or only where there was one.
        coherence: How alike the answers are, from 0 to 1; None with fewer than two.
        goal: The coherence that the policy wants.
    """

    members: tuple[TeamMember, ...] = ()
    answered: int = 0
    combined_by: str = ""
    coherence: float | None = None
    goal: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cascade:
    """How far up its ladder a task had to go.

    Attributes:
        rungs: Rungs of the ladder.
        rung: The rung whose answer it is, from 1; 0 without an answer.
        sufficient: Whether the answer has passed all tests of confidence, or comes from the last rung.
        confidence: The lowest score that a test gave it.
        reason: Why it is the answer of this rung.
        saved_nanodollars: What it would have cost at the last rung, less what all attempts have cost.
    """

    members: tuple[TeamMember, ...] = ()
    rungs: int = 0
    rung: int = 0
    sufficient: bool = False
    confidence: float | None = None
    reason: str = ""
    saved_nanodollars: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A task as reported by intake. What is not known yet is None.

    Attributes:
        status: accepted until it ends; then succeeded, refused, failed, cancelled or expired.
        privacy, priority: The values that were applied.
        answer: The text of the first answer.
        choices: All answers, with everything in them; empty as long as there is none.
        served_from: attempt, cache, coalesced or nothing.
        source_task_id: The equal task whose answer was used.
        simulated: Whether a simulator answered instead of a model.
        cost_nanodollars: Cost of all attempts, in nano-dollars.
        model_ms: Duration of the answering attempt's model call, in milliseconds.
        trail: Decisions about the task with their reasons; empty in lists.
        ensemble, cascade: What came of the several models that answered it, where several did.
    """

    id: str
    status: str
    kind: str = ""
    role: str | None = None
    requested_model: str | None = None
    user: str = ""
    session: str | None = None
    subject: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    privacy: str | None = None
    priority: str | None = None
    submitted_at: datetime | None = None
    deadline_at: datetime | None = None
    completed_at: datetime | None = None
    answer: str | None = None
    finish_reason: str | None = None
    choices: tuple[AnswerChoice, ...] = ()
    failure: Failure | None = None
    provider: str | None = None
    model: str | None = None
    node: str | None = None
    simulated: bool = False
    served_from: str | None = None
    source_task_id: str | None = None
    usage: Usage = Usage()
    cost_nanodollars: int = 0
    attempts: int = 0
    model_ms: float = 0.0
    trail: tuple[TrailStep, ...] = ()
    policy_version: str | None = None
    ensemble: Ensemble | None = None
    cascade: Cascade | None = None

    @property
    def ended(self) -> bool:
        """Whether it has its terminal state."""
        return self.status != "accepted"

    @property
    def answered(self) -> bool:
        """Whether a model answered; a refusal by its safety system is an answer."""
        return self.status in ("succeeded", "refused")

    @property
    def message(self) -> Message | None:
        """The first answer as a message, to go on with in a conversation; None if there is none."""
        return self.choices[0].message if self.choices else None

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The calls that the first answer makes."""
        return self.message.tool_calls if self.message is not None else ()

    @overload
    def parse(self, schema: type[T]) -> T: ...

    @overload
    def parse(self, schema: Mapping[str, Any]) -> Any: ...

    def parse(self, schema: type[Any] | Mapping[str, Any]) -> Any:
        """The first answer as an instance of a type (a pydantic model), or as JSON that fits a schema.

        Raises NoAnswer, AnswerInvalid, Declined.
        """
        from headrace.answer_forms import AnswerForm

        return AnswerForm(schema).parse(self)

    @property
    def cost_usd(self) -> Decimal:
        """The cost in dollars, exact."""
        return Decimal(self.cost_nanodollars) / NANODOLLARS

    @property
    def why(self) -> str:
        """The last reason in the trail for where it ran, in words."""
        reasons = [step.reason for step in self.trail if step.reason and step.step != "finished"]
        return reasons[-1] if reasons else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPage:
    """One page of a list, newest first; `next` is the cursor of the following page, None on the last."""

    tasks: tuple[Task, ...]
    next: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Preferences:
    """How a tenant, or one of its users, wants work done.

    Attributes:
        ai_mode: local, hybrid or cloud, the strictest first; None: the default applies.
        privacy_level: high, standard or low; None: the default applies. Tasks may ask for more than this, not for less.
        allowed_providers: Providers that may receive internal content. A user's list only narrows the tenant's.
        source: Which record this is: user, tenant or default.
    """

    ai_mode: str | None = None
    privacy_level: str | None = None
    preferred_provider: str | None = None
    allowed_providers: tuple[str, ...] = ()
    user: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """An API key as listed: without its secret."""

    id: str
    tenant: str
    name: str = ""
    scopes: tuple[str, ...] = ()
    requests_per_minute: int | None = None
    created_at: datetime | None = None
    revoked_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey:
    """A new key. Its secrets are shown only this once; they do not appear in the representation.

    Attributes:
        key: The API key.
        signing_key: Signs what its holder writes to Kafka (`KafkaClient`); None from an intake that makes none yet.
    """

    info: Key
    key: str = field(repr=False)
    signing_key: str | None = field(default=None, repr=False)
